"""Networks: maps without probability, for encoders and decoders."""

from skvae.networks._base import Network
from skvae.networks._mlp import MLP
