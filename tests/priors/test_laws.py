"""What every prior promises."""

import numpy as np
import pytest
import torch

from skvae._core._normal import standard_normal_log_prob
from skvae.posteriors import DiagonalPosterior
from skvae.priors import DiagonalNormalPrior, FlowPrior, LaplacePrior, StandardNormalPrior
from tests.helpers import (
    assert_follows,
    assert_mean,
    draw,
    encode_with,
    moved,
    posterior_head,
    prior_head,
    real_line,
)
from tests.registry import POSTERIORS, PRIORS, each

every_prior = pytest.mark.parametrize("prior", each(PRIORS))
every_posterior = pytest.mark.parametrize("posterior", each(POSTERIORS))


def distribution(prior, n_latent):
    """Head and distribution, away from where training starts."""
    head = moved(prior_head(prior, n_latent)).requires_grad_(False)
    return head, head(encode_with(n_latent))


def noise(head, n_draws, n_rows):
    return draw(head.noise_spec(n_draws), n_rows)


def prior_noise(head, n_latent, n_draws, n_rows):
    """Noise for ``sample``, and where it is needed for the posterior that `encode_with` gives."""
    specs = head.noise_spec(n_draws)
    if head.needs_posterior_noise:
        specs = posterior_head(DiagonalPosterior(), n_latent).noise_spec(n_draws) | specs
    return draw(specs, n_rows)


# Of which posteriors a prior knows its divergence; other priors know it of none.
KNOWS = {
    StandardNormalPrior: lambda q: q.entropy() is not None,
    DiagonalNormalPrior: lambda q: q.entropy() is not None,
    LaplacePrior: lambda q: q.entropy() is not None and q.has_normal_marginals,
}


def closed_form(prior, p, q):
    """The divergence, where the prior is to know it; a test has nothing to say elsewhere."""
    known = type(prior) in KNOWS and KNOWS[type(prior)](q)
    kl = p.kl(q)
    assert (kl is not None) == known
    if kl is None:
        pytest.skip("no closed form")
    return kl


def some_posterior(posterior, n_latent, n_rows=3, *, seed=0):
    head = moved(posterior_head(posterior, n_latent)).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    outputs = 0.7 * torch.randn(n_rows, head.n_outputs, generator=generator, dtype=torch.float64)
    return head, head(outputs)


# Wide enough for a Laplace density of variance 4, with a kink at a node between two parabolas.
GRID = torch.linspace(-40.0, 40.0, 80_001, dtype=torch.float64).view(-1, 1, 1)
STEP = float(GRID[1] - GRID[0])


def integral(values):
    """Simpson's rule over the grid, along the first axis."""
    ends, odd, even = values[0] + values[-1], values[1::2].sum(0), values[2:-1:2].sum(0)
    return STEP / 3.0 * (ends + 4.0 * odd + 2.0 * even)


@every_prior
def test_density_is_normalised(prior):
    _, p = distribution(prior, 1)
    # A spline has kinks.
    tolerance = 1e-6 if isinstance(prior, FlowPrior) else 1e-9
    assert float(integral(p.log_prob(GRID).exp())) == pytest.approx(1.0, abs=tolerance)


@every_prior
def test_draws_follow_the_density(prior):
    head, p = distribution(prior, 1)
    z = p.sample(prior_noise(head, 1, 20_000, 1))
    mass = p.log_prob(GRID).exp().flatten() * STEP
    assert_follows(z.flatten().numpy(), GRID.flatten().numpy(), mass.cumsum(0).numpy())


@every_prior
def test_shapes(prior):
    head, p = distribution(prior, 3)
    z = p.sample(prior_noise(head, 3, 5, 4))
    assert z.shape == (5, 4, 3)
    assert p.log_prob(z).shape == (5, 4)
    # z with no coordinates is certain.
    head, nothing = distribution(prior, 0)
    assert nothing.sample(prior_noise(head, 0, 5, 4)).shape == (5, 4, 0)
    torch.testing.assert_close(
        nothing.log_prob(z[..., :0]), z.new_zeros(5, 4), rtol=0.0, atol=1e-14
    )


@every_prior
@every_posterior
def test_kl_matches_quadrature(prior, posterior):
    _, p = distribution(prior, 1)
    _, q = some_posterior(posterior, 1)
    kl = closed_form(prior, p, q)
    z, width = real_line()
    z = z.expand(-1, 3, -1)
    log_q = q.log_prob(z)
    density = log_q.exp()
    log_ratio = torch.where(density > 0.0, log_q - p.log_prob(z), 0.0)
    expected = (density * log_ratio * width).sum(0)
    torch.testing.assert_close(kl, expected, rtol=1e-6, atol=1e-6)


@every_prior
@every_posterior
def test_kl_matches_draws(prior, posterior):
    _, p = distribution(prior, 3)
    head, q = some_posterior(posterior, 3)
    kl = closed_form(prior, p, q)
    z, log_q = q.rsample_and_log_prob(noise(head, 20_000, 3))
    assert kl.shape == (3,)
    assert_mean(log_q - p.log_prob(z), kl)


@every_prior
@every_posterior
def test_kl_is_not_negative(prior, posterior):
    _, p = distribution(prior, 3)
    _, q = some_posterior(posterior, 3, 500)
    kl = closed_form(prior, p, q)
    assert (kl > 0).all()


@every_prior
@every_posterior
def test_components_of_the_kl_are_not_negative_and_those_of_independent_variables_add_up(
    prior, posterior
):
    _, p = distribution(prior, 3)
    _, q = some_posterior(posterior, 3, 500)
    components = p.kl_per_component(q)
    assert (components is not None) == (type(prior) in KNOWS and q.has_normal_marginals)
    if components is None:
        pytest.skip("does not split")
    assert components.shape == (500, 3)
    assert (components >= 0).all()
    # The divergence of the joint is at least that of its marginals from an independent prior.
    assert (components.sum(-1) <= p.kl(q) + 1e-10).all()


@every_prior
@pytest.mark.parametrize("n_latent", [1, 10])
def test_what_linear_starts_take_for_a_standard_normal_is_near_one(prior, n_latent):
    head = prior_head(prior, n_latent).requires_grad_(False)
    if not head.starts_standard:
        pytest.skip("has no linear start")
    p = head(encode_with(n_latent))
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 1, n_latent, generator=generator, dtype=torch.float64)
    divergence = (standard_normal_log_prob(z) - p.log_prob(z)).mean() / n_latent
    assert divergence < 0.2


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
