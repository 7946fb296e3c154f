"""Models: how likelihood, prior, posterior and networks are wired."""

from skvae.models._autoencoder import Autoencoder, build_autoencoder
from skvae.models._base import Generative, LatentVariableModel
