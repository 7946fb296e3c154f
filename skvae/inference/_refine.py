"""Inference without amortisation: the posterior of each row optimised by itself.

An encoder answers for all rows at once and so for each a little worse than could be; how much worse
is the amortisation gap (Cremer et al., 2018). From what it says, a few steps of ascent on the bound
of each row find something better: a separate optimisation for each data point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from skvae._core._batch import Batch
from skvae.models._base import LatentVariableModel
from skvae.posteriors._base import PosteriorDistribution

# Step sizes, in posterior standard deviations for locations, at first and at last.
FIRST_RATE, LAST_RATE = 0.1, 0.005
BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-12


def refined_posterior(
    model: LatentVariableModel, batch: Batch, noise: Mapping[str, Tensor], n_steps: int
) -> PosteriorDistribution:
    """Posterior of each row after `n_steps` steps of Adam on its own evidence lower bound.

    Rows do not influence each other. The draws are the same at every step, and of all states met,
    the encoder's included, each row keeps the best.

    Parameters
    ----------
    model : LatentVariableModel
        Held as it is.
    batch : Batch
        Rows as observed.
    noise : mapping of str to Tensor
        As ``model.noise_spec`` declares; with more draws the optimum is less that of the draws.
    n_steps : int

    Returns
    -------
    q : PosteriorDistribution

    References
    ----------
    Cremer, C., Li, X. and Duvenaud, D. (2018). Inference suboptimality in variational
    autoencoders. ICML.
    """
    start, family = model.code(batch).detach(), model.family(batch)
    units = model.code_units(start).detach()
    change = torch.zeros_like(start)
    best, kept = start.new_full(start.shape[:1], -torch.inf), change
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    for step in range(n_steps + 1):
        with torch.enable_grad():
            moved = change.detach().requires_grad_()
            bound = _bound(model, batch, family(start + units * moved), noise)
            (gradient,) = torch.autograd.grad(bound.sum(), moved)
        bound = bound.detach()
        is_better = bound > best
        best = torch.where(is_better, bound, best)
        kept = torch.where(is_better.unsqueeze(1), change, kept)
        # A row whose bound is not finite any more stays where it is.
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        first = BETA_1 * first + (1.0 - BETA_1) * gradient
        second = BETA_2 * second + (1.0 - BETA_2) * gradient.square()
        share = 0.5 * (1.0 + math.cos(math.pi * step / max(n_steps, 1)))
        rate = LAST_RATE + (FIRST_RATE - LAST_RATE) * share
        root = torch.sqrt(second / (1.0 - BETA_2 ** (step + 1))) + EPSILON
        change = change + rate / (1.0 - BETA_1 ** (step + 1)) * first / root
    return family(start + units * kept)


def _bound(
    model: LatentVariableModel,
    batch: Batch,
    q: PosteriorDistribution,
    noise: Mapping[str, Tensor],
) -> Tensor:
    """Evidence lower bound of each row under the given q, (n_rows,), in nats."""
    z = q.rsample(noise)
    prior, observation = model.generative(batch, z)
    kl = prior.kl(q)
    if kl is None:
        kl = (q.log_prob(z) - prior.log_prob(z)).mean(0)
    return observation.log_prob(batch.x, batch.mask).mean(0) - kl
