"""What a network is: a map without probability, and the component that builds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skvae._core._component import Component


class Outlet(NamedTuple):
    """Names of the parameters that outputs are made of, one for each place of the last axis.

    What becomes of outputs in other units becomes of the weights, and with an offset of the bias.
    """

    weights: Sequence[str]
    bias: str


class Network(Component, ABC, kind="network"):
    """Component that names the architecture of an encoder or a decoder."""

    @abstractmethod
    def build(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        n_location_outputs: int,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> NetworkHead:
        """Network with freshly drawn weights.

        Parameters
        ----------
        n_inputs, n_outputs : int
        n_location_outputs : int
            The first outputs, those that a linear path beside the network adds to.
        dtype : torch.dtype
        generator : torch.Generator
            Source of the initial weights.
        """


class NetworkHead(nn.Module, ABC):
    """Map from (..., n_inputs) to (..., n_outputs).

    Attributes
    ----------
    has_linear_path : bool
        Whether ``start_linear_`` and ``silence_linear_path_`` are offered.
    is_linear : bool
        Whether its outputs can be nothing but linear in its inputs.
    n_linear_inputs : int or None
        How many inputs, the last ones, the linear path reads; None if all.
    hand_derived : bool
        Whether ``derived`` is offered.
    noise_widths : dict of str to int
        Uniform noise that it needs in training (for dropout), numbers for each row of inputs, by
        name.
    """

    has_linear_path: bool = False
    is_linear: bool = False
    n_linear_inputs: int | None = None
    hand_derived: bool = False

    @property
    def noise_widths(self) -> dict[str, int]:
        """See above; none unless a network says otherwise."""
        return {}

    @abstractmethod
    def forward(self, inputs: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs for the given inputs.

        Parameters
        ----------
        inputs : Tensor of shape (..., n_inputs)
        noise : mapping of str to Tensor of shape (..., width), or None
            As `noise_widths` declares; None outside of training.
        """

    def first_outputs(self, inputs: Tensor, n_outputs: int) -> Tensor:
        """The first `n_outputs` outputs; a network may save what the others cost."""
        return self(inputs)[..., :n_outputs]

    @abstractmethod
    def start_at(self, outputs: Tensor) -> None:
        """Set the biases so that zero hidden activity and zero inputs give `outputs`."""

    def start_linear_(self, weight: Tensor, outputs: Tensor) -> None:
        """Make the map ``outputs`` plus ``inputs @ weight`` in the location outputs.

        Called only if `has_linear_path`.

        Parameters
        ----------
        weight : Tensor of shape (n_inputs, n_location_outputs)
        outputs : Tensor of shape (n_outputs,)
        """
        raise NotImplementedError  # abstract where `has_linear_path` is True

    def inlets(self) -> Sequence[tuple[str, str]] | None:
        """Weights and biases of the affine maps by which all that is read of the inputs comes in.

        None, as by default, where there are not only such maps: the units of what the network reads
        can then not be changed without changing what it says.
        """
        return None

    def outlet(self) -> Outlet | None:
        """What the outputs are made of; None, as by default, where they share parameters."""
        return None

    def depart_(self, fresh: NetworkHead) -> None:
        """Take from one just built what a linear start silenced and training would hardly wake.

        Called where training begins, after ``start_linear_``; most networks have nothing to do.
        """

    def silence_linear_path_(self) -> None:
        """Set the weights of the linear path to zero.

        Called only if `has_linear_path`.
        """
        raise NotImplementedError  # abstract where `has_linear_path` is True

    def derived(
        self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> DerivedNetwork:
        """The same network with its gradient derived by hand, for several models side by side.

        Called only if `hand_derived`.

        Parameters
        ----------
        values, gradients : mapping of str to Tensor of shape (n_models, ...)
            Parameters of all models by their name in this module, and where gradients go.
        """
        raise NotImplementedError  # abstract where `hand_derived` is True


class DerivedNetwork(ABC):
    """Networks of several models side by side, with a gradient derived by hand.

    Of all shapes the first axis is that of the models.
    """

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs (n_models, n_rows, n_outputs), in memory that the next call overwrites."""

    @abstractmethod
    def backward(self, gradient: Tensor, *, need_inputs: bool) -> Tensor | None:
        """Set the gradients of the parameters for the last inputs, from that of the outputs.

        Returns
        -------
        gradient : Tensor of shape (n_models, n_rows, n_inputs) or None
            That of the inputs, if it is needed.
        """
