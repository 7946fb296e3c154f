"""What a posterior is: a component, its head, and the distribution that the head returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from skvae._core._batch import MixedNoise, NoiseSpec
from skvae._core._component import Component


class Posterior(Component, ABC, kind="posterior"):
    """Component that names the family of q(z | x).

    Attributes
    ----------
    is_mean_field : bool
        Whether all latent variables are independent, so that heads side by side are one head.
    """

    is_mean_field: ClassVar[bool] = False

    @abstractmethod
    def build(
        self, n_latent: int, *, dtype: torch.dtype, generator: torch.Generator
    ) -> PosteriorHead:
        """Head for `n_latent` latent variables; `generator` is for initial weights, if any."""


class PosteriorHead(nn.Module, ABC):
    """Map from encoder outputs to a distribution of z for each row.

    Attributes
    ----------
    n_outputs : int
        Encoder outputs. The first `n_location_outputs` place the distribution and receive the
        encoder's linear path.
    n_location_outputs : int
    mean_is_location : bool
        Whether the mean is the location outputs, so that it can be had without the others.
    hand_derived : bool
        Whether ``derived`` is offered.
    mixes : bool
        Whether its distributions can be ``correlated``.
    """

    mean_is_location: bool = False
    mixes: bool = False
    n_outputs: int
    n_location_outputs: int
    hand_derived: bool = False

    @abstractmethod
    def forward(self, outputs: Tensor) -> PosteriorDistribution:
        """Distribution of z for each row, from encoder outputs (n_rows, n_outputs)."""

    @abstractmethod
    def outputs_at(self, log_scale: Tensor) -> Tensor:
        """Encoder outputs (n_outputs,) for means of zero and the given log standard deviations."""

    def change_of_outputs(self, change: Tensor) -> Tensor:
        """What to add to outputs where the log standard deviations are to grow by `change`.

        Written for outputs that have, after the locations, a log scale for each latent variable.

        Parameters
        ----------
        change : Tensor of shape (..., n_latent)

        Returns
        -------
        change : Tensor of shape (..., n_outputs)
        """
        k = self.n_location_outputs
        return functional.pad(change, (k, self.n_outputs - 2 * k))

    @abstractmethod
    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        """Randomness that ``rsample`` needs."""

    def derived(self) -> DerivedPosterior:
        """The same family with its gradient derived by hand, for several models side by side.

        Called only if `hand_derived`.
        """
        raise NotImplementedError  # abstract where `hand_derived` is True


class PosteriorDistribution(ABC):
    """q(z | x) of the rows of one batch, as a value.

    Attributes
    ----------
    mean, variance : Tensor of shape (n_rows, *latent_shape)
        Of each latent variable.
    has_normal_marginals : bool
        Whether the distribution of each latent variable by itself is normal.
    moments_are_exact : bool
        Whether mean and variance are in closed form, or else a deterministic approximation.
    """

    mean: Tensor
    variance: Tensor
    moments_are_exact: bool = True
    has_normal_marginals: bool = False

    @abstractmethod
    def rsample(self, noise: Mapping[str, Tensor]) -> Tensor:
        """Draws z (n_draws, n_rows, *latent_shape), a differentiable function of `noise`."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (n_draws, n_rows) of draws z, in nats.

        The row axis of z may have length 1: the same draws under the distribution of each row.
        """

    def log_prob_of_each(self, z: Tensor) -> Tensor:
        """Log-density of each of the draws z (n_points, n_latent) under each row's distribution.

        Returns
        -------
        log_prob : Tensor of shape (n_points, n_rows)
            In nats. A family may compute it faster than one pair after the other.
        """
        return self.log_prob(z.unsqueeze(1))

    @abstractmethod
    def detach(self) -> PosteriorDistribution:
        """The same distribution with its parameters held constant."""

    def entropy(self) -> Tensor | None:
        """Entropy of each row's distribution, (n_rows,), in nats; None if it has no closed form."""
        return None

    def correlated(self, factor: Tensor) -> PosteriorDistribution:
        """The distribution with its noise mixed, where the family is one of normals.

        Parameters
        ----------
        factor : Tensor of shape (n_rows, n_latent, n_latent)
            Lower triangular; standard normal noise is replaced by this times it.

        Returns
        -------
        q : PosteriorDistribution
            The same one in families that are not of normals with a triangular factor.
        """
        return self

    def rsample_and_log_prob(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Draws and their log-densities; a family may compute both from the noise at once."""
        z = self.rsample(noise)
        return z, self.log_prob(z)


class DerivedPosterior(ABC):
    """q(z | x) of several models side by side, with a gradient derived by hand.

    Of all shapes the first axis is that of the models. What is returned is in memory that the next
    call overwrites.

    Attributes
    ----------
    mean, variance : Tensor of shape (n_models, n_rows, n_latent)
        Of the last draws' distribution.
    """

    mean: Tensor
    variance: Tensor

    @abstractmethod
    def draw(
        self, outputs: Tensor, noise: Mapping[str, Tensor], mixed: MixedNoise | None = None
    ) -> Tensor:
        """Draws z, one after the other: (n_models, n_draws * n_rows, n_latent).

        Parameters
        ----------
        outputs : Tensor of shape (n_models, n_rows, n_outputs)
            Of the encoder.
        noise : mapping of str to Tensor
            As ``noise_spec`` declares, with the axis of the models first.
        mixed : MixedNoise or None
            The noise of z where it is ``correlated``.
        """

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropy of each row's distribution, (n_models, n_rows), in nats."""

    @abstractmethod
    def log_prob(self) -> Tensor:
        """Log-density of the last draws, (n_models, n_draws * n_rows), in nats."""

    @abstractmethod
    def log_prob_backward_(self, coefficient: Tensor, gradient: Tensor) -> None:
        """Add to `gradient` that of ``(coefficient * log_prob()).sum()`` in the draws.

        The parameters of the distribution are held. `coefficient` is (n_models, n_draws * n_rows,
        1).
        """

    @abstractmethod
    def backward(
        self,
        in_draws: Tensor,
        in_entropy: Tensor,
        in_mean: Tensor | None,
        in_variance: Tensor | None,
    ) -> Tensor:
        """Gradient in the outputs, (n_models, n_rows, n_outputs).

        Parameters
        ----------
        in_draws : Tensor of shape (n_models, n_draws * n_rows, n_latent)
            Gradient in the draws, for a given density of them; may be overwritten.
        in_entropy : Tensor of shape (n_models, n_rows, 1)
            That in the entropy. The log-density of draws that are functions of the parameters
            themselves has the gradient of minus the entropy, whatever the noise, in families of
            location and scale.
        in_mean, in_variance : Tensor of shape (n_models, n_rows, n_latent) or None
            Those in the moments, to be subtracted.
        """
