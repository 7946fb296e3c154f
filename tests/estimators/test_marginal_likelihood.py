"""Likelihoods with error bars, and brackets, as users ask for them."""

import re

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood
from tests.estimators.small import STILL_RISING, _global_states, factor_rows, small_vae
from tests.helpers import linear_gaussian_of

# That few effective draws are told of is tested by itself.
FEW_EFFECTIVE = "ignore:In .* rows the effective sample size is below"
pytestmark = [pytest.mark.filterwarnings(STILL_RISING), pytest.mark.filterwarnings(FEW_EFFECTIVE)]

METHODS = ["importance", "annealed", "reciprocal"]
FEW = {"n_steps": 20, "n_draws": 8}


def linear_vae(n_components=2, **parameters):
    return VariationalAutoencoder(
        n_components, hidden_layer_sizes=(), max_iter=3, random_state=0, **parameters
    )


def spoilt(vae):
    """The estimator with an encoder that is off."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in vae.model_.encoder.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return vae


@pytest.fixture(scope="module")
def fitted():
    return spoilt(linear_vae().fit(factor_rows()))


@pytest.mark.parametrize("method", METHODS)
def test_values_are_those_of_the_linear_model_in_the_units_of_the_rows(fitted, method):
    X = factor_rows(40, seed=1)
    answer = fitted.log_likelihood(X, method, n_steps=60, random_state=0)
    exact = linear_gaussian_of(fitted.model_).log_prob(X)
    standard = (answer.value - exact) / answer.standard_error
    assert np.abs(standard).max() < 5.0 and np.mean(np.abs(standard) < 2.0) > 0.8
    assert abs(answer.mean - exact.mean()) < 0.05
    assert answer.side == ("above" if method == "reciprocal" else "below")
    assert answer.method == method
    for values in (answer.value, answer.standard_error, answer.effective_sample_size):
        assert values.shape == (40,) and values.dtype == np.float64


def test_units_of_a_column_move_the_value_by_their_logarithm():
    X = factor_rows()
    values = [
        linear_vae().fit(X * c).log_likelihood(X * c, n_draws=50, random_state=0).value
        for c in (1.0, 1e3)
    ]
    np.testing.assert_allclose(values[1], values[0] - 4 * np.log(1e3), atol=1e-3)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_agree_with_the_score(likelihood, method):
    X = factor_rows(40)
    X = {"gaussian": X, "bernoulli": (X > 3).astype(float), "poisson": np.floor(np.abs(X))}[
        likelihood
    ]
    vae = small_vae(likelihood=likelihood, n_score_draws=2000).fit(X)
    answer = vae.log_likelihood(X, method, n_steps=50, random_state=0)
    off = answer.value - vae.score_samples(X)
    assert np.mean(np.abs(off) < 3.0 * answer.standard_error + 0.05) > 0.9
    assert abs(off.mean()) < 4.5 * answer.mean_standard_error + 0.03


def test_rows_draw_independently(fitted):
    X = np.repeat(factor_rows(1, seed=1), 30, axis=0)
    for method in METHODS:
        assert len(np.unique(fitted.log_likelihood(X, method, random_state=0, **FEW).value)) == 30


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_answer_and_no_generator_of_the_process_is_touched(fitted, method):
    X = factor_rows(6)
    before = _global_states()
    one, same, other = (
        fitted.log_likelihood(X, method, random_state=seed, **FEW).value for seed in (0, 0, 1)
    )
    assert _global_states() == before
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()


@pytest.mark.parametrize("method", METHODS)
def test_missing_entries_leave_the_likelihood_of_what_is_observed(fitted, method):
    X = factor_rows(30, seed=1)
    X[::2, 1] = X[::3, 3] = np.nan
    X[4] = np.nan
    answer = fitted.log_likelihood(X, method, n_steps=60, random_state=0)
    exact = linear_gaussian_of(fitted.model_)
    covariance = exact.loadings @ exact.loadings.T + np.diag(exact.noise)
    for i, row in enumerate(X):
        seen = ~np.isnan(row)
        if not seen.any():
            assert (answer.value[i], answer.standard_error[i]) == (0.0, 0.0)
            continue
        away = row[seen] - exact.mean[seen]
        part = covariance[np.ix_(seen, seen)]
        expected = -0.5 * (
            away @ np.linalg.solve(part, away) + np.linalg.slogdet(2 * np.pi * part)[1]
        )
        assert abs(answer.value[i] - expected) < 5.0 * answer.standard_error[i] + 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_without_latent_variables_it_is_exact(method):
    X = factor_rows()
    X[0] = np.nan
    vae = small_vae(0).fit(X)
    answer = vae.log_likelihood(X, method, random_state=0)
    np.testing.assert_allclose(answer.value, vae.score_samples(X))
    assert (answer.standard_error == 0.0).all() and (answer.effective_sample_size > 10).all()
    rows, lower, upper = vae.bracket_log_likelihood(7, random_state=0)
    np.testing.assert_array_equal(lower.value, upper.value)
    np.testing.assert_allclose(lower.value, vae.score_samples(rows))


def test_float32_rows_are_answered_in_float64():
    X = factor_rows().astype(np.float32)
    vae = small_vae().fit(X)
    for method in METHODS:
        answer = vae.log_likelihood(X, method, random_state=0, **FEW)
        assert answer.value.dtype == answer.standard_error.dtype == np.float64
        np.testing.assert_allclose(answer.mean, vae.score(X), atol=0.2)


def test_bracket_holds_the_exact_value_and_closes(fitted):
    exact_of = linear_gaussian_of(fitted.model_)
    gaps = []
    for n_steps in (4, 40):
        X, lower, upper = fitted.bracket_log_likelihood(80, n_steps=n_steps, random_state=0)
        assert X.shape == (80, 4) and X.dtype == np.float64
        exact = exact_of.log_prob(X)
        assert (lower.side, upper.side) == ("below", "above")
        for distance in (exact - lower.value, upper.value - exact):
            assert distance.mean() > -3.0 * distance.std() / np.sqrt(80)
        gaps.append(upper.mean - lower.mean)
    assert gaps[1] < 0.5 * gaps[0] and gaps[1] < 0.1
    # The rows are those of the model.
    np.testing.assert_allclose(X.mean(0), exact_of.mean, atol=4.5 * X.std(0).max() / np.sqrt(80))
    np.testing.assert_array_equal(X, fitted.bracket_log_likelihood(80, random_state=0, **FEW)[0])
    again = fitted.bracket_log_likelihood(80, n_steps=n_steps, random_state=0)
    np.testing.assert_array_equal(again[0], X)
    np.testing.assert_array_equal(again[1].value, lower.value)


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood(binarize="dynamic"), "poisson"])
def test_simulated_rows_of_other_likelihoods_are_bracketed(likelihood):
    X = factor_rows() - 3.0
    X = np.floor(np.abs(X)) if likelihood == "poisson" else 1.0 / (1.0 + np.exp(-3.0 * X))
    vae = small_vae(likelihood=likelihood).fit(X)
    rows, lower, upper = vae.bracket_log_likelihood(60, n_steps=50, random_state=0)
    assert (rows == np.floor(rows)).all() and (rows >= 0).all()
    error = np.hypot(lower.mean_standard_error, upper.mean_standard_error)
    assert abs(upper.mean - lower.mean) < 4.5 * error + 0.02


def test_tables_in_tables_out():
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame({"a": factor_rows()[:, 0], "b": factor_rows()[:, 1] > 3.0})
    X.loc[0, "a"] = np.nan
    vae = small_vae(1, likelihood="auto").fit(X)
    assert vae.log_likelihood(X, "annealed", random_state=0, **FEW).value.shape == (90,)
    rows, lower, _ = vae.bracket_log_likelihood(5, random_state=0, **FEW)
    assert list(rows.columns) == ["a", "b"] and rows["b"].dtype == bool
    assert lower.value.shape == (5,)


def test_refined_posteriors_have_smaller_errors(fitted):
    X = factor_rows(20, seed=1)
    before = fitted.log_likelihood(X, n_draws=200, random_state=0)
    fitted.set_params(refine_steps=60)
    try:
        after = fitted.log_likelihood(X, n_draws=200, random_state=0)
    finally:
        fitted.set_params(refine_steps=0)
    assert np.median(after.standard_error) < 0.5 * np.median(before.standard_error)


def test_rows_whose_draws_are_worth_little_are_told_of(fitted):
    X = factor_rows(10, seed=1)
    X[3:5] += 300.0
    with pytest.warns(
        UserWarning, match=r"In 2 of 10 rows .* below 5 .*further below .*Raise n_dr"
    ):
        answer = fitted.log_likelihood(X, random_state=0)
    assert (answer.effective_sample_size < 5).sum() == 2


def test_any_number_of_chains_fits_into_memory(fitted, monkeypatch):
    X = factor_rows(3)
    monkeypatch.setattr(type(fitted), "_at_once", staticmethod(lambda model, n_draws: (3, 2)))
    for method in METHODS:
        answer = fitted.log_likelihood(X, method, random_state=0, **FEW)
        assert answer.value.shape == (3,)
    _, lower, upper = fitted.bracket_log_likelihood(5, random_state=0, **FEW)
    assert lower.effective_sample_size.max() > 3.0 and upper.value.shape == (5,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "ais"}, "method must be one of 'importance', 'annealed', 'reciprocal'; got"),
        ({"start": "zero"}, "start must be one of 'posterior', 'prior'; got 'zero'"),
        ({"n_draws": 1}, "n_draws must be an integer >= 2; got 1"),
        ({"n_draws": 2.5}, "n_draws must be an integer >= 2; got 2.5"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1; got 0"),
        ({"method": "reciprocal", "n_steps": 5}, "n_steps must be an integer >= 10; got 5"),
    ],
)
def test_arguments_are_checked(fitted, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted.log_likelihood(factor_rows(3), **arguments)


@pytest.mark.parametrize("arguments", [{"n_samples": 0}, {"n_draws": 1}, {"start": "x"}])
def test_arguments_of_brackets_are_checked(fitted, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        fitted.bracket_log_likelihood(**arguments)


def test_uncertain_weights_are_refused_with_what_to_do():
    vae = small_vae(alpha=1.0, weight_posterior="gaussian", init="random").fit(factor_rows())
    for method in ("log_likelihood", "bracket_log_likelihood"):
        arguments = (factor_rows(3),) if method == "log_likelihood" else ()
        with pytest.raises(ValueError, match=f"{method} is for given weights.*score_samples"):
            getattr(vae, method)(*arguments)
