"""Trainings side by side, of which the best is kept."""

import numpy as np
import pytest

from skvae import VariationalAutoencoder
from skvae.estimators import _fitting
from skvae.objectives import SGVB
from tests.estimators.small import factor_rows, small_vae, weights

pytestmark = pytest.mark.filterwarnings("ignore:The lower bound")


def curve(n_rows, seed=0):
    """Rows on a closed curve, which a single latent variable cannot follow from any weights."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-np.pi, np.pi, n_rows)
    rows = np.column_stack([np.sin(t), np.cos(t), np.sin(2 * t)])
    return rows + 0.1 * rng.normal(size=rows.shape)


# By cross-fitting; with held-out rows; with none.
WAYS = [
    pytest.param({"init": "linear"}, 120, id="cross-fitting"),
    pytest.param({"init": "linear"}, 1200, id="held-out rows"),
    pytest.param({"init": "random"}, 120, id="random start"),
    pytest.param({"init": "random", "early_stopping": False}, 120, id="training rows"),
]


@pytest.mark.parametrize(("parameters", "n_rows"), WAYS)
def test_best_of_restarts_is_no_worse_by_the_measure_that_chooses(parameters, n_rows):
    X = curve(n_rows)
    parameters = {"max_iter": 30, "hidden_layer_sizes": (8,), "random_state": 0} | parameters
    one = VariationalAutoencoder(1, **parameters).fit(X)
    four = VariationalAutoencoder(1, n_init=4, **parameters).fit(X)
    measure = "validation_scores_" if one.validation_scores_ else "lower_bounds_"
    # Restarts draw other noise than a single fit does: a tenth of a nat is allowed for it.
    assert max(getattr(four, measure)) > max(getattr(one, measure)) - 0.1


@pytest.mark.parametrize(("parameters", "n_rows"), WAYS)
def test_restarts_are_reproducible_and_leave_one_ordinary_model(parameters, n_rows):
    X = curve(n_rows)
    fits = [
        VariationalAutoencoder(1, n_init=3, max_iter=3, random_state=7, **parameters).fit(X)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(weights(fits[0]), weights(fits[1]))
    alone = VariationalAutoencoder(1, max_iter=3, random_state=7, **parameters).fit(X)
    assert len(weights(fits[0])) == len(weights(alone))
    assert all(
        p.untyped_storage().nbytes() == p.numel() * p.element_size()
        for p in fits[0].model_.parameters()
    )


def test_the_restart_that_is_kept_is_the_best(monkeypatch):
    """Restarts whose weights were spoilt lose to the one whose weights were not."""
    build = VariationalAutoencoder._build_model
    n_built = []

    def spoilt(self, components, n_components, summary, generator):
        model = build(self, components, n_components, summary, generator)
        n_built.append(model)
        if len(n_built) != 2:
            for p in model.decoder.parameters():
                p.data.add_(5.0)
        return model

    monkeypatch.setattr(VariationalAutoencoder, "_build_model", spoilt)
    vae = small_vae(init="random", n_init=3, max_iter=2, learning_rate_init=1e-9)
    vae.fit(factor_rows(60))
    assert len(n_built) == 3
    assert vae.model_ is n_built[1]


def test_models_of_the_folds_begin_where_their_restart_does(monkeypatch):
    made = []

    class Recorded(_fitting.CrossFit):
        def __init__(self, models, *args):
            hidden = [m.encoder.hidden[0].weight.detach().clone() for m in models]
            made.append((hidden, args[7]))
            super().__init__(models, *args)

    monkeypatch.setattr(_fitting, "CrossFit", Recorded)
    small_vae(n_init=2, max_iter=1, hidden_layer_sizes=(4,)).fit(factor_rows(60))
    ((hidden, n_restarts),) = made
    assert n_restarts == 2 and len(hidden) == 2 * 6
    for restart in range(2):
        folds = hidden[2 + 5 * restart : 7 + 5 * restart]
        assert all((fold == hidden[restart]).all() for fold in folds)
    assert not (hidden[0] == hidden[1]).any()


def test_going_on_trains_the_one_that_was_kept():
    X = factor_rows(60)
    vae = small_vae(init="random", n_init=3, max_iter=2, warm_start=True).fit(X)
    n_weights = len(weights(vae))
    vae.fit(X)
    assert vae.n_iter_ == 4
    assert len(weights(vae)) == n_weights
    assert small_vae(n_init=3).partial_fit(X).n_iter_ == 1


def test_objective_without_a_gradient_of_its_own_restarts_too():
    class Own(SGVB):
        def build(self, n_steps):
            bound = super().build(n_steps)
            bound.__class__ = type("OwnBound", (type(bound),), {"__call__": _same})
            return bound

    vae = small_vae(init="random", objective=Own(), n_init=2, max_iter=2).fit(factor_rows(60))
    assert np.isfinite(vae.score(factor_rows(60)))


def _same(self, *args):
    return super(type(self), self).__call__(*args)
