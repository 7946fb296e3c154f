"""What networks are made of: affine maps, their initial weights, dropout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from skvae._core._products import affine

# Variance of the weights times the fan-in, so that activity neither dies nor explodes with depth
# (He et al., 2015); 1 is Glorot's choice for activations that are linear around 0.
GAIN = {"relu": 2.0, "elu": 1.5, "gelu": 2.0, "silu": 2.0, "softplus": 1.0}
# The same for the outputs: wide ones have to be unlearned first, which on a long table cost 1 to 5
# nats after six epochs; much narrower ones gained less on small tables.
OUTPUT_GAIN = 0.1
# Learning rate of the linear path beside a network, as a share of the network's.
LINEAR_RATE = 0.1


class Linear(nn.Module):
    """Affine map ``inputs @ weight + bias`` of rows, the weight stored as (n_inputs, n_outputs).

    Stored this way the gradient of a narrow layer's weight is one product in the order that the
    kernels like: 5 to 6 times faster than the transpose on the layers next to a small latent.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_inputs, n_outputs, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(n_outputs, dtype=dtype)) if bias else None

    def forward(self, inputs: Tensor, n_outputs: int | None = None) -> Tensor:
        weight, bias = self.weight, self.bias
        if n_outputs is not None and n_outputs < weight.shape[1]:
            weight = weight[:, :n_outputs]
            bias = None if bias is None else bias[:n_outputs]
        return affine(inputs, weight, bias)

    def initialize_(
        self, generator: torch.Generator, *, gain: float, scale: float | None = None
    ) -> None:
        """Draw the weights anew: normal with variance gain / n_inputs, or of the given scale."""
        n_inputs = self.weight.shape[0]
        if self.weight.numel() == 0:
            return
        deviation = math.sqrt(gain / n_inputs) if scale is None else scale
        with torch.no_grad():
            self.weight.normal_(0.0, deviation, generator=generator)
            if self.bias is not None and scale is not None:
                self.bias.normal_(0.0, scale, generator=generator)


class LinearPath(Linear):
    """Linear map beside a network.

    It starts near its best value where the network does not, and follows more slowly: a full rate
    would shake it off before the network has found anything.
    """

    rate_factor = LINEAR_RATE


def dropped(hidden: Tensor, noise: Tensor, share: float) -> Tensor:
    """Hidden activities of which a share is zero and the rest larger, their mean being the same.

    Parameters
    ----------
    hidden : Tensor of shape (n_rows, width)
    noise : Tensor of shape (n_rows, width)
        Uniform on [0, 1).
    share : float
    """
    return torch.where(noise < share, hidden.new_zeros(()), hidden / (1.0 - share))
