"""Models: how likelihood, prior, posterior and networks are wired."""

from skvae.models._autoencoder import (
    Autoencoder,
    build_autoencoder,
    has_linear_start,
    start_linear_,
)
from skvae.models._base import Generative, LatentVariableModel
from skvae.models._conditional import ConditionalAutoencoder, Regression
from skvae.models._deep_gaussian import build_deep_gaussian
from skvae.models._derived import DerivedAutoencoder, can_derive, defines
from skvae.models._particles import Particles
from skvae.models._recurrent import RecurrentModel, build_recurrent
from skvae.models._semi_supervised import SemiSupervisedAutoencoder
