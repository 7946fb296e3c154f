"""Models with exact answers, and an estimator for any data."""

from __future__ import annotations

from typing import Any

import numpy as np

from skvae import VariationalAutoencoder
from skvae._core._component import resolve
from skvae.likelihoods import Likelihood
from tests.registry import case_of


class OnSupport(VariationalAutoencoder):
    """Estimator that takes rows of real numbers whatever its likelihood.

    scikit-learn's checks feed normal data. After validation they are mapped, elementwise, into the
    support of the likelihood, so that the checks say of any likelihood what they say of the normal.
    """

    def _read_rows(self, X: Any, *, reset: bool) -> np.ndarray:
        rows = super()._read_rows(X, reset=reset)
        case = case_of(resolve(self.likelihood, Likelihood, "likelihood"))
        dtype = rows.dtype if rows.dtype.kind == "f" else np.dtype(np.float32)
        return case.rows.from_real(rows.astype(np.float64)).astype(dtype)
