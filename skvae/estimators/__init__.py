"""Estimators: what users import."""

from skvae.estimators._variational_autoencoder import VariationalAutoencoder

__all__ = ["VariationalAutoencoder"]
