"""Dropout in an estimator: in training, from `random_state`, and nowhere else."""

import numpy as np
import pytest

from skvae import VariationalAutoencoder
from skvae.networks import MLP, GatedMLP, ResidualMLP
from tests.estimators.small import (
    STILL_RISING,
    assert_global_generators_untouched,
    assert_same_answers,
    factor_rows,
    weights,
)

pytestmark = pytest.mark.filterwarnings(STILL_RISING)

X = factor_rows(200)


def vae(network=None, **parameters):
    network = MLP(hidden_layer_sizes=(8,), dropout=0.5) if network is None else network
    defaults = {"max_iter": 4, "random_state": 0, "init": "random"}
    return VariationalAutoencoder(2, encoder=network, decoder=network, **{**defaults, **parameters})


@pytest.mark.parametrize(
    "network",
    [
        MLP(hidden_layer_sizes=(8, 8), dropout=0.5),
        ResidualMLP(width=8, dropout=0.5),
        GatedMLP(hidden_layer_sizes=(8,), dropout=0.5),
    ],
    ids=repr,
)
def test_it_is_reproducible_and_touches_no_global_generator(network):
    assert_global_generators_untouched(vae(network), X)
    assert_same_answers(vae(network).fit(X), vae(network).fit(X), X)


def test_it_changes_what_is_learned():
    without = vae(MLP(hidden_layer_sizes=(8,))).fit(X)
    assert not np.allclose(weights(vae().fit(X)), weights(without))


def test_what_is_dropped_depends_on_the_seed_and_the_step():
    model = vae(max_iter=1).fit(X)
    model.model_.train()
    assert set(model.model_.noise_spec(1)) == {"z", "encoder.dropout", "decoder.dropout"}
    model.model_.eval()
    assert set(model.model_.noise_spec(1)) == {"z"}


def test_without_dropout_the_gradient_is_derived_by_hand():
    for share in (0.0, 0.3):
        network = MLP(hidden_layer_sizes=(8,), dropout=share)
        fitted = vae(network, init="linear").fit(X)
        assert fitted.model_.encoder.hand_derived == (share == 0.0)


def test_held_out_bound_is_that_of_the_whole_network():
    """With nearly all dropped, training bounds suffer, and those of held-out rows do not."""
    rng = np.random.default_rng(0)
    X = np.tanh(3.0 * rng.normal(size=(2000, 1))) * rng.normal(size=8) + 0.1 * rng.normal(
        size=(2000, 8)
    )
    fitted = vae(MLP(dropout=0.5, linear_path=False), max_iter=20).fit(X)
    assert max(fitted.validation_scores_) > max(fitted.lower_bounds_) + 0.2
