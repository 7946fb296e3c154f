"""Second moments of residuals, in one pass over the rows or as an operator on them."""

from __future__ import annotations

import numpy as np
import torch

from skvae._core._factor_analysis import SecondMoments
from skvae.engine._rows import Rows
from skvae.likelihoods._base import ObservationHead

# Up to this many columns the covariance itself is formed.
DENSE_COLUMNS = 1536
# Multiplications that the moments may cost; beyond it, evenly spaced rows stand for all.
BUDGET = 2e10
CHUNK_ROWS = 2048


def residual_moments(rows: Rows, head: ObservationHead) -> SecondMoments | None:
    """Second moments of the head's residuals; None if it offers none."""
    n_rows = len(rows)
    first = head.residuals(rows.slice(0, 1))
    if first is None:
        return None
    p = first.shape[-1]
    cost = p * p if p <= DENSE_COLUMNS else 100 * p
    n_used = int(min(n_rows, max(BUDGET / cost, 2 * min(p, DENSE_COLUMNS))))
    used = np.linspace(0, n_rows - 1, n_used).astype(np.int64)

    def chunk(start: int) -> torch.Tensor:
        residuals = head.residuals(rows.gather(used[start : start + CHUNK_ROWS]))
        assert residuals is not None
        return residuals

    starts = range(0, n_used, CHUNK_ROWS)
    with torch.no_grad():
        if p <= DENSE_COLUMNS:
            total = torch.zeros(p, p, dtype=torch.float64, device=first.device)
            for start in starts:
                r = chunk(start).double()
                total.addmm_(r.T, r)
            covariance = (total / n_used).cpu().numpy()
            return SecondMoments(lambda b: covariance @ b, np.diag(covariance).copy())
        kept = torch.cat([chunk(start) for start in starts])
        diagonal = kept.double().square().mean(0).cpu().numpy()

    def times(b: np.ndarray) -> np.ndarray:
        product = kept.T @ (kept @ kept.new_tensor(b))
        return product.double().cpu().numpy() / n_used

    return SecondMoments(times, diagonal, max_cycles=30)
