"""Location and scale of columns that are found while rows come in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from skvae._core._summary import N_MOMENTS, ColumnSummary
from skvae.engine import ProcessGroup, Survey, beats
from skvae.likelihoods._base import Likelihood

if TYPE_CHECKING:
    from skvae.estimators._fitting import Setup
else:
    Setup = Any

# Change of a location or scale, as a share of the scale, after which the model is told of it. Less
# does not matter to a network, and in small steps it would not be told from chance that a model has
# to move with its columns.
NOTABLE = 0.03
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

    Where these differ notably from those by which its columns are standardised, the moments of all
    rows seen take their place. What it says of rows is the same
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
    own, mean = likelihood.moments(summary), setup.mean
    if len(mean) == len(own.mean):  # not where the rows are features of X, which stay
        earlier = setup.moments._replace(mean=mean)
        mean = earlier.merged(own._replace(mean=summary.mean)).mean
    after = setup.moments.merged(own)
    setup = setup._replace(mean=mean, moments=after, n_seen=setup.n_seen + n_further)
    if not model.can_rescale:
        return setup
    # For a head that has seen nothing, nothing is to be kept in the user's units.
    nothing = ColumnSummary(*(np.zeros_like(after.mean) for _ in range(N_MOMENTS)))
    if model.latent_shape == (0,):
        # The model is the marginals of the columns: they are those of all rows.
        model.rescale_(nothing, after)
        return setup._replace(units=after)
    before = setup.units
    if not _has_begun(before, after) and not _has_changed(before, after):
        return setup
    moved = copy.deepcopy(model)
    setup = setup._replace(units=after, moves=tuple(model.rescale_(before, after)))
    moved.rescale_(nothing, after)
    other = setup._replace(model=moved, moves=())
    # The new rows are among those whose moments they are: two parameters of each column fitted to
    # them gain as many halves of a nat in all by chance.
    chance = BY_CHANCE * len(after.mean) / len(rows)
    is_better = beats(_finite(judge(other)) - chance, _finite(judge(setup)))
    # Processors of different kinds round differently: of several processes the first decides.
    return other if ProcessGroup.current().integer(int(is_better)) else setup


def _has_begun(before: ColumnSummary, after: ColumnSummary) -> bool:
    """Whether a column varies, or is observed, that did not or was not."""
    varies = (after.scale > 0) != (before.scale > 0)
    observed = (after.n_observed > 0) != (before.n_observed > 0)
    return bool(varies.any() or observed.any())


def _has_changed(before: ColumnSummary, after: ColumnSummary) -> bool:
    """Whether a column that varied has notably changed location or scale."""
    varied = before.scale > 0
    scale = before.scale[varied]
    with np.errstate(over="ignore"):
        shift = np.abs(after.mean[varied] / scale - before.mean[varied] / scale)
        stretch = np.abs(after.scale[varied] / scale - 1.0)
    return bool((np.maximum(shift, stretch) > NOTABLE).any())


def _finite(bounds: Tensor) -> Tensor:
    """Bounds, in float64, of which those that are not finite are as bad as can be."""
    return torch.nan_to_num(bounds.double(), WORST, WORST, WORST)
