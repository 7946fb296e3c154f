"""The estimator of appendix D of Kingma and Welling (2014): posterior draws, read backwards.

The mean of q(z) / p(x, z) over draws of p(z | x) is 1 / p(x), for any density q. It varies little
only where q is close to the posterior: few latent variables.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skvae._core._batch import Batch, draw_noise
from skvae._core._normal import LOG_2PI
from skvae.inference._hmc import differentiated, hmc_chains, hmc_move
from skvae.inference._importance import Infer
from skvae.inference._log_likelihood import LogMeanWeight, widening
from skvae.models._base import LatentVariableModel

# What is added to the variances of the normal, as a share of those that the encoder says: chains
# that have not moved would have none.
RIDGE = 1e-6
N_LEAPFROG = 3


def reciprocal_log_likelihood(
    model: LatentVariableModel,
    batch: Batch,
    generator: torch.Generator,
    *,
    n_chains: int = 16,
    n_steps: int = 200,
    n_burn_in: int = 100,
    n_leapfrog: int = N_LEAPFROG,
    infer: Infer | None = None,
) -> LogMeanWeight:
    """Log-likelihood of each row from draws of its posterior and a normal fitted to them.

    The chains start at draws of the encoder's posterior, and adapt their step sizes while they burn
    in. A normal is fitted to the draws of one half of the chains, and over those of the other half
    the mean of its density over p(x, z) is the reciprocal of the likelihood (Gelfand and Dey,
    1994). The halves do not know each other, so that the value is in expectation above the
    log-likelihood; halves of the same chains are not independent, and short ones are biased to the
    other side.

    Parameters
    ----------
    model : LatentVariableModel
    batch : Batch
        Rows as given.
    generator : torch.Generator
        Where the model is.
    n_chains : int, default=16
        At least 4: how they differ is the standard error.
    n_steps : int, default=200
        Moves of each chain after burn-in.
    n_burn_in : int, default=100
        Moves before.
    n_leapfrog : int, default=3
        Steps of each trajectory.
    infer : callable or None, default=None
        The posterior of a batch, in place of the model's own.

    Returns
    -------
    answer : LogMeanWeight
        Each of shape (n_rows,), in nats.

    References
    ----------
    Kingma, D. P. and Welling, M. (2014). Auto-encoding variational Bayes. ICLR. Appendix D.

    Gelfand, A. E. and Dey, D. K. (1994). Bayesian model choice: asymptotics and exact calculations.
    Journal of the Royal Statistical Society B 56.
    """
    like = next(model.parameters())
    noise = draw_noise(
        model.noise_spec(n_chains),
        len(batch.x),
        generator=generator,
        dtype=like.dtype,
        device=like.device,
    )
    with torch.no_grad():
        batch = model.observe(batch, noise)
        q = model.posterior(batch) if infer is None else infer(batch)
        z, variance = q.rsample(noise), q.variance

    def log_joint(z: Tensor) -> Tensor:
        log_prior, log_likelihood = model.log_joint(batch, z)
        return log_prior + log_likelihood

    evaluate = differentiated(log_joint)
    scale = variance.sqrt()
    point = evaluate(z.expand(n_chains, len(batch.x), *z.shape[2:]))
    point, step_size = hmc_chains(
        evaluate, point, scale, n_pilot=n_burn_in, n_leapfrog=n_leapfrog, generator=generator
    )
    visited, log_probs = [], []
    for _ in range(n_steps):
        point, _ = hmc_move(evaluate, point, step_size, scale, n_leapfrog, generator)
        visited.append(point.z.flatten(2).double())
        log_probs.append(point.log_prob.double())
    draws = torch.stack(visited)
    ridge = RIDGE * variance.flatten(1).double()
    n_fitted = n_chains // 2
    normal = FittedNormal(draws[:, :n_fitted].flatten(0, 1), ridge)
    log_q = normal.log_prob(draws[:, n_fitted:].flatten(0, 1)).unflatten(0, (n_steps, -1))
    return reciprocal_mean(log_q - torch.stack(log_probs)[:, n_fitted:])


def reciprocal_mean(log_ratio: Tensor) -> LogMeanWeight:
    """Log-likelihood from log q(z) - log p(x, z) at draws of p(z | x).

    Parameters
    ----------
    log_ratio : Tensor of shape (n_draws, n_chains, n_rows)
        In nats. The chains are independent, the draws of a chain need not be.

    Returns
    -------
    answer : LogMeanWeight
        The standard error is that between chains; the effective sample size is the number of
        independent draws of equal weight that would have an error as small beside that of one.
    """
    n_draws, n_chains, _ = log_ratio.shape
    of_chains = torch.logsumexp(log_ratio, 0) - math.log(n_draws)
    log_mean = torch.logsumexp(of_chains, 0) - math.log(n_chains)
    relative = torch.exp(of_chains - log_mean)
    error = relative.std(0) / math.sqrt(n_chains)
    n = n_draws * n_chains
    return LogMeanWeight(-log_mean, widening(n_chains) * error, n / (1.0 + n * error.square()))


class FittedNormal:
    """Normal with the moments of given draws, for each row.

    With few draws for the number of variables its correlations are a little smaller than theirs.

    Parameters
    ----------
    z : Tensor of shape (n_draws, n_rows, n_latent)
    ridge : Tensor of shape (n_rows, n_latent)
        Added to the variances.
    """

    def __init__(self, z: Tensor, ridge: Tensor) -> None:
        self.mean = z.mean(0)
        centred = z - self.mean
        covariance = torch.einsum("dri,drj->rij", centred, centred) / (len(z) - 1)
        n_latent = z.shape[-1]
        diagonal = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
        covariance = torch.lerp(covariance, diagonal, n_latent / (n_latent + len(z)))
        self.factor = torch.linalg.cholesky(covariance + torch.diag_embed(ridge))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (n_draws, n_rows), in nats."""
        away = (z - self.mean).permute(1, 2, 0)
        standard = torch.linalg.solve_triangular(self.factor, away, upper=False)
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = log_det + 0.5 * LOG_2PI * z.shape[-1]
        return -0.5 * standard.square().sum(1).mT - constant
