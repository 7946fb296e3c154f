"""Clusters: exact answers for linear decoders, and the manners of scikit-learn's clusterers."""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn.base import is_clusterer
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from skvae import GaussianMixtureVariationalAutoencoder, VariationalAutoencoder
from skvae.exceptions import EmptyClusterWarning
from skvae.priors import MixturePrior
from tests.estimators.small import STILL_RISING, factor_rows
from tests.helpers import linear_gaussian_of, normal_log_density

pytestmark = [
    pytest.mark.filterwarnings(STILL_RISING),
    pytest.mark.filterwarnings("ignore:No latent component is active"),
    pytest.mark.filterwarnings("ignore:Clusters"),
]


def clusters(n_clusters=3, **parameters):
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 5, "random_state": 0}
    return GaussianMixtureVariationalAutoencoder(n_clusters, **{**defaults, **parameters})


def bent_blobs(n_rows, *, seed=0):
    """Three groups of which each is a piece of a curve, in five columns."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n_rows)
    t = rng.normal(size=n_rows)
    centre = np.array([[0.0, 4.0], [4.0, -3.0], [-4.0, -3.0]])[y]
    plane = centre + np.stack([t, 0.5 * t**2], axis=1)
    X = plane @ np.random.default_rng(5).normal(size=(2, 5))
    return X + 0.3 * rng.normal(size=X.shape), y


def mixture_of_factor_analysers(model, X):
    """Exact log p(x, y) of each row and cluster, of a model whose decoder is linear."""
    linear = linear_gaussian_of(model.model_)
    joint = []
    for weight, mean, variance in zip(
        model.weights_, model.means_, model.covariances_, strict=True
    ):
        covariance = (linear.loadings * variance) @ linear.loadings.T + np.diag(linear.noise)
        centre = linear.mean + linear.loadings @ mean
        joint.append(np.log(weight) + normal_log_density(X, centre, covariance))
    return np.stack(joint, axis=1)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_linear_decoder_is_a_mixture_of_factor_analysers(posterior):
    X, y = bent_blobs(600)
    model = clusters(
        hidden_layer_sizes=(), max_iter=60, posterior=posterior, n_score_draws=2000
    ).fit(X)
    joint = mixture_of_factor_analysers(model, X)
    exact = logsumexp(joint, axis=1)
    np.testing.assert_allclose(model.score_samples(X).mean(), exact.mean(), atol=0.02)
    assert model.lower_bound(X).mean() < exact.mean()
    np.testing.assert_allclose(model.predict_proba(X), softmax(joint, axis=1), atol=0.06)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1.0)
    answer = model.log_likelihood(X[:50], n_draws=2000, random_state=0)
    error = np.abs(answer.value - exact[:50]) / answer.standard_error
    assert np.mean(error < 3.0) > 0.9
    assert adjusted_rand_score(model.labels_, y) > 0.95


def test_sampled_rows_come_from_the_mixture():
    X, _ = bent_blobs(600)
    model = clusters(hidden_layer_sizes=(), max_iter=40).fit(X)
    drawn = model.sample(4000, random_state=0)
    shares = np.bincount(model.predict(drawn), minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, model.weights_, atol=0.05)
    np.testing.assert_allclose(model.inverse_transform(model.means_).shape, (3, 5))


def test_clusters_are_found_again():
    X, y = bent_blobs(600)
    scores = []
    for seed in range(2):
        model = clusters(max_iter=60, hidden_layer_sizes=(32,), random_state=seed).fit(X)
        scores.append(adjusted_rand_score(model.predict(X), y))
    assert min(scores) > 0.9


def test_manners_of_a_clusterer():
    X, _ = bent_blobs(200)
    model = clusters()
    assert is_clusterer(model)
    labels = model.fit_predict(X)
    np.testing.assert_array_equal(labels, model.labels_)
    np.testing.assert_array_equal(labels, model.predict(X))
    np.testing.assert_array_equal(labels, model.predict_proba(X).argmax(axis=1))
    assert model.means_.shape == model.covariances_.shape == (3, 2)
    np.testing.assert_allclose(model.weights_.sum(), 1.0)
    # Of part of the rows the same.
    np.testing.assert_allclose(model.predict_proba(X[:7]), model.predict_proba(X)[:7], rtol=1e-9)


def test_it_is_the_mixture_prior_with_another_start():
    X = factor_rows(100)
    ours = clusters(init="random").fit(X)
    plain = VariationalAutoencoder(
        2,
        prior=MixturePrior(n_components=3),
        hidden_layer_sizes=(8,),
        max_iter=5,
        init="random",
        random_state=0,
    ).fit(X)
    np.testing.assert_allclose(ours.score_samples(X), plain.score_samples(X))


def test_start_is_a_mixture_on_the_factors():
    X, y = make_blobs(400, n_features=4, centers=3, cluster_std=0.8, random_state=3)
    model = clusters(max_iter=1, learning_rate_init=1e-12).fit(X)
    assert adjusted_rand_score(model.labels_, y) > 0.95
    linear = VariationalAutoencoder(2, max_iter=1, learning_rate_init=1e-12, random_state=0).fit(X)
    Z = linear.transform(X)
    mixture = GaussianMixture(3, covariance_type="diag", n_init=10, random_state=0).fit(Z)
    order, reference = np.argsort(model.means_[:, 0]), np.argsort(mixture.means_[:, 0])
    np.testing.assert_allclose(
        model.means_[order], mixture.means_[reference], atol=0.02 * np.abs(mixture.means_).max()
    )
    np.testing.assert_allclose(model.weights_[order], mixture.weights_[reference], atol=0.02)
    assert np.all(model.covariances_[order] > mixture.covariances_[reference])
    assert model.score(X) > linear.score(X)


def test_missing_entries():
    X, y = bent_blobs(600)
    holes = np.random.default_rng(0).random(X.shape) < 0.2
    given = np.where(holes, np.nan, X)
    model = clusters(max_iter=40, hidden_layer_sizes=(32,)).fit(given)
    assert adjusted_rand_score(model.labels_, y) > 0.8
    nothing = np.full((2, 5), np.nan)
    np.testing.assert_allclose(model.predict_proba(nothing), [model.weights_] * 2, atol=0.15)


def test_empty_clusters_are_reported():
    X = np.repeat(factor_rows(4), 20, axis=0) + 1e-3 * np.random.default_rng(0).normal(size=(80, 4))
    with pytest.warns(EmptyClusterWarning, match=r"Clusters \[.*\] are empty"):
        clusters(12, max_iter=30).fit(X)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": 0}, "The 'n_clusters' parameter"),
        ({"n_components": 0}, "The 'n_components' parameter"),
        ({"n_clusters": 200}, "n_clusters=200 needs as many rows; X has 60"),
    ],
)
def test_bad_parameters(parameters, message):
    X = factor_rows(60)
    model = clusters().fit(X)
    before = model.predict_proba(X)
    model.set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    np.testing.assert_array_equal(model.set_params(n_clusters=3).predict_proba(X), before)


def test_another_number_of_clusters_cannot_be_trained_further():
    X = factor_rows(60)
    model = clusters(warm_start=True).fit(X)
    model.fit(X)
    model.set_params(n_clusters=4)
    with pytest.raises(ValueError, match="since n_clusters changed"):
        model.fit(X)
