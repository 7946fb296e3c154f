"""Heads that work in standardised columns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skvae.likelihoods._base import ObservationHead


class StandardizedHead(ObservationHead):
    """Head whose units are deviations from a location, divided by a scale.

    Parameters
    ----------
    location, scale : ndarray of shape (n_columns,)
        The scale is positive.

    Attributes
    ----------
    location, scale : Tensor of shape (n_columns,), float64
        ``x_head = (x_user - location) / scale``.
    """

    float64_buffers = ("location", "scale")
    location: Tensor
    scale: Tensor

    def __init__(self, location: np.ndarray, scale: np.ndarray) -> None:
        super().__init__()
        self.n_columns = self.n_location_outputs = self.n_features = len(location)
        self.register_buffer("location", torch.tensor(location, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def standardize(self, x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else x.to(self.location.dtype)
        # One pass converts and subtracts; the result is float64 whatever x is.
        return torch.sub(x, self.location).div_(self.scale)

    def unstandardize(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) + self.location.to(x.dtype)

    def from_expectation(self, expectation: Tensor) -> Tensor:
        return self.unstandardize(expectation)
