"""Posteriors q(z | x): the family that approximates the distribution of z given a row."""

from skvae.posteriors._base import Posterior
from skvae.posteriors._diagonal import DiagonalPosterior
from skvae.posteriors._flow import FlowPosterior
from skvae.posteriors._full import FullCovariancePosterior
from skvae.posteriors._location_scale import LocationScalePosterior
from skvae.posteriors._low_rank import LowRankPrecisionPosterior
from skvae.posteriors._student_t import StudentTPosterior
