"""Mixture of normals as prior, for rows that come in groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import ClassVar

import torch
from torch import Tensor, nn

from skvae._core._batch import NoiseSpec
from skvae._core._normal import normal_log_prob_of_each
from skvae._core._sklearn import Interval
from skvae.priors._base import Encode, Prior, PriorDistribution, PriorHead

# Squared distance of the components from the origin at the start, summed over the latent variables.
INITIAL_SPREAD = 0.1


class MixturePrior(Prior, shorthand="mixture"):
    """Mixture of normals with diagonal covariances, all of it learned.

    p(z) = sum over k of w_k N(z; m_k, diag(s_k)^2), for rows that come in groups. It starts near
    N(0, I): means drawn close to the origin, far enough to tell the components apart, with scales
    that make up for it. Its divergence has no closed form: the bound uses the draws of z.

    Parameters
    ----------
    n_components : int, default=10
        Number of normals.

    References
    ----------
    Jiang, Z., Zheng, Y., Tan, H., Tang, B. and Zhou, H. (2017). Variational deep embedding: an
    unsupervised and generative approach to clustering. IJCAI.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VariationalAutoencoder
    >>> from skvae.priors import MixturePrior
    >>> X = load_iris().data
    >>> prior = MixturePrior(n_components=3)
    >>> vae = VariationalAutoencoder(2, prior=prior, max_iter=5, random_state=0).fit(X)
    >>> vae.sample(3, random_state=0).shape
    (3, 4)
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_components: int = 10) -> None:
        self.n_components = n_components

    def build(
        self, n_latent: int, *, n_features: int, dtype: torch.dtype, generator: torch.Generator
    ) -> MixtureHead:
        """Head that starts near the standard normal."""
        self.check_parameters()
        shape = (int(self.n_components), n_latent)
        mean = torch.randn(shape, generator=generator, dtype=torch.float64)
        return MixtureHead(mean, dtype)


class MixtureHead(PriorHead):
    """Logits of the weights, means and log standard deviations.

    Parameters
    ----------
    directions : Tensor of shape (n_components, n_latent)
        Standard normal draws: where the means lie, in units of their spread.
    dtype : torch.dtype
    """

    def __init__(self, directions: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        n_components, n_latent = directions.shape
        # Spread and scale such that the covariance is the identity, in expectation, and the mixture
        # a few hundredths of a nat from N(0, I) however many latent variables there are.
        spread = INITIAL_SPREAD / (max(n_latent, 1) + INITIAL_SPREAD)
        self.logits = nn.Parameter(torch.zeros(n_components, dtype=dtype))
        self.mean = nn.Parameter((math.sqrt(spread) * directions).to(dtype))
        self.log_scale = nn.Parameter(torch.full_like(self.mean, 0.5 * math.log1p(-spread)))

    def start_from_(self, weight: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Start at a given mixture.

        Parameters
        ----------
        weight : Tensor of shape (n_components,)
        mean, variance : Tensor of shape (n_components, n_latent)
        """
        with torch.no_grad():
            self.logits.copy_(weight.log())
            self.mean.copy_(mean)
            self.log_scale.copy_(0.5 * variance.log())

    def forward(self, encode: Encode) -> Mixture:
        return Mixture(torch.log_softmax(self.logits, 0), self.mean, self.log_scale)

    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        return {
            "component": NoiseSpec((n_draws,), "uniform"),
            "z": NoiseSpec((n_draws, self.mean.shape[1])),
        }


class Mixture(PriorDistribution):
    """Mixture of normals with diagonal covariances.

    Parameters
    ----------
    log_weight : Tensor of shape (n_components,)
    mean, log_scale : Tensor of shape (n_components, n_latent)
    """

    def __init__(self, log_weight: Tensor, mean: Tensor, log_scale: Tensor) -> None:
        self.log_weight = log_weight
        self.mean = mean
        self.log_scale = log_scale

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self._joint(z), dim=-1)

    def log_prob_of_parts(self, z: Tensor) -> Tensor:
        return torch.log_softmax(self._joint(z), dim=-1)

    def _joint(self, z: Tensor) -> Tensor:
        """Log-density of z and of each component, (..., n_components), in nats."""
        each = normal_log_prob_of_each(z.flatten(0, -2), self.mean, self.log_scale)
        return (each + self.log_weight).view(*z.shape[:-1], -1)

    def sample(self, noise: Mapping[str, Tensor]) -> Tensor:
        # Without the last edge, which rounding may leave below 1, every draw finds a component.
        edges = torch.exp(self.log_weight).cumsum(0)[:-1]
        chosen = torch.searchsorted(edges, noise["component"], right=True)
        return self.mean[chosen] + torch.exp(self.log_scale)[chosen] * noise["z"]
