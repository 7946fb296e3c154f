"""Marginals of columns by maximum likelihood, fitted once, in float64, column by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import minimize

# Entries of a column from which its marginal is fitted; a column with more is thinned evenly. Each
# parameter is then off by so little that it costs 1 / (2 * MAX_ENTRIES) nats per row.
MAX_ENTRIES = 10_000


def fit_columns(
    X: np.ndarray, fit: Callable[[np.ndarray], Sequence[float]], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """What `fit` finds for each column, by name, as arrays of shape (n_columns,).

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_columns)
        NaN stands for a missing entry.
    fit : callable
        From the observed entries of one column, in float64 and possibly none, to one number for
        each name.
    names : sequence of str
    """
    found = np.empty((len(names), X.shape[1]))
    for j, column in enumerate(X.T):
        entries = column[~np.isnan(column)] if column.dtype.kind == "f" else column
        if len(entries) > MAX_ENTRIES:
            kept = np.linspace(0, len(entries) - 1, MAX_ENTRIES).astype(np.int64)
            entries = entries[kept]
        found[:, j] = fit(entries.astype(np.float64))
    return dict(zip(names, found, strict=True))


def maximum(
    log_likelihood: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: Sequence[float],
    bounds: Sequence[tuple[float, float]],
) -> np.ndarray:
    """Where a mean log-likelihood, given with its gradient, is largest within bounds."""

    def negative(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = log_likelihood(theta)
        return -value, -gradient

    low, high = np.array(bounds).T
    # To the rounding of the value: laws hold the mean score of the training rows to a tenth of
    # what a single row contributes.
    options = {"ftol": 1e-15, "gtol": 1e-8, "maxiter": 500}
    found = minimize(
        negative,
        np.clip(start, low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options=options,
    )
    return np.asarray(found.x, dtype=np.float64)
