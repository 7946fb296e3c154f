"""Priors p(z): the distribution of the latent variables before a row is seen."""

from skvae.priors._base import Prior
from skvae.priors._flow import FlowPrior
from skvae.priors._normal import StandardNormalPrior
