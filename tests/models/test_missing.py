"""Rows with missing entries, against conditional normal distributions."""

import numpy as np
import pytest
import torch

from skvae._core._batch import Batch
from skvae._core._random import Streams
from skvae.engine import Rows, bounds_of_rows, residual_moments
from skvae.inference import (
    chain_draws,
    conditional_draws,
    conditional_expectation,
    importance_log_likelihood,
)
from skvae.models import start_linear_
from skvae.networks import MLP
from skvae.objectives import SGVB
from skvae.posteriors import DiagonalPosterior, FullCovariancePosterior
from tests import registry
from tests.helpers import (
    assert_mean,
    build_model,
    linear_gaussian_of,
    noise_for,
    normal_log_density,
)
from tests.registry import each, make_rows

CPU = torch.device("cpu")


def with_holes(X, share=0.4, *, seed=0):
    """The rows with so many entries missing at random."""
    X = np.array(X, dtype=np.float64)
    X[np.random.default_rng(seed).random(X.shape) < share] = np.nan
    return X


def started(X, n_latent, **ingredients):
    """Model at the linear model of rows with holes, the rows, and where training leaves from."""
    model = build_model(X, n_latent=n_latent, **ingredients)
    head = model.observation_head
    rows = Rows(X, head.standardize, placeholder=head.placeholder, dtype=torch.float64, device=CPU)
    bound, streams = SGVB().build(1), Streams(0)
    places = start_linear_(
        model,
        residual_moments(rows, head, n_latent),
        n_latent,
        judge=lambda m: float(bounds_of_rows(m, bound, rows, streams).mean()),
        generator=torch.Generator().manual_seed(0),
    )
    return model.eval().requires_grad_(False), rows, places


def conditionals(exact, X):
    """For each row: log-density of what is observed, and moments of x and of z given it."""
    covariance = exact.loadings @ exact.loadings.T + np.diag(exact.noise)
    found = []
    for x in X:
        o = ~np.isnan(x)
        gain = np.linalg.solve(covariance[np.ix_(o, o)], (x - exact.mean)[o])
        scale = np.linalg.solve(covariance[np.ix_(o, o)], covariance[o])
        log_prob = normal_log_density(x[None, o], exact.mean[o], covariance[np.ix_(o, o)])[0]
        shared = exact.loadings[o]
        z_scale = np.linalg.solve(covariance[np.ix_(o, o)], shared)
        found.append(
            (
                log_prob if o.any() else 0.0,
                exact.mean + covariance[:, o] @ gain,
                covariance - covariance[:, o] @ scale,
                shared.T @ gain,
                np.eye(shared.shape[1]) - shared.T @ z_scale,
            )
        )
    return [np.array(part) for part in zip(*found, strict=True)]


@pytest.fixture(scope="module")
def X():
    """Correlated rows of unequal scale, far from zero, some entries missing."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(150, 2)) @ rng.normal(size=(2, 6)) + 0.5 * rng.normal(size=(150, 6))
    return with_holes(rows * [1.0, 5.0, 0.1, 1.0, 2.0, 30.0] + 100.0)


@pytest.mark.parametrize("posterior", [DiagonalPosterior(), FullCovariancePosterior()], ids=repr)
@pytest.mark.parametrize("hidden", [(), (7,)])
def test_at_the_start_everything_is_exact(X, hidden, posterior):
    networks = {name: MLP(hidden_layer_sizes=hidden) for name in ("encoder", "decoder")}
    model, rows, _ = started(X, 3, posterior=posterior, **networks)
    log_prob, mean, _, z_mean, z_covariance = conditionals(linear_gaussian_of(model), X)
    batch = rows.slice(0, len(X))
    q = model.posterior(batch)
    np.testing.assert_allclose(q.mean, z_mean, atol=1e-6)
    np.testing.assert_allclose(q.variance, np.diagonal(z_covariance, axis1=1, axis2=2), rtol=1e-6)
    noise = noise_for(model, 3, len(X))
    score = importance_log_likelihood(model, batch, noise)
    # All importance weights of a row are equal, however few the draws.
    np.testing.assert_allclose(score, log_prob, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        SGVB(kl="analytic").build(1)(model, batch, noise_for(model, 4000, len(X))),
        log_prob,
        atol=0.5,
    )
    expected, ess = conditional_expectation(model, batch, noise)
    np.testing.assert_allclose(ess, 3.0, rtol=1e-5)
    assert expected.shape == X.shape
    many = noise_for(model, 4000, len(X))
    expected, _ = conditional_expectation(model, batch, many, n_at_once=1000)
    filled = model.observation_head.from_expectation(expected).numpy()
    # Of missing entries; the average of E[x | z] over 4000 draws of z, in standard errors.
    spread = linear_gaussian_of(model).loadings
    error = np.sqrt(np.einsum("ci,rij,cj->rc", spread, z_covariance, spread) / 4000)
    assert np.all((np.abs(filled - mean) < 4.5 * error + 1e-8)[np.isnan(X)])


def test_moments_of_what_is_observed_maximise_its_likelihood(X):
    """At factor analysis with holes the exact score, by automatic differentiation, is zero."""
    model, _, _ = started(X, 2)
    exact = linear_gaussian_of(model)
    scale = np.nanstd(X, axis=0)
    parameters = [
        torch.tensor(t, requires_grad=True)
        for t in (exact.loadings / scale[:, None], np.log(exact.noise / scale**2), exact.mean)
    ]

    def log_likelihood():
        loadings, log_noise, mean = parameters
        covariance = loadings @ loadings.mT + torch.diag(torch.exp(log_noise))
        total = torch.zeros((), dtype=torch.float64)
        for x in X:
            o = np.flatnonzero(~np.isnan(x))
            if len(o):
                deviation = torch.as_tensor((x / scale)[o]) - mean[o] / torch.as_tensor(scale[o])
                factor = torch.linalg.cholesky(covariance[o][:, o])
                standard = torch.linalg.solve_triangular(factor, deviation[:, None], upper=False)
                total = total - 0.5 * standard.square().sum() - factor.diagonal().log().sum()
        return total / len(X)

    gradients = torch.autograd.grad(log_likelihood(), parameters)
    for gradient, size in zip(gradients, (1.0, 1.0, scale), strict=True):
        assert np.abs(gradient.numpy() * size).max() < 5e-3


def test_complete_rows_are_not_touched(X):
    """A mask of ones is no mask, and a model that knows of missing entries is what it was."""
    model, _, _ = started(X, 2)
    complete = torch.randn(20, 6, dtype=torch.float64)
    ones = torch.ones_like(complete)
    for training in (False, True):
        model.train(training)
        plain, masked = model.posterior(Batch(complete)), model.posterior(Batch(complete, ones))
        torch.testing.assert_close(plain.mean, masked.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(plain.variance, masked.variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", each(registry.LIKELIHOODS))
def test_value_under_the_mask_never_matters(case):
    X = make_rows(case)
    holes = with_holes(X)
    model = build_model(holes, n_latent=2, likelihood=case.component).eval()
    with torch.no_grad():
        for t in (*model.parameters(), model.missing.loadings, model.missing.root):
            t.add_(0.3 * torch.randn(t.shape, dtype=t.dtype))
    x = model.observation_head.standardize(torch.from_numpy(X)).double()
    mask = torch.from_numpy(~np.isnan(holes)).double()
    other = torch.where(mask > 0, x, x.roll(1, 0))
    noise = noise_for(model, 5, len(X))
    one, two = (
        importance_log_likelihood(model, Batch(values, mask), noise) for values in (x, other)
    )
    torch.testing.assert_close(one, two, rtol=0.0, atol=0.0)
    one, two = (conditional_expectation(model, Batch(v, mask), noise)[0] for v in (x, other))
    torch.testing.assert_close(one, two, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("posterior", each(registry.POSTERIORS))
def test_change_of_outputs_is_one_of_the_scale(posterior):
    head = posterior.build(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = torch.tensor([-0.5, 0.2, 0.1], dtype=torch.float64)
    change = torch.tensor([0.3, 0.0, 1.1], dtype=torch.float64)
    torch.testing.assert_close(
        head.outputs_at(before) + head.change_of_outputs(change), head.outputs_at(before + change)
    )


@pytest.mark.parametrize("prior", each(registry.PRIORS))
def test_posterior_of_nothing_is_the_prior_where_it_can_be(prior):
    model = build_model(make_rows(registry.LIKELIHOODS[0]), n_latent=2, prior=prior).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=p.dtype))
    nothing = Batch(torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64))
    q, noise = model.posterior(nothing), noise_for(model, 50, 1)
    z = q.rsample(noise)
    gain = model.generative(nothing, z).prior.log_prob(z) - q.log_prob(z)
    if model.prior_head.as_normals() is None:
        assert prior.shorthand not in {"normal", "diagonal"}
        return
    torch.testing.assert_close(gain, torch.zeros_like(gain), atol=1e-9, rtol=0.0)


def test_missing_features_are_read_as_expected(X):
    model, rows, _ = started(X, 2)
    _, mean, _, _, _ = conditionals(linear_gaussian_of(model), X)
    read, _ = model.read(rows.slice(0, len(X)))
    head = model.observation_head
    np.testing.assert_allclose(head.unstandardize(read), mean, rtol=1e-6, atol=1e-5)
    # The same from factors that are known beforehand.
    rows.know(model.knowable)
    known = rows.slice(0, len(X))
    assert known.factors is not None
    torch.testing.assert_close(model.read(known)[0], read)


# ---------------------------------------------------------------------- draws of what is missing

N_DRAWS = 2000


@pytest.fixture(scope="module")
def loose(X):
    """A linear model with an encoder that is off, some rows with holes, and exact answers."""
    model, rows, _ = started(X, 2)
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(0.05 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator()))
    batch = rows.slice(0, 4)
    return model, batch, conditionals(linear_gaussian_of(model), X[:4])


def draws_by(method, model, batch):
    generator = torch.Generator().manual_seed(0)
    # Independent of each other: each is one draw for a row of its own.
    many = batch.map(lambda t: t.repeat(N_DRAWS, 1))
    noise = noise_for(model, 200, len(many.x))
    x, z = conditional_draws(model, many, noise, 1, generator)
    if method != "importance":
        corrected = method != "pseudo_gibbs"
        x = chain_draws(model, many, x, z, 30, generator, corrected=corrected)
    return model.observation_head.unstandardize(x[0]).view(N_DRAWS, *batch.x.shape).numpy()


@pytest.mark.parametrize("method", ["importance", "metropolis_within_gibbs"])
def test_draws_follow_the_conditional_distribution(loose, method):
    model, batch, (_, mean, covariance, _, _) = loose
    draws = draws_by(method, model, batch)
    missing = batch.mask.numpy() == 0
    assert missing.any(axis=1).all()
    for i, where in enumerate(missing):
        own = draws[:, i]
        np.testing.assert_array_equal(own[:, ~where], own[:1, ~where].repeat(N_DRAWS, axis=0))
        assert_mean(own[:, where], mean[i, where], name=method)
        centred = own[:, where] - mean[i, where]
        products = centred[:, :, None] * centred[:, None, :]
        assert_mean(products, covariance[i][np.ix_(where, where)], name=method)


def test_pseudo_gibbs_leaves_it_where_the_encoder_is_off(loose):
    """Which is why there is a correction; and the tests above can fail."""
    model, batch, (_, mean, _, _, _) = loose
    draws = draws_by("pseudo_gibbs", model, batch)
    error = draws.std(axis=0) / np.sqrt(N_DRAWS)
    missing = batch.mask.numpy() == 0
    assert (np.abs(draws.mean(axis=0) - mean)[missing] > 10.0 * error[missing]).any()


def test_pseudo_gibbs_follows_it_where_the_encoder_is_exact(X):
    model, rows, _ = started(X, 2)
    batch = rows.slice(0, 3)
    _, mean, covariance, _, _ = conditionals(linear_gaussian_of(model), X[:3])
    draws = draws_by("pseudo_gibbs", model, batch)
    for i, where in enumerate(batch.mask.numpy() == 0):
        centred = draws[:, i, where] - mean[i, where]
        assert_mean(draws[:, i, where], mean[i, where])
        products = centred[:, :, None] * centred[:, None, :]
        assert_mean(products, covariance[i][np.ix_(where, where)])


def test_several_draws_for_a_row_are_spread_by_weight(loose):
    """Systematic resampling takes each draw as often as its weight says, to within one."""
    model, batch, _ = loose
    noise = noise_for(model, 50, len(batch.x))
    generator = torch.Generator().manual_seed(0)
    x, z = conditional_draws(model, batch, noise, 40, generator)
    assert z.shape == (40, len(batch.x), 2)
    assert x.shape == (40, *batch.x.shape)
    observed = batch.mask > 0
    for draw in x:
        torch.testing.assert_close(draw[observed], batch.x[observed], rtol=0.0, atol=0.0)
