"""A model whose bound is loose, by a known amount, and bounds at any point of a run."""

import torch

from skvae._core._batch import Clock
from tests.helpers import batch_of, linear_gaussian_of, noise_for, perturbed_, tight_linear_model

N_ROWS = 8


def loose_model(**parameters):
    """Linear-Gaussian model whose encoder is off, its exact marginal, and rows from it."""
    model = perturbed_(tight_linear_model(**parameters), 0.1)
    exact = linear_gaussian_of(model)
    return model, exact, exact.sample(N_ROWS, seed=1)


def values(bound, model, X, n_repeats, *, n_draws=1, clock=None):
    """Bounds (n_repeats, n_rows) from independent noise."""
    batch = batch_of(model, X)
    with torch.no_grad():
        return torch.stack(
            [
                bound(model, batch, noise_for(model, n_draws, len(X), seed=seed), clock)
                for seed in range(n_repeats)
            ]
        ).numpy()


def clock_at(step):
    clock = Clock.start(torch.device("cpu"))
    clock.step.fill_(float(step))
    return clock


def weighted_bound(model, batch, noise, *, analytic, weight):
    """E_q[log p(x | z)] minus `weight` times the divergence, straight from the protocol."""
    batch = model.observe(batch, noise)
    q = model.posterior(batch)
    z = q.rsample(noise)
    prior, observation = model.generative(batch, z)
    kl = prior.kl(q) if analytic else (q.log_prob(z) - prior.log_prob(z)).mean(0)
    return observation.log_prob(batch.x).mean(0) - weight * kl
