"""Prior by a normalizing flow, learned with the model."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from skvae._core._batch import NoiseSpec
from skvae._core._component import positive_integers
from skvae._core._flow import FAMILIES, Flow, import_zuko
from skvae._core._normal import standard_normal_log_prob
from skvae._core._sklearn import Interval, StrOptions
from skvae.priors._base import Encode, Prior, PriorDistribution, PriorHead


class FlowPrior(Prior, shorthand="flow"):
    r"""Normalizing flow, learned: the distribution that the encoded rows ask for.

    .. math::

        p(z) = N(f(z); 0, I)\, \lvert \det \partial f / \partial z \rvert

    f is a stack of autoregressive layers, each of which transforms a variable by a function that
    depends on the variables before it: the density, which training needs, takes one pass, a draw
    one for each latent variable. At first f is the identity and the prior a standard normal.
    Needs zuko: ``pip install "skvae[flow]"``.

    Parameters
    ----------
    n_transforms : int, default=2
        Number of layers.
    hidden_layer_sizes : tuple of int, default=(32,)
        Widths of the hidden layers of the network of each layer.
    family : {"spline", "affine"}, default="spline"
        What is done to a variable: a rational-quadratic spline of 8 intervals on [-5, 5] (Durkan
        et al., 2019), or shift and scale (Papamakarios et al., 2017), which is cheaper and, for a
        single variable, stays normal.

    See Also
    --------
    skvae.posteriors.FlowPosterior : A flow as the distribution of z given a row.

    References
    ----------
    Papamakarios, G., Pavlakou, T. and Murray, I. (2017). Masked autoregressive flow for density
    estimation. NeurIPS.

    Chen, X., Kingma, D. P., Salimans, T., Duan, Y., Dhariwal, P., Schulman, J., Sutskever, I. and
    Abbeel, P. (2017). Variational lossy autoencoder. ICLR. Section 3.2.

    Durkan, C., Bekasov, A., Murray, I. and Papamakarios, G. (2019). Neural spline flows. NeurIPS.

    Examples
    --------
    >>> from skvae import VariationalAutoencoder
    >>> from skvae.priors import FlowPrior
    >>> VariationalAutoencoder(prior=FlowPrior(family="affine"))
    VariationalAutoencoder(prior=FlowPrior(family='affine'))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_transforms": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like"],
        "family": [StrOptions(set(FAMILIES))],
    }

    def __init__(
        self,
        *,
        n_transforms: int = 2,
        hidden_layer_sizes: tuple[int, ...] = (32,),
        family: str = "spline",
    ) -> None:
        self.n_transforms = n_transforms
        self.hidden_layer_sizes = hidden_layer_sizes
        self.family = family

    def build(
        self, n_latent: int, *, n_features: int, dtype: torch.dtype, generator: torch.Generator
    ) -> FlowPriorHead:
        """Head with the networks of the layers.

        Raises
        ------
        ImportError
            If zuko is not installed.
        """
        self.check_parameters()
        sizes = positive_integers(
            self.hidden_layer_sizes, "hidden_layer_sizes", "one for each hidden layer"
        )
        zuko = import_zuko("FlowPrior (prior='flow')")
        if n_latent == 0:
            return FlowPriorHead(0, None)
        flow = Flow(
            zuko,
            n_latent,
            0,
            n_transforms=self.n_transforms,
            n_groups=n_latent,
            hidden_layer_sizes=sizes,
            family=self.family,
            dtype=dtype,
            generator=generator,
        )
        return FlowPriorHead(n_latent, flow)


class FlowPriorHead(PriorHead):
    """The flow from z to standard normals."""

    def __init__(self, n_latent: int, flow: Flow | None) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.flow = flow

    def forward(self, encode: Encode) -> FlowDistribution:
        return FlowDistribution(self.flow)

    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec((n_draws, self.n_latent))}


class FlowDistribution(PriorDistribution):
    """Distribution of what a flow maps to standard normals; None is the identity."""

    def __init__(self, flow: Flow | None) -> None:
        self.flow = flow

    def log_prob(self, z: Tensor) -> Tensor:
        if self.flow is None:
            return standard_normal_log_prob(z)
        noise, log_det = self.flow(z)
        return standard_normal_log_prob(noise) + log_det

    def sample(self, noise: Mapping[str, Tensor]) -> Tensor:
        if self.flow is None:
            return noise["z"]
        z, _ = self.flow(noise["z"], inverse=True)
        return z
