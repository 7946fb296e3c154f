"""skvae: the variational autoencoder for scikit-learn users."""

from skvae._version import __version__
from skvae.estimators import VariationalAutoencoder
from skvae.persistence import load, save

__all__ = ["VariationalAutoencoder", "__version__", "load", "save"]
