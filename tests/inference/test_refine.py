"""A posterior for each row by itself: where the exact one is known, it is found."""

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae._core._batch import evenly_spread_normals
from skvae.inference import refined_posterior
from skvae.inference._refine import _bound
from tests.estimators.small import STILL_RISING, factor_rows
from tests.helpers import (
    batch_of,
    build_model,
    linear_gaussian_of,
    noise_for,
    perturbed_,
    tight_linear_model,
)
from tests.registry import LIKELIHOODS, POSTERIORS, PRIORS, make_rows

N_ROWS = 6


def spread_noise(model, n_draws):
    """Draws shared by all rows, spread evenly."""
    (name, spec), *others = model.noise_spec(n_draws).items()
    assert not others
    return {name: evenly_spread_normals(spec, 0)}


def test_exact_posterior_is_found_from_a_bad_encoder():
    model = perturbed_(tight_linear_model(), 0.3)
    exact = linear_gaussian_of(model)
    X = exact.sample(N_ROWS)
    batch, noise = batch_of(model, X), spread_noise(model, 512)
    mean, covariance = exact.posterior(X)
    start = model.posterior(batch)
    assert np.abs(start.mean.detach().numpy() - mean).max() > 0.3
    q = refined_posterior(model, batch, noise, 300)
    np.testing.assert_allclose(q.mean, mean, atol=0.02)
    np.testing.assert_allclose(q.variance, np.tile(np.diag(covariance), (N_ROWS, 1)), rtol=0.05)
    # The bound is then the log-likelihood, by draws that are not those of the optimisation.
    bound = _bound(model, batch, q, noise_for(model, 4000, 1))
    np.testing.assert_allclose(bound.detach(), exact.log_prob(X), atol=0.1)


def combinations():
    """One ingredient changed at a time."""
    return [
        *(pytest.param({"likelihood": c.component}, c, id=repr(c.component)) for c in LIKELIHOODS),
        *(pytest.param({"posterior": p}, LIKELIHOODS[0], id=repr(p)) for p in POSTERIORS),
        *(pytest.param({"prior": p}, LIKELIHOODS[0], id=repr(p)) for p in PRIORS),
    ]


@pytest.mark.parametrize(("ingredients", "case"), combinations())
def test_bound_of_no_row_falls_rows_do_not_mix_and_the_model_stays(ingredients, case):
    X = make_rows(case, N_ROWS)
    model = build_model(X, **ingredients).requires_grad_(False).eval()
    perturbed_(model, 0.3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    batch, noise = batch_of(model, X), noise_for(model, 64, 1)
    start = _bound(model, batch, model.posterior(batch), noise)
    q = refined_posterior(model, batch, noise, 20)
    alone = refined_posterior(model, batch_of(model, X[2:3]), noise, 20)
    np.testing.assert_allclose(alone.mean, q.mean[2:3], rtol=1e-9, atol=1e-12)
    z = q.rsample(noise)
    prior, observation = model.generative(batch, z)
    kl = prior.kl(q)
    if kl is None:
        kl = (q.log_prob(z) - prior.log_prob(z)).mean(0)
    refined = observation.log_prob(batch.x).mean(0) - kl
    assert (refined >= start - 1e-9).all()
    assert (refined > start + 1e-3).any()
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name])


def test_no_step_is_the_encoder_itself():
    model = tight_linear_model()
    X = linear_gaussian_of(model).sample(N_ROWS)
    batch = batch_of(model, X)
    q = refined_posterior(model, batch, noise_for(model, 4, 1), 0)
    assert torch.equal(q.mean, model.posterior(batch).mean)


@pytest.mark.filterwarnings(STILL_RISING)
def test_estimator_reports_the_gap_and_closes_it():
    X = factor_rows(300)
    vae = VariationalAutoencoder(2, max_iter=3, init="random", random_state=0).fit(X)
    gap = vae.amortization_gap(X, 60)
    assert gap.shape == (300,) and gap.mean() > 0.05 and gap.min() > -0.5
    before, score, Z = vae.lower_bound(X), vae.score(X), vae.transform(X)
    _, deviation = vae.posterior_moments(X)
    vae.set_params(refine_steps=60)
    np.testing.assert_allclose(vae.lower_bound(X) - before, gap, rtol=1e-10)
    assert vae.score(X) > score
    refined_mean, refined_deviation = vae.posterior_moments(X)
    np.testing.assert_array_equal(vae.transform(X), refined_mean)
    assert np.abs(refined_mean - Z).max() > 0.01 and not np.allclose(deviation, refined_deviation)
    np.testing.assert_allclose(vae.transform(X[5:9]), refined_mean[5:9], rtol=1e-10)
    draws = vae.sample_posterior(X[:3], 2000, random_state=0)
    np.testing.assert_allclose(draws.mean(0), refined_mean[:3], atol=0.1)
    with pytest.raises(ValueError, match="n_steps must be an integer >= 1"):
        vae.amortization_gap(X, 0)


@pytest.mark.filterwarnings(STILL_RISING)
def test_rows_far_from_all_others_gain_the_most():
    # There encoders are far off, and sure of it.
    X = factor_rows(300)
    vae = VariationalAutoencoder(2, max_iter=30, init="random", random_state=0).fit(X)
    far = X.mean(0) + 100 * X.std(0) * np.ones((1, X.shape[1]))
    gap = vae.amortization_gap(np.vstack([X[:50], far]), 100)
    assert gap[-1] > 50 * gap[:-1].max()
