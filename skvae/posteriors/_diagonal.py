"""Normal posterior with a diagonal covariance (mean-field)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skvae._core._batch import NoiseSpec
from skvae._core._normal import (
    LOG_2PI,
    normal_entropy,
    normal_log_prob,
    standard_normal_log_prob,
)
from skvae.posteriors._base import (
    DerivedPosterior,
    Posterior,
    PosteriorDistribution,
    PosteriorHead,
)

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
    mean_is_location = True

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

    def derived(self) -> DerivedDiagonal:
        return DerivedDiagonal()


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
        log_prob = standard_normal_log_prob(noise["z"]) - self.log_scale.sum(-1)
        return self.rsample(noise), log_prob

    def entropy(self) -> Tensor:
        return normal_entropy(self.log_scale).sum(-1)

    def detach(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean.detach(), self.log_scale.detach())


class DerivedDiagonal(DerivedPosterior):
    """Independent normals of several models."""

    def __init__(self) -> None:
        self._memory: dict[torch.Size, tuple[Tensor, ...]] = {}

    def draw(self, outputs: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        self._noise = eps = noise["z"]
        memory = self._memory.get(eps.shape)
        if memory is None:
            memory = self._memory[eps.shape] = _empty_for(outputs, eps)
        z, log_scale, scale, self.variance, self._gradient, *self._parts = memory
        k = eps.shape[-1]
        self.mean, self._raw = outputs[..., :k], outputs[..., k:]
        self._log_scale = torch.clamp(self._raw, MIN_LOG_SCALE, MAX_LOG_SCALE, out=log_scale)
        self._scale = torch.exp(log_scale, out=scale)
        torch.mul(scale, scale, out=self.variance)
        return torch.addcmul(self.mean.unsqueeze(1), scale.unsqueeze(1), eps, out=z)

    def entropy(self) -> Tensor:
        constant = 0.5 * (1.0 + LOG_2PI) * self._log_scale.shape[-1]
        return self._log_scale.sum(-1).add_(constant)

    def log_prob(self) -> Tensor:
        eps = self._noise
        square = torch.linalg.vecdot(eps, eps).mul_(-0.5).sub_(0.5 * LOG_2PI * eps.shape[-1])
        return square.sub_(self._log_scale.sum(-1).unsqueeze(1))

    def backward(
        self,
        in_draws: Tensor,
        in_entropy: Tensor,
        in_mean: Tensor | None,
        in_variance: Tensor | None,
    ) -> Tensor:
        one_draw = in_draws.shape[1] == 1
        total = in_draws.squeeze(1) if one_draw else in_draws.sum(1)
        mean, log_scale = self._parts
        if in_mean is None:
            mean.copy_(total)
        else:
            torch.add(total, in_mean, out=mean)
        in_draws.mul_(self._noise)
        in_scale = in_draws.squeeze(1) if one_draw else in_draws.sum(1)
        torch.addcmul(in_entropy, in_scale, self._scale, out=log_scale)
        if in_variance is not None:
            log_scale.addcmul_(in_variance, self.variance, value=2.0)
        # The bounds of the scale only guard against overflow; beyond them nothing is learned.
        torch.ops.aten.hardtanh_backward.grad_input(
            log_scale, self._raw, MIN_LOG_SCALE, MAX_LOG_SCALE, grad_input=log_scale
        )
        return self._gradient


def _empty_for(outputs: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    """Memory for draws, log-scales, scales, variances, and the gradient, whole and in parts."""
    n_models, n_rows, _ = outputs.shape
    k = noise.shape[-1]
    small = [outputs.new_empty(n_models, n_rows, k) for _ in range(3)]
    gradient = torch.empty_like(outputs)
    return torch.empty_like(noise), *small, gradient, gradient[..., :k], gradient[..., k:]
