"""Estimators: what users import."""

from skvae.estimators._variational_autoencoder import VariationalAutoencoder
from skvae.estimators._variational_imputer import VariationalImputer

__all__ = ["VariationalAutoencoder", "VariationalImputer"]
