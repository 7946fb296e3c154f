"""Log-likelihood of binary rows under a decoder of three latent variables, by several estimates."""

from __future__ import annotations

import argparse
import copy
import warnings
from typing import Any

import numpy as np
import torch
from _aevb import Data, autoencoder, difference
from _curves import Fit
from torch import Tensor
from torch.nn import functional

from skvae import VariationalAutoencoder
from skvae._core._batch import Batch
from skvae.models import LatentVariableModel
from skvae.objectives import IWAE

N_LATENT = 3
# Chains and moves of the estimator of appendix D: half of their draws fit the density.
N_CHAINS, N_MOVES = 4, 25
# Of the grid: from minus to plus this, in three dimensions. Decoders that have seen little have
# posteriors far from the prior: of Monte Carlo EM after one visit, a fifth is beyond 6.
WIDTH = 7.0
# Cells of the grid that are divided for each row, and by how much along each axis.
N_REFINED, N_PARTS = 64, 5
# Share of the posterior that they have to hold for it.
MASS_REFINED = 0.99


def unmoved(data: Data, method: str, X: np.ndarray, **parameters: Any) -> VariationalAutoencoder:
    """An estimator as it is before training."""
    model = autoencoder(data, N_LATENT, method, 0, **parameters)
    model.set_params(learning_rate_init=1e-30, max_iter=1)
    Fit(model, X).train(1)
    return model


class Judge:
    """Log-likelihood of rows under a decoder, whatever it was trained by."""

    def __init__(self, data: Data, args: argparse.Namespace) -> None:
        self._rows = np.concatenate([data.seen, data.test])
        self._n_seen = len(data.seen)
        self._fit = Fit(unmoved(data, "AEVB", self._rows, device=args.device), self._rows)
        self._fit.estimator.set_params(
            objective=IWAE(n_draws=10), solver="adam", learning_rate_init=2e-3, alpha=0.0
        )
        self._args = args

    def proposal(self, model: LatentVariableModel, n_passes: int) -> VariationalAutoencoder:
        """Estimator with this decoder, its encoder fitted to the rows."""
        estimator = self._fit.estimator
        for part in ("decoder", "prior_head", "observation_head"):
            setattr(estimator.model_, part, copy.deepcopy(getattr(model, part)))
        estimator.model_.requires_grad_(False)
        estimator.model_.encoder.requires_grad_(True)
        self._fit.train(n_passes)
        return estimator

    def curve_point(self, model: LatentVariableModel, *, is_first: bool) -> dict[str, float]:
        """Mean log-likelihood of training and test rows, by importance sampling."""
        scale = 4 if is_first else 1
        estimator = self.proposal(model, scale * self._args.judge_passes)
        values = self._importance(estimator, self._args.curve_draws)
        return {
            "seen": float(values[: self._n_seen].mean()),
            "test": float(values[self._n_seen :].mean()),
        }

    def verdict(self, model: LatentVariableModel) -> dict[str, Any]:
        """All estimates, at the end."""
        estimator = self.proposal(model, 6 * self._args.judge_passes)
        importance = self._importance(estimator, self._args.final_draws)
        found: dict[str, Any] = {}
        for name, begin in (("seen", 0), ("test", self._n_seen)):
            here = slice(begin, begin + self._n_seen)
            some = slice(begin, begin + self._args.reciprocal_rows)
            few = slice(begin, begin + self._args.exact_rows)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # few effective draws: see the table
                reciprocal = estimator.log_likelihood(
                    self._rows[some],
                    "reciprocal",
                    n_draws=N_CHAINS,
                    n_steps=N_MOVES,
                    random_state=0,
                )
            exact = on_grid(estimator.model_, self._rows[few], self._args.grid)
            n_exact = len(exact)
            found |= {
                f"{name}_importance": np.round(importance[here], 4).tolist(),
                f"{name}_reciprocal": np.round(reciprocal.value, 4).tolist(),
                f"{name}_exact": np.round(exact, 4).tolist(),
                f"{name}_importance_error": difference(importance[few], exact),
                f"{name}_reciprocal_error": difference(reciprocal.value[:n_exact], exact),
            }
        return found

    def _importance(self, estimator: VariationalAutoencoder, n_draws: int) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            answer = estimator.log_likelihood(self._rows, n_draws=n_draws, random_state=0)
        return answer.value


@torch.no_grad()
def on_grid(model: LatentVariableModel, X: np.ndarray, n_nodes: int) -> np.ndarray:
    """Log-likelihood of rows of ones and zeros by quadrature over three latent variables, in nats.

    The cells of a regular grid, of which the `N_REFINED` heaviest of a row are divided where they
    hold nearly all of its posterior: the rule of midpoints errs by less than 1 % while standard
    deviations of the posterior are above half of a cell, or of its part.
    """
    like = next(model.parameters())
    nodes = torch.linspace(-WIDTH, WIDTH, n_nodes, dtype=like.dtype, device=like.device)
    x = torch.from_numpy(X).to(like)

    def log_joint(z: Tensor, rows: Tensor) -> Tensor:
        """log p(x, z) of points (n_points, 3) and rows, (n_points, n_rows)."""
        prior, observation = model.generative(Batch(rows), z.unsqueeze(1))
        logits = observation.params.logits[:, 0]
        log_p = logits @ rows.T - functional.softplus(logits).sum(1, keepdim=True)
        return (log_p + prior.log_prob(z.unsqueeze(1))).double()

    plane = torch.cartesian_prod(nodes, nodes)
    total = torch.full((len(X),), -torch.inf, dtype=torch.float64, device=like.device)
    heaviest = total.new_empty(0, len(X))
    centres = like.new_empty(0, len(X), N_LATENT)
    for first in nodes:
        z = torch.cat([first.expand(len(plane), 1), plane], 1)
        log_p = log_joint(z, x)
        total = torch.logaddexp(total, torch.logsumexp(log_p, 0))
        heaviest = torch.cat([heaviest, log_p])
        centres = torch.cat([centres, z.unsqueeze(1).expand(-1, len(X), -1)])
        heaviest, kept = heaviest.topk(min(N_REFINED, len(heaviest)), dim=0)
        centres = centres.take_along_dim(kept.unsqueeze(-1), 0)
    spacing = 2.0 * WIDTH / (n_nodes - 1)
    parts = (torch.arange(N_PARTS, dtype=like.dtype, device=like.device) + 0.5) / N_PARTS - 0.5
    offsets = spacing * torch.cartesian_prod(parts, parts, parts)
    # Where a posterior covers many cells the coarse sum is exact to many digits.
    held = torch.exp(torch.logsumexp(heaviest, 0) - total)
    for i in torch.nonzero(held > MASS_REFINED)[:, 0].tolist():
        z = (centres[:, i].unsqueeze(1) + offsets).flatten(0, 1)
        fine = torch.logsumexp(log_joint(z, x[i : i + 1])[:, 0], 0) - np.log(len(offsets))
        coarse = torch.logsumexp(heaviest[:, i], 0)
        # What the heaviest cells hold is replaced by what their parts do.
        largest = torch.maximum(total[i], fine)
        others = torch.exp(total[i] - largest) - torch.exp(coarse - largest)
        total[i] = largest + torch.log(others.clamp(min=0.0) + torch.exp(fine - largest))
    return (total + N_LATENT * np.log(spacing)).cpu().numpy()
