"""What every posterior promises."""

import numpy as np
import pytest
import torch

from skvae.posteriors import FlowPosterior
from tests.helpers import assert_follows, assert_mean, draw, moved, posterior_head, real_line
from tests.registry import POSTERIORS, each

every_posterior = pytest.mark.parametrize("posterior", each(POSTERIORS))

N_ROWS = 3


def build(posterior, n_latent=2, n_rows=N_ROWS, *, dtype=torch.float64, seed=0):
    """Head and encoder outputs for some rows."""
    head = moved(posterior_head(posterior, n_latent, dtype)).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n_rows, head.n_outputs, generator=generator, dtype=torch.float64)
    return head, (0.7 * outputs).to(dtype)


def noise(head, n_draws, n_rows=N_ROWS, *, dtype=torch.float64):
    return draw(head.noise_spec(n_draws), n_rows, dtype=dtype)


@every_posterior
def test_density_is_normalised(posterior):
    head, outputs = build(posterior, 1)
    z, width = real_line()
    density = head(outputs).log_prob(z.expand(-1, N_ROWS, -1)).exp()
    # The sum is less exact where the density has kinks, as splines have.
    np.testing.assert_allclose((density * width).sum(0), 1.0, rtol=1e-5)


@every_posterior
def test_moments_and_entropy_match_the_density(posterior):
    head, outputs = build(posterior, 1)
    q = head(outputs)
    z, width = real_line()
    log_prob = q.log_prob(z)
    mass = log_prob.exp() * width
    # A flow estimates its moments from a few points.
    rough = isinstance(posterior, FlowPosterior)
    mean = (mass * z[..., 0]).sum(0)
    np.testing.assert_allclose(mean, q.mean[:, 0], rtol=1e-6, atol=0.1 if rough else 1e-6)
    variance = (mass * (z[..., 0] - mean).square()).sum(0)
    np.testing.assert_allclose(variance, q.variance[:, 0], rtol=0.2 if rough else 1e-6)
    entropy = q.entropy()
    if entropy is not None:
        expected = -(mass * log_prob.clamp_min(-1e30)).sum(0)
        np.testing.assert_allclose(entropy, expected, rtol=1e-6, atol=1e-6)


@every_posterior
def test_draws_follow_the_density(posterior):
    head, outputs = build(posterior, 1)
    q = head(outputs)
    draws = q.rsample(noise(head, 20_000))
    z = torch.linspace(-40.0, 40.0, 80_001, dtype=torch.float64).view(-1, 1, 1)
    cumulative = q.log_prob(z.expand(-1, N_ROWS, -1)).exp().cumsum(0) * 1e-3
    for row in range(N_ROWS):
        assert_follows(draws[:, row, 0].numpy(), z.flatten().numpy(), cumulative[:, row].numpy())


@every_posterior
def test_moments_match_draws(posterior):
    head, outputs = build(posterior)
    q = head(outputs)
    draws = q.rsample(noise(head, 20_000))
    assert draws.shape == (20_000, N_ROWS, 2)
    assert q.mean.shape == q.variance.shape == (N_ROWS, 2)
    if q.moments_are_exact:
        assert_mean(draws, q.mean)
        assert_mean((draws - q.mean).square(), q.variance)
    else:
        error = (draws.mean(0) - q.mean) / draws.std(0)
        assert error.abs().max() < 0.1
        assert (q.variance / draws.var(0)).log().abs().max() < 0.3


@every_posterior
def test_expected_inverse_density_ratio_is_one(posterior):
    # E_q[r(z) / q(z)] = 1 for any density r, here one narrower than q: joint normalisation in
    # more than one dimension, and agreement of the draws with the density.
    head, outputs = build(posterior, 3)
    q = head(outputs)
    z, log_q = q.rsample_and_log_prob(noise(head, 50_000))
    scale = 0.5 * q.variance.sqrt()
    log_r = torch.distributions.Normal(q.mean, scale).log_prob(z).sum(-1)
    assert_mean((log_r - log_q).exp(), 1.0)


@every_posterior
def test_entropy_matches_draws(posterior):
    head, outputs = build(posterior, 3)
    q = head(outputs)
    entropy = q.entropy()
    if entropy is None:
        pytest.skip("no closed form")
    assert entropy.shape == (N_ROWS,)
    assert_mean(-q.log_prob(q.rsample(noise(head, 20_000))), entropy)


@every_posterior
def test_draws_and_their_log_prob_at_once_equal_one_after_the_other(posterior):
    head, outputs = build(posterior)
    outputs.requires_grad_()
    q, eps = head(outputs), noise(head, 5)
    z, log_prob = q.rsample_and_log_prob(eps)
    expected = q.log_prob(q.rsample(eps))
    torch.testing.assert_close(z, q.rsample(eps), rtol=0, atol=0)
    torch.testing.assert_close(log_prob, expected)
    (gradient,) = torch.autograd.grad(log_prob.sum(), outputs, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), outputs)
    torch.testing.assert_close(gradient, expected_gradient)


@every_posterior
def test_gradients_match_finite_differences(posterior):
    head, outputs = build(posterior)
    outputs.requires_grad_()
    eps = noise(head, 2)
    z = head(outputs).rsample(eps).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: head(o).rsample(eps), (outputs,))
    assert torch.autograd.gradcheck(lambda o, v: head(o).log_prob(v), (outputs, z))
    if head(outputs).entropy() is not None:
        assert torch.autograd.gradcheck(lambda o: head(o).entropy(), (outputs,))


@every_posterior
def test_detach_holds_the_parameters_and_keeps_the_path_through_z(posterior):
    head, outputs = build(posterior)
    outputs.requires_grad_()
    q, eps = head(outputs), noise(head, 4)
    held = q.detach()
    z = q.rsample(eps)
    torch.testing.assert_close(held.log_prob(z), q.log_prob(z), rtol=0, atol=0)
    assert not held.mean.requires_grad and not held.variance.requires_grad
    # The whole derivative is the one through z plus the one through the parameters.
    (whole,) = torch.autograd.grad(q.log_prob(z).sum(), outputs, retain_graph=True)
    (through_z,) = torch.autograd.grad(held.log_prob(z).sum(), outputs, retain_graph=True)
    (through_parameters,) = torch.autograd.grad(q.log_prob(z.detach()).sum(), outputs)
    assert through_z.abs().max() > 0.1
    torch.testing.assert_close(whole, through_z + through_parameters)


@every_posterior
def test_detach_holds_the_parameters_of_the_head(posterior):
    _, outputs = build(posterior)
    head = moved(posterior_head(posterior, 2))
    own, eps = list(head.parameters()), noise(head, 4)
    if not own:
        return
    z = head(outputs).rsample(eps).detach().requires_grad_()
    held = head(outputs).detach()
    through_z, *through_own = torch.autograd.grad(
        held.log_prob(z).sum(), (z, *own), allow_unused=True
    )
    assert through_z.abs().max() > 0.1
    assert all(g is None for g in through_own)
    free = torch.autograd.grad(head(outputs).log_prob(z).sum(), own)
    assert all((g != 0).any() for g in free)


@every_posterior
def test_expected_score_is_zero(posterior):
    n_draws = 20_000
    head, outputs = build(posterior, n_rows=1)
    outputs = outputs.expand(n_draws, -1).clone().requires_grad_()
    q = head(outputs)
    z = q.rsample(noise(head, 1, n_draws)).detach()
    (score,) = torch.autograd.grad(q.log_prob(z).sum(), outputs)
    assert_mean(score, 0.0)
    assert (score.std(0) > 0).all()


@every_posterior
def test_noise_may_be_shared_by_all_rows(posterior):
    head, outputs = build(posterior)
    q, shared = head(outputs), noise(head, 5, 1)
    repeated = {k: v.expand(-1, N_ROWS, *v.shape[2:]) for k, v in shared.items()}
    for one, other in zip(
        q.rsample_and_log_prob(shared), q.rsample_and_log_prob(repeated), strict=True
    ):
        torch.testing.assert_close(one, other)


@every_posterior
def test_points_under_each_row_are_pairs_one_after_the_other(posterior):
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        head, outputs = build(posterior, 3, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        for scale in (1.0, 1e-3, 100.0):  # as far apart and far out as encoders place rows
            q = head((scale * outputs).requires_grad_())
            z = torch.randn(7, 3, generator=generator, dtype=torch.float64).to(dtype)
            answer = q.log_prob_of_each(z)
            assert answer.dtype == dtype
            expected = q.log_prob(z.unsqueeze(1).expand(-1, N_ROWS, -1))
            torch.testing.assert_close(answer, expected, rtol=tolerance, atol=tolerance)
    head, outputs = build(posterior, 0)
    nothing = head(outputs).log_prob_of_each(outputs.new_zeros(7, 0))
    torch.testing.assert_close(nothing, outputs.new_zeros(7, N_ROWS), rtol=0, atol=1e-14)


@every_posterior
def test_points_under_each_row_have_gradients_of_finite_differences(posterior):
    head, outputs = build(posterior)
    # Near the posteriors: further out some densities fall like exp(-exp(z)).
    z = 0.5 * torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    arguments = (outputs.requires_grad_(), z.requires_grad_())
    assert torch.autograd.gradcheck(lambda o, v: head(o).log_prob_of_each(v), arguments)


@every_posterior
def test_rows_do_not_mix(posterior):
    head, outputs = build(posterior)
    eps = noise(head, 5)
    z, log_prob = head(outputs).rsample_and_log_prob(eps)
    alone = {k: v[:, 1:2] for k, v in eps.items()}
    z_alone, log_prob_alone = head(outputs[1:2]).rsample_and_log_prob(alone)
    torch.testing.assert_close(z_alone, z[:, 1:2])
    torch.testing.assert_close(log_prob_alone, log_prob[:, 1:2])


@every_posterior
def test_outputs_at_place_means_at_zero_and_the_given_scales(posterior):
    head = posterior_head(posterior, 2)  # at its start
    log_scale = torch.tensor([-3.0, 0.5], dtype=torch.float64)
    q = head(head.outputs_at(log_scale).expand(N_ROWS, -1))
    torch.testing.assert_close(q.mean, torch.zeros(N_ROWS, 2).double())
    torch.testing.assert_close(q.variance, (2 * log_scale).exp().expand(N_ROWS, -1))


@every_posterior
def test_no_latent_variable_is_a_certainty(posterior):
    head, outputs = build(posterior, 0)
    q = head(outputs)
    z, log_prob = q.rsample_and_log_prob(noise(head, 4))
    assert z.shape == (4, N_ROWS, 0)
    assert torch.equal(log_prob.expand(4, N_ROWS), torch.zeros(4, N_ROWS).double())
    assert log_prob.shape == (4, N_ROWS)


@every_posterior
def test_marginals_are_normal_where_it_says_so(posterior):
    """Then draws have no skewness and no excess kurtosis; of other shapes, a flow's may be any."""
    head, outputs = build(posterior)
    q = head(outputs)
    draws = q.rsample(noise(head, 200_000))
    standard = ((draws - q.mean) / q.variance.sqrt()).flatten(1)
    if q.has_normal_marginals:
        assert_mean(standard**3, 0.0)
        assert_mean(standard**4, 3.0)
    elif not isinstance(posterior, FlowPosterior):
        skewness, kurtosis = (standard**3).mean(0), (standard**4).mean(0)
        assert ((skewness.abs() > 0.3) | ((kurtosis - 3.0).abs() > 0.3)).all()


@every_posterior
def test_nothing_that_encoders_say_is_without_effect(posterior):
    """Where all outputs are 0, and where linear models start, the bound pulls at each of them."""
    head, outputs = build(posterior)
    generator = torch.Generator().manual_seed(1)
    eps = noise(head, 3)
    pull = torch.randn(3, N_ROWS, 2, generator=generator, dtype=torch.float64)
    for start in (outputs[0] * 0, head.outputs_at(torch.tensor([-1.0, 0.3]).double())):
        at = start.repeat(N_ROWS, 1).requires_grad_()
        z, log_prob = head(at).rsample_and_log_prob(eps)
        (gradient,) = torch.autograd.grad((z * pull).sum() + log_prob.sum(), at)
        assert (gradient.abs() > 1e-5).all()


@every_posterior
def test_extreme_outputs_give_finite_answers(posterior):
    for dtype in (torch.float32, torch.float64):
        head, outputs = build(posterior, dtype=dtype)
        for extreme in (-1e4, 1e4):
            far = (outputs * 0 + extreme).requires_grad_()
            q = head(far)
            z, log_prob = q.rsample_and_log_prob(noise(head, 3, dtype=dtype))
            assert torch.isfinite(z).all() and torch.isfinite(log_prob).all()
            (gradient,) = torch.autograd.grad(log_prob.sum() + z.sum(), far)
            assert torch.isfinite(gradient).all()


@every_posterior
def test_mean_is_the_location_where_it_says_so(posterior):
    head, outputs = build(posterior)
    if head.mean_is_location:
        torch.testing.assert_close(head(outputs).mean, outputs[..., : head.n_location_outputs])
