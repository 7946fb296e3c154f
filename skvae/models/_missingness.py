"""Entries whose absence tells something: a missingness that depends on the value itself."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from skvae.likelihoods._base import NormalColumns


class SelfMasking(nn.Module):
    r"""Probability that an entry is missing, given its value.

    A probit, :math:`\Phi(\mathrm{slope} \cdot x + \mathrm{intercept})` with x in the units of the
    head. Of a value that is normal given z all that is needed has a closed form: the probability
    that it is missing, and its distribution if it is (an extended skew-normal, Azzalini, 1985).

    References
    ----------
    Ipsen, N. B., Mattei, P.-A. and Frellsen, J. (2021). not-MIWAE: deep generative modelling with
    missing not at random data. ICLR.

    Azzalini, A. (1985). A class of distributions which includes the normal ones. Scandinavian
    Journal of Statistics 12.
    """

    def __init__(self, n_columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(n_columns, dtype=dtype))
        self.intercept = nn.Parameter(torch.zeros(n_columns, dtype=dtype))

    def start_at_(self, share: np.ndarray, n_rows: int) -> None:
        """Start at a missingness at random, of so large a share of each column."""
        guarded = (n_rows * share + 0.5) / (n_rows + 1.0)
        with torch.no_grad():
            self.intercept.copy_(torch.from_numpy(ndtri(guarded)))

    def _missing(self, columns: NormalColumns) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, spread and standardised mean of the variable that is positive where missing."""
        mean = self.slope * columns.mean + self.intercept
        spread = torch.sqrt(1.0 + (self.slope * torch.exp(columns.log_scale)).square())
        return mean, spread, mean / spread

    def log_prob_columns(self, columns: NormalColumns, x: Tensor, mask: Tensor) -> Tensor:
        """Log-probability that each entry is missing or not as it is, in nats.

        Of shape (n_draws, n_rows, n_columns).
        """
        seen = torch.special.log_ndtr(-(self.slope * x + self.intercept))
        _, _, standard = self._missing(columns)
        return torch.where(mask > 0, seen, torch.special.log_ndtr(standard))

    def expectation(self, columns: NormalColumns) -> Tensor:
        """Expected value of each entry if it is missing, (n_draws, n_rows, n_columns)."""
        _, spread, standard = self._missing(columns)
        # phi / Phi, which far out is -standard.
        log_ratio = -0.5 * standard.square() - 0.5 * math.log(2.0 * math.pi)
        ratio = torch.exp(log_ratio - torch.special.log_ndtr(standard))
        variance = torch.exp(2.0 * columns.log_scale)
        return columns.mean + variance * self.slope / spread * ratio

    def sample(self, columns: NormalColumns, generator: torch.Generator) -> Tensor:
        """Draw of each entry if it is missing, (n_draws, n_rows, n_columns)."""
        mean, spread, standard = self._missing(columns)
        mean = mean.expand(torch.broadcast_shapes(mean.shape, columns.mean.shape))
        uniform, noise = torch.empty_like(mean).double(), torch.empty_like(mean)
        uniform.uniform_(generator=generator)
        noise.normal_(generator=generator)
        # The variable is positive: by the inverse of its distribution function, from its tail.
        tail = torch.special.ndtr(standard.double()) * (1.0 - uniform)
        positive = standard.double() - torch.special.ndtri(tail.clamp_min(1e-300))
        excess = (positive.clamp_min(0.0) - standard.double()).to(mean.dtype) * spread
        variance = torch.exp(2.0 * columns.log_scale)
        center = columns.mean + variance * self.slope / spread.square() * excess
        return center + torch.exp(columns.log_scale) / spread * noise
