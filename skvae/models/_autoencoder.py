"""The variational autoencoder: one layer of latent variables."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skvae._core._batch import Batch, NoiseSpec
from skvae._core._factor_analysis import SecondMoments
from skvae._core._summary import ColumnSummary
from skvae._core._units import Change, Move, Read, Written
from skvae.likelihoods._base import Likelihood, LinearStart, Observation, ObservationHead
from skvae.models._base import Generative, LatentVariableModel
from skvae.models._missing import MissingEntries
from skvae.models._missingness import SelfMasking
from skvae.networks._base import Network, NetworkHead
from skvae.networks._mlp import MLP
from skvae.posteriors._base import Posterior, PosteriorDistribution, PosteriorHead
from skvae.priors._base import Prior, PriorDistribution, PriorHead

# Standard deviation of what the encoder says at first of latent variables that start unused.
UNUSED_SCALE = 0.01
# Smallest unit by which the mean of a row's posterior is moved, as a share of itself and 1.
SMALLEST_REACH = 0.02
# Entries of the factors that mix the noise of rows with holes, up to which they are kept (256 MB).
MIXING_ENTRIES = 2**26


class Autoencoder(LatentVariableModel):
    """Encoder, posterior, prior, decoder and likelihood, wired.

    The heads of posterior and prior are called `posterior_head` and `prior_head`: a child module
    named ``posterior`` would be hidden by the method.
    """

    def __init__(
        self,
        *,
        n_latent: int,
        encoder: NetworkHead,
        posterior_head: PosteriorHead,
        prior_head: PriorHead,
        decoder: NetworkHead,
        observation_head: ObservationHead,
        missing: MissingEntries,
        missingness: SelfMasking | None = None,
    ) -> None:
        super().__init__()
        self.latent_shape = (n_latent,)
        self.encoder = encoder
        self.posterior_head = posterior_head
        self.prior_head = prior_head
        self.decoder = decoder
        self.observation_head = observation_head
        self.missing = missing
        self.missingness = missingness
        self.can_train_in_turn = not prior_head.needs_posterior_noise

    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        specs = self.posterior_head.noise_spec(n_draws) | self.observation_head.noise_spec()
        if not self.training:
            return specs
        for name, width in self.encoder.noise_widths.items():
            specs[f"encoder.{name}"] = NoiseSpec((width,), "uniform", "row")
        for name, width in self.decoder.noise_widths.items():
            specs[f"decoder.{name}"] = NoiseSpec((n_draws, width), "uniform")
        return specs

    def code(self, batch: Batch) -> Tensor:
        features, change = self.read(batch)
        code = _through(self.encoder, features, batch.noise, "encoder")
        if batch.mask is None or change is None:
            return code
        code = code + change
        if self.missing.path is not None:
            code = code + self.missing.path(1.0 - batch.mask)
        if self.missingness is None:
            # Of a row of which nothing is observed the posterior is the prior.
            nothing = self.code_of_nothing(batch)
            if nothing is not None:
                code = torch.where(batch.mask.any(1, keepdim=True), code, nothing.to(code))
        return code

    def code_of_nothing(self, batch: Batch) -> Tensor | None:
        """Code, (n_code,) or (n_rows, n_code), of which the posterior is the prior, if there is."""
        normals = self.prior_head.as_normals()
        if normals is None or self.posterior_head.n_location_outputs != self.latent_shape[0]:
            return None
        mean, log_scale = normals
        return torch.cat([mean, self.posterior_head.outputs_at(log_scale)[len(mean) :]])

    def read(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """What the encoder reads, and what comes to its outputs where entries are missing."""
        # What is under the mask is read over if it is known with what.
        has_fill = batch.mask is not None and batch.factors is not None
        features = self.features(batch, None if has_fill else batch.mask)
        if batch.mask is None:
            return self.beside_context(features, batch), None
        change = self.missing.less_sure(batch.mask)
        if not change.shape[-1]:
            change = features.new_zeros(*features.shape[:-1], *self.latent_shape)
        features = self.missing.filled(features, batch.mask, batch.factors)
        features = self.beside_context(features, batch)
        return features, self.posterior_head.change_of_outputs(change)

    def features(self, batch: Batch, mask: Tensor | None) -> Tensor:
        """What of the rows themselves the encoder reads, 0 where something is missing."""
        return self.observation_head.features(batch.x, mask)

    def row_features(self, batch: Batch) -> Tensor:
        """What heads read of rows, (n_rows, n_features), 0 for what is missing."""
        features = self.observation_head.features(batch.x, batch.mask)
        if batch.mask is None:
            return features
        # Something stands for what is missing, which need not be what is expected of a feature.
        return torch.lerp(self.missing.centre, features, self.missing.of_features(batch.mask))

    def residuals(self, batch: Batch) -> Tensor | None:
        """What the factors of a linear model are to explain; None if there is no such model."""
        return self.observation_head.residuals(batch.x)

    def beside_context(self, features: Tensor, batch: Batch) -> Tensor:
        """What the encoder reads in all: of the rows, and of what else is known of them."""
        return features

    def decoder_inputs(self, z: Tensor, batch: Batch) -> Tensor:
        """What the decoder reads, (n_draws, n_rows, n_inputs): z, and what else there is."""
        return z

    def knowable(self, batch: Batch, *, n_rows: int) -> dict[str, Tensor]:
        if batch.mask is None or not self.missing.loadings.shape[1]:
            return {}
        features = self.features(batch, batch.mask)
        known = {"factors": self.missing.factors(features, batch.mask)}
        if self.posterior_head.mixes and n_rows * self.latent_shape[0] ** 2 <= MIXING_ENTRIES:
            known["mixing"] = self.missing.mixing(batch.mask)
        return known

    def posterior_of(self, code: Tensor) -> PosteriorDistribution:
        return self.posterior_head(code)

    def family(self, batch: Batch) -> Callable[[Tensor], PosteriorDistribution]:
        # Factors that are independent given a complete row are not given a part of it.
        factor = batch.mixing
        if factor is None:
            if batch.mask is None or self.training or not self.missing.root.shape[1]:
                return self.posterior_of
            factor = self.missing.mixing(batch.mask)
        return lambda code: self.posterior_of(code).correlated(factor)

    def generative_weights(self) -> list[str]:
        names = self.decoder.named_parameters(prefix="decoder")
        return [name for name, p in names if p.ndim >= 2 and p.requires_grad]

    def recognition_weights(self) -> list[str]:
        parts = ("encoder.", "posterior_head.", "missing.")
        return [name for name, _ in self.named_parameters() if name.startswith(parts)]

    def code_units(self, code: Tensor) -> Tensor:
        units = super().code_units(code)
        if self.posterior_head.mean_is_location:
            # A step of the mean is measured by what is left open of it. On unusual rows encoders
            # are far off and sure of it: a share of the mean itself is always within reach.
            n_location = self.posterior_head.n_location_outputs
            reach = SMALLEST_REACH * (1.0 + code[..., :n_location].abs())
            scale = torch.maximum(self.posterior_of(code).variance.sqrt(), reach)
            units = torch.cat([scale, units[..., n_location:]], dim=-1)
        return units

    def encode(self, features: Tensor) -> PosteriorDistribution:
        """q(z | x) from what the encoder reads of rows, (n_rows, n_features)."""
        return self.posterior_of(self.encoder(features))

    def readers(self) -> dict[str, NetworkHead]:
        """Networks that read features of rows, before anything else, by name."""
        return {"encoder": self.encoder}

    @property
    def can_rescale(self) -> bool:
        readers = self.readers().values()
        return (
            self.observation_head.can_rescale
            and self.decoder.outlet() is not None
            and all(network.inlets() is not None for network in readers)
        )

    def take_units_(self, features: Change, outputs: Change) -> None:
        """Change what beside the parameters is kept in the units of features and outputs."""
        self.missing.rescale_(features, outputs)

    def rescale_(self, before: ColumnSummary, after: ColumnSummary) -> list[Move]:
        head = self.observation_head
        moves: list[Move] = []
        with torch.no_grad():
            columns, features, outputs = head.rescale_(before, after)
            self.take_units_(features, outputs)
            for name, network in self.readers().items():
                for weight, bias in network.inlets() or ():
                    moves.append(Read(f"{name}.{weight}", f"{name}.{bias}", features))
            outlet = self.decoder.outlet()
            assert outlet is not None
            for weight in outlet.weights:
                moves.append(Written(f"decoder.{weight}", outputs.factor, None))
            moves.append(Written(f"decoder.{outlet.bias}", *outputs))
            for name in self.prior_head.in_units_of_features():
                moves.append(Written(f"prior_head.{name}", *features))
            if self.missingness is not None:
                moves.append(Read("missingness.slope", "missingness.intercept", columns))
            values = dict(self.named_parameters())
            for move in moves:
                move.move_(values)
        return moves

    @property
    def n_linear(self) -> int:
        """Latent variables, the last ones, that a linear model's factors may stand for."""
        n_inputs = self.decoder.n_linear_inputs
        return self.latent_shape[0] if n_inputs is None else n_inputs

    def stand_linear_(self) -> None:
        """Silence what else there is when the networks are made a linear model."""

    def standing(self, start: LinearStart) -> LinearStart:
        """The linear model with its factors as the prior has them."""
        return start

    def start_networks_(self, start: LinearStart, ways: LinearWays) -> None:
        """Make the networks the maps of a linear model."""
        self.decoder.start_linear_(ways.decoder, ways.outputs)
        self.encoder.start_linear_(ways.encoder, ways.code)

    def prior(self, batch: Batch | None = None) -> PriorDistribution:
        """p(z), of the rows of `batch` where it depends on what is known of them."""
        return self.prior_head(self.encode)

    def start_at_(self, batch: Batch, generator: torch.Generator) -> None:
        self.prior_head.start_at_(self.read(batch)[0], generator)

    def posterior_mean(self, batch: Batch) -> Tensor:
        if batch.mask is not None or not self.posterior_head.mean_is_location:
            return super().posterior_mean(batch)
        features, _ = self.read(batch)
        return self.encoder.first_outputs(features, self.posterior_head.n_location_outputs)

    def generative(self, batch: Batch, z: Tensor) -> Generative:
        head = self.observation_head
        outputs = _through(self.decoder, self.decoder_inputs(z, batch), batch.noise, "decoder")
        observation = Observation(head, head.params_from(outputs), self.missingness)
        return Generative(self.prior(batch), observation)

    def prior_noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        specs = self.prior_head.noise_spec(n_draws)
        if self.prior_head.needs_posterior_noise:
            return self.posterior_head.noise_spec(n_draws) | specs
        return specs

    def sample_prior(self, batch: Batch | None, noise: Mapping[str, Tensor]) -> Tensor:
        return self.prior(batch).sample(noise)


class LinearWays(NamedTuple):
    """Networks of a linear model.

    Attributes
    ----------
    decoder : Tensor of shape (n_latent, n_location_outputs)
    outputs : Tensor of shape (n_outputs,)
        Where z is 0.
    encoder : Tensor of shape (n_features, n_location_outputs of the posterior)
    code : Tensor of shape (n_code,)
        Of the mean row.
    """

    decoder: Tensor
    outputs: Tensor
    encoder: Tensor
    code: Tensor


def _through(
    network: NetworkHead, inputs: Tensor, noise: Mapping[str, Tensor] | None, name: str
) -> Tensor:
    """Outputs of the network called `name`, with its own part of the noise of the step."""
    if noise is None or not network.noise_widths or not network.training:
        return network(inputs)
    return network(inputs, {own: noise[f"{name}.{own}"] for own in network.noise_widths})


def build_autoencoder(
    *,
    n_latent: int,
    summary: ColumnSummary,
    likelihood: Likelihood,
    prior: Prior,
    posterior: Posterior,
    encoder: Network,
    decoder: Network,
    self_masking: bool = False,
    n_encoder_context: int = 0,
    n_decoder_context: int = 0,
    dtype: torch.dtype,
    generator: torch.Generator,
    kind: Callable[..., Autoencoder] = Autoencoder,
) -> Autoencoder:
    """Autoencoder with freshly drawn weights that starts at the marginals of the columns.

    `kind` wires the parts, of which encoder and decoder may read some numbers beside their own.
    """
    observation_head = likelihood.build(summary, dtype)
    posterior_head = posterior.build(n_latent, dtype=dtype, generator=generator)
    n_read = observation_head.n_features + n_encoder_context
    prior_head = prior.build(n_latent, n_features=n_read, dtype=dtype, generator=generator)
    if n_latent == 0:
        # Nothing to encode and nothing to decode from: the model is the marginals of the columns.
        encoder = decoder = MLP(hidden_layer_sizes=())
    encoder_head = encoder.build(
        n_read,
        posterior_head.n_outputs,
        n_location_outputs=posterior_head.n_location_outputs,
        dtype=dtype,
        generator=generator,
    )
    decoder_head = decoder.build(
        n_latent + n_decoder_context,
        observation_head.n_outputs,
        n_location_outputs=observation_head.n_location_outputs,
        dtype=dtype,
        generator=generator,
    )
    decoder_head.start_at(observation_head.initial_outputs())
    if self_masking:
        params = observation_head.params_from(observation_head.initial_outputs().view(1, 1, -1))
        if observation_head.as_normals(params) is None:
            raise ValueError(
                "missingness='self_masking' needs columns that are normal given the latent "
                f"variables, but likelihood={likelihood!r} says otherwise. Use "
                'likelihood="gaussian", or missingness=None.'
            )
    has_linear_model = _residual_of_one(observation_head) is not None
    missing = MissingEntries(
        observation_head.n_features,
        n_latent if has_linear_model else 0,
        observation_head.n_columns,
        posterior_head.n_outputs,
        column_of_feature=observation_head.column_of_feature,
        learns=summary.has_missing,
        dtype=dtype,
    )
    return kind(
        n_latent=n_latent,
        encoder=encoder_head,
        posterior_head=posterior_head,
        prior_head=prior_head,
        decoder=decoder_head,
        observation_head=observation_head,
        missing=missing,
        missingness=SelfMasking(observation_head.n_columns, dtype) if self_masking else None,
    )


def _residual_of_one(head: ObservationHead) -> Tensor | None:
    """Residuals of a row; None if the head has no linear model."""
    return head.residuals(head.initial_outputs().new_zeros(1, head.n_columns))


def has_linear_start(model: LatentVariableModel) -> bool:
    """Whether ``start_linear_`` knows a linear model for such a model."""
    if not isinstance(model, Autoencoder):
        return False
    return _may_be_linear(model) and _residual_of_one(model.observation_head) is not None


def _may_be_linear(model: Autoencoder) -> bool:
    """Whether weights can make the model linear, and its prior is that of a linear model."""
    has_paths = model.encoder.has_linear_path and model.decoder.has_linear_path
    return has_paths and model.prior_head.starts_standard


def start_linear_(
    model: Autoencoder,
    moments: SecondMoments,
    n_factors: int,
    *,
    judge: Callable[[Autoencoder], float],
    generator: torch.Generator,
) -> list[Autoencoder]:
    """Set the weights so that the model is the linear model of the likelihood's columns.

    A Gaussian model then *is* factor analysis (or probabilistic PCA), and its bound is its
    log-likelihood, since the posterior of the rotated factors is diagonal.

    Parameters
    ----------
    model : Autoencoder
    moments : SecondMoments
        Of ``observation_head.residuals``.
    n_factors : int
        At most ``model.n_linear``.
    judge : callable
        Mean bound of a model, by which one of several linear models is chosen.
    generator : torch.Generator
        For the latent variables beyond `n_factors`, which start unused: without loadings, and with
        small random encoder weights, since with both at zero neither would ever move.

    Returns
    -------
    departures : list of Autoencoder
        Copies of the model standing where training should begin: near the linear model, but not
        where its gradients are blind, and, in case nothing better is found from there, at the
        weights that the networks were built with, unless the decoder is linear. Empty if a network
        has no linear path, or the prior does not start near N(0, I); the networks are then as they
        were, and the linear model only says what is read in place of missing entries.
    """
    head = model.observation_head
    n_places = model.posterior_head.n_location_outputs
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    nothing = LinearStart(
        np.zeros((head.n_location_outputs, 0)),
        np.ones(head.n_location_outputs),
        np.ones(head.n_features),
    )
    starts = head.linear_starts(moments, n_factors, seed) if n_factors else [nothing]
    unused = (
        UNUSED_SCALE
        / np.sqrt(head.n_features)
        * torch.randn(head.n_features, n_places, dtype=torch.float64, generator=generator)
    )
    if not _may_be_linear(model):
        # Missing entries are filled in linearly all the same.
        _take_over_(model, starts[0], parameters=False)
        model.missing.fill_by_(starts[0])
        return []
    near, far = copy.deepcopy(model), copy.deepcopy(model)

    def judged(start: LinearStart) -> float:
        _stand_at_(model, start, unused)
        model.missing.fill_by_(start)
        bound = judge(model)
        return bound if math.isfinite(bound) else -math.inf

    start = starts[0] if len(starts) == 1 else max(starts, key=judged)
    _stand_at_(model, start, unused)
    _stand_at_(near, head.departure(start, moments, seed) if n_factors else start, unused)
    near.decoder.depart_(far.decoder)
    # All three read the same in place of missing entries.
    for one in (model, near, far):
        one.missing.fill_by_(start)
    if model.decoder.is_linear:
        return [near]
    _take_over_(far, start, parameters=False)
    for network in (far.encoder, far.decoder):
        network.silence_linear_path_()
    return [near, far]


def _take_over_(model: Autoencoder, start: LinearStart, *, parameters: bool = True) -> None:
    """Give the likelihood the buffers, and the parameters, that a linear model says it has."""
    head = model.observation_head
    with torch.no_grad():
        for name, value in start.parameters.items():
            own = operator.attrgetter(name)(head)
            if isinstance(own, nn.Parameter) and not parameters:
                continue
            own.copy_(torch.from_numpy(np.asarray(value)))


def _stand_at_(model: Autoencoder, start: LinearStart, unused: Tensor) -> None:
    """Make `model` a linear model; `unused` are encoder weights of what has no factor."""
    head, start = model.observation_head, model.standing(start)
    (n_latent,) = model.latent_shape
    n_places = model.posterior_head.n_location_outputs
    n_factors = start.loadings.shape[1]
    # Of the last latent variables the first ones stand for the factors.
    factors, places = (
        slice(n - model.n_linear, n - model.n_linear + n_factors) for n in (n_latent, n_places)
    )
    information = np.square(start.loadings).T @ start.precision
    decoder = torch.zeros(n_latent, head.n_location_outputs, dtype=torch.float64)
    decoder[factors] = torch.from_numpy(start.loadings.T)
    encoder = unused.clone()
    gain = start.gain[:, None] * start.loadings / (1.0 + information)
    encoder[:, places] = torch.from_numpy(gain)
    log_scale = torch.zeros(n_latent, dtype=torch.float64)
    log_scale[factors] = torch.from_numpy(-0.5 * np.log1p(information))
    _take_over_(model, start)
    model.missing.be_sure_by_(start, factors.start)
    model.stand_linear_()
    outputs = head.initial_outputs()
    if start.outputs is not None:
        outputs = torch.from_numpy(start.outputs)
    code = model.posterior_head.outputs_at(log_scale)
    model.start_networks_(start, LinearWays(decoder, outputs, encoder, code))
