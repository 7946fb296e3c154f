"""Activations of hidden layers, and their gradients into given memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten


class Activation(NamedTuple):
    """Elementwise function in the two forms that training needs.

    Attributes
    ----------
    forward : callable
        Values of the function.
    forward_into : callable
        ``forward_into(inputs, out)`` writes them to `out`, which may be `inputs` itself unless
        `needs_inputs`.
    backward_ : callable
        ``backward_(gradient, kept)`` multiplies `gradient` in place by the derivative; `kept` are
        the inputs if `needs_inputs`, else the values.
    needs_inputs : bool
        Whether the derivative is a function of the inputs rather than of the values.
    """

    forward: Callable[[Tensor], Tensor]
    forward_into: Callable[[Tensor, Tensor], Tensor]
    backward_: Callable[[Tensor, Tensor], Tensor]
    needs_inputs: bool = False


def _softplus_backward_(gradient: Tensor, values: Tensor) -> Tensor:
    # torch's softplus is the identity above 20.
    slope = torch.where(values > 20.0, torch.ones_like(values), -torch.expm1(-values))
    return gradient.mul_(slope)


ACTIVATIONS: dict[str, Activation] = {
    "elu": Activation(
        functional.elu,
        lambda x, out: aten.elu.out(x, out=out),
        lambda g, h: aten.elu_backward.grad_input(g, 1.0, 1.0, 1.0, True, h, grad_input=g),
    ),
    "gelu": Activation(
        functional.gelu,
        lambda x, out: aten.gelu.out(x, out=out),
        lambda g, x: aten.gelu_backward.grad_input(g, x, grad_input=g),
        needs_inputs=True,
    ),
    "logistic": Activation(
        torch.sigmoid,
        lambda x, out: torch.sigmoid(x, out=out),
        lambda g, h: aten.sigmoid_backward.grad_input(g, h, grad_input=g),
    ),
    "relu": Activation(
        torch.relu,
        lambda x, out: torch.clamp_min(x, 0.0, out=out),
        lambda g, h: aten.threshold_backward.grad_input(g, h, 0.0, grad_input=g),
    ),
    "silu": Activation(
        functional.silu,
        lambda x, out: aten.silu.out(x, out=out),
        lambda g, x: aten.silu_backward.grad_input(g, x, grad_input=g),
        needs_inputs=True,
    ),
    "softplus": Activation(
        functional.softplus,
        lambda x, out: aten.softplus.out(x, out=out),
        _softplus_backward_,
    ),
    "tanh": Activation(
        torch.tanh,
        lambda x, out: torch.tanh(x, out=out),
        lambda g, h: aten.tanh_backward.grad_input(g, h, grad_input=g),
    ),
}
