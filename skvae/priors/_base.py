"""What a prior is: a component, its head, and the distribution that the head returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from skvae._core._batch import NoiseSpec
from skvae._core._component import Component


class HasMoments(Protocol):
    """What a closed-form divergence needs to know of a posterior."""

    mean: Tensor
    variance: Tensor

    def entropy(self) -> Tensor | None:
        """Entropy of each row's distribution in nats, or None."""


class Prior(Component, ABC, kind="prior"):
    """Component that names p(z)."""

    @abstractmethod
    def build(self, n_latent: int, dtype: torch.dtype) -> PriorHead:
        """Head for `n_latent` latent variables."""


class PriorHead(nn.Module, ABC):
    """Holder of the prior's parameters.

    Attributes
    ----------
    hand_derived : bool
        Whether it is the standard normal, whose gradient the engine knows.
    """

    hand_derived: bool = False

    @abstractmethod
    def forward(self) -> PriorDistribution:
        """Distribution of z."""

    @abstractmethod
    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        """Randomness that ``sample`` needs."""


class PriorDistribution(ABC):
    """p(z), as a value. A prior scores and samples; it draws nothing for the bound's sake."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (n_draws, n_rows) of draws z, in nats."""

    @abstractmethod
    def sample(self, noise: Mapping[str, Tensor]) -> Tensor:
        """Draws z, a function of `noise`."""

    def kl(self, q: HasMoments) -> Tensor | None:
        """KL(q || p) of each row, (n_rows,), in nats; None if it has no closed form."""
        return None

    def kl_per_component(self, q: HasMoments) -> Tensor | None:
        """KL of each latent variable's marginal, (n_rows, n_latent), in nats; None if none."""
        return None
