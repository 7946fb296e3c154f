"""A log-likelihood with what is to be known beside its value: error, side, effective draws."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Side = Literal["below", "above"]


@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood:
    """Log-likelihood of rows, estimated by draws, with its error and its side.

    What :meth:`VariationalAutoencoder.log_likelihood` returns.

    Parameters
    ----------
    value : ndarray of shape (n_samples,)
        Log-likelihood of each row, in nats, constants included, in the units of X.
    standard_error : ndarray of shape (n_samples,)
        Of the value of each row, by the delta method: the error of draws, in nats. It can be
        trusted where the effective sample size is above about 10; below, few draws carry all the
        weight, heavier ones may exist that none has found, and the error is larger than it says.
    effective_sample_size : ndarray of shape (n_samples,)
        Number of draws of equal weight that those of each row are worth (Kong, 1992).
    side : {"below", "above"}
        On which side of the truth the value is in expectation: ``"below"`` for a stochastic lower
        bound, ``"above"`` for an upper one. Both tend to the truth with more draws.
    method : {"importance", "annealed", "reciprocal"}
        How it was estimated.

    References
    ----------
    Kong, A. (1992). A note on importance sampling using standardized weights. Technical report 348,
    Department of Statistics, University of Chicago.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VariationalAutoencoder
    >>> X = load_iris().data
    >>> model = VariationalAutoencoder(random_state=0).fit(X)
    >>> answer = model.log_likelihood(X, n_draws=100, random_state=0)
    >>> answer.value.shape, answer.side
    ((150,), 'below')
    >>> bool(answer.mean_standard_error < 0.1)
    True
    """

    value: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    side: Side
    method: str

    @property
    def mean(self) -> float:
        """Mean of the values, in nats per row."""
        return float(np.mean(self.value))

    @property
    def mean_standard_error(self) -> float:
        """Error of draws of the mean, in nats per row.

        How much the mean over *these* rows is uncertain. How much rows differ is another matter:
        ``value.std() / sqrt(n_samples)`` is the error of the mean over all rows there could be.
        """
        return float(np.sqrt(np.sum(np.square(self.standard_error)))) / max(1, len(self.value))

    def __repr__(self) -> str:
        n_rows = len(self.value)
        rows = "1 row" if n_rows == 1 else f"{n_rows} rows"
        lines = [f"LogLikelihood of {rows}: method={self.method!r}, side={self.side!r}"]
        if n_rows:
            error, ess = self.standard_error, self.effective_sample_size
            digits = _digits(self.mean_standard_error)
            lines += [
                f"  mean {self.mean:.{digits}f} ± {self.mean_standard_error:.{digits}f} nats",
                f"  error of a row: median {np.median(error):.2g}, largest {np.max(error):.2g}",
                f"  effective draws: median {np.median(ess):.3g}, smallest {np.min(ess):.3g}",
            ]
        return "\n".join(lines)


def _digits(error: float) -> int:
    """Digits after the point that say something beside an error."""
    if not math.isfinite(error) or error <= 0.0:
        return 4
    return min(max(1 - math.floor(math.log10(error)), 1), 6)


class LogMeanWeight(NamedTuple):
    """Logarithm of the mean of weights, and what is known of its error.

    Attributes
    ----------
    value : Tensor of shape (n_rows,), float64
        In expectation below the logarithm of what the weights are in expectation.
    standard_error : Tensor of shape (n_rows,), float64
        By the delta method: that of the mean weight, as a share of it.
    effective_sample_size : Tensor of shape (n_rows,), float64
    """

    value: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor

    def negated(self) -> LogMeanWeight:
        """The same of the reciprocal of the mean."""
        return self._replace(value=-self.value)


def log_mean_weight(log_weights: Iterable[Tensor]) -> LogMeanWeight:
    """Pool independent log weights, given in parts of shape (n_some, n_rows), in nats.

    A weight that is not a number counts as 0, so that a lower bound stays one.
    """
    total = square = None
    n_draws = 0
    for part in log_weights:
        # float32 loses the digits that the differences between many weights are in.
        part = part.double()
        part = torch.where(torch.isnan(part), torch.full_like(part, -torch.inf), part)
        some, of_squares = torch.logsumexp(part, 0), torch.logsumexp(2.0 * part, 0)
        total = some if total is None else torch.logaddexp(total, some)
        square = of_squares if square is None else torch.logaddexp(square, of_squares)
        n_draws += len(part)
    assert total is not None and square is not None
    inverse = torch.nan_to_num(torch.exp(square - 2.0 * total), nan=torch.inf)
    variance = (inverse - 1.0 / n_draws).clamp(min=0.0) * n_draws / max(n_draws - 1, 1)
    return LogMeanWeight(total - math.log(n_draws), variance.sqrt(), 1.0 / inverse)
