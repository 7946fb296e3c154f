"""How wide or narrow a normal may be: bounds that guard the arithmetic and bind nowhere else."""

from __future__ import annotations

from torch import Tensor

# Guards against overflow only: exp(-16) ~ 1e-7 is the posterior of data with relative noise 1e-7,
# exp(8) is a posterior 3000 times wider than the prior.
MIN_LOG_SCALE, MAX_LOG_SCALE = -16.0, 8.0

# Largest ratio of standard deviations that a dependence between latent variables makes. Its square
# is what a variance loses by cancellation: 1e4 leaves three digits in float32.
LARGEST_RATIO = 100.0


def bounded_log_scale(raw: Tensor) -> Tensor:
    """Log standard deviations within bounds."""
    return raw.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE)


def bounded_norm(raw: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Arrays along `axes`, shortened smoothly so that none is longer than `LARGEST_RATIO`."""
    square = raw.square().sum(axes, keepdim=True)
    return raw * (1.0 + square / LARGEST_RATIO**2).rsqrt()
