"""Deep latent Gaussian models: several layers of latent variables.

The latent variables are the noises of all layers, which are independent standard normals. Given
them the layers are a deterministic map, so the model is an autoencoder whose decoder begins with
that map; all that is written for autoencoders, from the linear start to missing entries, holds.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

from skvae._core._batch import Batch, NoiseSpec
from skvae._core._summary import ColumnSummary
from skvae.likelihoods._base import Likelihood
from skvae.models._autoencoder import UNUSED_SCALE, Autoencoder, build_autoencoder
from skvae.models._base import Generative
from skvae.networks._base import Network, NetworkHead
from skvae.networks._gaussian_layers import GaussianLayers, GaussianLayersHead
from skvae.networks._mlp import MLP
from skvae.posteriors._base import Posterior, PosteriorDistribution, PosteriorHead
from skvae.posteriors._bottom_up import BottomUpHead
from skvae.posteriors._product import ProductHead
from skvae.priors._normal import StandardNormalPrior


class DeepGaussianModel(Autoencoder):
    """Deep latent Gaussian model whose recognition is bottom-up or sees noise in training.

    Without either it is an :class:`Autoencoder` as it stands.
    """

    def __init__(
        self,
        *,
        input_dropout: float = 0.0,
        input_flips: float = 0.0,
        latent_noise: float = 0.0,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.input_dropout = input_dropout
        self.input_flips = input_flips
        self.latent_noise = latent_noise

    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        specs = super().noise_spec(n_draws)
        if self.training:
            head = self.observation_head
            if self.input_dropout:
                specs["input.dropout"] = NoiseSpec((head.n_features,), "uniform", "row")
            if self.input_flips:
                specs["input.flips"] = NoiseSpec((head.n_columns,), "uniform", "row")
            if self.latent_noise:
                specs["latent"] = NoiseSpec((n_draws, *self.latent_shape))
        return specs

    def _noise(self, batch: Batch, name: str) -> Tensor | None:
        if not self.training or batch.noise is None:
            return None
        return batch.noise.get(name)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        flips, drops = self._noise(batch, "input.flips"), self._noise(batch, "input.dropout")
        if flips is not None:
            flipped = torch.where(flips < self.input_flips, 1.0 - batch.x, batch.x)
            if batch.mask is not None:
                flipped = torch.where(batch.mask > 0, flipped, batch.x)
            batch = batch._replace(x=flipped)
        features, change = super().read(batch)
        if drops is not None:
            features = torch.where(drops < self.input_dropout, 0.0, features)
        return features, change

    def posterior_of(self, code: Tensor) -> PosteriorDistribution:
        if isinstance(self.posterior_head, BottomUpHead):
            assert isinstance(self.decoder, GaussianLayersHead)
            return self.posterior_head(code, self.decoder)
        return super().posterior_of(code)

    def generative(self, batch: Batch, z: Tensor) -> Generative:
        noise = self._noise(batch, "latent")
        return super().generative(batch, z if noise is None else z + self.latent_noise * noise)

    def stand_linear_(self) -> None:
        if isinstance(self.posterior_head, BottomUpHead):
            generator = torch.Generator().manual_seed(0)
            for network in self.posterior_head.upwards:
                assert isinstance(network, NetworkHead)
                bias = network.output.bias
                weight = torch.randn(
                    *network.linear_path.weight.shape, generator=generator, dtype=torch.float64
                )
                weight = UNUSED_SCALE / len(weight) ** 0.5 * weight
                network.start_linear_(weight, bias.new_zeros(bias.shape))


class LayersDecoder:
    """The way down of given layers as a network component."""

    def __init__(self, layers: GaussianLayers) -> None:
        self.layers = layers

    def build(self, n_inputs: int, n_outputs: int, **parameters: Any) -> GaussianLayersHead:
        """The network."""
        assert n_inputs == sum(self.layers.sizes)
        return self.layers.build(n_outputs, **parameters)


class LayersPosterior:
    """The recognition of given layers as a posterior component.

    Parameters
    ----------
    layers : GaussianLayers
    posterior : Posterior
        Family of each layer, where they are independent given a row.
    """

    def __init__(self, layers: GaussianLayers, posterior: Posterior) -> None:
        self.layers = layers
        self.posterior = posterior

    def build(
        self, n_latent: int, *, dtype: torch.dtype, generator: torch.Generator
    ) -> PosteriorHead:
        """Head for all layers."""
        sizes = self.layers.sizes
        build = functools.partial(self.posterior.build, dtype=dtype, generator=generator)
        if self.layers.recognition == "bottom_up":
            return self._bottom_up(sizes, dtype, generator)
        if len(sizes) == 1 or self.posterior.is_mean_field:
            return build(n_latent)
        return ProductHead([build(size) for size in sizes])

    def _bottom_up(
        self, sizes: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
    ) -> BottomUpHead:
        widths = self.layers.widths
        upwards = []
        # From below: the way up mirrors the way down.
        for (above, below), own in zip(
            reversed(list(itertools.pairwise(sizes))), reversed(widths[:-1]), strict=True
        ):
            network = MLP(hidden_layer_sizes=own[::-1], activation=self.layers.activation)
            head = network.build(
                below, 2 * above, n_location_outputs=above, dtype=dtype, generator=generator
            )
            upwards.append(head)
        return BottomUpHead(sizes, upwards, dtype)


def build_deep_gaussian(
    *,
    layers: GaussianLayers,
    summary: ColumnSummary,
    likelihood: Likelihood,
    posterior: Posterior,
    encoder: Network,
    self_masking: bool = False,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Autoencoder:
    """Deep latent Gaussian model with freshly drawn weights."""
    layers.check_parameters()
    noises = {
        name: float(getattr(layers, name))
        for name in ("input_dropout", "input_flips", "latent_noise")
    }
    kind: Any = Autoencoder
    if any(noises.values()) or layers.recognition == "bottom_up":
        kind = functools.partial(DeepGaussianModel, **noises)
    model = build_autoencoder(
        n_latent=sum(layers.sizes),
        summary=summary,
        likelihood=likelihood,
        prior=StandardNormalPrior(),
        posterior=LayersPosterior(layers, posterior),
        encoder=encoder,
        decoder=LayersDecoder(layers),
        self_masking=self_masking,
        dtype=dtype,
        generator=generator,
        kind=kind,
    )
    if noises["input_flips"] and not model.observation_head.is_binary:
        raise ValueError(
            f"input_flips={layers.input_flips!r} needs columns of zeros and ones, but "
            f'likelihood={likelihood!r} says otherwise. Use likelihood="bernoulli", or '
            "input_dropout."
        )
    return model
