"""Estimators: what users import."""

from skvae.estimators._conditional import ConditionalVariationalAutoencoder
from skvae.estimators._deep_latent_gaussian import DeepLatentGaussianModel
from skvae.estimators._gaussian_mixture import GaussianMixtureVariationalAutoencoder
from skvae.estimators._recurrent import VariationalRNN
from skvae.estimators._semi_supervised import SemiSupervisedVariationalAutoencoder
from skvae.estimators._variational_autoencoder import VariationalAutoencoder
from skvae.estimators._variational_imputer import VariationalImputer

__all__ = [
    "ConditionalVariationalAutoencoder",
    "DeepLatentGaussianModel",
    "GaussianMixtureVariationalAutoencoder",
    "SemiSupervisedVariationalAutoencoder",
    "VariationalAutoencoder",
    "VariationalImputer",
    "VariationalRNN",
]
