"""A prior whose location and scale differ from row to row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skvae.priors._base import HasMoments, PriorDistribution


class AffinePrior(PriorDistribution):
    """Distribution of ``shift + exp(log_scale) * u``, u having another prior.

    Parameters
    ----------
    base : PriorDistribution
        Of u.
    shift, log_scale : Tensor of shape (n_rows, n_latent)
    """

    def __init__(self, base: PriorDistribution, shift: Tensor, log_scale: Tensor) -> None:
        self.base = base
        self.shift = shift
        self.log_scale = log_scale
        self.kl_may_vanish = base.kl_may_vanish

    def log_prob(self, z: Tensor) -> Tensor:
        return self.base.log_prob(self._back(z)) - self.log_scale.sum(-1)

    def log_prob_of_parts(self, z: Tensor) -> Tensor:
        return self.base.log_prob_of_parts(self._back(z))

    def sample(self, noise: Mapping[str, Tensor]) -> Tensor:
        return self.shift + torch.exp(self.log_scale) * self.base.sample(noise)

    def kl(self, q: HasMoments) -> Tensor | None:
        return self.base.kl(_Back(q, self))

    def kl_per_component(self, q: HasMoments) -> Tensor | None:
        return self.base.kl_per_component(_Back(q, self))

    def _back(self, z: Tensor) -> Tensor:
        """The u of given z."""
        return (z - self.shift) * torch.exp(-self.log_scale)


class _Back:
    """Distribution of u where z has the distribution q: their divergences are the same."""

    def __init__(self, q: HasMoments, prior: AffinePrior) -> None:
        self._q = q
        self._log_scale = prior.log_scale
        self.mean = prior._back(q.mean)
        self.variance = q.variance * torch.exp(-2.0 * prior.log_scale)
        self.has_normal_marginals = q.has_normal_marginals

    def entropy(self) -> Tensor | None:
        entropy = self._q.entropy()
        return None if entropy is None else entropy - self._log_scale.sum(-1)
