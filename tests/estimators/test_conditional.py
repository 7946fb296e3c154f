"""Rows given something else: exact answers for linear models, and promises about y."""

import numpy as np
import pandas as pd
import polars
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.decomposition import FactorAnalysis
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skvae
from skvae import ConditionalVariationalAutoencoder
from tests.estimators.small import STILL_RISING

pytestmark = [
    pytest.mark.filterwarnings(STILL_RISING),
    pytest.mark.filterwarnings("ignore:No latent component is active"),
]

CONDITIONINGS = ["decoder", "prior", "both"]


def conditional(n_components=1, **parameters):
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
    return ConditionalVariationalAutoencoder(n_components, **{**defaults, **parameters})


def rows_with_y(n_rows=300, *, seed=0):
    """Five columns that depend linearly on a number and on a category, and on a factor."""
    rng = np.random.default_rng(seed)
    dose, group = rng.normal(2.0, 3.0, size=n_rows), rng.choice(["a", "b", "c"], size=n_rows)
    fixed = np.random.default_rng(7)
    shifts = dict(zip("abc", fixed.normal(size=(3, 5)), strict=True))
    X = np.outer(dose, fixed.normal(size=5)) + np.stack([shifts[g] for g in group])
    X = X + np.outer(rng.normal(size=n_rows), fixed.normal(size=5))
    return X + 0.5 * rng.normal(size=X.shape), pd.DataFrame({"dose": dose, "group": group})


def linear_answer(model, X, y):
    """Mean of each row given its y, and covariance about it, of a model with a linear decoder.

    From its own answers: the mean where z is 0, and loadings by differences.
    """
    n, k = len(X), model.n_components_
    at_zero = model.inverse_transform(np.zeros((n, k)), y)
    loadings = np.stack(
        [(model.inverse_transform(np.eye(k)[[j]], y[:1]) - at_zero[:1])[0] for j in range(k)],
        axis=1,
    )
    return at_zero, loadings @ loadings.T + np.diag(model.noise_variance_)


# -- exact answers --------------------------------------------------------------------------------


def test_linear_model_is_regression_and_factor_analysis():
    X, y = rows_with_y()
    model = conditional(hidden_layer_sizes=()).fit(X, y)
    design = np.column_stack([y["dose"], pd.get_dummies(y["group"]).astype(float)])
    residuals = X - design @ np.linalg.lstsq(design, X, rcond=None)[0]
    scale = residuals.std(axis=0)
    factors = FactorAnalysis(1, svd_method="lapack", tol=1e-8, max_iter=20_000)
    exact = factors.fit(residuals / scale).score(residuals / scale) - np.log(scale).sum()
    np.testing.assert_allclose(model.score(X, y), exact, atol=1e-4)


def test_score_is_the_exact_conditional_of_a_linear_model():
    X, y = rows_with_y()
    model = conditional(hidden_layer_sizes=(), n_score_draws=500).fit(X, y)
    mean, covariance = linear_answer(model, X, y)
    exact = multivariate_normal(np.zeros(5), covariance).logpdf(X - mean)
    np.testing.assert_allclose(model.score_samples(X, y), exact, atol=1e-5)
    np.testing.assert_allclose(model.lower_bound(X, y), exact, atol=1e-5)
    importance = model.log_likelihood(X[:20], y=y[:20], random_state=0)
    np.testing.assert_allclose(importance.value, exact[:20], atol=1e-4)


def test_without_y_it_is_averaged_over():
    X, y = load_iris(return_X_y=True)
    model = conditional(hidden_layer_sizes=(), n_score_draws=500).fit(X, y)
    joint = np.stack([model.score_samples(X, k) + np.log(1.0 / 3.0) for k in range(3)], axis=1)
    np.testing.assert_allclose(model.score_samples(X), logsumexp(joint, axis=1), rtol=1e-10)
    probability = softmax(joint, axis=1)
    means = np.stack([model.transform_given(X, k) for k in range(3)], axis=1)
    average = (probability[:, :, None] * means).sum(axis=1)
    np.testing.assert_allclose(model.transform(X), average, atol=1e-5)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_bound_is_below_the_log_likelihood(conditioning):
    X, y = rows_with_y(100)
    model = conditional(conditioning=conditioning).fit(X, y)
    assert (model.lower_bound(X, y) <= model.score_samples(X, y) + 1e-9).all()


def test_missing_entries_of_a_linear_model_are_expected_given_y():
    X, y = rows_with_y()
    X[::3, 1] = X[1::5, 3] = np.nan
    model = conditional(hidden_layer_sizes=(), n_score_draws=2000, early_stopping=False).fit(X, y)
    complete = np.nan_to_num(X)
    mean, covariance = linear_answer(model, complete, y)
    filled = model.impute(X, y)
    for i in range(0, 60, 3):
        o = ~np.isnan(X[i])
        gain = covariance[~o][:, o] @ np.linalg.inv(covariance[o][:, o])
        exact = mean[i][~o] + gain @ (X[i][o] - mean[i][o])
        np.testing.assert_allclose(filled[i][~o], exact, atol=0.05)
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])


def test_prior_that_depends_on_y_starts_ahead_of_one_that_does_not():
    """Of the linear model in which x depends on y through one factor alone."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=400)
    z = 2.0 * y + rng.normal(size=400)
    loadings = np.random.default_rng(5).normal(size=6)
    X = np.outer(z, loadings) + 0.5 * rng.normal(size=(400, 6))
    model = conditional(conditioning="prior", hidden_layer_sizes=(), max_iter=1).fit(X, y)
    truth = multivariate_normal(np.zeros(6), np.outer(loadings, loadings) + 0.25 * np.eye(6))
    exact = truth.logpdf(X - np.outer(2.0 * y, loadings)).mean()
    np.testing.assert_allclose(model.lower_bound(X, y).mean(), exact, atol=0.05)


def test_few_rows_of_each_category_tell_of_others():
    """Least squares follows the rows; what is kept of it does better on new ones."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(100), 4)
    centres = 0.7 * rng.normal(size=(100, 5))
    X, X_new = (centres[y] + rng.normal(size=(400, 5)) for _ in range(2))
    means = np.array([X[y == k].mean(axis=0) for k in range(100)])[y]
    least_squares = multivariate_normal(np.zeros(5), np.cov((X - means).T, bias=True))
    exact = multivariate_normal(np.zeros(5), np.eye(5)).logpdf(X_new - centres[y]).mean()
    without = multivariate_normal(X.mean(axis=0), np.cov(X.T)).logpdf(X_new).mean()
    score = conditional(hidden_layer_sizes=(), max_iter=1).fit(X, y).score(X_new, y)
    assert max(without, least_squares.logpdf(X_new - means).mean()) < score < exact


def test_more_columns_of_y_than_rows_do_little_harm():
    rng = np.random.default_rng(0)
    y, y_new = rng.normal(size=(2, 120, 300))
    X, X_new = (t[:, :1] + rng.normal(size=(120, 5)) for t in (y, y_new))
    alone = skvae.VariationalAutoencoder(1, hidden_layer_sizes=(), max_iter=1, random_state=0)
    model = conditional(hidden_layer_sizes=(), max_iter=1).fit(X, y)
    assert model.score(X_new, y_new) > alone.fit(X).score(X_new) - 0.3


@pytest.mark.parametrize("has_missing", [False, True])
def test_categories_of_one_row_each_tell_nothing(has_missing):
    X, _ = rows_with_y(100)
    fitted = X[:50].copy()
    if has_missing:
        fitted[::5, 0] = np.nan
    names = [f"row {i}" for i in range(50)]
    model = conditional(hidden_layer_sizes=(), max_iter=1).fit(fitted, names)
    alone = skvae.VariationalAutoencoder(1, hidden_layer_sizes=(), max_iter=1, random_state=0)
    expected = alone.fit(fitted).score(X[50:])
    np.testing.assert_allclose(model.score(X[50:], names), expected, atol=0.05)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_column_that_y_determines(conditioning):
    X, y = load_iris(return_X_y=True)
    X = np.column_stack([X, 10.0 * y])
    model = conditional(conditioning=conditioning).fit(X, y)
    assert np.isfinite(model.score_samples(X, y)).all()
    if conditioning != "prior":
        drawn = model.sample(y=[0, 1, 2], random_state=0)[:, -1]
        np.testing.assert_allclose(drawn, [0.0, 10.0, 20.0], atol=0.5)


# -- what y is ------------------------------------------------------------------------------------


def test_forms_of_y_agree():
    X, y = rows_with_y(60)
    fitted = conditional().fit(X, y)
    expected = fitted.score_samples(X, y)
    rows = [[dose, group] for dose, group in zip(y["dose"], y["group"], strict=True)]
    for form in (rows, np.array(rows, dtype=object), polars.from_pandas(y)):
        np.testing.assert_array_equal(fitted.score_samples(X, form), expected)
    np.testing.assert_array_equal(
        conditional().fit(X, polars.from_pandas(y)).score_samples(X, y), expected
    )


def test_whole_numbers_are_categories_unless_told_otherwise():
    X, _ = rows_with_y(60)
    years = np.arange(60) % 7
    assert conditional().fit(X, years).y_coding_[0]["categories"] == list(range(7))
    continuous = conditional(y_type="continuous").fit(X, years)
    assert "mean" in continuous.y_coding_[0]
    continuous.score(X, years + 100)
    assert conditional(y_type="categorical").fit(X, years + 0.5).contexts_.shape == (7, 7)


def test_labels_may_be_of_any_kind():
    X, y = rows_with_y(60)
    scores = []
    for labels in (
        y["group"],
        y["group"].astype("category"),
        y["group"].to_numpy(),
        y["group"].map({"a": 10, "b": 20, "c": 30}),
    ):
        scores.append(conditional().fit(X, labels).score_samples(X, labels))
    for other in scores[1:]:
        np.testing.assert_array_equal(other, scores[0])


def test_columns_of_y_are_known_by_their_names():
    X, _ = rows_with_y(60)
    y = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["dose", "age"])
    model = conditional().fit(X, y)
    assert model.score(X, y[["age", "dose"]]) == model.score(X, y) == model.score(X, y.to_numpy())
    with pytest.raises(ValueError, match=r"y has the columns \['dose', 'sex'\], but had"):
        model.score(X, y.rename(columns={"age": "sex"}))
    with pytest.raises(ValueError, match="several columns named 'dose'"):
        model.fit(X, y.rename(columns={"age": "dose"}))


def test_numbers_of_y_may_be_of_any_size():
    X, y = rows_with_y(60)
    score = conditional().fit(X, y["dose"]).score(X, y["dose"])
    for scale in (1e-250, 1e250):
        other = y["dose"] * scale
        np.testing.assert_allclose(conditional().fit(X, other).score(X, other), score, atol=1e-6)
    constant = conditional().fit(X, np.full(60, 0.1))
    assert constant.y_coding_[0]["scale"] == 1.0  # whatever the rounding of its mean


def test_one_value_stands_for_all_rows():
    X, y = rows_with_y(60)
    model = conditional().fit(X, y["group"])
    np.testing.assert_array_equal(model.score_samples(X, "b"), model.score_samples(X, ["b"] * 60))
    assert model.sample(4, y="b", random_state=0).shape == (4, 5)
    assert model.sample(y=["a", "b", "a"], random_state=0).shape == (3, 5)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (["a"] * 59, "X has 60 rows, y has 59"),
        (["a"] * 59 + [None], "contains NaN in row 59"),
        (pd.Series(["a"] * 59 + [None], dtype="string"), "contains NaN in row 59"),
        (np.zeros((60, 0)), "y has no columns"),
        ([1.0] * 59 + [np.inf], "contains infinity in row 59"),
        (np.zeros((60, 2, 2)), "one or two axes"),
    ],
)
def test_errors_about_y_at_fit(y, message):
    X, _ = rows_with_y(60)
    model = conditional()
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    assert not hasattr(model, "y_coding_")


def test_errors_about_y_afterwards():
    X, y = rows_with_y(60)
    model = conditional().fit(X, y)
    unknown = y.assign(group="d")
    with pytest.raises(ValueError, match=r"y \(group\) holds 'd', which fit has not seen"):
        model.score(X, unknown)
    with pytest.raises(ValueError, match="y has 1 columns, but had 2 in fit"):
        model.score(X, y["dose"])
    with pytest.raises(ValueError, match="y has 30 rows, but X has 60"):
        model.transform_given(X, y[:30])
    with pytest.raises(ValueError, match="posterior_moments needs y"):
        model.posterior_moments(X, None)
    with pytest.raises(ValueError, match="y has 2 rows, but X has 5"):
        model.sample(5, y=y[:2])


# -- what else is promised ------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_reconstruction_with_the_same_y_is_the_ordinary_one(conditioning):
    X, y = rows_with_y(100)
    model = conditional(conditioning=conditioning).fit(X, y)
    ordinary = model.inverse_transform(model.transform_given(X, y), y)
    np.testing.assert_allclose(model.reconstruct(X, y, y), ordinary, rtol=1e-10)
    np.testing.assert_allclose(model.reconstruct(X, y=y), ordinary, rtol=1e-10)


def test_another_y_moves_a_row_by_what_y_does():
    X, y = rows_with_y()
    model = conditional(hidden_layer_sizes=()).fit(X, y)
    moved = model.reconstruct(X, y.assign(dose=y["dose"] + 1.0), y) - model.reconstruct(X, y=y)
    slope = np.random.default_rng(7)
    slope.normal(size=(3, 5))
    np.testing.assert_allclose(moved, np.tile(slope.normal(size=5), (len(X), 1)), atol=0.1)


def test_draws_follow_their_y():
    X, y = rows_with_y()
    model = conditional(hidden_layer_sizes=()).fit(X, y)
    many = model.sample(4000, y=y[:1], random_state=0)
    mean, covariance = linear_answer(model, X, y)
    error = np.sqrt(np.diag(covariance) / 4000)
    assert (np.abs(many.mean(axis=0) - mean[0]) < 4.5 * error).all()
    without = model.sample(4000, random_state=0)
    assert (np.abs(without.mean(axis=0) - X.mean(axis=0)) < 0.15 * X.std(axis=0)).all()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_posterior_of_a_row_of_which_nothing_is_observed_is_the_prior_given_y(conditioning):
    X, y = rows_with_y(100)
    X[::4, 0] = np.nan
    model = conditional(conditioning=conditioning).fit(X, y)
    nothing = np.full((1, 5), np.nan)
    assert model.score_samples(nothing, y[:1]) == 0.0
    draws = model.sample_imputations(nothing, 2000, y=y[:1], random_state=0)[:, 0]
    fresh = model.sample(2000, y=y[:1], random_state=1)
    error = np.sqrt((draws.var(axis=0) + fresh.var(axis=0)) / 2000)
    assert (np.abs(draws.mean(axis=0) - fresh.mean(axis=0)) < 4.5 * error).all()


def test_imputations_without_y_average_over_it():
    X, y = rows_with_y(200)
    model = conditional(hidden_layer_sizes=()).fit(X, y["group"])
    X[:20, 2] = np.nan
    expected = model.impute(X[:20])[:, 2]
    draws = model.sample_imputations(X[:20], 200, random_state=0)[:, :, 2]
    error = draws.std(axis=0) / np.sqrt(200)
    assert (np.abs(draws.mean(axis=0) - expected) < 4.5 * error).all()
    Z = model.sample_posterior(X[:20], 200, random_state=0)
    error = Z.std(axis=0) / np.sqrt(200)
    assert (np.abs(Z.mean(axis=0) - model.transform(X[:20])) < 4.5 * error + 0.02).all()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_saved_and_loaded_it_is_the_same(conditioning, tmp_path):
    X, y = rows_with_y(60)
    model = conditional(conditioning=conditioning).fit(X, y)
    skvae.save(model, tmp_path / "model.skvae")
    again = skvae.load(tmp_path / "model.skvae")
    np.testing.assert_array_equal(again.score_samples(X, y), model.score_samples(X, y))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))


def test_it_goes_through_pipelines_and_searches():
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), conditional())
    assert pipeline.fit_transform(X, y).shape == (150, 1)
    folds = KFold(3, shuffle=True, random_state=0)
    assert np.isfinite(cross_val_score(conditional(), X, y, cv=folds)).all()


def test_training_goes_on_where_it_stopped():
    X, y = rows_with_y(100)
    model = conditional(warm_start=True).fit(X, y)
    before = model.n_iter_
    assert model.fit(X, y).n_iter_ > before
    with pytest.raises(ValueError, match="conditioning changed"):
        model.set_params(conditioning="prior").fit(X, y)
    stream = conditional()
    for part in (slice(0, 50), slice(50, 100)):
        stream.partial_fit(X[part], y[part])
    assert stream.n_iter_ == 2


def test_other_ingredients_take_a_context():
    X, y = load_iris(return_X_y=True)
    for parameters in (
        {"likelihood": "student_t", "prior": "mixture", "conditioning": "both"},
        {"posterior": "full", "objective": "iwae"},
        {"prior": "vamp", "early_stopping": False},
        {"likelihood": "bernoulli"},
        {"fit_order": "em", "n_phase_epochs": 1},
    ):
        model = clone(conditional()).set_params(**parameters)
        rows = (X > X.mean(axis=0)).astype(float) if "bernoulli" in parameters.values() else X
        assert np.isfinite(model.fit(rows, y).score(rows, y))


def test_context_is_told_in_float64_at_any_scale():
    X, y = rows_with_y(100)
    model = conditional(hidden_layer_sizes=(), max_iter=1)
    score = model.fit(X, y["dose"]).score(X, y["dose"])
    far = clone(model).fit(X * 1e8, y["dose"] * 1e8 + 1e10)
    shift = 5 * np.log(1e8)
    np.testing.assert_allclose(far.score(X * 1e8, y["dose"] * 1e8 + 1e10) + shift, score, atol=1e-3)
