"""Importance sampling with the encoder as proposal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from skvae._core._batch import Batch
from skvae.likelihoods._base import Observation
from skvae.models._base import LatentVariableModel
from skvae.posteriors._base import PosteriorDistribution
from skvae.priors._base import PriorDistribution

Infer = Callable[[Batch], PosteriorDistribution]


class WeightedDraws(NamedTuple):
    """Some draws of z for each row, and their log importance weights.

    Attributes
    ----------
    z : Tensor of shape (n_some, n_rows, *latent_shape)
    log_weight : Tensor of shape (n_some, n_rows)
        log p(x, z) - log q(z | x), in nats, constants included.
    prior : PriorDistribution
        p(z).
    observation : Observation
        p(x | z) along the draws.
    """

    z: Tensor
    log_weight: Tensor
    prior: PriorDistribution
    observation: Observation


def weighted_draws(
    model: LatentVariableModel,
    batch: Batch,
    noise: Mapping[str, Tensor],
    *,
    n_at_once: int | None = None,
    infer: Infer | None = None,
) -> Iterator[WeightedDraws]:
    """Draws from the encoder's posterior with their importance weights, some at a time.

    Parameters
    ----------
    model : LatentVariableModel
    batch : Batch
    noise : mapping of str to Tensor
        As ``model.noise_spec`` declares.
    n_at_once : int or None, default=None
        Draws that are decoded at once; None means all. Few stay in the processor's cache.
    infer : callable or None, default=None
        The posterior of a batch as observed, in place of the model's own.

    Yields
    ------
    draws : WeightedDraws
    """
    batch = model.observe(batch, noise)
    q = model.posterior(batch) if infer is None else infer(batch)
    by_draw = [name for name, spec in model.noise_spec(1).items() if spec.per == "draw_row"]
    n_draws = max((len(noise[name]) for name in by_draw), default=1)
    step = n_draws if n_at_once is None else n_at_once
    for start in range(0, n_draws, step):
        some = {name: noise[name][start : start + step] for name in by_draw}
        z, log_q = q.rsample_and_log_prob({**noise, **some})
        prior, observation = model.generative(batch, z)
        log_likelihood = observation.log_prob(batch.x, batch.mask)
        yield WeightedDraws(z, log_likelihood + prior.log_prob(z) - log_q, prior, observation)


def log_weights(
    model: LatentVariableModel,
    batch: Batch,
    noise: Mapping[str, Tensor],
    *,
    n_at_once: int | None = None,
    infer: Infer | None = None,
) -> Iterator[Tensor]:
    """Log importance weights (n_some, n_rows) of `weighted_draws`, in nats."""
    for draws in weighted_draws(model, batch, noise, n_at_once=n_at_once, infer=infer):
        yield draws.log_weight


def importance_log_likelihood(
    model: LatentVariableModel,
    batch: Batch,
    noise: Mapping[str, Tensor],
    *,
    n_at_once: int | None = None,
    infer: Infer | None = None,
) -> Tensor:
    """Log-likelihood of each row by importance sampling, (n_rows,), in nats.

    In expectation a lower bound that rises with the number of draws to log p(x); with one draw it
    is the evidence lower bound. Equation 8 of Burda et al. (2016).

    References
    ----------
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. ICLR.
    """
    parts, n_draws = [], 0
    for log_w in log_weights(model, batch, noise, n_at_once=n_at_once, infer=infer):
        parts.append(torch.logsumexp(log_w, dim=0))
        n_draws += len(log_w)
    value = torch.logsumexp(torch.stack(parts), dim=0) - math.log(n_draws)
    if batch.mask is not None and model.missingness is None:
        # Where nothing is observed, nothing has a probability of 1.
        value = torch.where(batch.mask.any(1), value, torch.zeros_like(value))
    return value


def part_probabilities(
    model: LatentVariableModel,
    batch: Batch,
    noise: Mapping[str, Tensor],
    *,
    n_at_once: int | None = None,
    infer: Infer | None = None,
) -> Tensor:
    """Probability of each part of a prior that is a mixture, given each row, (n_rows, n_parts).

    The expectation of p(part | z) under the posterior, by importance sampling.
    """
    totals = []
    for draws in weighted_draws(model, batch, noise, n_at_once=n_at_once, infer=infer):
        log_joint = draws.prior.log_prob_of_parts(draws.z) + draws.log_weight.unsqueeze(-1)
        totals.append(torch.logsumexp(log_joint, dim=0))
    return torch.softmax(torch.logsumexp(torch.stack(totals), dim=0), dim=-1)


def evidence_lower_bound(
    model: LatentVariableModel,
    batch: Batch,
    noise: Mapping[str, Tensor],
    *,
    n_at_once: int | None = None,
    infer: Infer | None = None,
) -> Tensor:
    """Evidence lower bound of each row from given draws, (n_rows,), in nats.

    The mean of the log importance weights (estimator A of Kingma and Welling, 2014), which for the
    same draws never exceeds `importance_log_likelihood`, and which has no variance where q is the
    true posterior. With draws shared by all rows that matters: an error does not average out.
    """
    total, n_draws = torch.zeros(()), 0
    for log_w in log_weights(model, batch, noise, n_at_once=n_at_once, infer=infer):
        total = total.to(log_w) + log_w.sum(0)
        n_draws += len(log_w)
    return total / n_draws
