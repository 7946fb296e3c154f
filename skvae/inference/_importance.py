"""Importance sampling with the encoder as proposal."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from skvae._core._batch import Batch
from skvae.models._base import LatentVariableModel


def log_weights(
    model: LatentVariableModel, batch: Batch, noise: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Log importance weights log p(x, z) - log q(z | x), and the draws z.

    Returns
    -------
    log_w : Tensor of shape (n_draws, n_rows)
        In nats, constants included.
    z : Tensor of shape (n_draws, n_rows, *latent_shape)
    """
    z, log_q = model.posterior(batch).rsample_and_log_prob(noise)
    log_prior, log_likelihood = model.log_joint(batch, z)
    return log_likelihood + log_prior - log_q, z


def importance_log_likelihood(
    model: LatentVariableModel, batch: Batch, noise: Mapping[str, Tensor]
) -> Tensor:
    """Log-likelihood of each row by importance sampling, (n_rows,), in nats.

    In expectation a lower bound that rises with the number of draws to log p(x); with one draw it
    is the evidence lower bound. Equation 8 of Burda et al. (2016).

    References
    ----------
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. ICLR.
    """
    batch = model.observe(batch, noise)
    log_w, _ = log_weights(model, batch, noise)
    return torch.logsumexp(log_w, dim=0) - math.log(log_w.shape[0])


def evidence_lower_bound(
    model: LatentVariableModel, batch: Batch, noise: Mapping[str, Tensor]
) -> Tensor:
    """Evidence lower bound of each row from given draws, (n_rows,), in nats.

    The mean of the log importance weights (estimator A of Kingma and Welling, 2014), which for the
    same draws never exceeds `importance_log_likelihood`, and which has no variance where q is the
    true posterior. With draws shared by all rows that matters: an error does not average out.
    """
    batch = model.observe(batch, noise)
    return log_weights(model, batch, noise)[0].mean(0)
