"""Second moments of residuals, in one pass over the rows or as an operator on them.

Where entries are missing, they are expectations under a linear model that is itself found from
them: expectation maximisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from skvae._core._batch import Batch
from skvae._core._factor_analysis import Factors, SecondMoments, factor_analysis
from skvae._core._memory import how_many_fit
from skvae.engine._rows import Rows
from skvae.likelihoods._base import ObservationHead

# Up to this many columns the covariance itself is formed.
DENSE_COLUMNS = 1536
# Multiplications that the moments may cost; beyond it, evenly spaced rows stand for all.
BUDGET = 2e10
CHUNK_ROWS = 2048
# With missing entries: multiplications of one expectation step, steps at most, gain in nats per
# row below which they end, rows at most, and the least noise as a share of a column's variance.
STEP_BUDGET, MAX_STEPS, TOLERANCE = 2e9, 50, 1e-4
MOST_ROWS = 20_000
NOISE_SHARE = 1e-6
# Cycles of factor analysis between these steps.
CYCLES = 5
# Memory of an entry of rows gathered in float64 and then standardised, in bytes; that of residuals
# that are kept, in entries of their own; that of entries some of which are missing.
AT_ONCE, KEPT, MISSING = 48, 2, 96


def residual_moments(
    rows: Rows,
    head: ObservationHead,
    n_factors: int,
    *,
    seed: int = 0,
    guess: Factors | None = None,
    residuals: Callable[[Batch], Tensor | None] | None = None,
) -> SecondMoments | None:
    """Second moments of the head's residuals; None if it offers none.

    Parameters
    ----------
    rows : Rows
    head : ObservationHead
    n_factors : int
        Of the linear model by which missing entries are expected.
    seed : int, default=0
        For the start of that model.
    guess : Factors or None, default=None
        From where to find that model, if other rows have told.
    residuals : callable or None, default=None
        Residuals of a batch, where they are not those of the head.
    """
    n_rows = len(rows)
    residuals_of = residuals or (lambda batch: head.residuals(batch.x))
    first = residuals_of(rows.slice(0, 1))
    if first is None:
        return None
    p = first.shape[-1]
    if rows.has_missing:
        with torch.no_grad():
            return _moments_of_observed(rows, head, residuals_of, n_factors, p, seed, guess)
    cost = p * p if p <= DENSE_COLUMNS else 100 * p
    n_used = int(min(n_rows, max(BUDGET / cost, 2 * min(p, DENSE_COLUMNS))))
    if p > DENSE_COLUMNS:
        # The residuals of all these rows are kept.
        n_used = how_many_fit(KEPT * first.element_size() * p, n_used)
    at_once = how_many_fit(AT_ONCE * p, CHUNK_ROWS)
    used = np.linspace(0, n_rows - 1, n_used).astype(np.int64)

    def chunk(start: int) -> torch.Tensor:
        some = residuals_of(rows.gather(used[start : start + at_once]))
        assert some is not None
        return some

    starts = range(0, n_used, at_once)
    with torch.no_grad():
        if p <= DENSE_COLUMNS:
            total = torch.zeros(p, p, dtype=torch.float64, device=first.device)
            for start in starts:
                r = chunk(start).double()
                total.addmm_(r.T, r)
            covariance = (total / n_used).cpu().numpy()
            return SecondMoments(lambda b: covariance @ b, np.diag(covariance).copy())
        kept, squares = first.new_empty(n_used, p), first.new_zeros(p, dtype=torch.float64)
        for start in starts:
            r = chunk(start)
            kept[start : start + at_once] = r
            squares += r.double().square().sum(0)
        diagonal = squares.cpu().numpy() / n_used

    def times(b: np.ndarray) -> np.ndarray:
        product = kept.T @ (kept @ kept.new_tensor(b))
        return product.double().cpu().numpy() / n_used

    return SecondMoments(times, diagonal, max_cycles=30)


def _moments_of_observed(
    rows: Rows,
    head: ObservationHead,
    residuals_of: Callable[[Batch], Tensor | None],
    n_factors: int,
    p: int,
    seed: int,
    guess: Factors | None,
) -> SecondMoments:
    """Maximum-likelihood moments of residuals of which some are missing.

    They are those of factor analysis with missing entries: expectations of all products given what
    is observed, and factor analysis of these, in turn.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete data
    via the EM algorithm. Journal of the Royal Statistical Society B 39.
    """
    k = max(n_factors, 1)
    affordable = max(STEP_BUDGET / (p * (p + k * k)), 4 * p, 500)
    n_used = how_many_fit(MISSING * p, int(min(len(rows), affordable, MOST_ROWS)))
    used = np.linspace(0, len(rows) - 1, n_used).astype(np.int64)
    batch = rows.gather(used)
    assert batch.mask is not None
    residuals, mask = residuals_of(batch), batch.mask
    assert residuals is not None
    if head.column_of_feature is not None:
        mask = mask[:, head.column_of_feature]
    observed = mask.double()
    r = torch.where(mask > 0, residuals, 0.0).double()
    counts = observed.sum(0)
    mean = r.sum(0) / counts.clamp(min=1.0)
    variance = ((r - mean).square() * observed).sum(0) / counts.clamp(min=1.0)
    # Of a column that does not vary in these rows only its distance from the mean of all is known:
    # around a mean of its own it would be without noise, and a row that differs impossible.
    varies = (variance > 0).double()
    mean = varies * mean
    variance = torch.where(variance > 0, variance, r.square().sum(0) / counts.clamp(min=1.0))
    # A constant column, or one that was never observed, has a variance of 1 by itself.
    alone = (variance <= 0).double()
    variance = variance + alone
    noise, loadings = variance.clone(), r.new_zeros(p, 1)
    if guess is not None and guess.loadings.shape == (p, n_factors):
        loadings, noise = (torch.from_numpy(t).to(r) for t in guess)
    else:
        guess = None
    before = -np.inf
    for step in range(MAX_STEPS):
        likelihood, mean, covariance = _expect(r, observed, mean, loadings, noise, varies)
        covariance.diagonal().mul_(1.0 - alone).add_(alone)
        if step > 1 and likelihood - before < TOLERANCE:
            break
        before = likelihood
        moments = _as_moments(covariance)
        if not n_factors:
            break
        moments = moments._replace(guess=guess)
        guess = factor_analysis(moments, n_factors, floor=NOISE_SHARE, seed=seed, n_cycles=CYCLES)
        loadings, noise = (torch.from_numpy(t).to(r) for t in guess)
    return _as_moments(covariance)._replace(mean=mean.cpu().numpy(), guess=guess)


def _as_moments(covariance: Tensor) -> SecondMoments:
    dense = covariance.cpu().numpy()
    return SecondMoments(lambda b: dense @ b, np.diag(dense).copy())


def _expect(
    r: Tensor, observed: Tensor, mean: Tensor, loadings: Tensor, noise: Tensor, varies: Tensor
) -> tuple[float, Tensor, Tensor]:
    """Mean log-likelihood of what is observed, expected mean, and expected covariance about it.

    The mean of a column where `varies` is 0 stays 0.
    """
    n, p = r.shape
    weighted = loadings / noise.unsqueeze(1)
    k = loadings.shape[1]
    filled = torch.empty_like(r)
    spread = r.new_zeros(p, p)
    log_likelihood = 0.0
    unit = torch.eye(k, dtype=r.dtype, device=r.device)
    outer = (loadings.unsqueeze(2) * weighted.unsqueeze(1)).flatten(1)
    for now in _slices(n, max(1, CHUNK_ROWS * 64 // max(p * k, k * k, 1))):
        m = observed[now]
        deviation = (r[now] - mean) * m
        precision = (m @ outer).view(-1, k, k) + unit
        factor = torch.linalg.cholesky(precision)
        information = (deviation @ weighted).unsqueeze(-1)
        z = torch.cholesky_solve(information, factor).squeeze(-1)
        filled[now] = torch.where(m > 0, r[now], mean + z @ loadings.mT)
        # E[(x - x_hat)(x - x_hat)'] of what is missing: W C W', of which C has the factor S S'.
        root = torch.linalg.solve_triangular(factor.mT, unit.expand_as(factor), upper=True)
        missing = (1.0 - m).unsqueeze(2) * (loadings @ root)
        flat = missing.transpose(0, 1).flatten(1)
        spread.addmm_(flat, flat.mT)
        quadratic = (deviation.square() / noise).sum() - (information.squeeze(-1) * z).sum()
        log_det = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum()
        constant = (m * torch.log(2.0 * torch.pi * noise)).sum()
        log_likelihood -= 0.5 * float(quadratic + log_det + constant)
    mean = varies * filled.mean(0)
    centred = filled - mean
    covariance = (centred.mT @ centred + spread) / n
    covariance.diagonal().add_(noise * (1.0 - observed.mean(0)))
    return log_likelihood / n, mean, covariance


def _slices(n: int, step: int) -> Iterator[slice]:
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
