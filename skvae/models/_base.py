"""The protocol: two questions that every latent variable model answers.

``posterior(batch)`` is what the model believes about z given the rows; ``generative(batch, z)``
is the prior of z and the distribution of the rows given z. Bounds, importance sampling,
generation and all that follows are written once on top of these two.

Axes: z is (n_draws, n_rows, *latent_shape); log quantities of a draw are (n_draws, n_rows). The
draw axis is always there, and the row axis of noise may have length 1 (noise shared by all rows).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skvae._core._batch import Batch, NoiseSpec
from skvae._core._summary import ColumnSummary
from skvae._core._units import Move
from skvae.likelihoods._base import Observation, ObservationHead
from skvae.models._missingness import SelfMasking
from skvae.posteriors._base import PosteriorDistribution
from skvae.priors._base import PriorDistribution


class Generative(NamedTuple):
    """p(z) and p(x | z) along the draws z."""

    prior: PriorDistribution
    observation: Observation


class LatentVariableModel(nn.Module, ABC):
    """Model of rows x with latent variables z.

    Attributes
    ----------
    latent_shape : tuple of int
    can_train_in_turn : bool
        Whether recognition and generative model have no parameter in common.
    observation_head : ObservationHead
    missingness : SelfMasking or None
        How the absence of an entry depends on its value; None if it is missing at random.
    """

    latent_shape: tuple[int, ...]
    can_train_in_turn: bool = True
    observation_head: ObservationHead
    missingness: SelfMasking | None

    @abstractmethod
    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        """All randomness that a step with `n_draws` draws needs."""

    @abstractmethod
    def code(self, batch: Batch) -> Tensor:
        """What the recognition model says of each row, (n_rows, n_code): parameters of q(z | x)."""

    @abstractmethod
    def posterior_of(self, code: Tensor) -> PosteriorDistribution:
        """q(z | x) of each row from what ``code`` says, or from something better."""

    def code_units(self, code: Tensor) -> Tensor:
        """Changes of a code, entry by entry, that matter about equally, (n_rows, n_code)."""
        return torch.ones_like(code)

    def family(self, batch: Batch) -> Callable[[Tensor], PosteriorDistribution]:
        """Map from codes of the rows of a batch to their q(z | x); see ``posterior_of``.

        After training it may be wider than the family that was trained, where that costs little.
        """
        return self.posterior_of

    def posterior(self, batch: Batch) -> PosteriorDistribution:
        """q(z | x) of each row."""
        return self.family(batch)(self.code(batch))

    @abstractmethod
    def generative(self, batch: Batch, z: Tensor) -> Generative:
        """p(z) and p(x | z) along the draws z."""

    @abstractmethod
    def prior_noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        """Randomness that `sample_prior` needs."""

    @abstractmethod
    def sample_prior(self, batch: Batch | None, noise: Mapping[str, Tensor]) -> Tensor:
        """Draws z from the prior (given the batch's context, where the model has one)."""

    @property
    def can_rescale(self) -> bool:
        """Whether ``rescale_`` is offered: the columns have units, and their change can be undone.

        That is, exactly, by the affine maps that read columns and those that make outputs.
        """
        return False

    def rescale_(self, before: ColumnSummary, after: ColumnSummary) -> list[Move]:
        """Take over a location and scale of the columns found anew; what is said stays the same.

        q(z | x) of the user's rows, and p(x | z) of them, are the same as before, but for columns
        that have not varied, or not been observed, until now. Called only if `can_rescale`.

        Parameters
        ----------
        before, after : ColumnSummary
            Moments (see ``Likelihood.moments``) by which columns are standardised, and are to be.

        Returns
        -------
        moves : list of Move
            What has become of parameters, so that what belongs to them can follow.
        """
        raise NotImplementedError  # abstract where `can_rescale` is True

    def generative_weights(self) -> list[str]:
        """Names of the weight matrices that p(x | z) depends on: those that may be uncertain."""
        return []

    def recognition_weights(self) -> list[str]:
        """Names of the parameters that q(z | x) depends on and p(x, z) does not."""
        raise NotImplementedError  # abstract where the two are trained in turn

    def start_at_(self, batch: Batch, generator: torch.Generator) -> None:
        """Start what starts at training rows; called once before training."""

    def read(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What the recognition model reads of rows, and what comes to its code beside that.

        Of a model whose gradient is derived by hand, before each of its steps.

        Returns
        -------
        features : Tensor of shape (..., n_features)
        change : Tensor of shape (..., n_code) or None
        """
        raise NotImplementedError  # abstract where the gradient is derived by hand

    def knowable(self, batch: Batch, *, n_rows: int) -> dict[str, Tensor]:
        """Fields of a batch that are worth computing once, where entries are missing.

        `n_rows` is how many rows they will be kept for.
        """
        return {}

    def posterior_mean(self, batch: Batch) -> Tensor:
        """Mean of q(z | x) of each row, (n_rows, *latent_shape)."""
        return self.posterior(batch).mean

    def observe(self, batch: Batch, noise: Mapping[str, Tensor]) -> Batch:
        """The batch as this step sees it (dynamic binarisation and the like), with its noise."""
        return batch._replace(x=self.observation_head.observe(batch.x, noise), noise=noise)

    def complete(self, batch: Batch) -> Batch:
        """The batch with what is expected in place of context that is not known."""
        return batch

    def log_joint(self, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x | z) of each draw, both (n_draws, n_rows), in nats."""
        prior, observation = self.generative(batch, z)
        return prior.log_prob(z), observation.log_prob(batch.x, batch.mask)
