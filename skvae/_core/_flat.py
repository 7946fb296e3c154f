"""All trainable parameters of a module as one vector.

One fused update, one snapshot, one norm and one reduction between machines instead of one for
each tensor. The module's own parameters stay in place as views.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


class FlatParameters:
    """Vector that holds the parameters of `module`, with a gradient vector beside it.

    Parameters
    ----------
    module : nn.Module
        Its parameters must share dtype and device. Afterwards each is a view of `data`, and its
        ``.grad`` a view of `grad`.

    Attributes
    ----------
    data, grad : Tensor of shape (n_parameters,)
    is_weight : Tensor of shape (n_parameters,)
        1 for the entries of weight matrices, 0 for biases, scales and the like.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        if not self._parameters:
            raise ValueError("module has no trainable parameters")
        first = self._parameters[0]
        n = sum(p.numel() for p in self._parameters)
        self.data = torch.empty(n, dtype=first.dtype, device=first.device)
        self.grad = torch.zeros_like(self.data)
        self.is_weight = torch.zeros_like(self.data)
        for p, part in self._slices():
            view = self.data[part].view(p.shape)
            view.copy_(p.data)
            p.data = view
            p.grad = self.grad[part].view(p.shape)
            self.is_weight[part] = float(p.ndim >= 2)

    def _slices(self) -> Iterator[tuple[nn.Parameter, slice]]:
        start = 0
        for p in self._parameters:
            yield p, slice(start, start + p.numel())
            start += p.numel()


def own_storage(module: nn.Module) -> nn.Module:
    """Give each parameter of `module` its own storage, so that a pickle holds it once and small."""
    for p in module.parameters():
        p.data = p.data.clone()
        p.grad = None
    return module
