"""Linear models reach the optima that are known in closed form, from random weights.

The evidence lower bound of a linear model has no local maxima but those of its log-likelihood, so
that training has to arrive, and arrive exactly (Lucas et al., 2019).

References
----------
Lucas, J., Tucker, G., Grosse, R. and Norouzi, M. (2019). Don't blame the ELBO! A linear VAE
perspective on posterior collapse. NeurIPS.
"""

import numpy as np
import pytest

from skvae import VariationalAutoencoder
from skvae.likelihoods import GaussianLikelihood
from skvae.objectives import SGVB
from skvae.solvers import Adam
from tests.helpers import LinearGaussian, linear_gaussian_of, normal_log_density


def exact_bound(vae, X):
    """The bound of each row at the posterior that the encoder gives, in closed form."""
    mean, deviation = vae.posterior_moments(X)
    return linear_gaussian_of(vae.model_).lower_bound(X, mean, deviation**2)


def fit_linear(X, n_components, *, noise="per_feature", **parameters):
    """Linear model fitted to all rows, from random weights."""
    defaults = {
        "hidden_layer_sizes": (),
        "likelihood": GaussianLikelihood(noise=noise),
        "objective": SGVB(kl="monte_carlo", n_draws=2),
        "init": "random",
        "early_stopping": False,
        "solver": Adam(cooldown_steps=1000),
        "learning_rate_init": 1e-2,
        "batch_size": len(X),
        "n_iter_no_change": 500,
        "max_iter": 4000,
        "random_state": 0,
    }
    return VariationalAutoencoder(n_components, **{**defaults, **parameters}).fit(X)


@pytest.fixture(scope="module")
def X():
    """Rows whose covariance has eigenvalues of a clear order."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    X = rng.normal(size=(300, 6)) * np.sqrt([8.0, 4.0, 2.0, 0.8, 0.5, 0.3])
    return X @ turn.T + np.arange(6.0)


@pytest.fixture(scope="module")
def eigenvalues(X):
    return np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]


def test_shared_noise_reaches_probabilistic_pca(X, eigenvalues):
    n_components, n_columns = 2, 6
    vae = fit_linear(X, n_components, noise="shared")
    rest = eigenvalues[n_components:].mean()
    log_det = np.log(eigenvalues[:n_components]).sum() + (n_columns - n_components) * np.log(rest)
    optimum = -0.5 * (n_columns * np.log(2 * np.pi) + log_det + n_columns)
    exact = linear_gaussian_of(vae.model_)
    assert optimum - 0.01 < exact.log_prob(X).mean() <= optimum + 1e-6
    # The bound is tight there: the posterior is the true one, and the score has no error.
    assert optimum - 0.01 < exact_bound(vae, X).mean() <= exact.log_prob(X).mean()
    assert vae.score(X) == pytest.approx(optimum, abs=0.01)
    np.testing.assert_allclose(vae.noise_variance_, rest, rtol=0.05)
    # The diagonal posterior breaks the symmetry: factors are principal directions.
    _, vectors = np.linalg.eigh(np.cov(X.T))
    directions = exact.loadings / np.linalg.norm(exact.loadings, axis=0)
    overlap = np.abs(vectors[:, ::-1][:, :n_components].T @ directions)
    np.testing.assert_allclose(np.sort(overlap.ravel())[-n_components:], 1.0, atol=0.02)


@pytest.mark.parametrize("noise", [0.6, 1.2, 3.0, 6.0])
def test_components_below_the_noise_collapse(X, eigenvalues, noise):
    n_components, n_columns = 4, 6
    vae = fit_linear(X, n_components, noise=noise)
    kept = eigenvalues[:n_components][eigenvalues[:n_components] > noise]
    lost = eigenvalues[len(kept) :]
    optimum = -0.5 * (
        n_columns * np.log(2 * np.pi)
        + (np.log(kept) + 1.0).sum()
        + (np.log(noise) + lost / noise).sum()
    )
    assert vae.active_components_.sum() == len(kept)
    exact = linear_gaussian_of(vae.model_).log_prob(X).mean()
    assert optimum - 0.01 < exact <= optimum + 1e-6
    # Each active component tells as much as its direction has to say.
    told = np.sort(vae.kl_per_component_)[::-1][: len(kept)]
    np.testing.assert_allclose(told, 0.5 * np.log(kept / noise), atol=0.05)


# -------------------------------------------------------------------- a published factor analysis


@pytest.fixture(scope="module")
def tutorial():
    """The factor analysis of arXiv:2208.07818: the true model, training and test rows."""
    loadings = np.array([[-0.5, -1.0], [-1.0, -1.0], [2.0, 0.5]])
    deviation = np.array([0.4, 0.2, 0.3])
    rng = np.random.RandomState(42)
    z_train, z_test = rng.normal(size=(1000, 2)), rng.normal(size=(1000, 2))
    noise_train, noise_test = (rng.normal(size=(1000, 3)) * deviation for _ in range(2))
    model = LinearGaussian(loadings, deviation**2, np.zeros(3))
    return model, z_train @ loadings.T + noise_train, z_test @ loadings.T + noise_test


def test_targets_are_those_of_the_tutorials_data(tutorial):
    model, X, X_test = tutorial
    assert model.log_prob(X).mean() == pytest.approx(-3.934837, abs=1e-6)
    assert model.log_prob(X_test).mean() == pytest.approx(-3.970452, abs=1e-6)
    # With two factors for three columns factor analysis is saturated: any covariance is one.
    covariance = X.T @ X / len(X)
    assert normal_log_density(X, np.zeros(3), covariance).mean() == pytest.approx(
        -3.932798, abs=1e-6
    )
    assert normal_log_density(X_test, np.zeros(3), covariance).mean() == pytest.approx(
        -3.972135, abs=1e-6
    )


@pytest.mark.parametrize("init", ["random", "linear"])
def test_the_tutorials_factor_analysis_reaches_its_optimum(tutorial, init):
    _, X, X_test = tutorial
    vae = fit_linear(X, 2, init=init)
    exact = linear_gaussian_of(vae.model_)
    for rows, target in ((X, -3.932798), (X_test, -3.972135)):
        assert exact.log_prob(rows).mean() == pytest.approx(target, abs=0.01)
        assert vae.score(rows) == pytest.approx(target, abs=0.01)
        assert exact_bound(vae, rows).mean() == pytest.approx(target, abs=0.01)


def test_lower_bound_is_known_to_a_hundredth_of_a_nat_and_never_above_the_score(tutorial):
    # Draws are shared by all rows, so that their error does not average out over rows.
    _, X, _ = tutorial
    vae = VariationalAutoencoder(2, hidden_layer_sizes=(), max_iter=300, random_state=0).fit(X)
    assert vae.lower_bound(X).mean() == pytest.approx(exact_bound(vae, X).mean(), abs=0.01)
    assert (vae.lower_bound(X) <= vae.score_samples(X) + 1e-9).all()
