"""Networks: maps without probability, for encoders and decoders."""

from skvae.networks._base import Network
from skvae.networks._convolutional import Convolutional
from skvae.networks._gated import GatedMLP
from skvae.networks._mlp import MLP
from skvae.networks._residual import ResidualMLP
from skvae.networks._torch_network import TorchNetwork
