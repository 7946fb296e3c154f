"""The wiring of an autoencoder."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch.distributions import Normal

from skvae._core._random import Streams
from skvae.engine import Rows, bounds_of_rows, residual_moments
from skvae.inference import importance_log_likelihood
from skvae.likelihoods import GaussianLikelihood
from skvae.models import has_linear_start, start_linear_
from skvae.networks import MLP
from skvae.objectives import SGVB
from tests.helpers import (
    assert_mean,
    batch_of,
    build_model,
    draw,
    linear_gaussian_of,
    noise_for,
    normal_log_density,
    tight_linear_model,
)
from tests.registry import (
    LIKELIHOODS,
    NETWORKS,
    POSTERIORS,
    PRIORS,
    component_of,
    each,
    for_columns,
    make_rows,
)


def ingredients():
    """One ingredient changed at a time."""
    entries = {
        "likelihood": LIKELIHOODS,
        "posterior": POSTERIORS,
        "prior": PRIORS,
        "encoder": NETWORKS,
        "decoder": NETWORKS,
    }
    return [
        pytest.param(name, *p.values, id=f"{name}={p.id}")
        for name, listed in entries.items()
        for p in each(listed)
    ]


every_combination = pytest.mark.parametrize(("name", "entry"), ingredients())


def model_with(name, entry, **parameters):
    """Model with one ingredient changed, and rows for it."""
    X = make_rows(entry if name == "likelihood" else LIKELIHOODS[0], 6)
    hidden = {"encoder": MLP(hidden_layer_sizes=(5,)), "decoder": MLP(hidden_layer_sizes=(4,))}
    component = component_of(entry)
    if name in hidden:
        component = for_columns(component, X.shape[1])
    return build_model(X, **{**hidden, name: component, **parameters}), X


@every_combination
@pytest.mark.parametrize("n_latent", [0, 1, 2])
def test_axes(name, entry, n_latent):
    model, X = model_with(name, entry, n_latent=n_latent)
    assert model.latent_shape == (n_latent,)
    noise = noise_for(model, 3, 6)
    batch = model.observe(batch_of(model, X), noise)
    q = model.posterior(batch)
    z, log_q = q.rsample_and_log_prob(noise)
    log_prior, log_likelihood = model.log_joint(batch, z)
    assert z.shape == (3, 6, n_latent)
    assert log_q.shape == log_prior.shape == log_likelihood.shape == (3, 6)
    assert q.mean.shape == q.variance.shape == (6, n_latent)
    assert batch.x.shape == (6, 3)


@every_combination
def test_log_joint_is_prior_and_likelihood(name, entry):
    model, X = model_with(name, entry)
    noise = noise_for(model, 3, 6)
    batch = model.observe(batch_of(model, X), noise)
    z = model.posterior(batch).rsample(noise)
    prior, observation = model.generative(batch, z)
    log_prior, log_likelihood = model.log_joint(batch, z)
    torch.testing.assert_close(log_prior, prior.log_prob(z))
    torch.testing.assert_close(log_likelihood, observation.log_prob(batch.x))


@every_combination
def test_rows_do_not_mix(name, entry):
    model, X = model_with(name, entry)
    noise = noise_for(model, 3, 6)
    batch = model.observe(batch_of(model, X), noise)
    z = model.posterior(batch).rsample(noise)
    specs = model.noise_spec(3)
    some = {n: t[2:4] if specs[n].per == "row" else t[:, 2:4] for n, t in noise.items()}
    part = batch._replace(x=batch.x[2:4], noise=some)
    torch.testing.assert_close(model.posterior(part).mean, model.posterior(batch).mean[2:4])
    torch.testing.assert_close(
        model.log_joint(part, z[:, 2:4])[1], model.log_joint(batch, z)[1][:, 2:4]
    )


@every_combination
def test_masked_entries_do_not_matter(name, entry):
    model, X = model_with(name, entry)
    noise = noise_for(model, 3, 6)
    batch = model.observe(batch_of(model, X), noise)
    mask = torch.ones_like(batch.x)
    mask[:, 1] = 0.0
    answers = []
    for filling in (0.0, 1.0):
        x = torch.where(mask > 0, batch.x, torch.full_like(batch.x, filling))
        masked = batch._replace(x=x, mask=mask)
        z = model.posterior(masked).rsample(noise)
        answers.append(torch.stack(model.log_joint(masked, z)))
    assert torch.equal(*answers)


@every_combination
@torch.no_grad()
def test_prior_draws_follow_the_prior(name, entry):
    model, _ = model_with(name, entry)
    noise = draw(model.prior_noise_spec(5000), 1)
    with torch.no_grad():
        z = model.sample_prior(None, noise)
        log_p = model.prior().log_prob(z)
    assert z.shape == (5000, 1, 2)
    # E_p[r(z) / p(z)] = 1 for any density r.
    log_r = Normal(0.0, 0.5).log_prob(z).sum(-1)
    assert_mean((log_r - log_p).exp(), 1.0)


@every_combination
def test_weights_come_from_the_generator_alone(name, entry):
    before = torch.get_rng_state()
    first, again, other = (model_with(name, entry, seed=s)[0].state_dict() for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("case", each(LIKELIHOODS))
def test_without_latent_variables_the_model_is_the_marginals(case):
    X = make_rows(case, 40)
    model = build_model(X, n_latent=0, likelihood=case.component)
    batch = batch_of(model, X)
    head = model.observation_head
    expected = head.log_prob_columns(
        head.params_from(head.initial_outputs().expand(1, 40, -1)), batch.x
    )
    z = batch.x.new_zeros(1, 40, 0)
    torch.testing.assert_close(model.log_joint(batch, z)[1], expected.sum(-1))


def test_marginal_of_a_linear_model_is_that_of_its_draws():
    # Prior, decoder and likelihood together, against the closed form: draw rows, average densities.
    model = tight_linear_model(3, 1)
    exact = linear_gaussian_of(model)
    n = 20_000
    noise = draw(model.prior_noise_spec(n), 1)
    with torch.no_grad():
        z = model.sample_prior(None, noise)
        observation = model.generative(batch_of(model, np.zeros((1, 3))), z).observation
        x = observation.sample(torch.Generator().manual_seed(1))
        rows = model.observation_head.unstandardize(x)[:, 0].numpy()
    covariance = exact.loadings @ exact.loadings.T + np.diag(exact.noise)
    assert_mean(rows, exact.mean)
    products = (rows - exact.mean)[:, :, None] * (rows - exact.mean)[:, None, :]
    assert_mean(products, covariance)


# ------------------------------------------------------------------------- starting linearly


def started(X, n_latent, n_factors=None, **ingredients):
    """Model at the linear model of its rows, and places where training leaves from."""
    model = build_model(X, n_latent=n_latent, **ingredients)
    head = model.observation_head
    rows = Rows(X, head.standardize, dtype=torch.float64, device=torch.device("cpu"))
    n_factors = n_latent if n_factors is None else n_factors
    bound, streams = SGVB().build(1), Streams(0)
    departures = start_linear_(
        model,
        residual_moments(rows, head, n_factors),
        n_factors,
        judge=lambda m: float(bounds_of_rows(m, bound, rows, streams).mean()),
        generator=torch.Generator().manual_seed(0),
    )
    return model, departures


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(150, 2)) @ rng.normal(size=(2, 6))
    return (z + rng.normal(size=(150, 6)) * rng.uniform(0.3, 1.0, 6)) * np.arange(1.0, 7.0) + 5.0


def exact_scores(model, X):
    """Importance-weighted scores with one draw, and the exact marginal of the model."""
    with torch.no_grad():
        one_draw = importance_log_likelihood(model, batch_of(model, X), noise_for(model, 1, len(X)))
    return one_draw.numpy(), linear_gaussian_of(model).log_prob(X)


@pytest.mark.parametrize("hidden", [(), (7,)])
@pytest.mark.parametrize("noise", ["per_feature", "shared", "predicted"])
def test_a_gaussian_model_starts_at_factor_analysis_or_pca(X, noise, hidden):
    network = MLP(hidden_layer_sizes=hidden)
    model, departures = started(
        X, 2, likelihood=GaussianLikelihood(noise=noise), encoder=network, decoder=network
    )
    assert departures
    one_draw, exact = exact_scores(model, X)
    # The encoder is the true posterior: a single draw gives the log-likelihood.
    np.testing.assert_allclose(one_draw, exact, atol=1e-6)
    if noise == "shared":
        reference = PCA(2).fit(X).score(X)
        assert exact.mean() == pytest.approx(reference, abs=0.02)
        assert exact.mean() >= reference
    else:
        scale = X.std(axis=0)
        reference = FactorAnalysis(2, svd_method="lapack", tol=1e-8, max_iter=10_000)
        reference = reference.fit(X / scale).score(X / scale) - np.log(scale).sum()
        assert exact.mean() == pytest.approx(reference, abs=1e-4)


def test_fixed_noise_starts_at_its_best_loadings(X):
    noise = 0.5 * X.var(axis=0)
    model, departures = started(X, 2, likelihood=GaussianLikelihood(noise=noise))
    assert departures
    one_draw, exact = exact_scores(model, X)
    np.testing.assert_allclose(one_draw, exact, atol=1e-6)
    found = linear_gaussian_of(model)
    np.testing.assert_allclose(found.noise, noise)
    rng = np.random.default_rng(1)
    for _ in range(10):
        moved = found.loadings + 1e-3 * rng.normal(size=found.loadings.shape)
        covariance = moved @ moved.T + np.diag(noise)
        assert normal_log_density(X, X.mean(axis=0), covariance).mean() < exact.mean()


def test_latent_variables_beyond_the_factors_start_unused_and_movable(X):
    model, _ = started(X, 4, n_factors=2)
    two, _ = started(X, 2)
    np.testing.assert_allclose(linear_gaussian_of(model).loadings[:, 2:], 0.0)
    np.testing.assert_allclose(
        linear_gaussian_of(model).log_prob(X), linear_gaussian_of(two).log_prob(X), rtol=1e-6
    )
    # The expected gradient of their loadings is not zero: it is that at the posterior mean.
    at_mean = {"z": torch.zeros(1, len(X), 4, dtype=torch.float64)}
    value = importance_log_likelihood(model, batch_of(model, X), at_mean).sum()
    (gradient,) = torch.autograd.grad(value, model.decoder.linear_path.weight)
    assert (gradient[2:].abs().max(dim=1).values > 1e-6).all()


def test_training_leaves_from_a_model_without_nearly_noise_free_columns(X):
    """A factor that is one column would hold all gradients; the start itself keeps it."""
    rng = np.random.default_rng(2)
    X = np.column_stack([X, 3.0 * X[:, 0] + 1e-4 * rng.normal(size=len(X))])
    model, departures = started(X, 2)
    scale = X.std(axis=0)
    noise = linear_gaussian_of(model).noise / scale**2
    least = 0.01 * np.median(noise)
    assert noise.min() < 0.1 * least
    raised = linear_gaussian_of(departures[0])
    np.testing.assert_allclose(raised.noise / scale**2, np.maximum(noise, least), rtol=1e-5)
    # It is a linear model with the best loadings for that noise, and its bound is tight.
    one_draw, exact = exact_scores(departures[0], X)
    np.testing.assert_allclose(one_draw, exact, atol=1e-6)
    moved = raised.loadings + 1e-3 * scale[:, None] * rng.normal(size=raised.loadings.shape)
    covariance = moved @ moved.T + np.diag(raised.noise)
    assert normal_log_density(X, X.mean(axis=0), covariance).mean() < exact.mean()


def test_training_leaves_from_the_start_itself_where_all_columns_have_noise(X):
    model, departures = started(X, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(departures[0].state_dict()[name], value)


def test_training_may_leave_anew_from_the_networks_alone(X):
    networks = {name: MLP(hidden_layer_sizes=(7,)) for name in ("encoder", "decoder")}
    _, departures = started(X, 2, **networks)
    fresh = build_model(X, n_latent=2, **networks)
    own = dict(fresh.named_parameters())
    for name, value in departures[1].named_parameters():
        if "linear_path" in name:
            assert not value.any()
        else:
            assert torch.equal(own[name], value)


def test_there_is_nothing_to_look_for_beyond_a_linear_decoder(X):
    _, departures = started(X, 2, decoder=MLP(hidden_layer_sizes=()))
    assert len(departures) == 1


def test_without_a_linear_path_nothing_is_started(X):
    for side in ("encoder", "decoder"):
        network = {side: MLP(hidden_layer_sizes=(5,), linear_path=False)}
        model, departures = started(X, 2, **network)
        assert departures == []
        fresh = build_model(X, n_latent=2, **network)
        for name, value in fresh.named_parameters():
            assert torch.equal(model.get_parameter(name), value)


@pytest.mark.parametrize("prior", each(PRIORS))
def test_a_model_is_started_where_its_prior_starts_near_that_of_linear_models(X, prior):
    model, departures = started(X, 2, prior=prior)
    fresh = build_model(X, n_latent=2, prior=prior)
    assert bool(departures) == has_linear_start(model) == model.prior_head.starts_standard
    if not departures:
        for name, value in fresh.named_parameters():
            assert torch.equal(model.get_parameter(name), value)


@pytest.mark.parametrize(
    "case", each([c for c in LIKELIHOODS if c.outcome.name == "binary" and c.rows is c.outcome])
)
def test_a_binary_model_starts_better_than_the_marginals(case):
    X = case.from_real(
        np.random.default_rng(0).normal(size=(300, 1)) * 1.5 + make_rows(case, 300, 8)
    )
    model, departures = started(X, 1, likelihood=case.component)
    assert departures
    marginal = build_model(X, n_latent=0, likelihood=case.component)
    with torch.no_grad():
        scores = [
            float(importance_log_likelihood(m, batch_of(m, X), noise_for(m, 100, 300)).mean())
            for m in (model, marginal)
        ]
    assert scores[0] > scores[1] + 0.3
