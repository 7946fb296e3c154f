"""The learned diagonal prior, against torch's normals."""

import torch
from torch.distributions import Normal, kl_divergence

from skvae.posteriors import DiagonalPosterior
from skvae.priors import DiagonalNormalPrior, StandardNormalPrior
from tests.helpers import posterior_head, prior_head

MEAN = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
LOG_SCALE = torch.tensor([-1.0, 0.3, 0.7], dtype=torch.float64)


def learned():
    head = prior_head(DiagonalNormalPrior(), 3).requires_grad_(False)
    head.mean.copy_(MEAN)
    head.log_scale.copy_(LOG_SCALE)
    return head


def test_it_starts_as_the_standard_normal():
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    started, standard = (
        prior_head(prior, 3)(None) for prior in (DiagonalNormalPrior(), StandardNormalPrior())
    )
    torch.testing.assert_close(started.log_prob(z), standard.log_prob(z))


def test_log_prob_is_that_of_independent_normals():
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = Normal(MEAN, LOG_SCALE.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(learned()(None).log_prob(z), expected)


def test_kl_is_the_divergence_of_normals():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    q = posterior_head(DiagonalPosterior(), 3)(outputs)
    expected = kl_divergence(Normal(q.mean, q.variance.sqrt()), Normal(MEAN, LOG_SCALE.exp()))
    p = learned()(None)
    torch.testing.assert_close(p.kl_per_component(q), expected)
    torch.testing.assert_close(p.kl(q), expected.sum(-1))


def test_kl_is_zero_where_the_posterior_is_the_prior():
    q = posterior_head(DiagonalPosterior(), 3)(torch.cat([MEAN, LOG_SCALE]).expand(2, -1))
    p = learned()(None)
    torch.testing.assert_close(p.kl(q), torch.zeros(2).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(
        p.kl_per_component(q), torch.zeros(2, 3).double(), rtol=0, atol=1e-15
    )
