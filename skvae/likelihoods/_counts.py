"""What likelihoods of counts have in common: log-means, and a log-linear start."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from skvae._core._summary import ColumnSummary
from skvae.likelihoods._base import Likelihood, LinearStart
from skvae.likelihoods._first_order import FirstOrderHead

# exp(30) ~ 1e13 counts: above it a rate is a symptom, and exp() would overflow float32 at 89.
MAX_LOG_RATE = 30.0


class CountLikelihood(Likelihood):
    """Likelihood of counts; not for direct use."""

    is_discrete = True

    def invalid(self, X: np.ndarray) -> np.ndarray | None:
        return ~((X >= 0) & (X == np.floor(X)))

    def support_hint(self) -> tuple[str, str]:
        return (
            "counts (0, 1, 2, ...)",
            'Round the column if it holds counts, or use likelihood="gaussian".',
        )


def guarded_mean(summary: ColumnSummary) -> np.ndarray:
    """Mean count of each column, kept off zero."""
    # Half a count in one more row: a column of zeros keeps a finite log-rate.
    mean: np.ndarray = (summary.n_observed * summary.mean + 0.5) / (summary.n_observed + 1.0)
    return mean


class CountHead(FirstOrderHead):
    """Probability of counts whose first outputs are the logarithms of their means.

    Parameters
    ----------
    summary : ColumnSummary
    log_mean : ndarray of shape (n_columns,)
        Location outputs of the marginals.
    mean : ndarray of shape (n_columns,)
        Mean counts.
    dtype : torch.dtype
    """

    log_mean: Tensor
    log_total: Tensor
    deviation: Tensor

    def __init__(
        self, summary: ColumnSummary, log_mean: np.ndarray, mean: np.ndarray, *, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.n_columns = self.n_outputs = len(summary.mean)
        self.n_location_outputs = self.n_features = self.n_columns
        self.register_buffer("log_mean", torch.tensor(log_mean, dtype=dtype))
        self.register_buffer("log_total", torch.tensor(np.log(mean), dtype=dtype))
        deviation = np.sqrt(np.maximum(summary.scale**2, mean))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=dtype))

    def features(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # log(1 + x): counts are skewed, and the decoder works on the log scale too.
        logs = torch.log1p(x) - torch.log1p(torch.exp(self.log_total))
        return logs if mask is None else torch.where(mask > 0, logs, torch.zeros_like(x))

    def initial_outputs(self) -> Tensor:
        return self.log_mean

    def residuals(self, x: Tensor) -> Tensor:
        return (x - torch.exp(self.log_total)) / self.deviation

    def linear_model(self, loadings: np.ndarray, length: float) -> LinearStart:
        """Log-linear factor analysis.

        With w the loadings of the log-means and m the means, the covariance of two columns is
        ``m_i m_j (exp(w_i @ w_j) - 1)``: to first order the factors of the correlation matrix,
        times standard deviation over mean, are the loadings, and the length of a column's own is
        known beyond first order.
        """
        mean = np.exp(self.log_total.double().cpu().numpy())
        relative = self.deviation.double().cpu().numpy() / mean
        first_order = loadings * relative[:, None]
        shared = np.square(first_order).sum(1)
        shrinkage = np.sqrt(np.log1p(shared) / np.maximum(shared, np.finfo(float).tiny))
        part = length * shrinkage[:, None] * first_order
        square = np.square(part).sum(1)
        precision, own = self.with_factors(square)
        # The mean of the rates is kept.
        outputs = self.initial_outputs().detach().double().cpu().numpy()
        outputs[: self.n_columns] -= 0.5 * square
        # The encoder reads log(1 + x), whose slope at the mean is 1 / (1 + mean).
        return LinearStart(part, precision, precision * (1.0 + mean) / mean, outputs, own)

    @abstractmethod
    def with_factors(self, square: np.ndarray) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """What there is beside factors that explain part of the columns, their means kept.

        Parameters
        ----------
        square : ndarray of shape (n_columns,)
            Variances of the log-means that the factors make.

        Returns
        -------
        precision : ndarray of shape (n_columns,)
            Curvature of the log-probability in the log-mean.
        parameters : mapping of str to ndarray
            Values of the head's own parameters, by name.
        """

    def from_expectation(self, expectation: Tensor) -> Tensor:
        return expectation
