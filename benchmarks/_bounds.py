"""Evidence lower bound from what any model can answer, in NumPy and without skvae.

The same few lines judge all contestants, and check what skvae says of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

# Probabilities in float32 reach 0 and 1; one pixel then costs at most 16 nats.
SMALLEST = 1e-7


def lower_bounds(
    X: np.ndarray,
    moments: tuple[np.ndarray, np.ndarray],
    decode: Callable[[np.ndarray], Any],
    *,
    likelihood: Literal["bernoulli", "unit_normal", "normal"],
    seed: int = 0,
) -> np.ndarray:
    """One-draw bound of each row, in nats, with noise of its own for each row.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_columns)
    moments : tuple of ndarray of shape (n_rows, n_latent)
        Means and standard deviations of q(z | x).
    decode : callable
        From z (n_rows, n_latent) to the means of x; with "normal", to means and variances.
    likelihood : {"bernoulli", "unit_normal", "normal"}
        p(x | z): Bernoulli, or normal with variance 1 or as `decode` says.
    seed : int
        Of the noise.
    """
    mean, deviation = (np.asarray(m, dtype=np.float64) for m in moments)
    noise = np.random.default_rng(seed).standard_normal(mean.shape)
    z = (mean + deviation * noise).astype(X.dtype)
    kl = 0.5 * (mean**2 + deviation**2 - 1.0).sum(1) - np.log(deviation).sum(1)
    x = X.astype(np.float64)
    if likelihood == "normal":
        expected, variance = (np.asarray(t, dtype=np.float64) for t in decode(z))
    else:
        expected, variance = decode(z).astype(np.float64), np.float64(1.0)
    if likelihood == "bernoulli":
        p = expected.clip(SMALLEST, 1.0 - SMALLEST)
        log_likelihood = (x * np.log(p) + (1.0 - x) * np.log1p(-p)).sum(1)
    else:
        square = (x - expected) ** 2 / variance
        log_likelihood = -0.5 * (square + np.log(2.0 * np.pi * variance)).sum(1)
    return log_likelihood - kl
