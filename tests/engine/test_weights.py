"""A posterior over weights: the exact one, where there is one, is found."""

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae._core._batch import StepInputs
from skvae.engine import TrainingStep
from skvae.engine._weights import UncertainWeights
from skvae.likelihoods import GaussianLikelihood
from skvae.networks import MLP
from skvae.objectives import SGVB
from skvae.solvers import Adam
from skvae.solvers._base import LearningRate
from tests.engine.toy import CPU
from tests.estimators.small import STILL_RISING, factor_rows
from tests.helpers import batch_of, build_model, draw

N_ROWS, N_COLUMNS, PRECISION = 12, 3, 2.0


def linear_setting(seed=0):
    """A linear decoder of one latent variable, all else held: its weights have a normal posterior.

    Given the encoder, the expected log-likelihood is quadratic in each of the weights, and each
    stands alone.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N_ROWS, 1)) @ [[1.0, -0.7, 0.2]] + 0.5 * rng.normal(
        size=(N_ROWS, N_COLUMNS)
    )
    model = build_model(X, n_latent=1, likelihood=GaussianLikelihood(noise=0.5), seed=seed)
    model.requires_grad_(False)
    model.decoder.linear_path.weight.requires_grad_(True)
    return model, batch_of(model, X)


def exact_posterior(model, batch):
    """Means and standard deviations of the weights, and the bound on the evidence at them."""
    q, weight = model.posterior(batch), model.decoder.linear_path.weight
    # Two points with the mean and the variance of q are exact for what is quadratic in z.
    z = torch.stack([q.mean - q.variance.sqrt(), q.mean + q.variance.sqrt()])

    def expected(w):
        observation = model.generative(batch, z).observation
        before = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(w)
            observation = model.generative(batch, z).observation
            value = observation.log_prob(batch.x).mean(0).sum()
            weight.copy_(before)
        return float(value)

    mean, deviation = np.empty(N_COLUMNS), np.empty(N_COLUMNS)
    for j in range(N_COLUMNS):
        low, middle, high = (
            expected(size * torch.eye(N_COLUMNS, dtype=torch.float64)[[j]]) for size in (-1, 0, 1)
        )
        curvature = 2 * middle - low - high
        precision = PRECISION + curvature
        mean[j] = 0.5 * (high - low) / precision
        deviation[j] = precision**-0.5
    return mean, deviation


def test_exact_posterior_of_a_linear_decoder_is_found():
    model, batch = linear_setting()
    mean, deviation = exact_posterior(model, batch)
    assert deviation.min() > 0.1  # there is something to be uncertain about
    bound, solver = SGVB(n_draws=8).build(1), Adam(warmup_steps=0)
    rate = LearningRate(0.02, 0, 10**9, CPU)
    step = TrainingStep(
        [model],
        bound,
        solver,
        rate,
        prior_precision=[PRECISION / N_ROWS],
        uncertain=lambda flat: UncertainWeights(
            flat,
            model.generative_weights(),
            solver,
            prior_precision=PRECISION,
            n_rows=[N_ROWS],
        ),
    )
    assert model.generative_weights() == ["decoder.linear_path.weight"]
    share = torch.full((1, N_ROWS, 1), -1.0 / N_ROWS, dtype=torch.float64)
    found = []
    for i in range(6000):
        rate.plateau.fill_(0.02 if i < 1000 else 0.003)
        specs = model.noise_spec(8) | step.noise_spec()
        noise = {name: t.unsqueeze(0) for name, t in draw(specs, N_ROWS, seed=i).items()}
        bounds = torch.empty(1, N_ROWS, dtype=torch.float64)
        step(StepInputs(batch.x.unsqueeze(0), None, None, share, noise, bounds))
        if i >= 2000:
            weight = model.decoder.linear_path.weight.detach().ravel().clone()
            scale = step.uncertain.scales_of(0)["decoder.linear_path.weight"].ravel()
            found.append(torch.stack([weight, scale.log()]))
    average = torch.stack(found).mean(0).numpy()
    np.testing.assert_allclose(average[0], mean, atol=0.05 * deviation.max())
    np.testing.assert_allclose(np.exp(average[1]), deviation, rtol=0.04)


def test_step_leaves_the_means_in_the_model():
    model, batch = linear_setting()
    solver, rate = Adam(warmup_steps=0), LearningRate(0.0, 0, 1, CPU)
    before = model.decoder.linear_path.weight.detach().clone()
    step = TrainingStep(
        [model],
        SGVB().build(1),
        solver,
        rate,
        uncertain=lambda flat: UncertainWeights(
            flat, model.generative_weights(), solver, prior_precision=1.0, n_rows=[N_ROWS]
        ),
    )
    specs = model.noise_spec(1) | step.noise_spec()
    noise = {name: t.unsqueeze(0) for name, t in draw(specs, N_ROWS).items()}
    share = torch.full((1, N_ROWS, 1), -1.0 / N_ROWS, dtype=torch.float64)
    bounds = torch.empty(1, N_ROWS, dtype=torch.float64)
    step(StepInputs(batch.x.unsqueeze(0), None, None, share, noise, bounds))
    assert torch.equal(model.decoder.linear_path.weight, before)
    assert step.flat.groups[0].grad.abs().max() > 0


VAE = {
    "n_components": 1,
    "init": "random",
    "early_stopping": False,
    "alpha": 1.0,
    "weight_posterior": "gaussian",
    "random_state": 0,
}


def weights_of(vae):
    """Names of the decoder's weight matrices."""
    names = vae.model_.decoder.named_parameters(prefix="decoder")
    return {name for name, p in names if p.ndim == 2}


@pytest.mark.filterwarnings(STILL_RISING)
class TestEstimator:
    """What users see of it."""

    def test_scores_average_over_draws_of_the_weights(self):
        X = factor_rows(40)
        vae = VariationalAutoencoder(max_iter=60, **VAE).fit(X)
        assert set(vae.weight_scales_) == weights_of(vae)
        assert all((scale > 0).all() for scale in vae.weight_scales_.values())
        score, bound = vae.score_samples(X), vae.lower_bound(X)
        assert (score >= bound - 1e-9).all()
        np.testing.assert_array_equal(score, vae.score_samples(X))
        np.testing.assert_allclose(score[3:9], vae.score_samples(X[3:9]), rtol=1e-10)
        scales = vae.weight_scales_
        del vae.weight_scales_
        certain = vae.lower_bound(X)
        assert certain.mean() > bound.mean()  # the mean is better than what lies around it
        vae.weight_scales_ = {name: 0.0 * scale for name, scale in scales.items()}
        np.testing.assert_allclose(vae.lower_bound(X), certain, rtol=1e-6)

    def test_sampled_rows_spread_more_than_with_certain_weights(self):
        X = factor_rows(25)
        vae = VariationalAutoencoder(max_iter=60, **VAE).fit(X)
        vae.weight_scales_ = {name: 5 + 0 * scale for name, scale in vae.weight_scales_.items()}
        wide = vae.sample(500, random_state=0)
        assert np.isfinite(wide).all()
        del vae.weight_scales_
        assert wide.std() > 2 * vae.sample(500, random_state=0).std()

    def test_training_goes_on_from_the_scales(self):
        X = factor_rows(60)
        vae = VariationalAutoencoder(max_iter=30, warm_start=True, **VAE).fit(X)
        first = vae.weight_scales_
        vae.set_params(max_iter=1, learning_rate_init=1e-9).fit(X)
        for name, scale in vae.weight_scales_.items():
            np.testing.assert_allclose(scale, first[name], rtol=1e-3)

    def test_cross_fitting_trains_it_too_and_a_linear_start_that_stands_is_a_point(self):
        X = np.random.default_rng(0).normal(size=(60, 4))
        vae = VariationalAutoencoder(
            1, alpha=1.0, weight_posterior="gaussian", max_iter=5, random_state=0
        ).fit(X)
        assert not hasattr(vae, "weight_scales_")
        curve = np.linspace(-2, 2, 300)[:, None]
        X = np.hstack([curve, curve**2, np.sin(2 * curve)])
        X = X + 0.1 * np.random.default_rng(0).normal(size=X.shape)
        vae.set_params(max_iter=150).fit(X)
        assert set(vae.weight_scales_) == weights_of(vae)

    def test_a_prior_is_asked_for(self):
        vae = VariationalAutoencoder(weight_posterior="gaussian")
        with pytest.raises(ValueError, match=r"needs a prior on the weights; got alpha=0\.0"):
            vae.fit(factor_rows(30))

    def test_few_rows_gain_by_it(self):
        # 30 rows of 13 columns, no rows held out: the best weights are too sure of themselves.
        from sklearn.datasets import load_wine

        X = load_wine().data
        order = np.random.default_rng(0).permutation(len(X))
        few, others = X[order[:30]], X[order[30:]]
        settings = dict(VAE, n_components=2, max_iter=1000)
        uncertain = VariationalAutoencoder(**settings).fit(few).score(others)
        settings["weight_posterior"] = None
        certain = VariationalAutoencoder(**settings).fit(few).score(others)
        assert uncertain > certain + 3.0


def test_network_without_weights_has_nothing_uncertain():
    model = build_model(np.zeros((5, 2)) + np.arange(5)[:, None], decoder=MLP())
    names = model.generative_weights()
    assert names and all(name.startswith("decoder.") for name in names)
