"""Changes of units, and what they do to parameters that stand on either side of them.

Columns whose location and scale are found anew are seen in other units by the networks. What a
network computes stays the same where the affine maps next to the columns are changed with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Change(NamedTuple):
    """What was `old` is now ``factor * old + offset``.

    Attributes
    ----------
    factor, offset : Tensor of shape (n,), float64
        The factor is positive.
    """

    factor: Tensor
    offset: Tensor

    @classmethod
    def none(cls, n: int, like: Tensor) -> Change:
        """The same units as before, on the device of `like`."""
        factor = torch.ones(n, dtype=torch.float64, device=like.device)
        return cls(factor, torch.zeros_like(factor))

    def __getitem__(self, index: object) -> Change:  # type: ignore[override]
        """Of some of the places."""
        return Change(self.factor[index], self.offset[index])  # type: ignore[index]


def joined(changes: list[Change]) -> Change:
    """Changes of places that lie side by side."""
    return Change(*(torch.cat(parts) for parts in zip(*changes, strict=True)))


class Move(Protocol):
    """What some parameters become under a change of units."""

    def move_(self, values: Mapping[str, Tensor]) -> None:
        """Change the parameters, given by name, in place; they may be of several models."""

    def move_slopes_(self, values: Mapping[str, Tensor], power: int) -> None:
        """Change what is measured as gradients are, to a power of 1 or 2, in place.

        Squares follow as those of independent gradients do.
        """

    def stretch_(self, scales: Mapping[str, Tensor]) -> None:
        """Change standard deviations of parameters, of those that are there, in place."""


class Written(NamedTuple):
    """A parameter that becomes ``factor * parameter + offset`` along the first places of an axis.

    The axis is the last one. The offset is None where only the factor applies: to the weights of
    outputs that have a bias.
    """

    name: str
    factor: Tensor
    offset: Tensor | None

    def _of(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        if self.name not in values:
            return None
        n = min(len(self.factor), values[self.name].shape[-1])
        return values[self.name][..., :n], self.factor[:n]

    def move_(self, values: Mapping[str, Tensor]) -> None:
        own = self._of(values)
        if own is not None:
            part, factor = own
            moved = factor * part.double()
            if self.offset is not None:
                moved += self.offset[: len(factor)]
            part.copy_(moved)

    def move_slopes_(self, values: Mapping[str, Tensor], power: int) -> None:
        own = self._of(values)
        if own is not None:
            part, factor = own
            part.copy_(part.double() / factor**power)

    def stretch_(self, scales: Mapping[str, Tensor]) -> None:
        own = self._of(scales)
        if own is not None:
            part, factor = own
            part.copy_(factor * part.double())


class Read(NamedTuple):
    """An affine map, ``inputs @ weight + bias``, that is to say the same of inputs in other units.

    Only the first inputs change, of which there is a factor and an offset for each. A weight of as
    many axes as the bias stands for a diagonal matrix.
    """

    weight: str
    bias: str
    change: Change

    def _of(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight, bias = values[self.weight], values[self.bias]
        factor, offset = self.change
        if weight.ndim > bias.ndim:
            factor, offset = factor.unsqueeze(1), offset.unsqueeze(1)
            return weight[..., : len(factor), :], bias[..., : weight.shape[-1]], factor, offset
        return weight, bias, factor, offset

    def move_(self, values: Mapping[str, Tensor]) -> None:
        weight, bias, factor, offset = self._of(values)
        moved = weight.double() / factor
        into_bias = moved * offset
        if weight.ndim > bias.ndim:
            into_bias = into_bias.sum(-2)
        bias.copy_(bias.double() - into_bias)
        weight.copy_(moved)

    def move_slopes_(self, values: Mapping[str, Tensor], power: int) -> None:
        weight, bias, factor, offset = self._of(values)
        beside = bias.unsqueeze(-2) if weight.ndim > bias.ndim else bias
        weight.copy_(factor**power * weight.double() + offset**power * beside.double())

    def stretch_(self, scales: Mapping[str, Tensor]) -> None:
        """Nothing: what reads rows is certain."""
