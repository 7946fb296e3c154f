"""skvae: the variational autoencoder for scikit-learn users."""

from skvae._version import __version__
from skvae.estimators import VariationalAutoencoder, VariationalImputer
from skvae.persistence import load, save

__all__ = ["VariationalAutoencoder", "VariationalImputer", "__version__", "load", "save"]
