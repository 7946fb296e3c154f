"""The normal density, written once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)


def normal_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-density of independent normals, in nats, one value for each entry.

    Parameters
    ----------
    x, mean, log_scale : Tensor
        Broadcast against each other.
    """
    return -0.5 * ((x - mean) * torch.exp(-log_scale)).square() - log_scale - 0.5 * LOG_2PI


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Log-density of independent standard normals, in nats, summed over the last axis."""
    return -0.5 * torch.linalg.vecdot(z, z) - 0.5 * LOG_2PI * z.shape[-1]
