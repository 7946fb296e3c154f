"""The low-rank precision posterior, against its covariance written out."""

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from skvae.posteriors import LowRankPrecisionPosterior
from skvae.posteriors._low_rank import LowRankGaussian
from tests.helpers import posterior_head

N_ROWS, N_LATENT = 4, 6


def parts(rank, size=1.0, *, seed=0):
    """Mean, log scale and directions of some rows."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((N_LATENT,), (N_LATENT,), (N_LATENT, rank))
    mean, log_scale, directions = (
        torch.randn(N_ROWS, *shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return mean, 0.5 * log_scale, size * directions


def precision_of(log_scale, directions):
    """D + U U^T, by the formula."""
    weighted = directions * torch.exp(-log_scale).unsqueeze(-1)
    return torch.diag_embed(torch.exp(-2.0 * log_scale)) + weighted @ weighted.mT


def factor_of(q):
    """R, whose columns are the draws from unit vectors of noise."""
    (n_latent,) = q.mean.shape[1:]
    noise = torch.eye(n_latent, dtype=q.mean.dtype).unsqueeze(1)
    return (q.rsample({"z": noise}) - q.mean).permute(1, 2, 0)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 1.0, 30.0])
@pytest.mark.parametrize("rank", range(1, N_LATENT + 1))
def test_factor_moments_and_determinant_are_exact(rank, size):
    mean, log_scale, directions = parts(rank, size)
    q = LowRankGaussian(mean, log_scale, directions)
    precision = precision_of(log_scale, directions)
    covariance = torch.linalg.inv(precision)
    factor = factor_of(q)
    torch.testing.assert_close(factor @ factor.mT, covariance, rtol=1e-10, atol=1e-10)
    trace = covariance.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(q.variance, trace, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.variance.sum(-1), trace.sum(-1), rtol=1e-10, atol=1e-10)
    log_det = -torch.logdet(precision)
    constant = N_LATENT * (1.0 + np.log(2.0 * np.pi))
    torch.testing.assert_close(2.0 * q.entropy() - constant, log_det, rtol=1e-10, atol=1e-10)
    expected = MultivariateNormal(mean, precision_matrix=precision)
    z = expected.sample((3,))
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z), rtol=1e-9, atol=1e-9)


def test_factor_of_rank_one_is_that_of_the_paper():
    _, log_scale, directions = parts(1)
    factor = factor_of(LowRankGaussian(log_scale * 0, log_scale, directions))
    d = torch.exp(-2.0 * log_scale)
    u = directions[..., 0] * torch.exp(-log_scale)
    s = (u * u / d).sum(-1)
    eta = 1.0 / (1.0 + s)
    outer = (u / d).unsqueeze(-1) * (u / d.sqrt()).unsqueeze(-2)
    expected = torch.diag_embed(d**-0.5) - ((1.0 - eta.sqrt()) / s).view(-1, 1, 1) * outer
    torch.testing.assert_close(factor, expected)


def test_rank_one_is_the_general_rank_with_an_empty_direction():
    mean, log_scale, directions = parts(1)
    padded = torch.cat([directions, torch.zeros_like(directions)], -1)
    one, two = (LowRankGaussian(mean, log_scale, v) for v in (directions, padded))
    torch.testing.assert_close(factor_of(one), factor_of(two))
    torch.testing.assert_close(one.entropy(), two.entropy())
    torch.testing.assert_close(one.variance, two.variance)


@pytest.mark.parametrize("rank", [1, 3])
def test_gradients_are_exact_where_the_directions_vanish(rank):
    noise = torch.randn(2, N_ROWS, N_LATENT, dtype=torch.float64)
    for size in (0.0, 1e-12):
        mean, log_scale, directions = (t.requires_grad_() for t in parts(rank, size))

        def answers(*of):
            q = LowRankGaussian(*of)
            return (*q.rsample_and_log_prob({"z": noise}), q.entropy(), q.variance)

        assert torch.autograd.gradcheck(answers, (mean, log_scale, directions))


def test_more_directions_than_latent_variables_are_not_used():
    three, nine = (posterior_head(LowRankPrecisionPosterior(rank=r), 3) for r in (3, 9))
    assert nine.n_outputs == three.n_outputs == 15


@pytest.mark.parametrize("n_latent", [1, 2, 7, 50])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_start_is_next_to_the_diagonal_posterior(rank, n_latent):
    head = posterior_head(LowRankPrecisionPosterior(rank=rank), n_latent)
    log_scale = torch.linspace(-3.0, 0.5, n_latent, dtype=torch.float64)
    q = head(head.outputs_at(log_scale).unsqueeze(0))
    torch.testing.assert_close(q.variance[0], torch.exp(2.0 * log_scale))
    # With the same variances, the divergence is the difference of the entropies.
    normal = 0.5 * torch.log(2.0 * np.pi * np.e * q.variance).sum(-1)
    assert -1e-12 <= float(normal - q.entropy()) < 2e-6


def test_float32_has_digits_at_the_longest_directions():
    head = posterior_head(LowRankPrecisionPosterior(rank=3), 20, torch.float32)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(5, head.n_outputs, generator=generator)
    outputs[:, 40:] *= 1e4
    exact = head.double()(outputs.double())
    q = head.float()(outputs)
    torch.testing.assert_close(q.variance.double(), exact.variance, rtol=0.05, atol=0.0)
    torch.testing.assert_close(q.entropy().double(), exact.entropy(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("rank", [0, 1.5, "one", None])
def test_rank_is_checked(rank):
    with pytest.raises(ValueError, match="rank"):
        posterior_head(LowRankPrecisionPosterior(rank=rank), 2)
