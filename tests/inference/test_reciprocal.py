"""The reciprocal estimator (appendix D of Kingma and Welling, 2014), against exact answers."""

import numpy as np
import torch
from scipy import stats

from skvae.inference._reciprocal import FittedNormal, reciprocal_log_likelihood, reciprocal_mean
from tests.helpers import (
    assert_mean,
    batch_of,
    linear_gaussian_of,
    perturbed_,
    tight_linear_model,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_there_is_no_error_where_q_is_the_posterior_wherever_the_draws_are():
    model = tight_linear_model()
    exact = linear_gaussian_of(model)
    X = exact.sample(5)
    batch = batch_of(model, X)
    z = 3.0 * torch.randn(6, 4, 5, 2, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        q = model.posterior(batch)
        ratios = [q.log_prob(some) - sum(model.log_joint(batch, some)) for some in z]
    answer = reciprocal_mean(torch.stack(ratios))
    np.testing.assert_allclose(answer.value, exact.log_prob(X), rtol=1e-10)
    np.testing.assert_allclose(answer.standard_error, 0.0, atol=1e-8)
    np.testing.assert_allclose(answer.effective_sample_size, 24)


def test_reciprocals_are_unbiased_for_any_density():
    model = tight_linear_model()
    exact = linear_gaussian_of(model)
    X = exact.sample(3)
    batch = batch_of(model, X)
    mean, covariance = (torch.from_numpy(a) for a in exact.posterior(X))
    scale = covariance.diagonal().sqrt()
    noise = torch.randn(40_000, 3, 2, generator=generator(), dtype=torch.float64)
    z = mean + noise @ torch.linalg.cholesky(covariance).mT
    # Narrower than the posterior and off its centre; a wider one would have no variance.
    q = torch.distributions.Normal(mean + 0.4 * scale, 0.8 * scale)
    with torch.no_grad():
        log_ratio = q.log_prob(z).sum(-1) - sum(model.log_joint(batch, z))
    assert_mean((log_ratio + torch.from_numpy(exact.log_prob(X))).exp(), 1.0)


def test_fitted_normal_has_the_moments_of_the_draws_and_its_density():
    z = torch.randn(20_000, 3, 2, generator=generator(), dtype=torch.float64)
    z = z @ torch.tensor([[1.0, 2.0], [0.0, 0.3]], dtype=torch.float64) + 5.0
    normal = FittedNormal(z, torch.zeros(3, 2, dtype=torch.float64))
    points = z[:7] + 0.5
    for i in range(3):
        rows = z[:, i].numpy()
        expected = stats.multivariate_normal(rows.mean(0), np.cov(rows.T)).logpdf(points[:, i])
        np.testing.assert_allclose(normal.log_prob(points)[:, i], expected, atol=0.05)


def test_value_is_above_in_expectation_however_short_the_chains():
    """The draws that a normal is fitted to know nothing of those that it is used with."""
    model = perturbed_(tight_linear_model(6, 3), 0.3)
    exact = linear_gaussian_of(model)
    X = exact.sample(300)
    for n_chains, n_steps in ((4, 10), (8, 20)):
        answer = reciprocal_log_likelihood(
            model, batch_of(model, X), generator(), n_chains=n_chains, n_steps=n_steps
        )
        away = answer.value.numpy() - exact.log_prob(X)
        assert away.mean() > -3.0 * away.std() / np.sqrt(len(X))
        # Few chains tell little of how they differ, and the error bars know.
        assert np.mean(np.abs(away) < 2.0 * answer.standard_error.numpy()) > 0.85


def test_estimate_is_that_of_a_linear_model_within_its_error():
    # The encoder is off; the draws do not care.
    model = perturbed_(tight_linear_model(), 0.3)
    exact = linear_gaussian_of(model)
    X = exact.sample(200)
    answer = reciprocal_log_likelihood(
        model, batch_of(model, X), generator(), n_steps=60, n_burn_in=60
    )
    error = answer.value.numpy() - exact.log_prob(X)
    assert np.abs(error).max() < 0.3
    assert np.mean(np.abs(error) < 2.0 * answer.standard_error.numpy()) > 0.87
    assert answer.standard_error.max() < 0.15


def test_chains_that_do_not_move_leave_numbers():
    model = tight_linear_model()
    X = linear_gaussian_of(model).sample(3)
    X[1] = 1e200
    answer = reciprocal_log_likelihood(
        model, batch_of(model, X), generator(), n_chains=4, n_steps=10, n_burn_in=5
    )
    assert torch.isfinite(answer.value[[0, 2]]).all()
