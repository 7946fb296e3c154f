"""What a network is: a map without probability, and the component that builds it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from skvae._core._component import Component


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
    """Map from (..., n_inputs) to (..., n_outputs)."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs for the given inputs."""

    @abstractmethod
    def start_at(self, outputs: Tensor) -> None:
        """Set the biases so that zero hidden activity and zero inputs give `outputs`."""
