"""Latent variables that are correlated given a row: what each family reaches, exactly.

In a linear-Gaussian model the true posterior is normal with a known precision. The best bound of a
family is the log-likelihood less a gap that is known, or zero.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from skvae.posteriors import (
    DiagonalPosterior,
    FullCovariancePosterior,
    LowRankPrecisionPosterior,
)
from tests.helpers import LinearGaussian, posterior_head

EXAMPLE = Path(__file__).parents[2] / "doc" / "examples" / "plot_posteriors.py"


def model_with(k, *, signs):
    """Model whose latent variables, given a row, have correlations of the given signs."""
    rng = np.random.default_rng(0)
    loadings = np.eye(k)[:, :k] * 0.7
    for (i, j), sign in signs.items():
        row = np.zeros(k)
        row[i], row[j] = 2.0, 2.0 * sign  # a column that tells their sum, or their difference
        loadings = np.vstack([loadings, row])
    return LinearGaussian(loadings, rng.uniform(0.5, 1.0, len(loadings)), np.zeros(len(loadings)))


def best_bound(posterior, exact, x):
    """Largest evidence lower bound of a row within a family, in nats.

    The bound in closed form, for the mean, covariance and entropy that the family answers.
    """
    k = exact.loadings.shape[1]
    head = posterior_head(posterior, k)
    w, noise, row = (torch.from_numpy(a) for a in (exact.loadings, exact.noise, x - exact.mean))
    unit = torch.eye(k, dtype=torch.float64).unsqueeze(1)
    # Off the start, where what does not matter has no gradient.
    outputs = head.outputs_at(torch.full((k,), -1.0, dtype=torch.float64)) + 0.05
    outputs.requires_grad_()

    def bound():
        q = head(outputs.unsqueeze(0))
        factor = (q.rsample({"z": unit}) - q.mean)[:, 0].T
        covariance, mean = factor @ factor.T, q.mean[0]
        residual = row - w @ mean
        log_likelihood = -0.5 * (
            torch.log(2.0 * torch.pi * noise).sum()
            + (residual.square() / noise).sum()
            + ((w @ covariance) * w / noise.unsqueeze(1)).sum()
        )
        square = mean.square().sum() + covariance.trace()
        return log_likelihood - 0.5 * (square + k * np.log(2.0 * np.pi)) + q.entropy()[0]

    solver = torch.optim.LBFGS(
        [outputs],
        max_iter=2000,
        tolerance_grad=1e-9,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss():
        solver.zero_grad()
        value = -bound()
        value.backward()
        return value

    solver.step(loss)
    return float(bound().detach())


def setting(k, signs):
    """Model, a row, its log-likelihood, and the precision of its posterior."""
    exact = model_with(k, signs=signs)
    x = exact.sample(1)
    _, covariance = exact.posterior(x)
    return exact, x[0], float(exact.log_prob(x)[0]), np.linalg.inv(covariance)


@pytest.mark.parametrize("sign", [-1, 1])
def test_two_latent_variables(sign):
    """A precision of rank one beside the diagonal is any precision."""
    exact, x, log_likelihood, precision = setting(2, {(0, 1): sign})
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert gap > 0.3
    diagonal = best_bound(DiagonalPosterior(), exact, x)
    assert diagonal == pytest.approx(log_likelihood - gap, abs=1e-8)
    for posterior in (LowRankPrecisionPosterior(), FullCovariancePosterior()):
        assert best_bound(posterior, exact, x) == pytest.approx(log_likelihood, abs=1e-8)


def test_three_latent_variables():
    """The product of the three off-diagonals of u u^T is a square, so it is not negative.

    A precision for which it is negative takes two directions.
    """
    signs = {(0, 1): 1, (0, 2): 1, (1, 2): -1}
    exact, x, log_likelihood, precision = setting(3, signs)
    assert precision[0, 1] * precision[0, 2] * precision[1, 2] < 0
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    diagonal = best_bound(DiagonalPosterior(), exact, x)
    one, two = (best_bound(LowRankPrecisionPosterior(rank=r), exact, x) for r in (1, 2))
    full = best_bound(FullCovariancePosterior(), exact, x)
    assert diagonal == pytest.approx(log_likelihood - gap, abs=1e-8)
    assert diagonal + 0.1 < one < log_likelihood - 0.1
    assert two == pytest.approx(log_likelihood, abs=1e-6)
    assert full == pytest.approx(log_likelihood, abs=1e-8)


def test_three_latent_variables_within_reach_of_one_direction():
    exact, x, log_likelihood, precision = setting(3, {(0, 1): 1, (0, 2): 1, (1, 2): 1})
    assert precision[0, 1] * precision[0, 2] * precision[1, 2] > 0
    one = best_bound(LowRankPrecisionPosterior(), exact, x)
    assert one == pytest.approx(log_likelihood, abs=1e-6)


@pytest.mark.slow
def test_example(tmp_path):
    """Trained by the estimator, against an exact posterior on a grid."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=True,
    )
    below = {
        words[0]: float(words[3])
        for words in (line.split() for line in done.stdout.splitlines())
        if "bound" in words
    }
    assert below["diagonal"] > 0.3
    assert 0.0 < below["low_rank"] < 0.15
    assert 0.0 < below["full"] < 0.15
