"""The importance-weighted bound: its order in k, its weights, and its two gradients."""

import numpy as np
import pytest
import torch

from skvae.inference._importance import log_weights
from skvae.objectives import IWAE, SGVB
from tests.helpers import assert_mean, batch_of, linear_gaussian_of, noise_for, tight_linear_model
from tests.objectives.loose import N_ROWS, clock_at, loose_model, values

GRADIENTS = pytest.mark.parametrize("gradient", ["total", "dreg"])


def gradients(bound, model, X, n_repeats):
    """Gradients (n_repeats, n_parameters) of the mean bound in training, encoder's parts first."""
    batch, parameters = batch_of(model, X), list(model.parameters())
    draws = []
    for seed in range(n_repeats):
        noise = noise_for(model, bound.n_draws, len(X), seed=seed)
        value = bound(model, batch, noise, clock_at(0)).mean()
        draws.append(torch.cat([g.ravel() for g in torch.autograd.grad(value, parameters)]))
    n_encoder = sum(p.numel() for p in model.encoder.parameters())
    assert next(iter(model.named_parameters()))[0].startswith("encoder")
    return torch.stack(draws).numpy(), n_encoder


def test_bound_rises_with_k_and_stays_below_the_exact_log_likelihood():
    model, exact, X = loose_model()
    log_p = exact.log_prob(X).mean()
    means, errors = [], []
    for k in (1, 2, 5, 20, 100):
        bound = IWAE(n_draws=k).build(1)
        draws = values(bound, model, X, 40, n_draws=k * (400 // k)).mean(1)
        means.append(draws.mean())
        errors.append(draws.std(ddof=1) / np.sqrt(len(draws)))
    assert (np.diff(means) > 3 * np.hypot(errors[1:], errors[:-1])).all()
    assert means[-1] < log_p + 4 * errors[-1]
    assert log_p - means[-1] < 0.1 * (log_p - means[0])


def test_one_draw_is_the_evidence_lower_bound():
    model, _, X = loose_model()
    noise, batch = noise_for(model, 7, N_ROWS), batch_of(model, X)
    with torch.no_grad():
        one = IWAE(n_draws=1).build(1)(model, batch, noise)
        torch.testing.assert_close(one, SGVB(kl="monte_carlo").build(1)(model, batch, noise))


def test_value_of_more_draws_is_the_mean_of_several_values():
    model, _, X = loose_model()
    bound, batch = IWAE(n_draws=4).build(1), batch_of(model, X)
    noise = noise_for(model, 12, N_ROWS)
    with torch.no_grad():
        parts = [
            bound(model, batch, {k: v[i : i + 4] for k, v in noise.items()}) for i in (0, 4, 8)
        ]
        torch.testing.assert_close(bound(model, batch, noise), torch.stack(parts).mean(0))


@GRADIENTS
def test_at_the_true_posterior_all_weights_are_equal(gradient):
    model = tight_linear_model()
    exact = linear_gaussian_of(model)
    X = exact.sample(N_ROWS)
    batch, noise = batch_of(model, X), noise_for(model, 30, N_ROWS)
    with torch.no_grad():
        log_w = torch.cat(list(log_weights(model, batch, noise)))
        value = IWAE(n_draws=30, gradient=gradient).build(1)(model, batch, noise, clock_at(0))
    np.testing.assert_allclose(log_w, np.tile(exact.log_prob(X), (30, 1)), rtol=1e-10)
    weights = torch.softmax(log_w, 0)
    np.testing.assert_allclose(1 / weights.square().sum(0), 30.0, rtol=1e-10)  # effective size
    np.testing.assert_allclose(value, exact.log_prob(X), rtol=1e-10)


def test_both_gradients_have_the_same_mean_and_dreg_less_noise_in_the_encoder():
    model, _, X = loose_model(n_columns=3)
    total, n_encoder = gradients(IWAE(n_draws=10).build(1), model, X, 3000)
    dreg, _ = gradients(IWAE(n_draws=10, gradient="dreg").build(1), model, X, 3000)
    assert_mean(dreg - total, 0.0)
    np.testing.assert_allclose(dreg[:, n_encoder:], total[:, n_encoder:], rtol=1e-9, atol=1e-12)
    encoder = slice(0, n_encoder)
    assert dreg[:, encoder].var(0).sum() < 0.5 * total[:, encoder].var(0).sum()


@pytest.mark.parametrize("k", [4, 64])
def test_signal_of_dreg_stands_out_several_times_as_far(k):
    # Rainforth et al. (2018): the encoder's gradient falls faster with k than the noise of "total".
    model, _, X = loose_model(n_columns=3)
    ratios = []
    for gradient in ("total", "dreg"):
        draws, n = gradients(IWAE(n_draws=k, gradient=gradient).build(1), model, X, 1000)
        noise = draws[:, :n].var(0).sum()
        signal = np.square(draws[:, :n].mean(0)).sum() - noise / len(draws)  # less its own noise
        ratios.append(np.sqrt(signal / noise))
    assert ratios[1] > 2.5 * ratios[0]


@pytest.mark.parametrize("objective", [IWAE(n_draws=5, gradient="dreg"), SGVB(gradient="stl")])
def test_gradient_by_the_path_has_no_noise_in_the_encoder_at_the_true_posterior(objective):
    model = tight_linear_model()
    X = linear_gaussian_of(model).sample(N_ROWS)
    draws, n_encoder = gradients(objective.build(1), model, X, 20)
    np.testing.assert_allclose(draws[:, :n_encoder], 0.0, atol=1e-9)
    plain, _ = gradients(SGVB().build(1), model, X, 20)
    assert plain[:, :n_encoder].std(0).max() > 1e-3
