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
        ``.grad`` a view of `grad`. A submodule may have an attribute ``rate_factor``, by which
        the learning rate of its own parameters is multiplied.

    Attributes
    ----------
    data, grad : Tensor of shape (n_parameters,)
    is_weight : Tensor of shape (n_parameters,)
        1 for the entries of weight matrices, 0 for biases, scales and the like.
    groups : list of (slice, float)
        Parts of the vector that share a rate factor, and the factor.
    """

    def __init__(self, module: nn.Module) -> None:
        factors = {
            p: float(getattr(m, "rate_factor", 1.0))
            for m in module.modules()
            for p in m.parameters(recurse=False)
            if p.requires_grad
        }
        if not factors:
            raise ValueError("module has no trainable parameters")
        self._parameters = sorted(factors, key=lambda p: factors[p])
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
        self.groups: list[tuple[slice, float]] = []
        for p, part in self._slices():
            if self.groups and self.groups[-1][1] == factors[p]:
                self.groups[-1] = (slice(self.groups[-1][0].start, part.stop), factors[p])
            else:
                self.groups.append((part, factors[p]))

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
