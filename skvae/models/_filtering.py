"""Distributions of the latent variables of a sequence, step by step along draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from skvae._core._batch import Batch
from skvae._core._bounds import bounded_log_scale
from skvae._core._normal import normal_log_prob
from skvae.posteriors._base import PosteriorDistribution
from skvae.priors._base import HasMoments, PriorDistribution

if TYPE_CHECKING:
    from skvae.models._recurrent import RecurrentModel

# Where the run that led to draws of z is kept for `generative`, in ``Batch.memo``.
RUN = "run"


class Normals(NamedTuple):
    """Independent normals, one for each entry."""

    mean: Tensor
    log_scale: Tensor

    @classmethod
    def of(cls, outputs: Tensor) -> Normals:
        """From outputs of a network: means first, log standard deviations second."""
        mean, log_scale = outputs.chunk(2, dim=-1)
        return cls(mean, bounded_log_scale(log_scale))

    def where(self, chosen: Tensor, other: Normals) -> Normals:
        """These where `chosen`, and `other` elsewhere."""
        return Normals(*(torch.where(chosen, a, b) for a, b in zip(self, other, strict=True)))

    def rsample(self, noise: Tensor) -> Tensor:
        """Draws, a differentiable function of the noise."""
        return self.mean + torch.exp(self.log_scale) * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of each entry, in nats."""
        return normal_log_prob(z, self.mean, self.log_scale)

    def kl(self, other: Normals) -> Tensor:
        """Divergence from `other` of each entry, in nats."""
        square = torch.exp(2.0 * (self.log_scale - other.log_scale))
        distance = (self.mean - other.mean) * torch.exp(-other.log_scale)
        return other.log_scale - self.log_scale + 0.5 * (square + distance.square() - 1.0)


class Steps(NamedTuple):
    """What the networks read of sequences, step by step, with the draws among the rows.

    Attributes
    ----------
    reads : Tensor of shape (n_steps, n_draws * n_rows, n_reads)
    observed : Tensor of shape (n_steps, n_draws * n_rows, 1), or None
        Whether anything of a step is observed; None if all is.
    """

    reads: Tensor
    observed: Tensor | None

    def at(self, t: int) -> Steps:
        """What is read of one step."""
        return Steps(self.reads[t], None if self.observed is None else self.observed[t])

    def repeated(self, n_draws: int) -> Steps:
        """What is read of one step, once for each draw."""
        if n_draws == 1:
            return self
        return Steps(*(None if t is None else t.repeat(n_draws, 1) for t in self))


class Run(NamedTuple):
    """A pass through sequences, the state depending on what was drawn.

    Attributes
    ----------
    z : Tensor of shape (n_draws, n_rows, n_steps, n_latent)
    states : Tensor of shape (n_steps, n_draws * n_rows, width)
        What is told of the steps before.
    posterior : Normals or None
        Of z of each step given the steps before and the step itself, of the shape of `z`.
    """

    z: Tensor
    states: Tensor
    posterior: Normals | None


class FilteringPosterior(PosteriorDistribution):
    """q(z | x): of each step given the steps so far, that one included.

    Parameters
    ----------
    model : RecurrentModel
    batch : Batch
    change : Tensor of shape (n_rows, n_steps, 2 * n_latent) or None
        Added to what the recognition network says.
    parameters : mapping of str to Tensor or None
        Values of the model's parameters in place of its own.
    """

    # Mean and variance of a step are those given that all z before are at their means.
    moments_are_exact = False

    def __init__(
        self,
        model: RecurrentModel,
        batch: Batch,
        change: Tensor | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._model = model
        self._batch = batch
        self._change = change
        self._parameters = parameters
        self._at_means: Run | None = None
        self._last: Run | None = None

    def _pass(self, **given: Any) -> Run:
        arguments = {"change": self._change} | given
        if self._parameters is None:
            run: Run = self._model(self._batch, **arguments)
        else:
            run = functional_call(self._model, dict(self._parameters), (self._batch,), arguments)
        return run

    @property
    def _means(self) -> Normals:
        if self._at_means is None:
            noise = self._batch.x.new_zeros(1, 1, *self._model.latent_shape)
            self._at_means = self._pass(noise=noise)
        posterior = self._at_means.posterior
        assert posterior is not None
        return posterior

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Means (n_rows, n_steps, n_latent)."""
        return self._means.mean[0]

    @property
    def variance(self) -> Tensor:  # type: ignore[override]
        """Variances (n_rows, n_steps, n_latent)."""
        return torch.exp(2.0 * self._means.log_scale[0])

    def rsample(self, noise: Mapping[str, Tensor]) -> Tensor:
        # The gradient through z may be weighed apart (DReG): then nothing of it may pass beside z,
        # as it does in a run that is taken over with its states.
        return self._pass(noise=noise["z"]).z

    def rsample_and_log_prob(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        self._last = run = self._pass(noise=noise["z"])
        if self._batch.memo is not None and self._parameters is None:
            self._batch.memo[RUN] = run
        assert run.posterior is not None
        return run.z, run.posterior.log_prob(run.z).sum((-2, -1))

    def log_prob(self, z: Tensor) -> Tensor:
        return self.along(z).log_prob(z).sum((-2, -1))

    def detach(self) -> FilteringPosterior:
        change = None if self._change is None else self._change.detach()
        parameters = {name: p.detach() for name, p in self._model.named_parameters()}
        return FilteringPosterior(self._model, self._batch, change, parameters)

    def along(self, z: Tensor) -> Normals:
        """Of each step given the z of those before, (n_draws, n_rows, n_steps, n_latent)."""
        run = self._last
        if run is None or run.z is not z:
            run = self._pass(z=z)
        assert run.posterior is not None
        return run.posterior


class SteppedPrior(PriorDistribution):
    """p(z), step by step along given draws.

    Parameters
    ----------
    normals : Normals of shape (n_draws, n_rows, n_steps, n_latent)
        Of z of each step given the steps before.
    z : Tensor
        The draws.
    """

    def __init__(self, normals: Normals, z: Tensor) -> None:
        self._normals = normals
        self._z = z

    def log_prob(self, z: Tensor) -> Tensor:
        return self._normals.log_prob(z).sum((-2, -1))

    def sample(self, noise: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError  # step by step, by the model: `sample_prior`

    def kl(self, q: HasMoments) -> Tensor | None:
        """KL of each step given the draws of the steps before, summed, as the mean of the draws."""
        by_component = self.kl_per_component(q)
        return None if by_component is None else by_component.sum(-1)

    def kl_per_component(self, q: HasMoments) -> Tensor | None:
        if not isinstance(q, FilteringPosterior):
            return None
        # 0 where nothing is observed: the two are the same.
        return q.along(self._z).kl(self._normals).sum(-2).mean(0)
