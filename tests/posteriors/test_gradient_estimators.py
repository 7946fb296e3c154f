"""Pathwise and score-function gradients of one expectation, with known variances.

For z of k independent latent variables of unit variance and f(z) their sum, the gradient of E[f]
in a mean is 1. The pathwise estimator has no variance. The score-function estimator f(z) s(z_i),
with s the score of the mean, has E[z^2 s^2] + (k - 1) E[s^2] - 1, which is k + 1 for normals
(compare Rezende, Mohamed and Wierstra, 2014, ICML, whose complaint it is that this grows with k).
"""

import pytest
import torch

from tests.helpers import assert_mean, draw, posterior_head, real_line
from tests.registry import POSTERIORS, each

WITH_MEANS = [p for p in POSTERIORS if posterior_head(p, 2).mean_is_location]


def score(q, outputs, z):
    """Gradient of log q(z) in the encoder outputs of each row."""
    (gradient,) = torch.autograd.grad(q.log_prob(z).sum(), outputs, retain_graph=True)
    return gradient


def score_variance(posterior, k):
    """Variance of the score-function estimator, from the density of one variable."""
    head = posterior_head(posterior, 1)
    z, width = real_line()
    outputs = head.outputs_at(torch.zeros(1, dtype=torch.float64)).repeat(len(z), 1)
    outputs.requires_grad_()
    q = head(outputs)
    log_prob = q.log_prob(z.view(1, -1, 1))
    s = score(q, outputs, z.view(1, -1, 1))[:, 0]
    mass = log_prob[0].exp() * width[:, 0]
    square = torch.where(mass > 0.0, mass * s.square(), 0.0)
    information = square.sum()
    fourth = (square * z.flatten().square()).sum()
    return float((fourth + (k - 1) * information - 1.0).detach())


@pytest.mark.parametrize("k", [1, 4, 12])
@pytest.mark.parametrize("posterior", each(WITH_MEANS))
def test_variance_of_both_estimators(posterior, k):
    n_draws = 100_000
    head = posterior_head(posterior, k)
    start = head.outputs_at(torch.zeros(k, dtype=torch.float64))
    outputs = start.expand(n_draws, -1).clone().requires_grad_()
    q = head(outputs)
    z = q.rsample(draw(head.noise_spec(1), n_draws))
    (pathwise,) = torch.autograd.grad(z.sum(), outputs, retain_graph=True)
    torch.testing.assert_close(pathwise[:, :k], torch.ones(n_draws, k).double())
    estimate = z.detach().sum(-1)[0].unsqueeze(-1) * score(q, outputs, z.detach())[:, :k]
    assert_mean(estimate, 1.0)
    variance = score_variance(posterior, k)
    if q.has_normal_marginals:
        # A little more or less where the start is only next to the diagonal.
        assert variance == pytest.approx(k + 1, rel=1e-2)
    assert_mean((estimate - 1.0).square(), variance)
