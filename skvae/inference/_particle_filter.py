"""Draws that go through sequences step by step, the unlikely ones replaced by copies of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from skvae._core._batch import Batch

# Share of the draws that the weighted ones have to be worth; with fewer they are replaced.
LEAST_SHARE = 0.5


class Draws(Protocol):
    """What draws of a stepwise model have to offer; see ``skvae.models.Particles``."""

    observed: Tensor | None
    x: Tensor
    expectation: Tensor

    def advance(self, noise: Tensor) -> Tensor:
        """Draw the next step's z, and say the log weight (n_draws, n_rows) of each."""

    def choose(self, index: Tensor) -> None:
        """Replace the draws of each sequence by copies of some of them."""


class StepwiseModel(Protocol):
    """Model whose latent variables can be drawn step by step."""

    def particles(
        self,
        batch: Batch,
        n_draws: int,
        ends: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Draws:
        """Draws before the first step."""


def filtered_log_likelihood(
    model: StepwiseModel, batch: Batch, noise: Mapping[str, Tensor]
) -> Tensor:
    """Log-likelihood of each step given those before it, by a particle filter.

    Parameters
    ----------
    model : StepwiseModel
    batch : Batch
    noise : mapping of str to Tensor
        "z" of shape (n_draws, n_rows or 1, n_steps, n_latent), "resampling" of shape (n_steps,),
        uniform, and what the observation of the batch needs.

    Returns
    -------
    log_likelihood : Tensor of shape (n_rows, n_steps)
        In nats; 0 where nothing of a step is observed. The exponential of the sum over steps has
        the likelihood of the sequence for its mean.

    References
    ----------
    Gordon, N. J., Salmond, D. J. and Smith, A. F. M. (1993). Novel approach to
    nonlinear/non-Gaussian Bayesian state estimation. IEE Proceedings F 140.

    Maddison, C. J., Lawson, D., Tucker, G., Heess, N., Norouzi, M., Mnih, A., Doucet, A. and Teh,
    Y. W. (2017). Filtering variational objectives. NeurIPS.
    """
    z = noise["z"]
    draws = model.particles(batch, len(z))
    log_weight = _equal(z, batch)
    gains = []
    for t in range(z.shape[2]):
        observed = draws.observed
        gain, log_weight = _weighed(log_weight, draws.advance(z[:, :, t]))
        if observed is not None:
            gain = torch.where(observed, gain, torch.zeros_like(gain))
        gains.append(gain)
        log_weight, _ = _resampled(draws, log_weight, noise["resampling"][t])
    return torch.stack(gains, dim=1)


def expected_steps(
    model: StepwiseModel,
    batch: Batch,
    noise: Mapping[str, Tensor],
    generator: torch.Generator,
    value: Callable[[Draws], Tensor],
) -> Tensor:
    """Expectation of something of each step given all that is observed of the sequence.

    Draws are weighed by all steps, and each is followed back to what it came from, so that later
    steps tell of earlier ones.

    Parameters
    ----------
    model, batch, noise
        As for `filtered_log_likelihood`.
    generator : torch.Generator
        On the device, for draws of what is missing.
    value : callable
        What is expected, (n_draws, n_rows, n_values), of draws that have just advanced. Of what was
        drawn and then read it has to be the draws themselves: later steps tell of them, and not
        only of the distribution that they were drawn from.

    Returns
    -------
    expectation : Tensor of shape (n_rows, n_steps * n_values)
    """
    z = noise["z"]
    draws = model.particles(batch, len(z), generator=generator)
    log_weight = _equal(z, batch)
    expected, ancestors = [], []
    for t in range(z.shape[2]):
        _, log_weight = _weighed(log_weight, draws.advance(z[:, :, t]))
        expected.append(value(draws))
        final = torch.exp(log_weight)
        log_weight, index = _resampled(draws, log_weight, noise["resampling"][t])
        ancestors.append(index)
    path = torch.arange(len(z), device=z.device).unsqueeze(1).expand_as(final)
    steps = []
    for t in range(len(expected) - 1, -1, -1):
        if t < len(expected) - 1:
            path = ancestors[t].gather(0, path)
        own = expected[t].gather(0, path.unsqueeze(-1).expand(-1, -1, expected[t].shape[-1]))
        steps.append(torch.einsum("dr,dre->re", final, own))
    return torch.cat(steps[::-1], dim=-1)


def expected_continuation(
    model: StepwiseModel,
    batch: Batch,
    ends: Tensor,
    noise: Mapping[str, Tensor],
    n_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Expectation of what follows each sequence, its steps one after the other.

    Parameters
    ----------
    model : StepwiseModel
    batch : Batch
        Sequences with nothing observed beyond their ends.
    ends : Tensor of shape (n_rows,)
        Number of steps of each; the batch has `n_steps` more than the longest.
    noise : mapping of str to Tensor
        As for `filtered_log_likelihood`.
    n_steps : int
    generator : torch.Generator
        On the device, for draws of steps that are read before the next.

    Returns
    -------
    expectation : Tensor of shape (n_rows, n_steps * n_expectation)
        As the head's ``from_expectation`` reads it.
    """
    z = noise["z"]
    draws = model.particles(batch, len(z), ends, generator)
    log_weight = _equal(z, batch)
    expected = []
    for t in range(z.shape[2]):
        _, log_weight = _weighed(log_weight, draws.advance(z[:, :, t]))
        expected.append(torch.einsum("dr,dre->re", torch.exp(log_weight), draws.expectation))
        log_weight, _ = _resampled(draws, log_weight, noise["resampling"][t])
    steps = torch.stack(expected, dim=1)
    wanted = ends.unsqueeze(1) + torch.arange(n_steps, device=ends.device)
    index = wanted.unsqueeze(-1).expand(-1, -1, steps.shape[-1])
    return steps.gather(1, index).flatten(1)


def _equal(z: Tensor, batch: Batch) -> Tensor:
    """Log weights (n_draws, n_rows) of draws none of which is preferred."""
    return z.new_full((len(z), len(batch.x)), -math.log(len(z)))


def _weighed(log_weight: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    """Log of what normalised weights add up to after a step, (n_rows,), and the new ones."""
    joint = log_weight + more
    total = torch.logsumexp(joint, dim=0)
    return total, joint - total


def _resampled(draws: Draws, log_weight: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Replace draws of sequences of which few count (systematic resampling).

    Returns
    -------
    log_weight : Tensor of shape (n_draws, n_rows)
        Weights afterwards.
    index : Tensor of shape (n_draws, n_rows)
        What each draw is a copy of.
    """
    n_draws, n_rows = log_weight.shape
    order = torch.arange(n_draws, device=log_weight.device)
    if n_draws == 1:
        return log_weight, order.unsqueeze(1).expand(-1, n_rows)
    weight = torch.exp(log_weight.double())
    is_poor = 1.0 / weight.square().sum(0) < LEAST_SHARE * n_draws
    cumulative = weight.cumsum(0)
    cumulative = (cumulative / cumulative[-1:].clone()).mT.contiguous()
    wanted = ((order + uniform) / n_draws).to(cumulative).expand(n_rows, -1).contiguous()
    chosen = torch.searchsorted(cumulative, wanted).clamp(max=n_draws - 1).mT
    index = torch.where(is_poor, chosen, order.unsqueeze(1))
    draws.choose(index)
    equal = torch.full_like(log_weight, -math.log(n_draws))
    return torch.where(is_poor, equal, log_weight), index
