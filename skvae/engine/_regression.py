"""Regression of what is read of rows on what else is known of them, in one pass.

Least squares, unless that would follow single rows: as when there are about as many categories, or
numbers, as rows.
"""

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
# Slopes are shrunk only where least squares would lose more than this on other rows, in nats per
# row, and then as much as costs no more than this. Residuals are stretched to the size of those of
# other rows where that gains more than this for a column.
TOLERANCE = 1e-3
# Penalties that are tried beside none: the smallest, the largest as a multiple of the number of
# rows, and their number. With the last nothing is left of the slopes.
LEAST_PENALTY, MOST_PENALTY, N_PENALTIES = 0.1, 1e9, 45
# Smallest share of a column's variance that the context leaves.
LEAST_LEFT = 1e-12
# Numbers that products of the context may take where each column has its own rows.
MOST_ENTRIES = 5e7


@torch.no_grad()
def regress_on_context(rows: Rows, model: ConditionalAutoencoder) -> None:
    """Tell the model what to expect of its rows given their context.

    For each column by those of the rows in which it is observed. If that is too much to hold, by
    products with the context that stand for those of all rows, which is right where entries are
    missing whatever the context is.
    """
    head = model.observation_head
    first = rows.slice(0, 1)
    assert first.context is not None
    if head.residuals(first.x) is None:
        return
    n_context = first.context.shape[-1]
    by_column = rows.has_missing and head.n_features * (n_context + 1) ** 2 <= MOST_ENTRIES
    cost = n_context * head.n_features * (n_context if by_column else 1)
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
    power = counts = torch.zeros((), dtype=torch.float64)
    for part in parts:
        batch = model.complete(rows.gather(part))
        features = head.features(batch.x, batch.mask).double()
        residuals = head.residuals(batch.x).double()
        context = batch.context.double() - centre
        context = torch.cat([context.new_ones(len(context), 1), context], dim=1)
        covariance += context[:, 1:].mT @ context[:, 1:]
        if batch.mask is not None:
            observed = model.missing.of_features(batch.mask).double()
            residuals = torch.where(observed > 0, residuals, 0.0)
            counts = counts.to(context) + observed.sum(0)
        if by_column:
            square = square.to(context) + torch.einsum("rp,rc,rd->pcd", observed, context, context)
        else:
            square = square.to(context) + context.mT @ context
        cross_features = cross_features.to(context) + context.mT @ features
        cross_residuals = cross_residuals.to(context) + context.mT @ residuals
        power = power.to(context) + residuals.square().sum(0)
    if rows.has_missing and not by_column:
        standing_for = n_used / counts.clamp(min=1.0)
        cross_features, cross_residuals, power = (
            t * standing_for for t in (cross_features, cross_residuals, power)
        )
    directions = _Directions(square)
    penalty, stretch = directions.penalty(cross_residuals, power)
    slopes = [directions.slopes(cross, penalty) for cross in (cross_features, cross_residuals)]
    model.expect_(Regression(centre, covariance / n_used, *slopes, stretch))


class _Directions:
    """Context of rows about its mean, in directions that are not correlated.

    Parameters
    ----------
    square : Tensor of shape (n_inputs, n_inputs) or (n_columns, n_inputs, n_inputs)
        Sums of products of inputs, of which the first is 1.
    """

    def __init__(self, square: Tensor) -> None:
        square = square if square.ndim == 3 else square.unsqueeze(0)
        self.n_rows = square[:, 0, 0].clamp(min=1.0)
        self.total = square[:, 0, 1:]
        about_mean = square[:, 1:, 1:] - self.total.unsqueeze(2) * (
            self.total / self.n_rows.unsqueeze(1)
        ).unsqueeze(1)
        size, self.vectors = torch.linalg.eigh(about_mean)
        least = SINGULAR * size.amax(-1, keepdim=True)
        # Sums of squares (1 or n_columns, n_directions), infinite where there is nothing.
        self.size = torch.where(size > least, size, torch.inf)

    def _along(self, cross: Tensor) -> Tensor:
        """Sums of products of directions and columns about their means, (n_columns, n_dir.)."""
        mean = cross[0] / self.n_rows
        about_mean = cross[1:].mT - mean.unsqueeze(1) * self.total
        return (about_mean.unsqueeze(1) @ self.vectors).squeeze(1)

    def slopes(self, cross: Tensor, penalty: float) -> Tensor:
        """Slopes (n_context, n_columns) of columns, shrunk by a penalty on their squares.

        Parameters
        ----------
        cross : Tensor of shape (n_inputs, n_columns)
            Sums of products of inputs and columns.
        penalty : float
        """
        shrunk = self._along(cross) / (self.size + penalty)
        return (self.vectors @ shrunk.unsqueeze(2)).squeeze(2).mT

    def penalty(self, cross: Tensor, power: Tensor) -> tuple[float, Tensor]:
        """The penalty, of all columns, that is best for other rows, 0 if that is as good.

        By generalised cross-validation.

        Parameters
        ----------
        cross : Tensor of shape (n_inputs, n_columns)
        power : Tensor of shape (n_columns,)
            Sums of squares of the columns.

        Returns
        -------
        penalty : float
        stretch : Tensor of shape (n_columns,)
            By how much the residuals of other rows are larger, 1 where that is next to nothing.

        References
        ----------
        Golub, G. H., Heath, M. and Wahba, G. (1979). Generalized cross-validation as a method for
        choosing a good ridge parameter. Technometrics 21.
        """
        total = (power - cross[0].square() / self.n_rows).clamp(min=0.0)
        varies = total > LEAST_LEFT * power
        most = MOST_PENALTY * float(self.n_rows.max())
        penalties = [0.0, *np.geomspace(LEAST_PENALTY, most, N_PENALTIES).tolist()]
        losses = []
        for penalty in penalties:
            left, free = self._left_and_free(cross, total, penalty)
            loss = 0.5 * torch.log(left) - torch.log(free)
            # Of a column without a free row nothing is known.
            loss = torch.where(free > 0.5 / self.n_rows, loss, torch.inf)
            losses.append(float(loss.where(varies, 0.0).sum()))
        best = min(losses) + TOLERANCE
        chosen = max(p for p, loss in zip(penalties, losses, strict=True) if loss <= best)
        if losses[0] <= best:
            chosen = 0.0
        left, free = self._left_and_free(cross, total, chosen)
        # No larger than columns of which nothing is explained.
        square = torch.minimum(free**-2, total / left)
        gain = 0.5 * (square - 1.0 - torch.log(square))
        stretched = varies & (square > 1.0) & (gain > TOLERANCE)
        return chosen, torch.where(stretched, square, 1.0).sqrt()

    def _left_and_free(self, cross: Tensor, total: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """Sums of squares that are left of `total`, and the share of rows that is free."""
        held = 1.0 / (self.size + penalty)
        explained = (self._along(cross).square() * held * (1.0 + penalty * held)).sum(-1)
        left = torch.maximum(total - explained, LEAST_LEFT * total)
        n_used = 1.0 + (1.0 - penalty * held).where(self.size.isfinite(), 0.0).sum(-1)
        return left, 1.0 - n_used / self.n_rows
