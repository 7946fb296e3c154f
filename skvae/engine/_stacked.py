"""Several models of one architecture trained in lock-step, their gradient derived by hand.

A small model spends its time in calls, not in arithmetic: six models side by side, as batched
products without automatic differentiation, take less time than one with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skvae._core._batch import Clock
from skvae.models import Autoencoder, LatentVariableModel
from skvae.networks._mlp import ACTIVATIONS, DERIVATIVES
from skvae.objectives._base import Bound
from skvae.posteriors._diagonal import MAX_LOG_SCALE, MIN_LOG_SCALE
from skvae.solvers._base import LearningRate, Solver


def can_stack(model: LatentVariableModel, bound: Bound) -> bool:
    """Whether every ingredient's gradient is known without automatic differentiation."""
    parts = ("encoder", "decoder", "posterior_head", "prior_head")
    observation = ("features", "params_from", "log_prob_columns")
    return (
        _is_known(bound, "kl_weight", "__call__")
        and _is_known(getattr(model, "observation_head", None), "backward_", *observation)
        and all(_is_known(getattr(model, p, None), "hand_derived", "forward") for p in parts)
    )


def _is_known(part: Any, gradient: str, *computed: str) -> bool:
    """Whether a gradient is offered, and is that of what the part computes.

    A subclass that computes something else inherits a gradient that is not its own.
    """
    if not getattr(part, "hand_derived", False):
        return False
    return all(issubclass(_definer(part, gradient), _definer(part, name)) for name in computed)


def _definer(part: Any, name: str) -> type:
    """Class that defines the attribute of this name."""
    return next(cls for cls in type(part).__mro__ if name in vars(cls))


class StackedAutoencoders:
    """Parameters of models stacked along a first axis, and a training step of all of them.

    Parameters
    ----------
    models : sequence of Autoencoder
        Of one architecture, each with its own weights and buffers.
    bound : Bound
    solver : Solver
    learning_rate : LearningRate
    prior_precision : Tensor of shape (n_models, 1)
        Precision of the prior on the weights of each model, divided by its number of rows.

    Attributes
    ----------
    values, gradients : dict of str to Tensor of shape (n_models, ...)
        Parameters by their name in the model, as views, and their gradients.
    """

    def __init__(
        self,
        models: Sequence[Autoencoder],
        bound: Bound,
        solver: Solver,
        learning_rate: LearningRate,
        prior_precision: Tensor,
    ) -> None:
        first = models[0]
        self.model = first
        self.bound = bound
        self.learning_rate = learning_rate
        self.clip_norm = solver.clip_norm
        self.prior_precision = prior_precision
        self.has_prior = bool((prior_precision > 0).any())
        self.clock = Clock.start(prior_precision.device)
        self.values: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.groups: list[tuple[float, Tensor, Tensor, Tensor]] = []
        named = [dict(m.named_parameters()) for m in models]
        factors = {
            f"{prefix}.{name}".lstrip("."): float(getattr(module, "rate_factor", 1.0))
            for prefix, module in first.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        }
        for factor in sorted(set(factors.values())):
            names = [name for name in named[0] if factors[name] == factor]
            data = torch.stack([torch.cat([m[n].data.ravel() for n in names]) for m in named])
            gradient, is_weight = torch.zeros_like(data), torch.zeros_like(data[:1])
            start = 0
            for name in names:
                shape, n = named[0][name].shape, named[0][name].numel()
                part = slice(start, start + n)
                self.values[name] = data[:, part].view(len(models), *shape)
                self.gradients[name] = gradient[:, part].view(len(models), *shape)
                is_weight[:, part] = float(len(shape) >= 2)
                start += n
            self.groups.append((factor, data, gradient, is_weight))
        self.rules = [
            solver.build(data, is_weight.expand_as(data)) for _, data, _, is_weight in self.groups
        ]
        self._parts: dict[tuple[Any, Any], _Part] = {}
        self._head = first.observation_head
        prefix = "observation_head."
        buffers = [dict(m.observation_head.named_buffers()) for m in models]
        self._head_values = {
            name: torch.stack([b[name] for b in buffers]).unsqueeze(1) for name in buffers[0]
        }
        own = [name for name in self.values if name.startswith(prefix)]
        self._head_values |= {n.removeprefix(prefix): self.values[n].unsqueeze(1) for n in own}
        self._head_gradients = {n.removeprefix(prefix): self.gradients[n].unsqueeze(1) for n in own}

    def tensors(self) -> list[Tensor]:
        """All that is carried from step to step, the weights first."""
        weights = [data for _, data, _, _ in self.groups]
        return [*weights, *(t for rule in self.rules for t in rule.state), *self.clock]

    def read_from(self, models: Sequence[Autoencoder]) -> None:
        """Take over the weights of all models."""
        for i, model in enumerate(models):
            for name, parameter in model.named_parameters():
                self.values[name][i].copy_(parameter.data)

    def write_to(self, index: int, model: Autoencoder) -> None:
        """Copy the weights of one of the models."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.values[name][index])

    def step(self, x: Tensor, features: Tensor, noise: Tensor, weight: Tensor) -> Tensor:
        """Take one step; bounds of the rows, (n_models, n_rows), before it.

        Parameters
        ----------
        x : Tensor of shape (n_models, n_rows, n_columns)
        features : Tensor of shape (n_models, n_rows, n_features)
        noise : Tensor of shape (n_models, n_draws * n_rows, n_latent)
        weight : Tensor of shape (n_models, n_rows)
            0 on padding.
        """
        # A model that has no rows in this step has no gradient, rather than 0 / 0.
        share = -weight / weight.sum(1, keepdim=True).clamp(min=1.0)
        bounds = self._bounds(x, features, noise, share, slice(None))
        square_norm: Tensor | float = 0.0
        for _, data, gradient, is_weight in self.groups:
            if self.has_prior:
                gradient.add_(self.prior_precision * is_weight * data)
            if self.clip_norm is not None:
                square_norm = square_norm + gradient.square().sum(1, keepdim=True)
        rate = self.learning_rate(self.clock)
        for (factor, data, gradient, _), rule in zip(self.groups, self.rules, strict=True):
            if self.clip_norm is not None:
                norm = torch.as_tensor(square_norm).sqrt()
                gradient.mul_((self.clip_norm / (norm + 1e-12)).clamp(max=1.0))
            rule.update_(data, gradient, factor * rate, self.clock.step)
        self.clock.tick()
        return bounds

    def bounds(self, x: Tensor, features: Tensor, noise: Tensor, models: slice) -> Tensor:
        """Bounds of the rows under some of the models, (n_models, n_rows), in nats."""
        return self._bounds(x, features, noise, None, models)

    def _bounds(
        self, x: Tensor, features: Tensor, noise: Tensor, share: Tensor | None, models: slice
    ) -> Tensor:
        """Bounds of the rows; with `share`, the gradient of their weighted sum as well."""
        part = self._part(models)
        n_models, n_rows, _ = x.shape
        n_draws = noise.shape[1] // n_rows
        k = noise.shape[2]
        outputs, encoder_trace = part.encoder.forward(features)
        mean, raw = outputs[..., :k], outputs[..., k:]
        log_scale = raw.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE)
        scale = torch.exp(log_scale)
        eps = noise.view(n_models, n_draws, n_rows, k)
        z = (mean.unsqueeze(1) + scale.unsqueeze(1) * eps).flatten(1, 2)
        decoded, decoder_trace = part.decoder.forward(z)
        repeated, coefficient = x, None
        if n_draws > 1:
            repeated = x.unsqueeze(1).expand(-1, n_draws, -1, -1).flatten(1, 2)
        if share is not None:
            coefficient = share if n_draws == 1 else (share / n_draws).repeat(1, n_draws)
            coefficient = coefficient.unsqueeze(-1)
        log_prob, d_decoded = self._head.backward_(
            decoded, repeated, coefficient, part.head_values, self._head_gradients
        )
        variance = scale.square()
        kl = 0.5 * (mean.square() + variance - 1.0).sum(-1) - log_scale.sum(-1)
        bounds = log_prob.view(n_models, n_draws, n_rows).mean(1) - kl
        if share is None or d_decoded is None:
            return bounds
        d_z = part.decoder.backward(d_decoded, decoder_trace, need_inputs=True)
        d_z = d_z.view(n_models, n_draws, n_rows, k)
        pull = (share * self.bound.kl_weight(self.clock).to(share.dtype)).unsqueeze(-1)
        d_mean = d_z.sum(1) - pull * mean
        d_log_scale = (d_z * eps).sum(1) * scale - pull * (variance - 1.0)
        # The bounds of the scale only guard against overflow; beyond them nothing is learned.
        d_log_scale.masked_fill_(raw != log_scale, 0.0)
        part.encoder.backward(
            torch.cat([d_mean, d_log_scale], dim=-1), encoder_trace, need_inputs=False
        )
        return bounds

    def _part(self, models: slice) -> _Part:
        """Views of the parameters of some of the models, made once."""
        key = (models.start, models.stop)
        if key not in self._parts:
            networks = (
                _StackedNetwork(
                    getattr(self.model, name), name, self.values, self.gradients, models
                )
                for name in ("encoder", "decoder")
            )
            head_values = {name: value[models] for name, value in self._head_values.items()}
            self._parts[key] = _Part(*networks, head_values)
        return self._parts[key]


class _Part(NamedTuple):
    """What some of the models compute with."""

    encoder: _StackedNetwork
    decoder: _StackedNetwork
    head_values: dict[str, Tensor]


class _StackedNetwork:
    """One network of some of the models; its gradient is only right for all of them."""

    def __init__(
        self,
        network: Any,
        name: str,
        values: dict[str, Tensor],
        gradients: dict[str, Tensor],
        models: slice,
    ) -> None:
        self.activate = ACTIVATIONS[network.activation]
        self.derivative = DERIVATIVES[network.activation]
        layers = [f"{name}.hidden.{i}" for i in range(len(network.hidden))] + [f"{name}.output"]
        self.layers = [
            (values[f"{layer}.weight"][models], values[f"{layer}.bias"][models].unsqueeze(1))
            for layer in layers
        ]
        self.gradients = [
            (gradients[f"{layer}.weight"], gradients[f"{layer}.bias"]) for layer in layers
        ]
        self.path: Tensor | None = None
        if network.linear_path is not None:
            self.path = values[f"{name}.linear_path.weight"][models]
            self.path_gradient = gradients[f"{name}.linear_path.weight"]

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Outputs, and the inputs of the layers."""
        trace = [inputs]
        for weight, bias in self.layers[:-1]:
            trace.append(self.activate(torch.baddbmm(bias, trace[-1], weight)))
        weight, bias = self.layers[-1]
        last = trace[-1]
        if weight.shape[1] == 0:  # a bias beside the linear path
            last = last[..., :0]
        outputs = torch.baddbmm(bias, last, weight)
        if self.path is not None:
            if self.path.shape[2] == outputs.shape[2]:
                outputs.baddbmm_(inputs, self.path)
            else:
                outputs[..., : self.path.shape[2]] += torch.bmm(inputs, self.path)
        return outputs, trace

    def backward(self, gradient: Tensor, trace: list[Tensor], *, need_inputs: bool) -> Tensor:
        """Set the gradients of the weights; that of the inputs, where it is needed."""
        inputs = trace[0]
        from_path: Tensor | None = None
        if self.path is not None:
            location = gradient[..., : self.path.shape[2]]
            torch.bmm(inputs.mT, location, out=self.path_gradient)
            if need_inputs:
                from_path = torch.bmm(location, self.path.mT)
        for i in reversed(range(len(self.layers))):
            weight = self.layers[i][0]
            weight_gradient, bias_gradient = self.gradients[i]
            torch.sum(gradient, 1, out=bias_gradient)
            if weight.shape[1] == 0:
                return torch.zeros_like(inputs) if from_path is None else from_path
            torch.bmm(trace[i].mT, gradient, out=weight_gradient)
            if i or need_inputs:
                gradient = torch.bmm(gradient, weight.mT)
            if i:
                gradient = gradient * self.derivative(trace[i])
        return gradient if from_path is None else gradient + from_path
