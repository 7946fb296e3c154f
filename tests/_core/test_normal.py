"""The normal density, against SciPy."""

import numpy as np
import torch
from scipy import stats

from skvae._core._normal import (
    normal_log_prob,
    normal_log_prob_of_each,
    standard_normal_log_prob,
)

RNG = np.random.default_rng(0)
X, MEAN, LOG_SCALE = RNG.normal(size=(3, 5, 4))


def test_log_prob():
    answer = normal_log_prob(*map(torch.from_numpy, (X, MEAN, LOG_SCALE)))
    np.testing.assert_allclose(answer, stats.norm(MEAN, np.exp(LOG_SCALE)).logpdf(X))


def test_standard_log_prob():
    np.testing.assert_allclose(
        standard_normal_log_prob(torch.from_numpy(X)), stats.norm.logpdf(X).sum(-1)
    )


def test_log_prob_of_each():
    expected = stats.norm(MEAN[None], np.exp(LOG_SCALE)[None]).logpdf(X[:, None]).sum(-1)
    answer = normal_log_prob_of_each(*map(torch.from_numpy, (X, MEAN, LOG_SCALE)))
    np.testing.assert_allclose(answer, expected)


def test_log_prob_of_each_keeps_its_digits_far_out_in_float32():
    # Normals as narrow as the posteriors of nearly noise-free rows, a thousand units out.
    mean = torch.from_numpy(1000.0 + MEAN).float()
    log_scale = torch.full_like(mean, -6.0)
    z = mean + torch.exp(log_scale) * torch.from_numpy(X).float()
    answer = normal_log_prob_of_each(z, mean, log_scale)
    assert answer.dtype == torch.float32
    expected = stats.norm(mean[None].double(), np.exp(-6.0)).logpdf(z[:, None].double()).sum(-1)
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_log_prob_of_each_does_not_exceed_the_mode():
    mean = torch.tensor([[1e4, -1e4], [-1e4, 3.0], [0.1, 0.2]])
    log_scale = torch.full_like(mean, -16.0).requires_grad_()
    answer = normal_log_prob_of_each(mean, mean, log_scale)
    mode = normal_log_prob(mean, mean, log_scale).sum(-1)
    assert torch.isfinite(answer).all() and (answer <= mode * (1 + 1e-6)).all()
    (gradient,) = torch.autograd.grad(answer.sum(), log_scale)
    assert torch.isfinite(gradient).all()
