"""The Bernoulli likelihood and its three ways with grey values."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli

from skvae.likelihoods import BernoulliLikelihood
from tests.helpers import assert_mean, draw
from tests.registry import draw_outputs

GREY = np.random.default_rng(0).uniform(0.05, 0.95, size=(60, 3)) ** [0.5, 1.0, 1.5]


def head_for(X, **parameters):
    likelihood = BernoulliLikelihood(**parameters)
    likelihood.check_support(X)
    return likelihood.build(likelihood.summarize(X), torch.float64)


def test_probability_is_that_of_the_logits():
    X = (GREY > 0.5).astype(np.float64)
    head = head_for(X)
    outputs = 5.0 * draw_outputs(head, 2, 60)
    answer = head.log_prob_columns(head.params_from(outputs), torch.from_numpy(X))
    torch.testing.assert_close(answer, Bernoulli(logits=outputs).log_prob(torch.from_numpy(X)))
    torch.testing.assert_close(head.expectation(head.params_from(outputs)), outputs.sigmoid())


def test_tails_are_kept():
    head = head_for(np.array([[0.0], [1.0]]))
    logits = torch.tensor([[[-1e3], [1e3]]], dtype=torch.float64)
    log_prob = head.log_prob_columns(
        head.params_from(logits), torch.tensor([[1.0], [0.0]]).double()
    )
    assert log_prob.flatten().tolist() == [-1e3, -1e3]


def test_threshold_reads_grey_values_as_ones_and_zeros():
    head = head_for(GREY * 9.0, binarize=4.5)
    x = head.standardize(torch.from_numpy(GREY * 9.0))
    assert torch.equal(x, torch.from_numpy((GREY > 0.5).astype(np.float64)))
    # The value itself is a zero: ones are those that are greater.
    assert head.standardize(torch.tensor([[4.5, 4.6, 4.4]])).tolist() == [[0.0, 1.0, 0.0]]
    ready_made = head_for((GREY > 0.5).astype(np.float64))
    torch.testing.assert_close(head.initial_outputs(), ready_made.initial_outputs())


def test_dynamic_binarisation_draws_ones_with_the_grey_values_as_probabilities():
    head = head_for(GREY, binarize="dynamic")
    X = torch.from_numpy(GREY)
    draws = torch.stack(
        [head.observe(X, draw(head.noise_spec(), len(X), seed=seed)) for seed in range(2000)]
    )
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert_mean(draws, GREY)


def test_dynamic_binarisation_leaves_zeros_and_ones_alone():
    X = torch.from_numpy((GREY > 0.5).astype(np.float64))
    head = head_for(GREY, binarize="dynamic")
    # Uniform noise lies in [0, 1): its ends are the cases that could go wrong.
    for u in (0.0, np.nextafter(1.0, 0.0)):
        assert torch.equal(head.observe(X, {"binarize": torch.full_like(X, u)}), X)


@pytest.mark.parametrize("parameters", [{}, {"binarize": 0.5}, {"soft": True}])
def test_only_dynamic_binarisation_needs_noise(parameters):
    X = (GREY > 0.5).astype(np.float64)
    head = head_for(X, **parameters)
    assert head.noise_spec() == {}
    assert torch.equal(head.observe(torch.from_numpy(X), {}), torch.from_numpy(X))


def test_soft_targets_give_the_cross_entropy():
    head = head_for(GREY, soft=True)
    outputs = draw_outputs(head, 1, 60)
    x, p = torch.from_numpy(GREY), outputs.sigmoid()
    expected = x * p.log() + (1 - x) * (1 - p).log()
    answer = head.log_prob_columns(head.params_from(outputs), x)
    torch.testing.assert_close(answer, expected)


def test_a_pixel_never_on_in_training_keeps_a_chance():
    X = np.zeros((50, 2))
    X[:, 1] = 1.0
    head = head_for(X)
    probability = head.initial_outputs().sigmoid().numpy()
    # Jeffreys' prior adds half a one and half a zero.
    np.testing.assert_allclose(probability, [0.5 / 51, 50.5 / 51])


def test_soft_and_binarize_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        head_for(GREY, soft=True, binarize="dynamic")


def test_unknown_binarisation_is_refused():
    with pytest.raises(ValueError, match="binarize"):
        head_for(GREY, binarize="static")


def test_booleans_are_zeros_and_ones():
    X = GREY > 0.5
    ready_made = head_for(X.astype(np.float64))
    torch.testing.assert_close(head_for(X).initial_outputs(), ready_made.initial_outputs())
