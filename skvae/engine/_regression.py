"""Least squares of what is read of rows on what else is known of them, in one pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skvae.engine._rows import Rows
from skvae.models import ConditionalAutoencoder, Regression

CHUNK_ROWS = 2048
# Multiplications that the regression may cost; beyond it, evenly spaced rows stand for all.
BUDGET = 2e10
# Directions of the context that vary by a smaller share than this of the widest are not told apart:
# the indicators of all categories add up to 1.
SINGULAR = 1e-9


@torch.no_grad()
def regress_on_context(rows: Rows, model: ConditionalAutoencoder) -> None:
    """Tell the model what to expect of its rows given their context: the least squares.

    For each column those of the rows in which it is observed.
    """
    head = model.observation_head
    first = rows.slice(0, 1)
    assert first.context is not None
    if head.residuals(first.x) is None:
        return
    n_context = first.context.shape[-1]
    cost = n_context * head.n_features * (n_context if rows.has_missing else 1)
    n_used = int(min(len(rows), max(BUDGET / max(cost, 1), 1000)))
    used = np.linspace(0, len(rows) - 1, n_used).astype(np.int64)
    parts = [used[start : start + CHUNK_ROWS] for start in range(0, n_used, CHUNK_ROWS)]
    total = torch.zeros(n_context, dtype=torch.float64, device=first.x.device)
    for part in parts:
        total += model.complete(rows.gather(part)).context.double().sum(0)
    centre = total / n_used
    covariance = torch.zeros(n_context, n_context, dtype=torch.float64, device=first.x.device)
    # The intercept, by which means that are not 0 stay out of the slopes, comes first.
    square = cross_features = cross_residuals = torch.zeros((), dtype=torch.float64)
    for part in parts:
        batch = model.complete(rows.gather(part))
        features = head.features(batch.x, batch.mask).double()
        residuals = head.residuals(batch.x).double()
        context = batch.context.double() - centre
        context = torch.cat([context.new_ones(len(context), 1), context], dim=1)
        covariance += context[:, 1:].mT @ context[:, 1:]
        if batch.mask is None:
            square = square.to(context) + context.mT @ context
        else:
            observed = model.missing.of_features(batch.mask).double()
            residuals = torch.where(observed > 0, residuals, 0.0)
            square = square.to(context) + torch.einsum("rp,rc,rd->pcd", observed, context, context)
        cross_features = cross_features.to(context) + context.mT @ features
        cross_residuals = cross_residuals.to(context) + context.mT @ residuals
    slopes = [_solved(square, cross)[1:] for cross in (cross_features, cross_residuals)]
    model.expect_(Regression(centre, covariance / n_used, *slopes))


def _solved(square: Tensor, cross: Tensor) -> Tensor:
    """Coefficients (n_inputs, n_columns) of least squares, the shortest where there are several.

    Parameters
    ----------
    square : Tensor of shape (n_inputs, n_inputs) or (n_columns, n_inputs, n_inputs)
    cross : Tensor of shape (n_inputs, n_columns)
    """
    inverse = torch.linalg.pinv(square, rtol=SINGULAR, hermitian=True)
    if square.ndim == 2:
        return inverse @ cross
    return torch.einsum("pcd,dp->cp", inverse, cross)
