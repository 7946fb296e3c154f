"""All trainable parameters of one or several modules as one vector each.

One fused update, one snapshot, one norm and one reduction between machines instead of one for
each tensor. The modules' own parameters stay in place as views.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Entries of which a group's gradient begins at a multiple, as memory of its own would.
ALIGNED = 64


class Group(NamedTuple):
    """Parameters that move at the same rate.

    Attributes
    ----------
    factor : float
        By which the learning rate is multiplied.
    is_apart : bool
        Whether they are among those that were set apart.
    data, grad : Tensor of shape (n_modules, n_parameters)
    is_weight : Tensor of shape (n_modules, n_parameters)
        1 for the entries of weight matrices, 0 for biases, scales, places and the like.
    """

    factor: float
    is_apart: bool
    data: Tensor
    grad: Tensor
    is_weight: Tensor


class Stack(NamedTuple):
    """Modules of one architecture, and their parameters side by side.

    Attributes
    ----------
    modules : sequence of Module
    values, gradients : dict of str to Tensor of shape (n_modules, ...)
        Parameters by their name in the module, and their gradients, as views of the vectors.
    """

    modules: Sequence[nn.Module]
    values: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]

    def some(self, chosen: slice) -> Stack:
        """Some of the modules."""
        values, gradients = (
            {name: t[chosen] for name, t in mapping.items()}
            for mapping in (self.values, self.gradients)
        )
        return Stack(self.modules[chosen], values, gradients)

    def part(self, name: str) -> Stack:
        """The submodules of this name."""
        values, gradients = (
            {
                key.removeprefix(f"{name}."): t
                for key, t in mapping.items()
                if key.startswith(f"{name}.")
            }
            for mapping in (self.values, self.gradients)
        )
        return Stack([m.get_submodule(name) for m in self.modules], values, gradients)

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the buffers side by side, by name."""
        own = [dict(m.named_buffers()) for m in self.modules]
        return {name: torch.stack([b[name] for b in own]) for name in own[0]}


class FlatParameters:
    """Vectors that hold the parameters of `modules`, with gradients beside them.

    Parameters
    ----------
    modules : sequence of Module
        Of one architecture, dtype and device. Afterwards each parameter is a view of the data of
        its group, and its ``.grad`` a view of the gradient. A submodule may have an attribute
        ``rate_factor``, by which the learning rate of its own parameters is multiplied, and an
        attribute ``has_weights``, which is False where its own matrices are not weights.
    apart : collection of str
        Names of parameters that get groups of their own.

    Attributes
    ----------
    groups : list of Group
        One for each rate factor, of what is set apart and of what is not.
    stack : Stack
    gradient : Tensor of shape (n_entries,)
        The gradients of all groups, for one reduction between processes: those of the groups are
        views of it. Entries between them are 0.
    """

    def __init__(self, modules: Sequence[nn.Module], apart: Collection[str] = ()) -> None:
        first = modules[0]
        names = {p: name for name, p in first.named_parameters() if p.requires_grad}
        kinds = {
            names[p]: (float(getattr(m, "rate_factor", 1.0)), names[p] in apart)
            for m in first.modules()
            for p in m.parameters(recurse=False)
            if p in names
        }
        no_weights = {
            names[p]
            for m in first.modules()
            for p in m.parameters(recurse=False)
            if p in names and not getattr(m, "has_weights", True)
        }
        if not kinds:
            raise ValueError("module has no trainable parameters")
        groups: list[Group] = []
        # Group, place in its vectors and shape of each parameter.
        self._places: dict[str, tuple[int, slice, torch.Size]] = {}
        for kind in sorted(set(kinds.values())):
            mine = [name for name in kinds if kinds[name] == kind]
            rows = [
                torch.cat([m.get_parameter(name).detach().reshape(-1) for name in mine])
                for m in modules
            ]
            data = torch.stack(rows)
            groups.append(Group(*kind, data, data, torch.zeros_like(data)))
            start = 0
            for name in mine:
                shape = first.get_parameter(name).shape
                part = slice(start, start + shape.numel())
                self._places[name] = len(groups) - 1, part, shape
                groups[-1].is_weight[:, part] = float(len(shape) >= 2 and name not in no_weights)
                start = part.stop
        ends = list(accumulate(-(-g.data.numel() // ALIGNED) * ALIGNED for g in groups))
        self.gradient = groups[0].data.new_zeros(ends[-1])
        self.groups = [
            g._replace(grad=self.gradient[start : start + g.data.numel()].view_as(g.data))
            for g, start in zip(groups, [0, *ends], strict=False)
        ]
        values = self.named([group.data for group in self.groups])
        gradients = self.named([group.grad for group in self.groups])
        for i, module in enumerate(modules):
            for name in values:
                p = module.get_parameter(name)
                p.data = values[name][i]
                p.grad = gradients[name][i]
        self.stack = Stack(modules, values, gradients)

    def named(self, vectors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Views (n_modules, ...) of vectors laid out as those of the groups, by parameter."""
        return {
            name: vectors[i][:, part].view(len(vectors[i]), *shape)
            for name, (i, part, shape) in self._places.items()
        }


def own_storage(module: nn.Module) -> nn.Module:
    """Give each parameter of `module` its own storage, so that a pickle holds it once and small."""
    for p in module.parameters():
        p.data = p.data.clone()
        p.grad = None
    return module
