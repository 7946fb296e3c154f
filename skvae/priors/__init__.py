"""Priors p(z): the distribution of the latent variables before a row is seen."""

from skvae.priors._base import Prior
from skvae.priors._diagonal import DiagonalNormalPrior
from skvae.priors._flow import FlowPrior
from skvae.priors._laplace import LaplacePrior
from skvae.priors._mixture import MixturePrior
from skvae.priors._normal import StandardNormalPrior
from skvae.priors._vamp import VampPrior
