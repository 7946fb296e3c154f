"""Layers of latent variables: the way down from the noises of all layers to the decoder's outputs.

A deep latent Gaussian model says of its layers, from the top down,

    h_1 = xi_1,    h_i = T(h_{i-1}) + noise of the layer,    outputs = T(h_L),

with a standard normal noise xi_i for each layer that is scaled before it is added. Given the noises
all this is a map without probability, and the noises are the model's latent variables: a single
vector with a standard normal prior, top layer first, whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skvae._core._bounds import MAX_LOG_SCALE, MIN_LOG_SCALE, bounded_log_scale
from skvae._core._component import Component, positive_integers
from skvae._core._products import add_products_, products_into
from skvae._core._sklearn import Interval, StrOptions
from skvae.networks._activations import ACTIVATIONS
from skvae.networks._base import DerivedNetwork, NetworkHead, Outlet
from skvae.networks._mlp import MLP, MLPHead


class GaussianLayers(Component, kind="layers", shorthand="gaussian_layers"):
    """Component that names how layers of latent variables are wired.

    It is what :class:`~skvae.DeepLatentGaussianModel` makes of its parameters.

    Parameters
    ----------
    layer_sizes : tuple of int or int, default=(2, 5)
        Latent variables of each layer, the top layer first.
    hidden_layer_sizes : tuple of int, int or sequence of tuple of int, default=(64,)
        Widths of the hidden layers of each map downwards: of all of them, or a tuple for each
        layer, the map out of the top layer first, the map to the columns last.
    activation : {"elu", "gelu", "logistic", "relu", "silu", "softplus", "tanh"}, default="relu"
        Activation of the hidden layers.
    noise : {"constant", "predicted"}, default="constant"
        Noise of a layer given the one above.
    recognition : {"factorized", "bottom_up"}, default="factorized"
        Whether the layers are independent of each other given a row, or each depends on the one
        below.
    input_dropout, input_flips, latent_noise : float, default=0.0
        Noise that keeps the recognition model from overfitting, in training only.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "noise": [StrOptions({"constant", "predicted"})],
        "recognition": [StrOptions({"factorized", "bottom_up"})],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "input_flips": [Interval(Real, 0, 0.5, closed="both")],
        "latent_noise": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        layer_sizes: tuple[int, ...] = (2, 5),
        hidden_layer_sizes: Any = (64,),
        activation: str = "relu",
        noise: str = "constant",
        recognition: str = "factorized",
        input_dropout: float = 0.0,
        input_flips: float = 0.0,
        latent_noise: float = 0.0,
    ) -> None:
        self.layer_sizes = layer_sizes
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.noise = noise
        self.recognition = recognition
        self.input_dropout = input_dropout
        self.input_flips = input_flips
        self.latent_noise = latent_noise

    @property
    def sizes(self) -> tuple[int, ...]:
        """Latent variables of each layer, the top layer first.

        Raises
        ------
        ValueError
            If they are not positive integers.
        """
        given = self.layer_sizes
        if isinstance(given, (set, frozenset)):
            raise ValueError(f"layer_sizes must have an order; got the set {given!r}.")
        given = (given,) if isinstance(given, Integral) else tuple(given)
        if not given:
            raise ValueError("layer_sizes must name at least one layer; got ().")
        return positive_integers(given, "layer_sizes", "one for each layer of latent variables")

    @property
    def widths(self) -> tuple[tuple[int, ...], ...]:
        """Widths of the hidden layers of the map out of each layer, the top layer first.

        Raises
        ------
        ValueError
            If they are not positive integers, or not given for as many layers as there are.
        """
        given, n_layers = self.hidden_layer_sizes, len(self.sizes)
        given = (given,) if isinstance(given, Integral) else tuple(given)
        if all(isinstance(width, Integral) for width in given):
            given = (given,) * n_layers
        if len(given) != n_layers or any(isinstance(some, Integral) for some in given):
            raise ValueError(
                "hidden_layer_sizes must hold positive integers, or a tuple of them for each of "
                f"the {n_layers} layers of layer_sizes={self.layer_sizes!r}; got "
                f"{self.hidden_layer_sizes!r}."
            )
        meaning = "one for each hidden layer"
        return tuple(
            positive_integers(tuple(some), "hidden_layer_sizes", meaning) for some in given
        )

    def build(
        self,
        n_outputs: int,
        *,
        n_location_outputs: int,
        dtype: torch.dtype,
        generator: torch.Generator,
    ) -> GaussianLayersHead:
        """The way down, with freshly drawn weights."""
        self.check_parameters()
        sizes, is_constant = self.sizes, self.noise == "constant"
        maps = []
        for i, (size, widths) in enumerate(zip(sizes, self.widths, strict=True)):
            is_last = i == len(sizes) - 1
            below = 0 if is_last else sizes[i + 1]
            network = MLP(hidden_layer_sizes=widths, activation=self.activation)
            head = network.build(
                size,
                n_outputs if is_last else below * (1 if is_constant else 2),
                n_location_outputs=n_location_outputs if is_last else below,
                dtype=dtype,
                generator=generator,
            )
            maps.append(head)
        return GaussianLayersHead(sizes, maps, is_constant=is_constant, dtype=dtype)


class NoiseFactor(nn.Module):
    """Lower triangular matrix with a positive diagonal, by which the noise of a layer is mixed.

    Every covariance can be had so, and the map has an inverse. It starts at the identity, and that
    is where a prior on weights pulls it.
    """

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, size, dtype=dtype))

    @property
    def log_diagonal(self) -> Tensor:
        """Logarithms of the diagonal, (size,)."""
        return bounded_log_scale(self.weight.diagonal(dim1=-2, dim2=-1))

    def matrix(self) -> Tensor:
        """The matrix that noise is multiplied with from the right, (size, size)."""
        return self.weight.tril(-1) + torch.diag_embed(self.log_diagonal.exp())


class GaussianLayersHead(NetworkHead):
    """Map from the noises of all layers, (..., n_latent), top layer first, to outputs.

    Parameters
    ----------
    sizes : sequence of int
        Of the layers, from the top.
    maps : sequence of MLPHead
        The map out of each layer; that of the last one is to the outputs.
    is_constant : bool
        Whether the noise of a layer is scaled by a matrix, or by outputs of the map to it.
    dtype : torch.dtype
    """

    def __init__(
        self, sizes: Sequence[int], maps: Sequence[MLPHead], *, is_constant: bool, dtype: Any
    ) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.maps = nn.ModuleList(maps)
        below = self.sizes[1:] if is_constant else []
        self.factors = nn.ModuleList(NoiseFactor(size, dtype) for size in below)

    def layers(self, noises: Tensor) -> list[Tensor]:
        """All layers, the top one first, from the noises of all of them."""
        first, *others = noises.split(self.sizes, dim=-1)
        found = [first]
        for i, noise in enumerate(others):
            mean, log_scale = self._given(i, found[-1])
            scaled = noise @ self._matrix(i) if log_scale is None else log_scale.exp() * noise
            found.append(mean + scaled)
        return found

    def noises(self, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Noises of given layers (the inverse of `layers`), and a log-determinant.

        Returns
        -------
        noises : Tensor of shape (..., n_latent)
        log_det : Tensor of shape (...)
            Of the derivatives of the layers in the noises.
        """
        found, log_det = [layers[0]], torch.zeros_like(layers[0][..., 0])
        for i, layer in enumerate(layers[1:]):
            mean, log_scale = self._given(i, layers[i])
            change = layer - mean
            if log_scale is None:
                factor: Any = self.factors[i]
                log_det = log_det + factor.log_diagonal.sum()
                change = torch.linalg.solve_triangular(
                    factor.matrix(), change, upper=False, left=False
                )
            else:
                log_det = log_det + log_scale.sum(-1)
                change = change * torch.exp(-log_scale)
            found.append(change)
        return torch.cat(found, dim=-1), log_det

    def _given(self, i: int, above: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean of layer i + 1 given layer i, and log scales of its noise if they are predicted."""
        outputs = self.maps[i](above)
        if len(self.factors):
            return outputs, None
        mean, log_scale = outputs.chunk(2, dim=-1)
        return mean, bounded_log_scale(log_scale)

    def _matrix(self, i: int) -> Tensor:
        factor: Any = self.factors[i]
        return factor.matrix()

    def forward(self, inputs: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        return self.maps[-1](self.layers(inputs)[-1])

    def outlet(self) -> Outlet | None:
        last = self._last.outlet()
        if last is None:
            return None
        under = f"maps.{len(self.sizes) - 1}."
        return Outlet([f"{under}{name}" for name in last.weights], f"{under}{last.bias}")

    # -- how it starts ------------------------------------------------------------------------

    @property
    def n_linear_inputs(self) -> int:
        """The noises of the last layer."""
        return self.sizes[-1]

    @property
    def has_linear_path(self) -> bool:  # type: ignore[override]
        """Whether the map out of the last layer has a linear path."""
        return self._last.has_linear_path

    @property
    def is_linear(self) -> bool:  # type: ignore[override]
        """Whether no map has a hidden layer, and no scale is predicted."""
        all_linear = all(one.is_linear for one in self._maps)
        return all_linear and (len(self.sizes) == 1 or len(self.factors) > 0)

    @property
    def _maps(self) -> list[MLPHead]:
        return [one for one in self.maps if isinstance(one, NetworkHead)]  # type: ignore[misc]

    @property
    def _last(self) -> MLPHead:
        return self._maps[-1]

    def start_at(self, outputs: Tensor) -> None:
        self._last.start_at(outputs)

    def start_linear_(self, weight: Tensor, outputs: Tensor) -> None:
        """Make the last layer its own noise, and the outputs linear in it.

        Of `weight` the rows of the layers above, which then have no effect, are not read.
        """
        size = self.sizes[-1]
        self._last.start_linear_(weight[len(weight) - size :], outputs)
        with torch.no_grad():
            for one, above, below in zip(self._maps, self.sizes, self.sizes[1:], strict=False):
                one.start_linear_(weight.new_zeros(above, below), one.output.bias.new_zeros(()))
            for factor in self.factors:
                factor.weight.zero_()

    def depart_(self, fresh: NetworkHead) -> None:
        # Layers above without any effect are found late, or never.
        assert isinstance(fresh, GaussianLayersHead)
        for own, other in zip(self._maps[:-1], fresh._maps[:-1], strict=True):
            own.load_state_dict(other.state_dict())

    def silence_linear_path_(self) -> None:
        for one in self._maps:
            one.silence_linear_path_()

    # -- its gradient by hand -----------------------------------------------------------------

    @property
    def hand_derived(self) -> bool:  # type: ignore[override]
        """Whether the maps are those that were built."""
        maps = self._maps
        n_own = sum(len(list(one.parameters())) for one in maps) + len(self.factors)
        return (
            all(type(one) is MLPHead and one.hand_derived for one in maps)
            and all(type(factor) is NoiseFactor for factor in self.factors)
            and len(list(self.parameters())) == n_own
        )

    def derived(
        self, values: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> DerivedGaussianLayers:
        return DerivedGaussianLayers(self, values, gradients)


class DerivedGaussianLayers(DerivedNetwork):
    """The way down of several models side by side."""

    def __init__(
        self,
        head: GaussianLayersHead,
        values: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> None:
        self.sizes = head.sizes
        self.maps = [
            one.derived(_under(values, f"maps.{i}."), _under(gradients, f"maps.{i}."))
            for i, one in enumerate(head._maps)
        ]
        names = [f"factors.{i}.weight" for i in range(len(head.factors))]
        self.factors = [values[name] for name in names]
        self.factor_gradients = [gradients[name] for name in names]
        self.memory: dict[int, _Memory] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        now = self.memory.get(inputs.shape[1])
        if now is None:
            now = self.memory[inputs.shape[1]] = _Memory(self, inputs)
        self.now = now
        for part, noise in zip(inputs.split(self.sizes, dim=-1), now.noises, strict=True):
            noise.copy_(part)
        layer = now.noises[0]
        for i, into in enumerate(now.layers):
            outputs, noise = self.maps[i].forward(layer), now.noises[i + 1]
            if self.factors:
                matrix = now.scales[i]
                raw = self.factors[i]
                log_diagonal = raw.diagonal(dim1=1, dim2=2).clamp(MIN_LOG_SCALE, MAX_LOG_SCALE)
                torch.tril(raw, -1, out=matrix)
                matrix.diagonal(dim1=1, dim2=2).copy_(log_diagonal.exp_())
                layer = add_products_(into.copy_(outputs), noise, matrix)
            else:
                size = into.shape[2]
                scale = torch.clamp(
                    outputs[..., size:], MIN_LOG_SCALE, MAX_LOG_SCALE, out=now.scales[i]
                ).exp_()
                layer = torch.addcmul(outputs[..., :size], scale, noise, out=into)
        return self.maps[-1].forward(layer)

    def backward(self, gradient: Tensor, *, need_inputs: bool) -> Tensor | None:
        now = self.now
        in_layer = self.maps[-1].backward(gradient, need_inputs=True)
        for i in range(len(now.layers) - 1, -1, -1):
            assert in_layer is not None
            in_noise, noise, scale = now.in_noises[i + 1], now.noises[i + 1], now.scales[i]
            if self.factors:
                into, raw = self.factor_gradients[i], self.factors[i].diagonal(dim1=1, dim2=2)
                products_into(now.in_factors[i], noise.mT, in_layer)
                torch.tril(now.in_factors[i], out=into)
                is_free = (raw >= MIN_LOG_SCALE) & (raw <= MAX_LOG_SCALE)
                into.diagonal(dim1=1, dim2=2).mul_(scale.diagonal(dim1=1, dim2=2)).mul_(is_free)
                products_into(in_noise, in_layer, scale.mT)
                in_outputs = in_layer
            else:
                torch.mul(in_layer, scale, out=in_noise)
                raw = self.maps[i].now.outputs[..., noise.shape[2] :]
                is_free = (raw >= MIN_LOG_SCALE) & (raw <= MAX_LOG_SCALE)
                torch.cat([in_layer, in_noise * noise * is_free], dim=2, out=now.in_outputs[i])
                in_outputs = now.in_outputs[i]
            need = need_inputs or i > 0
            in_layer = self.maps[i].backward(in_outputs, need_inputs=need)
        if not need_inputs:
            return None
        assert in_layer is not None
        return torch.cat([in_layer, *now.in_noises[1:]], dim=2, out=now.in_inputs)


class _Memory:
    """Where a `DerivedGaussianLayers` puts what it computes for a given number of rows."""

    def __init__(self, network: DerivedGaussianLayers, inputs: Tensor) -> None:
        n_models, n_rows, n_inputs = inputs.shape

        def empty(width: int, length: int = n_rows) -> Tensor:
            return inputs.new_empty(n_models, length, width)

        sizes = network.sizes
        self.noises = [empty(size) for size in sizes]
        self.in_noises = [empty(size) for size in sizes]
        self.layers = [empty(size) for size in sizes[1:]]
        has_matrices = bool(network.factors)
        self.scales = [empty(size, size if has_matrices else n_rows) for size in sizes[1:]]
        self.in_factors = [empty(size, size) for size in sizes[1:]]
        self.in_outputs = [empty(2 * size) for size in sizes[1:]]
        self.in_inputs = empty(n_inputs)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
