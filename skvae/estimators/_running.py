"""Location and scale of columns that are found while rows come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from skvae._core._summary import ColumnSummary
from skvae.engine import Survey
from skvae.likelihoods._base import Likelihood

if TYPE_CHECKING:
    from skvae.estimators._fitting import Setup
else:
    Setup = Any

# Fields of a summary that are one number for each column.
N_MOMENTS = 5


def with_further_rows(
    setup: Setup,
    rows: np.ndarray,
    observations: np.ndarray,
    check: Callable[[ColumnSummary], None],
    told: Survey | None = None,
) -> Setup:
    """The setup of a model that has seen these rows too, before it is trained on them.

    Its columns are standardised by the moments of all rows seen, and what it says of rows is the
    same as before, but for columns that had not varied.

    Parameters
    ----------
    setup : Setup
        Its model is changed in place.
    rows, observations : ndarray
        Rows, and those of them that have a distribution (the steps of sequences).
    check : callable
        Refuses moments that are not finite.
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
    mean = before._replace(mean=setup.mean).merged(own._replace(mean=summary.mean)).mean
    setup = setup._replace(mean=mean, n_seen=setup.n_seen + n_further)
    if not model.can_rescale:
        return setup._replace(moments=after)
    if model.latent_shape == (0,):
        # The model is the marginals of the columns: they are those of all rows.
        unseen = ColumnSummary.blank(len(mean))
        model.rescale_(unseen._replace(scale=np.zeros_like(mean)), after)
        return setup._replace(moments=after)
    return setup._replace(moments=after, moves=tuple(model.rescale_(before, after)))
