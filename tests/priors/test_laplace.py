"""The Laplace prior, against torch's."""

import math

import pytest
import torch
from torch.distributions import Laplace

from skvae.posteriors import DiagonalPosterior
from skvae.priors import LaplacePrior
from tests.helpers import assert_mean, draw, posterior_head, prior_head

every_variance = pytest.mark.parametrize("variance", [0.01, 1.0, 9.0])


@every_variance
def test_log_prob_is_that_of_independent_laplace_variables(variance):
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = prior_head(LaplacePrior(variance=variance), 3)(None)
    scale = torch.tensor(math.sqrt(variance / 2.0), dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), Laplace(0.0, scale).log_prob(z).sum(-1))


@every_variance
def test_the_variance_is_as_told(variance):
    head = prior_head(LaplacePrior(variance=variance), 2)
    z = head(None).sample(draw(head.noise_spec(20_000), 1))
    assert_mean(z, 0.0)
    assert_mean(z.square(), variance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_the_inverse_of_the_distribution_function_up_to_its_ends(dtype):
    uniform = torch.linspace(0.0, 1.0, 1001, dtype=dtype).view(-1, 1, 1)
    z = prior_head(LaplacePrior(), 1)(None).sample({"z": uniform})
    assert z.dtype == dtype and torch.isfinite(z).all()
    expected = Laplace(0.0, math.sqrt(0.5)).icdf(uniform[1:-1].double())
    torch.testing.assert_close(z[1:-1].double(), expected, rtol=2e-4, atol=1e-6)
    assert (z.diff(dim=0) > 0).all()
    torch.testing.assert_close(z, -z.flip(0), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_and_its_gradient_are_finite_at_extremes(dtype):
    head = posterior_head(DiagonalPosterior(), 2, dtype)
    p = prior_head(LaplacePrior(), 2, dtype)(None)
    for mean in (0.0, 1e4, -1e4):
        for log_scale in (-1e4, 0.0, 1e4):
            outputs = torch.tensor([[mean, mean, log_scale, log_scale]], dtype=dtype)
            q = head(outputs.requires_grad_())
            kl = p.kl(q)
            (gradient,) = torch.autograd.grad(kl.sum() + p.kl_per_component(q).sum(), outputs)
            assert torch.isfinite(kl).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize("variance", [0.0, -1.0, "1", None])
def test_impossible_variance_is_refused(variance):
    with pytest.raises(ValueError, match="variance"):
        prior_head(LaplacePrior(variance=variance), 2)
