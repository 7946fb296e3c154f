"""Normal posterior with a diagonal covariance (mean-field)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skvae._core._batch import NoiseSpec
from skvae._core._normal import normal_entropy, normal_log_prob, standard_normal_log_prob
from skvae.posteriors._base import Posterior, PosteriorDistribution, PosteriorHead

# Guards against overflow only: exp(-16) ~ 1e-7 is the posterior of data with relative noise 1e-7,
# exp(8) is a posterior 3000 times wider than the prior.
MIN_LOG_SCALE, MAX_LOG_SCALE = -16.0, 8.0


class DiagonalPosterior(Posterior, shorthand="diagonal"):
    """Independent normals, mean and log standard deviation from the encoder.

    References
    ----------
    Kingma, D. P. and Welling, M. (2014). Auto-encoding variational Bayes. ICLR. Section 3.

    Examples
    --------
    >>> from skvae import VariationalAutoencoder
    >>> from skvae.posteriors import DiagonalPosterior
    >>> VariationalAutoencoder(posterior=DiagonalPosterior())
    VariationalAutoencoder(posterior=DiagonalPosterior())
    """

    def build(self, n_latent: int, dtype: torch.dtype) -> DiagonalHead:
        """Head with two outputs for each latent variable."""
        self.check_parameters()
        return DiagonalHead(n_latent)


class DiagonalHead(PosteriorHead):
    """Means first, log standard deviations second."""

    hand_derived = True

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_location_outputs = n_latent
        self.n_outputs = 2 * n_latent

    def forward(self, outputs: Tensor) -> DiagonalGaussian:
        mean = outputs[..., : self.n_location_outputs]
        log_scale = outputs[..., self.n_location_outputs :]
        return DiagonalGaussian(mean, log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE))

    def outputs_at(self, log_scale: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(log_scale), log_scale])

    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec((n_draws, self.n_location_outputs))}


class DiagonalGaussian(PosteriorDistribution):
    """Independent normals.

    Parameters
    ----------
    mean, log_scale : Tensor of shape (n_rows, n_latent)
    """

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.mean = mean
        self.log_scale = log_scale

    @property
    def variance(self) -> Tensor:  # type: ignore[override]
        """Variances (n_rows, n_latent)."""
        return torch.exp(2.0 * self.log_scale)

    def rsample(self, noise: Mapping[str, Tensor]) -> Tensor:
        return self.mean + torch.exp(self.log_scale) * noise["z"]

    def log_prob(self, z: Tensor) -> Tensor:
        return normal_log_prob(z, self.mean, self.log_scale).sum(-1)

    def rsample_and_log_prob(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        # (z - mean) / scale is the noise itself: recomputing it would lose digits in float32.
        log_prob = (standard_normal_log_prob(noise["z"]) - self.log_scale).sum(-1)
        return self.rsample(noise), log_prob

    def entropy(self) -> Tensor:
        return normal_entropy(self.log_scale).sum(-1)

    def detach(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean.detach(), self.log_scale.detach())
