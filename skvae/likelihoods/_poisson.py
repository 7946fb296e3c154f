"""Poisson likelihood, for counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae._core._factor_analysis import SecondMoments, correlation_factors
from skvae._core._summary import ColumnSummary
from skvae.likelihoods._base import (
    DerivedObservation,
    JointPart,
    Likelihood,
    LinearStart,
    ObservationHead,
)

# exp(30) ~ 1e13 counts: above it a rate is a symptom, and exp() would overflow float32 at 89.
MAX_LOG_RATE = 30.0
# Least share of a column's variance that its own noise keeps in the linear start.
MIN_UNIQUENESS = 0.1
# Lengths at which loadings are tried. With the last the start is the marginals but for a hair: with
# none at all neither encoder nor decoder would have a gradient.
START_LENGTHS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.05)


class PoissonLikelihood(Likelihood, shorthand="poisson"):
    """Poisson probability whose log-rate is the decoder's output.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VariationalAutoencoder
    >>> rng = np.random.RandomState(0)
    >>> rates = np.exp(1.0 + 0.5 * rng.normal(size=(200, 1)))
    >>> counts = rng.poisson(rates, size=(200, 5))
    >>> model = VariationalAutoencoder(1, likelihood="poisson", random_state=0)
    >>> model.fit(counts).sample(3, random_state=0).shape
    (3, 5)
    """

    is_discrete = True

    def build(self, summary: ColumnSummary, dtype: torch.dtype) -> PoissonHead:
        """Head that starts at the mean count of each column."""
        self.check_parameters()
        return PoissonHead(summary, dtype=dtype)

    def invalid(self, X: np.ndarray) -> np.ndarray | None:
        return ~((X >= 0) & (X == np.floor(X)))

    def support_hint(self) -> tuple[str, str]:
        return (
            "counts (0, 1, 2, ...)",
            'Round the column if it holds counts, or use likelihood="gaussian".',
        )


class PoissonParams(NamedTuple):
    """Parameters of Poisson probabilities."""

    log_rate: Tensor


class PoissonHead(ObservationHead):
    """Poisson probability of counts."""

    hand_derived = True

    def __init__(self, summary: ColumnSummary, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.n_columns = self.n_outputs = len(summary.mean)
        self.n_location_outputs = self.n_features = self.n_columns
        # Half a count in one more row: a column of zeros keeps a finite log-rate.
        rate = (summary.n_observed * summary.mean + 0.5) / (summary.n_observed + 1.0)
        self.register_buffer("log_mean", torch.tensor(np.log(rate), dtype=dtype))
        deviation = np.sqrt(np.maximum(summary.scale**2, rate))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=dtype))

    def features(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # log(1 + x): counts are skewed, and the decoder works on the log scale too.
        logs = torch.log1p(x) - torch.log1p(torch.exp(self.log_mean))
        return logs if mask is None else torch.where(mask > 0, logs, torch.zeros_like(x))

    def initial_outputs(self) -> Tensor:
        return self.log_mean

    def residuals(self, x: Tensor) -> Tensor:
        return (x - torch.exp(self.log_mean)) / self.deviation

    def linear_starts(
        self, moments: SecondMoments, n_factors: int, seed: int
    ) -> Sequence[LinearStart]:
        """Log-linear factor analysis, from the factors of the correlation matrix.

        With w the loadings of the log-rates and m the means, the covariance of two columns is
        ``m_i m_j (exp(w_i @ w_j) - 1)``: to first order the factors of the correlation matrix,
        times standard deviation over mean, are the loadings, and the length of a column's own is
        known beyond first order. How far that carries depends on the columns, so the loadings are
        offered at several lengths.
        """
        loadings = correlation_factors(moments, n_factors, floor=MIN_UNIQUENESS, seed=seed)
        starts = [self._linear_model(loadings, length) for length in START_LENGTHS]
        return [start.turned() for start in starts]

    def joint_part(self) -> JointPart:
        return JointPart(
            variance=np.ones(self.n_columns),
            floor=MIN_UNIQUENESS,
            start=lambda factors, length: self._linear_model(factors.loadings, length),
        )

    def _linear_model(self, loadings: np.ndarray, length: float) -> LinearStart:
        """Linear model, not rotated, whose residuals have these loadings."""
        mean = np.exp(self.log_mean.double().cpu().numpy())
        relative = self.deviation.double().cpu().numpy() / mean
        first_order = loadings * relative[:, None]
        shared = np.square(first_order).sum(1)
        shrinkage = np.sqrt(np.log1p(shared) / np.maximum(shared, np.finfo(float).tiny))
        part = length * shrinkage[:, None] * first_order
        # The mean of the rates is kept.
        outputs = np.log(mean) - 0.5 * np.square(part).sum(1)
        # The encoder reads log(1 + x), whose slope at the mean is 1 / (1 + mean).
        return LinearStart(part, mean, 1.0 + mean, outputs)

    def params_from(self, outputs: Tensor) -> PoissonParams:
        return PoissonParams(outputs.clamp(max=MAX_LOG_RATE))

    def log_prob_columns(self, params: PoissonParams, x: Tensor) -> Tensor:
        return x * params.log_rate - torch.exp(params.log_rate) - torch.lgamma(x + 1.0)

    def derived(
        self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> DerivedPoisson:
        return DerivedPoisson()

    def sample(self, params: PoissonParams, generator: torch.Generator) -> Tensor:
        return torch.poisson(torch.exp(params.log_rate), generator=generator)

    def expectation(self, params: PoissonParams) -> Tensor:
        return torch.exp(params.log_rate)

    def from_expectation(self, expectation: Tensor) -> Tensor:
        return expectation


class DerivedPoisson(DerivedObservation):
    """Poisson probabilities of several models."""

    def log_prob(self, outputs: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        log_rate = outputs.clamp(max=MAX_LOG_RATE)
        rate = torch.exp(log_rate)
        columns = log_rate.mul_(x).sub_(rate).sub_(torch.lgamma(x + 1.0))
        if mask is not None:
            columns.mul_(mask)
        self._now = outputs, x, mask, rate
        return columns.sum(-1)

    def backward(self, coefficient: Tensor) -> Tensor:
        outputs, x, mask, rate = self._now
        gradient = torch.sub(x, rate, out=rate).mul_(coefficient)
        gradient.masked_fill_(outputs > MAX_LOG_RATE, 0.0)
        return gradient if mask is None else gradient.mul_(mask)
