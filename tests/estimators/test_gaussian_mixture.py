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
from skvae.networks import MLP
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
    for weight, mean, inner in zip(model.weights_, model.means_, model.covariances_, strict=True):
        inner = np.diag(inner) if model.covariance_type == "diag" else inner
        covariance = linear.loadings @ inner @ linear.loadings.T + np.diag(linear.noise)
        centre = linear.mean + linear.loadings @ mean
        joint.append(np.log(weight) + normal_log_density(X, centre, covariance))
    return np.stack(joint, axis=1)


@pytest.mark.parametrize(("posterior", "covariance_type"), [("diagonal", "diag"), ("full", "full")])
def test_linear_decoder_is_a_mixture_of_factor_analysers(posterior, covariance_type):
    X, y = bent_blobs(600)
    model = clusters(
        hidden_layer_sizes=(),
        covariance_type=covariance_type,
        max_iter=40,
        posterior=posterior,
    ).fit(X)
    assert adjusted_rand_score(model.labels_, y) > 0.95
    model.set_params(n_score_draws=2000)
    X = X[:200]
    joint = mixture_of_factor_analysers(model, X)
    exact = logsumexp(joint, axis=1)
    np.testing.assert_allclose(model.score_samples(X).mean(), exact.mean(), atol=0.02)
    assert model.lower_bound(X).mean() < exact.mean()
    np.testing.assert_allclose(model.predict_proba(X), softmax(joint, axis=1), atol=0.06)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1.0)
    answer = model.log_likelihood(X[:50], n_draws=2000, random_state=0)
    error = np.abs(answer.value - exact[:50]) / answer.standard_error
    assert np.mean(error < 3.0) > 0.9


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
    assert model.means_.shape == (3, 2)
    assert model.covariances_.shape == (3, 2, 2)
    assert clusters(covariance_type="diag").fit(X).covariances_.shape == (3, 2)
    np.testing.assert_allclose(model.weights_.sum(), 1.0)
    # Of part of the rows the same.
    np.testing.assert_allclose(model.predict_proba(X[:7]), model.predict_proba(X)[:7], rtol=1e-9)


def test_it_is_the_mixture_prior_with_another_start():
    X = factor_rows(100)
    ours = clusters(init="random").fit(X)
    plain = VariationalAutoencoder(
        2,
        prior=MixturePrior(n_components=3, covariance_type="full"),
        hidden_layer_sizes=(8,),
        max_iter=5,
        init="random",
        random_state=0,
    ).fit(X)
    np.testing.assert_allclose(ours.score_samples(X), plain.score_samples(X))


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_start_is_a_mixture_on_the_factors(covariance_type):
    X, y = make_blobs(400, n_features=4, centers=3, cluster_std=0.8, random_state=3)
    still = {"max_iter": 1, "learning_rate_init": 1e-12}
    model = clusters(init="linear", covariance_type=covariance_type, **still).fit(X)
    assert adjusted_rand_score(model.labels_, y) > 0.95
    linear = VariationalAutoencoder(2, random_state=0, **still).fit(X)
    Z = linear.transform(X)
    mixture = GaussianMixture(3, covariance_type=covariance_type, n_init=10, random_state=0).fit(Z)
    order, reference = np.argsort(model.means_[:, 0]), np.argsort(mixture.means_[:, 0])
    np.testing.assert_allclose(
        model.means_[order], mixture.means_[reference], atol=0.02 * np.abs(mixture.means_).max()
    )
    np.testing.assert_allclose(model.weights_[order], mixture.weights_[reference], atol=0.02)
    # What is not known of the factors comes to how they vary, alike in all clusters.
    added = model.covariances_[order] - mixture.covariances_[reference]
    np.testing.assert_allclose(added, np.broadcast_to(added[0], added.shape), atol=0.01)
    if covariance_type == "full":
        added = np.diagonal(added, axis1=1, axis2=2)
    assert np.all(added > 0)
    assert model.score(X) > linear.score(X)


@pytest.mark.parametrize(
    "parameters", [{}, {"early_stopping": False}, {"n_init": 2}, {"activation": "tanh"}]
)
def test_embedding_finds_clusters_without_a_linear_model(parameters):
    X, y = bent_blobs(600)
    network = MLP(hidden_layer_sizes=(16,), linear_path=False)
    model = clusters(
        encoder=network,
        decoder=network,
        init="embedding",
        n_embedding_epochs=40,
        learning_rate_init=1e-2,
        **parameters,
    ).fit(X)
    assert adjusted_rand_score(model.labels_, y) > 0.9


def test_embedding_is_never_worse_than_the_linear_model_by_more_than_sampling_error():
    X, fresh = np.split(factor_rows(2400), 2)
    start = clusters(init="linear", max_iter=1, learning_rate_init=1e-12).fit(X)
    # So weak a pull to the prior, and so high a rate, spoil the embedding.
    model = clusters(
        init="embedding", n_embedding_epochs=3, embedding_beta=1e-3, learning_rate_init=0.1
    ).fit(X)
    gain = model.score_samples(fresh) - start.score_samples(fresh)
    assert gain.mean() >= -3.0 * gain.std() / np.sqrt(len(gain))


def test_single_passes_start_at_the_linear_model():
    X, _ = bent_blobs(200)
    embedding, linear = (clusters(init=init).partial_fit(X) for init in ("embedding", "linear"))
    np.testing.assert_array_equal(embedding.predict_proba(X), linear.predict_proba(X))


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
        ({"covariance_type": "tied"}, "The 'covariance_type' parameter"),
        ({"n_embedding_epochs": 0}, "The 'n_embedding_epochs' parameter"),
        ({"embedding_beta": 0.0}, "The 'embedding_beta' parameter"),
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


@pytest.mark.parametrize("changed", [{"n_clusters": 4}, {"covariance_type": "diag"}])
def test_another_mixture_cannot_be_trained_further(changed):
    X = factor_rows(60)
    model = clusters(warm_start=True).fit(X)
    model.fit(X)
    model.set_params(**changed)
    with pytest.raises(ValueError, match=f"since {next(iter(changed))} changed"):
        model.fit(X)


def test_one_column_has_clusters():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(-100, 1, (100, 1)), rng.normal(100, 1, (100, 1))])
    model = clusters(2, n_components=1, max_iter=30).fit(X)
    assert adjusted_rand_score(np.repeat([0, 1], 100), model.labels_) == 1.0
