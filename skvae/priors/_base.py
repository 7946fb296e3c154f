"""What a prior is: a component, its head, and the distribution that the head returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from skvae._core._batch import NoiseSpec
from skvae._core._component import Component


class HasMoments(Protocol):
    """What a closed-form divergence needs to know of a posterior."""

    mean: Tensor
    variance: Tensor
    has_normal_marginals: bool

    def entropy(self) -> Tensor | None:
        """Entropy of each row's distribution in nats, or None."""


# The posterior q(z | x) for what the encoder reads of some rows, (n_rows, n_features).
Encode = Callable[[Tensor], Any]


class Prior(Component, ABC, kind="prior"):
    """Component that names p(z)."""

    @abstractmethod
    def build(
        self, n_latent: int, *, n_features: int, dtype: torch.dtype, generator: torch.Generator
    ) -> PriorHead:
        """Head for `n_latent` latent variables.

        Parameters
        ----------
        n_latent : int
        n_features : int
            Width of what the encoder reads, for priors that are made of encoded rows.
        dtype : torch.dtype
        generator : torch.Generator
            Source of initial weights, if any.
        """


class PriorHead(nn.Module, ABC):
    """Holder of the prior's parameters.

    Attributes
    ----------
    hand_derived : bool
        Whether ``derived`` is offered.
    needs_posterior_noise : bool
        Whether ``sample`` draws from the posterior of some rows: it is then given, beside its own
        noise, what the posterior declares.
    starts_standard : bool
        Whether it starts near N(0, I), for which linear starts take it; without, there are none.
    has_weights : bool
        Whether its own matrices are weights, which a prior on weights or their decay pull to zero.
    """

    hand_derived: bool = False
    needs_posterior_noise: bool = False
    starts_standard: bool = True
    has_weights: bool = False

    @abstractmethod
    def forward(self, encode: Encode) -> PriorDistribution:
        """Distribution of z; `encode` is for priors that are made of encoded rows."""

    def in_units_of_features(self) -> list[str]:
        """Names of parameters of which the last axis holds what encoders read of a row."""
        return []

    def start_at_(self, features: Tensor, generator: torch.Generator) -> None:
        """Start at training rows, of which `features` (n_rows, n_features) is what encoders read.

        Called once, before training; most priors have nothing to do.
        """

    def as_normals(self) -> tuple[Tensor, Tensor] | None:
        """Mean and log standard deviation (n_latent,) of each latent variable.

        None where the prior is not one of independent normals. Where nothing of a row is observed
        its posterior is then the prior.
        """
        return None

    @abstractmethod
    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        """Randomness that ``sample`` needs."""

    def derived(self) -> DerivedPrior:
        """The same prior with its gradient derived by hand, for several models side by side.

        Called only if `hand_derived`.
        """
        raise NotImplementedError  # abstract where `hand_derived` is True


class PriorDistribution(ABC):
    """p(z), as a value. A prior scores and samples; it draws nothing for the bound's sake.

    Attributes
    ----------
    kl_may_vanish : bool
        Whether a posterior can be equal to it, so that a divergence above 0 tells something.
    """

    kl_may_vanish: bool = True

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (n_draws, n_rows) of draws z, in nats."""

    @abstractmethod
    def sample(self, noise: Mapping[str, Tensor]) -> Tensor:
        """Draws z, a function of `noise`."""

    def log_prob_of_parts(self, z: Tensor) -> Tensor:
        """Log-probability of each part given z, (n_draws, n_rows, n_parts).

        Of priors that are mixtures of parts by which rows are grouped.
        """
        raise NotImplementedError  # abstract where the prior is made of parts

    def kl(self, q: HasMoments) -> Tensor | None:
        """KL(q || p) of each row, (n_rows,), in nats; None if it has no closed form."""
        return None

    def kl_per_component(self, q: HasMoments) -> Tensor | None:
        """KL of each latent variable's marginal, (n_rows, n_latent), in nats; None if none."""
        return None


class DerivedPrior(ABC):
    """p(z) of several models side by side, with a gradient derived by hand.

    Of all shapes the first axis is that of the models.
    """

    @abstractmethod
    def cross_entropy(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Minus the expected log-density under given moments, (n_models, n_rows), in nats."""

    @abstractmethod
    def cross_entropy_backward(
        self, coefficient: Tensor, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients in mean and variance of ``(coefficient * cross_entropy).sum()``.

        `coefficient` is (n_models, n_rows, 1).
        """

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (n_models, n_draws * n_rows) of draws z, in nats."""

    @abstractmethod
    def log_prob_backward_(self, coefficient: Tensor, z: Tensor, gradient: Tensor) -> None:
        """Add to `gradient` that of ``(coefficient * log_prob(z)).sum()`` in z.

        `coefficient` is (n_models, n_draws * n_rows, 1).
        """
