"""The logarithm of the gamma function, less what grows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# From here on five terms of the series are exact to 2e-14.
FROM = 10.0
# Of a^-1, a^-3, ...
TERMS = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)


def stirling_error(a: Tensor) -> Tensor:
    """``log gamma(a) - ((a - 1/2) log(a) - a + log(2 pi) / 2)``, for positive `a`.

    Densities with gamma functions of large numbers are differences of numbers much larger than
    themselves. Written with this, which is at most 1 / (12 a), what is large can be taken together
    first, and float32 suffices (Loader, 2000).

    References
    ----------
    Loader, C. (2000). Fast and accurate computation of binomial probabilities. Bell Laboratories.
    """
    small = a.clamp_max(FROM)
    near = torch.lgamma(small) - ((small - 0.5) * torch.log(small) - small)
    inverse = 1.0 / a.clamp_min(FROM)
    square = inverse.square()
    far = torch.zeros_like(a)
    for term in reversed(TERMS):
        far = far * square + term
    return torch.where(a < FROM, near - 0.5 * math.log(2.0 * math.pi), far * inverse)
