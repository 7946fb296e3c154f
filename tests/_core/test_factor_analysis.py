"""Maximum-likelihood linear models, against scikit-learn and closed forms."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.decomposition import PCA, FactorAnalysis

from skvae._core import _factor_analysis
from skvae._core._factor_analysis import (
    SecondMoments,
    factor_analysis,
    loadings_for_noise,
    principal_components,
    rotated,
)
from tests.helpers import normal_log_density

DATA = {"iris": load_iris, "wine": load_wine, "diabetes": load_diabetes}


def standardised(name):
    X = DATA[name]().data
    return (X - X.mean(axis=0)) / X.std(axis=0)


def moments_of(X):
    covariance = X.T @ X / len(X)
    return SecondMoments(lambda b: covariance @ b, np.diag(covariance).copy())


def score(factors, X):
    covariance = factors.loadings @ factors.loadings.T + np.diag(factors.noise)
    return normal_log_density(X, np.zeros(X.shape[1]), covariance).mean()


# Where a noise variance goes to 0 scikit-learn's steps do not end; they are close by then.
@pytest.mark.filterwarnings("ignore:FactorAnalysis did not converge")
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("n_factors", [1, 2, 3])
def test_likelihood_is_that_of_a_converged_factor_analysis(name, n_factors):
    X = standardised(name)
    reference = FactorAnalysis(n_factors, svd_method="lapack", tol=1e-6, max_iter=3000).fit(X)
    factors = factor_analysis(moments_of(X), n_factors, floor=1e-8, seed=0)
    assert factors.loadings.shape == (X.shape[1], n_factors)
    # Better optima than scikit-learn's are welcome.
    assert score(factors, X) > reference.score(X) - 1e-3


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("n_factors", [1, 3])
def test_principal_components_are_probabilistic_pca(name, n_factors):
    X = standardised(name)
    factors = principal_components(moments_of(X), n_factors, floor=1e-8, seed=0)
    values = np.linalg.eigvalsh(X.T @ X / len(X))[::-1]
    p, rest = X.shape[1], values[n_factors:].mean()
    np.testing.assert_allclose(factors.noise, rest)
    # The maximum, in closed form (Tipping and Bishop, 1999).
    log_det = np.log(values[:n_factors]).sum() + (p - n_factors) * np.log(rest)
    assert score(factors, X) == pytest.approx(-0.5 * (p * np.log(2 * np.pi) + log_det + p))
    # scikit-learn divides by n - 1, which costs it a little.
    assert score(factors, X) >= PCA(n_factors).fit(X).score(X)


def test_loadings_for_given_noise_are_at_a_maximum():
    X = standardised("wine")
    rng = np.random.default_rng(0)
    noise = rng.uniform(0.3, 0.9, size=X.shape[1])
    factors = loadings_for_noise(moments_of(X), noise, 2, seed=0)
    best = score(factors, X)
    for _ in range(20):
        moved = factors.loadings + 1e-3 * rng.normal(size=factors.loadings.shape)
        assert score(factors._replace(loadings=moved), X) < best


def test_directions_below_the_noise_get_no_loadings():
    X = standardised("iris")
    values = np.linalg.eigvalsh(X.T @ X / len(X))[::-1]
    for noise in (0.05, 0.5, 5.0):
        factors = loadings_for_noise(moments_of(X), np.full(4, noise), 3, seed=0)
        used = (np.abs(factors.loadings).max(axis=0) > 0).sum()
        assert used == (values[:3] > noise).sum()


@pytest.mark.parametrize("name", DATA)
def test_factors_are_rotated_so_that_the_posterior_covariance_is_diagonal(name):
    X = standardised(name)
    for factors in (
        factor_analysis(moments_of(X), 3, floor=1e-8, seed=0),
        principal_components(moments_of(X), 3, floor=1e-8, seed=0),
        loadings_for_noise(moments_of(X), np.full(X.shape[1], 0.3), 3, seed=0),
    ):
        precision = factors.loadings.T @ (factors.loadings / factors.noise[:, None])
        np.testing.assert_allclose(
            precision, np.diag(np.diag(precision)), atol=1e-8 * np.diag(precision).max()
        )
        assert (np.diff(np.diag(precision)) <= 1e-8).all()


def test_rotation_leaves_the_model_as_it_is():
    rng = np.random.default_rng(0)
    loadings, noise = rng.normal(size=(5, 3)), rng.uniform(0.1, 1.0, size=5)
    turned = rotated(loadings, noise)
    np.testing.assert_allclose(turned.loadings @ turned.loadings.T, loadings @ loadings.T)
    np.testing.assert_array_equal(turned.noise, noise)


def test_a_column_that_is_noise_free_stays_above_the_floor():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 1))
    X = np.hstack([z, z, 0.5 * z + rng.normal(size=(300, 2))])
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    factors = factor_analysis(moments_of(X), 1, floor=1e-8, seed=0)
    assert (factors.noise >= 0.999e-8).all()
    assert np.isfinite(score(factors, X))


def test_many_columns_are_done_by_products_alone(monkeypatch):
    # The subspace iteration for many columns finds what all eigenvectors give.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 40)) + 0.5 * rng.normal(size=(200, 40))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    dense = principal_components(moments_of(X), 3, floor=1e-8, seed=0)
    monkeypatch.setattr(_factor_analysis, "DENSE_COLUMNS", 10)
    by_products = principal_components(moments_of(X), 3, floor=1e-8, seed=0)
    assert score(by_products, X) == pytest.approx(score(dense, X), abs=1e-4)


def test_the_seed_decides_nothing_that_matters():
    X = standardised("wine")
    scores = [score(factor_analysis(moments_of(X), 2, floor=1e-8, seed=s), X) for s in range(3)]
    np.testing.assert_allclose(scores, scores[0], atol=1e-3)
