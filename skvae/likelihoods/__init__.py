"""Likelihoods p(x | z): how a row is distributed given its latent variables."""

from skvae.likelihoods._auto import AutoLikelihood
from skvae.likelihoods._base import Likelihood, ObservationHead
from skvae.likelihoods._bernoulli import BernoulliLikelihood
from skvae.likelihoods._beta import BetaLikelihood
from skvae.likelihoods._categorical import CategoricalLikelihood
from skvae.likelihoods._column import ColumnLikelihood
from skvae.likelihoods._continuous_bernoulli import ContinuousBernoulliLikelihood
from skvae.likelihoods._gaussian import GaussianLikelihood
from skvae.likelihoods._log_normal import LogNormalLikelihood
from skvae.likelihoods._negative_binomial import NegativeBinomialLikelihood
from skvae.likelihoods._ordinal import OrdinalLikelihood
from skvae.likelihoods._poisson import PoissonLikelihood
from skvae.likelihoods._sigmoid_gaussian import SigmoidGaussianLikelihood
from skvae.likelihoods._student_t import StudentTLikelihood
from skvae.likelihoods._zero_inflated import ZeroInflatedNegativeBinomialLikelihood
