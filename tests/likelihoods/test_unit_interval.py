"""Likelihoods of values between 0 and 1: continuous Bernoulli, Beta, sigmoid Gaussian."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import ContinuousBernoulli

from skvae import VariationalAutoencoder
from skvae.exceptions import SupportError
from skvae.likelihoods import (
    BetaLikelihood,
    ContinuousBernoulliLikelihood,
    SigmoidGaussianLikelihood,
)
from skvae.likelihoods._continuous_bernoulli import NEAR, log_partition, logits_of, mean_of
from tests.registry import draw_outputs

RNG = np.random.default_rng(0)
X = RNG.beta([0.8, 4.0, 30.0], [2.0, 1.5, 10.0], size=(500, 3))


def head_for(component, X=X, dtype=torch.float64):
    return component.build(component.summarize(X), dtype)


# -- continuous Bernoulli ------------------------------------------------------------------------

# 0, next to it, on either side of where the series ends, and far out.
LOGITS = np.array([0.0, 1e-9, 1e-4, 0.1, NEAR - 1e-6, NEAR + 1e-6, 3.0, 30.0, 1e4])
LOGITS = np.concatenate([LOGITS, -LOGITS])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=str
)
def test_normaliser_and_its_gradient_are_exact_near_one_half_and_far_out(dtype, tolerance):
    logits = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    value = log_partition(logits)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    value, logits = value.detach(), logits.detach()
    for one, found, gradient, mean in zip(
        logits.tolist(), value, slope, mean_of(logits), strict=True
    ):
        # Integrals of exp(l (x - 1/2)), from its larger end.
        size = abs(one)
        ends = {"limit": 200, "epsabs": 0.0, "epsrel": 1e-13, "points": [min(1.0, 5 / (size + 1))]}
        mass, _ = integrate.quad(lambda t, s=size: np.exp(-s * t), 0.0, 1.0, **ends)
        first, _ = integrate.quad(lambda t, s=size: t * np.exp(-s * t), 0.0, 1.0, **ends)
        exact = 1.0 - first / mass if one > 0 else first / mass
        expected = 0.5 * size + np.log(mass)
        assert float(found) == pytest.approx(expected, rel=tolerance, abs=tolerance)
        assert float(gradient) == pytest.approx(exact - 0.5, abs=tolerance)
        assert float(mean) == pytest.approx(exact, rel=10 * tolerance)


def test_continuous_bernoulli_agrees_with_torch_where_that_is_exact():
    head = head_for(ContinuousBernoulliLikelihood())
    outputs = 3.0 + draw_outputs(head, 2, 500).abs()
    x = torch.from_numpy(X)
    law = ContinuousBernoulli(logits=outputs)
    torch.testing.assert_close(head.log_prob_columns(head.params_from(outputs), x), law.log_prob(x))
    torch.testing.assert_close(head.expectation(head.params_from(outputs)), law.mean)


def test_logits_of_a_mean_are_its_inverse():
    mean = np.array([1e-7, 0.01, 0.3, 0.5 - 1e-9, 0.5, 0.9, 1.0 - 1e-6])
    np.testing.assert_allclose(mean_of(torch.from_numpy(logits_of(mean))), mean, rtol=1e-9)


def test_intensities_at_the_ends_are_in_the_support():
    ends = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    vae = VariationalAutoencoder(0, likelihood="continuous_bernoulli").fit(ends)
    assert np.isfinite(vae.score_samples(ends)).all()


# -- Beta ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [-3.0, 0.0, 6.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_beta_density_is_that_of_scipy(dtype, tolerance, change):
    head = head_for(BetaLikelihood(), dtype=dtype)
    with torch.no_grad():
        head.log_precision_change.fill_(change)
        params = head.params_from(draw_outputs(head, 2, 500))
        answer = head.log_prob_columns(params, head.standardize(torch.from_numpy(X)).to(dtype))
    mean = torch.sigmoid(params.logits.double()).numpy()
    precision = np.exp(params.log_precision.detach().double().numpy())
    exact = stats.beta.logpdf(X, mean * precision, (1.0 - mean) * precision)
    np.testing.assert_allclose(answer, exact, rtol=tolerance, atol=20 * tolerance)


def test_beta_starts_at_maximum_likelihood():
    vae = VariationalAutoencoder(0, likelihood="beta").fit(X)
    exact = [stats.beta.logpdf(c, *stats.beta.fit(c, floc=0, fscale=1)).mean() for c in X.T]
    assert vae.score(X) == pytest.approx(sum(exact), abs=1e-3)


def test_values_next_to_the_ends_keep_their_digits():
    tiny = np.array([[1e-12], [1e-9], [1e-6], [1e-3]])
    head = head_for(BetaLikelihood(), tiny, torch.float32)
    x = head.standardize(torch.from_numpy(tiny)).float()
    np.testing.assert_allclose(head.unstandardize(x.double()), tiny, rtol=1e-4)
    draws = head.sample(
        head.params_from(torch.full((1000, 1, 1), 50.0)), torch.Generator().manual_seed(0)
    )
    BetaLikelihood().check_support(head.unstandardize(draws).detach()[:, 0].numpy())


# -- sigmoid Gaussian ----------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["per_feature", "shared", "predicted", 0.02])
def test_sigmoid_gaussian_is_the_normal_density_around_a_sigmoid(noise):
    head = head_for(SigmoidGaussianLikelihood(noise=noise))
    outputs = 3.0 * draw_outputs(head, 2, 500)
    with torch.no_grad():
        params = head.params_from(outputs)
        mean = torch.sigmoid(outputs[..., :3])
        torch.testing.assert_close(head.from_expectation(head.expectation(params)), mean)
        scale = head.noise_variance(params).sqrt()
        answer = head.log_prob_columns(params, head.standardize(torch.from_numpy(X)))
    np.testing.assert_allclose(answer, stats.norm.logpdf(X, mean, scale), rtol=1e-9, atol=1e-9)


def test_columns_that_no_sigmoid_reaches_are_refused():
    with pytest.raises(ValueError, match=r"means lie in \[0, 1\]; column 1 has mean .* Rescale X"):
        VariationalAutoencoder(1, likelihood="sigmoid_gaussian").fit(X * [1.0, 255.0, 1.0])


def test_draws_of_a_sigmoid_gaussian_can_be_scored():
    vae = VariationalAutoencoder(1, likelihood="sigmoid_gaussian", max_iter=300, random_state=0)
    vae.fit(X)
    draws = vae.sample(500, random_state=0)
    assert draws.min() < 0.0 or draws.max() > 1.0
    assert np.isfinite(vae.score_samples(draws)).all()


# -- what to use instead -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("likelihood", "value", "instead"),
    [
        ("beta", 0.0, 'likelihood="continuous_bernoulli"'),
        ("continuous_bernoulli", 1.5, 'likelihood="gaussian"'),
        ("log_normal", 0.0, 'likelihood="gaussian"'),
        ("negative_binomial", 0.5, 'likelihood="gaussian"'),
    ],
)
def test_refusal_says_what_to_use_instead(likelihood, value, instead):
    rows = np.full((4, 2), 1.0 if likelihood == "negative_binomial" else 0.5)
    rows[2, 1] = value
    with pytest.raises(SupportError, match=f"column 1 holds {value} in row 2.*{instead}"):
        VariationalAutoencoder(1, likelihood=likelihood).fit(rows)
