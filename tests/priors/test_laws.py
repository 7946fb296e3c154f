"""What every prior promises."""

import numpy as np
import pytest
import torch

from tests.helpers import (
    assert_follows,
    assert_mean,
    draw,
    encode_with,
    moved,
    posterior_head,
    prior_head,
)
from tests.registry import POSTERIORS, PRIORS, each

every_prior = pytest.mark.parametrize("prior", each(PRIORS))
every_posterior = pytest.mark.parametrize("posterior", each(POSTERIORS))


def distribution(prior, n_latent):
    head = moved(prior_head(prior, n_latent)).requires_grad_(False)
    return head, head(encode_with(n_latent))


def noise(head, n_draws, n_rows):
    return draw(head.noise_spec(n_draws), n_rows)


def some_posterior(posterior, n_latent, n_rows=3, *, seed=0):
    head = moved(posterior_head(posterior, n_latent)).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    outputs = 0.7 * torch.randn(n_rows, head.n_outputs, generator=generator, dtype=torch.float64)
    return head, head(outputs)


GRID = torch.linspace(-30.0, 30.0, 60_001, dtype=torch.float64).view(-1, 1, 1)
STEP = float(GRID[1] - GRID[0])


@every_prior
def test_density_is_normalised(prior):
    _, p = distribution(prior, 1)
    assert float(p.log_prob(GRID).exp().sum() * STEP) == pytest.approx(1.0, abs=1e-6)


@every_prior
def test_draws_follow_the_density(prior):
    head, p = distribution(prior, 1)
    z = p.sample(noise(head, 20_000, 1))
    mass = p.log_prob(GRID).exp().flatten() * STEP
    assert_follows(z.flatten().numpy(), GRID.flatten().numpy(), mass.cumsum(0).numpy())


@every_prior
def test_shapes(prior):
    head, p = distribution(prior, 3)
    z = p.sample(noise(head, 5, 4))
    assert z.shape == (5, 4, 3)
    assert p.log_prob(z).shape == (5, 4)
    # z with no coordinates is certain.
    _, nothing = distribution(prior, 0)
    assert torch.equal(nothing.log_prob(z[..., :0]), z.new_zeros(5, 4))


@every_prior
@every_posterior
def test_kl_matches_quadrature(prior, posterior):
    _, p = distribution(prior, 1)
    _, q = some_posterior(posterior, 1)
    kl = p.kl(q)
    if kl is None:
        pytest.skip("no closed form")
    z = GRID.expand(-1, 3, -1)
    log_q = q.log_prob(z)
    expected = (log_q.exp() * (log_q - p.log_prob(z))).sum(0) * STEP
    torch.testing.assert_close(kl, expected, rtol=1e-7, atol=1e-9)


@every_prior
@every_posterior
def test_kl_matches_draws(prior, posterior):
    _, p = distribution(prior, 3)
    head, q = some_posterior(posterior, 3)
    kl = p.kl(q)
    if kl is None:
        pytest.skip("no closed form")
    z, log_q = q.rsample_and_log_prob(noise(head, 20_000, 3))
    assert kl.shape == (3,)
    assert_mean(log_q - p.log_prob(z), kl)


@every_prior
@every_posterior
def test_kl_is_not_negative(prior, posterior):
    _, p = distribution(prior, 3)
    _, q = some_posterior(posterior, 3, 500)
    kl = p.kl(q)
    if kl is None:
        pytest.skip("no closed form")
    assert (kl > 0).all()


@every_prior
@every_posterior
def test_components_of_the_kl_are_not_negative_and_those_of_independent_variables_add_up(
    prior, posterior
):
    _, p = distribution(prior, 3)
    _, q = some_posterior(posterior, 3, 500)
    components = p.kl_per_component(q)
    if components is None:
        pytest.skip("does not split")
    assert components.shape == (500, 3)
    assert (components >= 0).all()
    # The divergence of the joint is at least that of its marginals from an independent prior.
    assert (components.sum(-1) <= p.kl(q) + 1e-10).all()


@every_prior
def test_answers_are_differentiable_in_z(prior):
    _, p = distribution(prior, 2)
    z = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(p.log_prob, (z.requires_grad_(),))


@every_prior
def test_dtype_follows_the_draws(prior):
    z = torch.zeros(1, 1, 2)
    single, double = (
        prior_head(prior, 2, dtype)(encode_with(2, dtype)).log_prob(z.to(dtype)).detach()
        for dtype in (torch.float32, torch.float64)
    )
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.double(), double, rtol=1e-5)
