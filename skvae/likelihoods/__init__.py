"""Likelihoods p(x | z): how a row is distributed given its latent variables."""

from skvae.likelihoods._auto import AutoLikelihood
from skvae.likelihoods._base import Likelihood, ObservationHead
from skvae.likelihoods._bernoulli import BernoulliLikelihood
from skvae.likelihoods._categorical import CategoricalLikelihood
from skvae.likelihoods._column import ColumnLikelihood
from skvae.likelihoods._gaussian import GaussianLikelihood
from skvae.likelihoods._ordinal import OrdinalLikelihood
from skvae.likelihoods._poisson import PoissonLikelihood
