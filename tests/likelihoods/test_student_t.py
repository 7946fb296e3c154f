"""Student's t: densities, marginals that outliers do not move, degrees of freedom."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae import VariationalAutoencoder
from skvae.likelihoods import StudentTLikelihood
from skvae.likelihoods._student_t import MARGINAL_DF, fit_t
from tests.registry import draw_outputs

RNG = np.random.default_rng(0)
X = RNG.standard_t([2.5, 4.0, 20.0], size=(2000, 3)) * [0.1, 1.0, 30.0] + [1e3, 0.0, -5.0]


def head_for(X=X, dtype=torch.float64, **parameters):
    likelihood = StudentTLikelihood(**parameters)
    return likelihood.build(likelihood.summarize(X), dtype)


@pytest.mark.parametrize("df", ["per_feature", 2.1, 7.0, 1e6])
def test_density_is_that_of_scipy(df):
    head = head_for(df=df)
    params = head.params_from(draw_outputs(head, 2, 50))
    with torch.no_grad():
        answer = head.log_prob_columns(params, head.standardize(torch.from_numpy(X[:50])))
        location = head.from_expectation(head.expectation(params)).numpy()
        scale = (torch.exp(params.log_scale) * head.scale).numpy()
        variance = head.noise_variance(params).numpy()
        nu = params.df.numpy()
    np.testing.assert_allclose(answer, stats.t.logpdf(X[:50], nu, location, scale), atol=1e-7)
    np.testing.assert_allclose(variance, stats.t.var(nu, scale=scale), rtol=1e-7)


def test_many_degrees_of_freedom_do_not_cost_float32_its_digits():
    t = torch.linspace(-4.0, 4.0, 9).reshape(-1, 1)
    head = head_for(t.numpy(), torch.float32, df=1e6)
    with torch.no_grad():
        params = head.params_from(torch.zeros(1, 9, 1))
        answer = head.log_prob_columns(params, t)[0, :, 0].double() + torch.log(head.scale)
    np.testing.assert_allclose(answer, stats.norm.logpdf(t[:, 0].numpy()), atol=2e-4)


def test_marginals_are_those_of_maximum_likelihood():
    for column in X.T:
        location, scale, df = fit_t(column)
        at = stats.t.logpdf(column, df, location, scale).sum()
        exact = stats.t.fit(column)
        assert at > stats.t.logpdf(column, *exact).sum() - 1e-3
    location, scale, df = fit_t(X[:, 1], 4.0)
    assert df == 4.0
    at = stats.t.logpdf(X[:, 1], 4.0, location, scale).sum()
    assert at > stats.t.logpdf(X[:, 1], 4.0, *stats.t.fit(X[:, 1], f0=4.0)[1:]).sum() - 1e-3


def test_a_gross_outlier_moves_neither_units_nor_features():
    spoiled = X.copy()
    spoiled[7] = 1e12
    plain, head = head_for(), head_for(spoiled)
    np.testing.assert_allclose(head.location, plain.location, atol=0.01 * plain.scale.max())
    np.testing.assert_allclose(head.scale, plain.scale, rtol=0.2)
    features = head.features(head.standardize(torch.from_numpy(spoiled)), None)
    assert features.abs().max() < 40.0


@pytest.mark.parametrize("scale", [1e-150, 1e-20, 1e20, 1e150])
def test_extreme_units_change_the_density_by_the_jacobian_only(scale):
    plain, scaled = head_for(), head_for(X * scale)
    outputs = draw_outputs(plain, 1, 50)
    with torch.no_grad():
        answers = [
            head.log_prob_columns(head.params_from(outputs), head.standardize(torch.from_numpy(x)))
            for head, x in ((plain, X[:50]), (scaled, X[:50] * scale))
        ]
    torch.testing.assert_close(answers[1], answers[0] - np.log(scale), rtol=1e-5, atol=1e-4)


def test_residuals_are_normal_scores():
    head = head_for(stats.t.ppf((np.arange(999) + 0.5) / 999, 3.0)[:, None], df=3.0)
    x = torch.linspace(-30.0, 30.0, 61, dtype=torch.float64).reshape(-1, 1)
    exact = stats.norm.ppf(stats.t.cdf(x.numpy(), 3.0))
    np.testing.assert_allclose(head.residuals(x), exact, atol=0.12)


def test_normal_columns_get_many_degrees_of_freedom_and_little_changes():
    X = RNG.normal(size=(1000, 4)) @ RNG.normal(size=(4, 4))
    scores = [VariationalAutoencoder(0, likelihood=name).fit(X).score(X) for name in NAMES]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)


NAMES = ("gaussian", "student_t")


def test_heavy_tails_are_fitted_better_than_by_a_normal():
    z = RNG.normal(size=(600, 1))
    X = z * [1.0, -1.0, 0.5, 2.0] + 0.5 * RNG.standard_t(2.5, size=(600, 4))
    normal, t = (VariationalAutoencoder(1, likelihood=n, random_state=0).fit(X) for n in NAMES)
    assert t.score(X) > normal.score(X) + 0.5


@pytest.mark.parametrize("column", [np.full(20, 3.0), np.full(20, np.nan)])
def test_column_without_a_scale_has_one_of_one(column):
    head = head_for(np.column_stack([X[:20, 1], column]))
    assert head.scale[1] == 1.0 and head.marginal_df[1] == MARGINAL_DF[1]
    params = head.params_from(head.initial_outputs().expand(1, 1, -1))
    assert params.log_scale[1] == 0.0


def test_a_column_of_one_value_for_the_most_part_has_a_finite_marginal():
    location, scale, _ = fit_t(np.concatenate([np.zeros(950), RNG.normal(size=50)]))
    assert abs(location) < 0.01 and 0.0 < scale < 1.0


@pytest.mark.parametrize("df", [2.0, -1.0, np.inf, "shared"])
def test_impossible_degrees_of_freedom_are_refused(df):
    with pytest.raises(ValueError, match="df"):
        head_for(df=df)
