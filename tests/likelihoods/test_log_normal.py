"""The log-normal likelihood is the normal one of the logarithms, in the units of the columns."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae import VariationalAutoencoder
from skvae.likelihoods import LogNormalLikelihood
from tests.estimators.small import STILL_RISING
from tests.registry import draw_outputs

RNG = np.random.default_rng(0)
LOGS = RNG.normal(size=(300, 1)) * [0.5, -1.0, 0.2, 0.7] + 0.3 * RNG.normal(size=(300, 4))
X = np.exp(LOGS + [0.0, 5.0, -3.0, 1.0])


@pytest.mark.parametrize("noise", ["per_feature", "shared", "predicted", 0.1])
def test_density_and_mean_are_those_of_scipy(noise):
    likelihood = LogNormalLikelihood(noise=noise)
    head = likelihood.build(likelihood.summarize(X), torch.float64)
    params = head.params_from(draw_outputs(head, 2, 300))
    with torch.no_grad():
        scale, location = head.scale.numpy(), head.location.numpy()
        mean = params.mean.numpy() * scale + location
        deviation = np.exp(params.log_scale.numpy()) * scale
        law = stats.lognorm(deviation, scale=np.exp(mean))
        answer = head.log_prob_columns(params, head.standardize(torch.from_numpy(X)))
        np.testing.assert_allclose(answer, law.logpdf(X), rtol=1e-10, atol=1e-10)
        answer = head.from_expectation(head.expectation(params))
        np.testing.assert_allclose(answer, law.mean(), rtol=1e-10)
    if noise == 0.1:  # of the logarithms
        np.testing.assert_allclose(deviation, np.sqrt(0.1))


@pytest.mark.filterwarnings(STILL_RISING)
@pytest.mark.parametrize("max_iter", [1, 20])
def test_fit_is_that_of_a_gaussian_model_of_the_logarithms(max_iter):
    settings = {"max_iter": max_iter, "random_state": 0}
    own = VariationalAutoencoder(1, likelihood="log_normal", **settings).fit(X)
    normal = VariationalAutoencoder(1, **settings).fit(np.log(X))
    expected = normal.score_samples(np.log(X)) - np.log(X).sum(axis=1)
    np.testing.assert_allclose(own.score_samples(X), expected, atol=1e-4)
    np.testing.assert_allclose(own.transform(X), normal.transform(np.log(X)), atol=1e-4)


def test_mean_of_the_columns_is_that_of_the_columns():
    vae = VariationalAutoencoder(0, likelihood="log_normal").fit(X)
    np.testing.assert_allclose(vae.mean_, X.mean(axis=0))
    assert not hasattr(vae, "noise_variance_")


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_units_do_not_matter(unit):
    plain, scaled = (
        VariationalAutoencoder(0, likelihood="log_normal").fit(rows).score(rows)
        for rows in (X, X * unit)
    )
    assert scaled == pytest.approx(plain - 4 * np.log(unit), abs=1e-3)
