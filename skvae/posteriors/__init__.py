"""Posteriors q(z | x): the family that approximates the distribution of z given a row."""

from skvae.posteriors._base import Posterior
from skvae.posteriors._diagonal import DiagonalPosterior
from skvae.posteriors._flow import FlowPosterior
