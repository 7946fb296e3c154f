"""Linear starts that are right to first order only, and so are offered at several lengths."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from skvae._core._factor_analysis import SecondMoments, correlation_factors
from skvae.likelihoods._base import JointPart, LinearStart, ObservationHead

# Least share of a column's variance that its own noise keeps in the linear start: the loadings of a
# column explained to more than this would have to be larger than first order can say.
MIN_UNIQUENESS = 0.1
# Lengths at which loadings are tried. With the last the start is the marginals but for a hair: with
# none at all neither encoder nor decoder would have a gradient.
START_LENGTHS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.05)


class FirstOrderHead(ObservationHead):
    """Head whose linear models follow from the factors of the correlations of its residuals.

    Attributes
    ----------
    least_uniqueness : float
        Least share of a column's variance that stays noise.
    """

    least_uniqueness: float = MIN_UNIQUENESS

    @abstractmethod
    def linear_model(self, loadings: np.ndarray, length: float) -> LinearStart:
        """Linear model, its factors not rotated, from those of the residuals.

        Parameters
        ----------
        loadings : ndarray of shape (n_location_outputs, n_factors)
            Of the residuals, as shares of their standard deviations.
        length : float
            By which to shorten the loadings of what follows from them to first order only.
        """

    def linear_starts(
        self, moments: SecondMoments, n_factors: int, seed: int
    ) -> Sequence[LinearStart]:
        """Linear models at all lengths."""
        floor = self.least_uniqueness
        loadings = correlation_factors(moments, n_factors, floor=floor, seed=seed)
        return [self.linear_model(loadings, length).turned() for length in START_LENGTHS]

    def joint_part(self) -> JointPart:
        return JointPart(
            variance=np.ones(self.n_location_outputs),
            floor=self.least_uniqueness,
            start=lambda factors, length: self.linear_model(factors.loadings, length),
        )
