"""Means of weights and their errors, and that all estimators say the same of one model."""

import dataclasses

import numpy as np
import pytest
import torch

from skvae import LogLikelihood
from skvae.inference import (
    AnnealedImportanceSampling,
    log_mean_weight,
    log_weights,
    reciprocal_log_likelihood,
    sigmoid_schedule,
)
from skvae.likelihoods import PoissonLikelihood
from skvae.networks import MLP
from tests.helpers import batch_of, build_model, noise_for


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal_draws(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_equal_weights_have_no_error_and_are_worth_all_draws():
    answer = log_mean_weight([torch.full((7, 3), -1e4)])
    np.testing.assert_allclose(answer.value, -1e4)
    np.testing.assert_allclose(answer.standard_error, 0.0, atol=1e-7)
    np.testing.assert_allclose(answer.effective_sample_size, 7.0)


def test_mean_and_effective_sample_size_by_hand_however_the_draws_come():
    weights = torch.tensor([[1.0], [2.0], [3.0], [6.0]]).double()
    for parts in ([weights.log()], [weights[:1].log(), weights[1:].log()]):
        answer = log_mean_weight(parts)
        assert float(answer.value) == pytest.approx(np.log(3.0))
        assert float(answer.effective_sample_size) == pytest.approx(144.0 / 50.0)


def test_a_factor_of_all_weights_only_moves_the_value():
    log_w = 2.0 * normal_draws(50, 4)
    one, other = log_mean_weight([log_w]), log_mean_weight([log_w - 1e5])
    torch.testing.assert_close(other.value, one.value - 1e5)
    torch.testing.assert_close(other.standard_error, one.standard_error)
    torch.testing.assert_close(other.effective_sample_size, one.effective_sample_size)


def test_weights_of_nothing_count_as_zero():
    log_w = torch.tensor([[0.0, torch.nan, -torch.inf], [0.0, 0.0, -torch.inf]])
    answer = log_mean_weight([log_w])
    assert answer.value.tolist() == [0.0, pytest.approx(-np.log(2.0)), -torch.inf]
    assert answer.effective_sample_size.tolist() == [2.0, 1.0, 0.0]
    assert answer.standard_error[2] == torch.inf


# Spread of log-normal weights, number of draws: from harmless to a few draws with all the weight.
@pytest.mark.parametrize(
    ("spread", "n_draws"), [(0.1, 16), (0.5, 16), (1.0, 16), (1.0, 1000), (2.0, 1000), (3.0, 1000)]
)
def test_error_bars_cover_where_weights_are_log_normal(spread, n_draws):
    log_w = spread * normal_draws(n_draws, 2000) - 0.5 * spread**2
    answer = log_mean_weight([log_w])
    covered = (answer.value.abs() < 2.0 * answer.standard_error).double().mean()
    assert 0.87 < covered < 0.995
    # Not because they are wide.
    scatter = answer.value.square().mean().sqrt()
    assert answer.standard_error.median() < 3.0 * scatter


def test_error_bars_are_not_wide_where_many_draws_are_of_no_account():
    # A proposal ten times as wide as the target, in two dimensions.
    z = 10.0 * normal_draws(2, 4000, 500)
    log_w = (-0.5 * z.square() * (1.0 - 0.01) + np.log(10.0)).sum(0)
    answer = log_mean_weight([log_w])
    covered = (answer.value.abs() < 2.0 * answer.standard_error).double().mean()
    assert covered > 0.9
    assert answer.standard_error.median() < 3.0 * answer.value.std()


def two_latent_model():
    """A Poisson model that is not linear, counts, and their exact log-likelihoods on a grid."""
    rng = np.random.default_rng(0)
    X = rng.poisson(3.0, size=(60, 3)).astype(float)
    model = build_model(
        X,
        n_latent=2,
        likelihood=PoissonLikelihood(),
        encoder=MLP(hidden_layer_sizes=(4,), activation="tanh"),
        decoder=MLP(hidden_layer_sizes=(6,), activation="tanh"),
    )
    with torch.no_grad():
        for p in model.decoder.parameters():
            p.mul_(1.5)
        wide = model.posterior_head.outputs_at(torch.full((2,), 0.0, dtype=torch.float64))
        model.encoder.start_linear_(torch.zeros(model.observation_head.n_features, 2), wide)
    rows = X[:10]
    side = torch.linspace(-7.0, 7.0, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side).unsqueeze(1).expand(-1, 10, -1)
    with torch.no_grad():
        total = torch.logsumexp(sum(model.log_joint(batch_of(model, rows), grid)), 0)
    return model, rows, total + 2.0 * float(torch.log(side[1] - side[0]))


@pytest.mark.parametrize("method", ["importance", "posterior", "prior", "reciprocal"])
def test_methods_agree_with_quadrature_as_often_as_their_error_bars_say(method):
    model, rows, exact = two_latent_model()
    n_repetitions = 40
    batch = batch_of(model, np.tile(rows, (n_repetitions, 1)))
    n_rows = len(batch.x)
    with torch.no_grad():
        if method == "importance":
            answer = log_mean_weight(log_weights(model, batch, noise_for(model, 500, n_rows)))
        elif method == "reciprocal":
            answer = reciprocal_log_likelihood(model, batch, generator(), n_steps=60, n_burn_in=60)
        else:
            path = AnnealedImportanceSampling(
                model, batch, generator(), sigmoid_schedule(30), start=method
            )
            answer = log_mean_weight([path.forward(32)])
    off = answer.value - exact.repeat(n_repetitions)
    covered = (off.abs() < 2.0 * answer.standard_error).double().mean()
    # 95 % for a normal error; less where few chains have to say how they scatter. And the bars are
    # not wider than they have to be.
    assert 0.9 < covered <= 0.99
    scatter = off.view(n_repetitions, -1).square().mean(0).sqrt()
    typical = answer.standard_error.view(n_repetitions, -1).median(0).values
    assert (typical < 2.0 * scatter).all() and scatter.max() < 0.5
    # What is left when the rows are averaged is far below the error of one.
    assert abs(float(off.mean())) < 0.02


def test_result_is_frozen_and_short_to_look_at():
    rng = np.random.default_rng(0)
    error = rng.uniform(0.01, 0.1, 10_000)
    answer = LogLikelihood(rng.normal(-86.0, 5.0, 10_000), error, 1.0 / error, "below", "annealed")
    text = repr(answer)
    assert len(text.splitlines()) == 4 and max(map(len, text.splitlines())) < 80
    assert "10000 rows" in text and "'annealed'" in text and "'below'" in text
    assert answer.mean == pytest.approx(answer.value.mean())
    assert answer.mean_standard_error == pytest.approx(np.sqrt(np.sum(error**2)) / 10_000)
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.side = "above"
    for value, shown in ((0.0, "1 row:"), (np.inf, "inf")):
        one = LogLikelihood(np.zeros(1), np.full(1, value), np.ones(1), "below", "importance")
        assert shown in repr(one)
    far = LogLikelihood(np.full(1, -1e200), np.ones(1), np.ones(1), "below", "importance")
    assert max(map(len, repr(far).splitlines())) < 80
