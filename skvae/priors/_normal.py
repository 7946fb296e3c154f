"""Standard normal prior."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skvae._core._batch import NoiseSpec
from skvae._core._normal import LOG_2PI, standard_normal_log_prob
from skvae.priors._base import HasMoments, Prior, PriorDistribution, PriorHead


class StandardNormalPrior(Prior, shorthand="normal"):
    """Independent standard normals, p(z) = N(0, I).

    Examples
    --------
    >>> from skvae import VariationalAutoencoder
    >>> from skvae.priors import StandardNormalPrior
    >>> VariationalAutoencoder(prior=StandardNormalPrior())
    VariationalAutoencoder(prior=StandardNormalPrior())
    """

    def build(self, n_latent: int, dtype: torch.dtype) -> StandardNormalHead:
        """Head without parameters."""
        self.check_parameters()
        return StandardNormalHead(n_latent)


class StandardNormalHead(PriorHead):
    """Nothing to learn."""

    hand_derived = True

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent

    def forward(self) -> StandardNormal:
        return StandardNormal()

    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec((n_draws, self.n_latent))}


class StandardNormal(PriorDistribution):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return standard_normal_log_prob(z).sum(-1)

    def sample(self, noise: Mapping[str, Tensor]) -> Tensor:
        return noise["z"]

    def kl(self, q: HasMoments) -> Tensor | None:
        # E_q[log q] - E_q[log p]; appendix B of Kingma and Welling (2014) for a diagonal q.
        entropy = q.entropy()
        if entropy is None:
            return None
        cross_entropy = 0.5 * (q.mean.square() + q.variance + LOG_2PI).sum(-1)
        return cross_entropy - entropy

    def kl_per_component(self, q: HasMoments) -> Tensor:
        return 0.5 * (q.mean.square() + q.variance - 1.0 - torch.log(q.variance))
