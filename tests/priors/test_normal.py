"""The standard normal prior, against torch's normals."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from skvae.posteriors import DiagonalPosterior
from skvae.priors import StandardNormalPrior
from tests.helpers import posterior_head, prior_head


@pytest.fixture
def q():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    return posterior_head(DiagonalPosterior(), 3, torch.float64)(outputs)


def test_log_prob_is_that_of_independent_standard_normals():
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = prior_head(StandardNormalPrior(), 3)(None)
    torch.testing.assert_close(p.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1))


def test_kl_is_the_divergence_of_normals(q):
    p = prior_head(StandardNormalPrior(), 3)(None)
    scale = q.variance.sqrt()
    expected = kl_divergence(
        Normal(q.mean, scale), Normal(torch.zeros_like(scale), torch.ones_like(scale))
    )
    torch.testing.assert_close(p.kl_per_component(q), expected)
    torch.testing.assert_close(p.kl(q), expected.sum(-1))


def test_kl_is_zero_where_the_posterior_is_the_prior():
    head = posterior_head(DiagonalPosterior(), 3, torch.float64)
    q = head(head.outputs_at(torch.zeros(3, dtype=torch.float64)).expand(2, -1))
    p = prior_head(StandardNormalPrior(), 3)(None)
    torch.testing.assert_close(p.kl(q), torch.zeros(2).double(), rtol=0, atol=1e-15)
    assert torch.equal(p.kl_per_component(q), torch.zeros(2, 3).double())


def test_nothing_is_learned():
    head = prior_head(StandardNormalPrior(), 3)
    assert list(head.parameters()) == []
