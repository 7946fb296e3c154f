"""Location and scale of columns that are found while rows come in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skvae._core._summary import ColumnSummary
from skvae.engine import ProcessGroup, Survey, beats
from skvae.likelihoods._base import Likelihood

if TYPE_CHECKING:
    from skvae.estimators._fitting import Setup
else:
    Setup = Any

# Fields of a summary that are one number for each column.
N_MOMENTS = 5
# Smallest change of a location or scale, as a share of the scale, after which it is asked whether
# the model should move with the columns.
NOTABLE = 0.01
# Changes up to this share are those of sums in another order.
ROUNDING = 1e-12
# How many times the gain by chance the gain has to exceed, beyond sampling error.
BY_CHANCE = 2.0
# A bound, in nats, that is worse than any that is found.
WORST = -1e30


def with_further_rows(
    setup: Setup,
    rows: np.ndarray,
    observations: np.ndarray,
    check: Callable[[ColumnSummary], None],
    judge: Callable[[Setup], Tensor],
    told: Survey | None = None,
) -> Setup:
    """The setup of a model that has seen these rows too, before it is trained on them.

    Its columns are standardised by the moments of all rows seen. What it says of rows is the same
    as before, but for columns that had not varied; unless it says more of the new rows if it stays
    as it is in standardised columns.

    Parameters
    ----------
    setup : Setup
        Its model is changed in place.
    rows, observations : ndarray
        Rows, and those of them that have a distribution (the steps of sequences).
    check : callable
        Refuses moments that are not finite.
    judge : callable
        Bounds of the new rows under the model of a setup.
    told : Survey or None, default=None
        Of all further rows, where these are a sample.
    """
    model, likelihood = setup.model, setup.components["likelihood_"]
    assert isinstance(likelihood, Likelihood) and setup.moments is not None
    summary = likelihood.summarize_further(observations, None if told is None else told.moments)
    n_further = len(rows) if told is None else told.n_rows
    check(summary)
    before, own = setup.moments, likelihood.moments(summary)
    after = before.merged(own)
    mean = setup.mean
    if len(mean) == len(before.mean):  # not where the rows are features of X, which stay
        mean = before._replace(mean=mean).merged(own._replace(mean=summary.mean)).mean
    is_same = _is_same(before, after)
    if is_same:
        after = after._replace(mean=before.mean, scale=before.scale)
    setup = setup._replace(mean=mean, moments=after, n_seen=setup.n_seen + n_further)
    if is_same or not model.can_rescale:
        return setup
    # For a head that has seen nothing, nothing is to be kept in the user's units.
    nothing = ColumnSummary(*(np.zeros_like(after.mean) for _ in range(N_MOMENTS)))
    if model.latent_shape == (0,):
        # The model is the marginals of the columns: they are those of all rows.
        model.rescale_(nothing, after)
        return setup
    moved = copy.deepcopy(model) if _has_changed(before, after, NOTABLE) else None
    setup = setup._replace(moves=tuple(model.rescale_(before, after)))
    if moved is not None:
        moved.rescale_(nothing, after)
        other = setup._replace(model=moved, moves=())
        # The new rows are among those whose moments they are: two parameters of each column fitted
        # to them gain as many halves of a nat in all by chance.
        chance = BY_CHANCE * len(mean) / len(rows)
        is_better = beats(_finite(judge(other)) - chance, _finite(judge(setup)))
        # Processors of different kinds round differently: of several processes the first decides.
        if ProcessGroup.current().integer(int(is_better)):
            return other
    return setup


def _is_same(before: ColumnSummary, after: ColumnSummary) -> bool:
    """Whether the location and scale of columns differ by rounding only."""
    began = (after.scale > 0) != (before.scale > 0)
    began |= (after.n_observed > 0) != (before.n_observed > 0)
    return not began.any() and not _has_changed(before, after, ROUNDING)


def _has_changed(before: ColumnSummary, after: ColumnSummary, share: float) -> bool:
    """Whether a column that varied has changed location or scale by so much of its scale."""
    varied = before.scale > 0
    scale = before.scale[varied]
    with np.errstate(over="ignore"):
        shift = np.abs(after.mean[varied] / scale - before.mean[varied] / scale)
        stretch = np.abs(after.scale[varied] / scale - 1.0)
    return bool((np.maximum(shift, stretch) > share).any())


def _finite(bounds: Tensor) -> Tensor:
    """Bounds, in float64, of which those that are not finite are as bad as can be."""
    return torch.nan_to_num(bounds.double(), WORST, WORST, WORST)
