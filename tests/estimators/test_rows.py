"""Which rows may judge a model: those that it has not seen, and no copies of those it has."""

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae.engine import deal_folds
from skvae.estimators._rows import copies, hold_out


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("values", ["small integers", "normal", "bits"])
def test_rows_are_of_one_group_if_and_only_if_they_are_equal(values, dtype):
    rng = np.random.default_rng(0)
    draws = {
        "small integers": lambda: rng.integers(0, 4, size=(20_000, 5)),
        "normal": lambda: rng.normal(size=(20_000, 5)),
        "bits": lambda: rng.integers(0, 2, size=(20_000, 16)),
    }
    X = draws[values]().astype(dtype)
    X = np.concatenate([X, X[::7]])
    expected = np.unique(X, axis=0, return_inverse=True)[1]
    pairs = set(zip(copies(X).tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len(np.unique(expected)) == copies(X).max() + 1


def test_columns_are_told_apart():
    assert len(set(copies(np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])))) == 2


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_layout_does_not_matter(order):
    X = np.random.default_rng(0).integers(0, 3, size=(50, 3)).astype(float)
    np.testing.assert_array_equal(copies(np.asarray(X, order=order)), copies(X))


def test_groups_are_held_out_whole():
    groups = np.repeat(np.arange(100), 3)
    training, held_out = hold_out(groups, 0.1, generator())
    assert sorted([*training, *held_out]) == list(range(300))
    assert len(held_out) == 30
    assert not set(groups[training]) & set(groups[held_out])


def test_groups_share_a_fold():
    groups = np.repeat(np.arange(40), np.tile([1, 4], 20))
    folds = deal_folds(groups, 5, generator())
    assert all(len(set(folds[groups == g])) == 1 for g in range(40))
    assert np.ptp(np.bincount(folds)) <= 4


def factor_rows(n_rows, seed):
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(9).normal(size=(2, 5))
    return rng.normal(size=(n_rows, 2)) @ loadings + 0.5 * rng.normal(size=(n_rows, 5))


@pytest.mark.filterwarnings("ignore:The lower bound")
@pytest.mark.parametrize("n_copies", [10, 40])
def test_copies_of_rows_are_no_evidence(n_copies):
    """Neither by cross-fitting nor with held-out rows (400 and 1600 rows of 40 kinds)."""
    rows, test = factor_rows(40, 0), factor_rows(1000, 1)
    linear = VariationalAutoencoder(max_iter=1, random_state=0).fit(rows).score(test)
    repeated = np.repeat(rows, n_copies, axis=0)
    vae = VariationalAutoencoder(max_iter=60, random_state=0).fit(repeated)
    assert vae.score(test) > linear - 0.05


def test_few_different_rows_leave_the_linear_model():
    rows = np.repeat(factor_rows(10, 0), 10, axis=0)
    vae = VariationalAutoencoder(random_state=0).fit(rows)
    assert vae.n_iter_ == 1


def test_going_on_with_few_rows_leaves_the_model_as_it_is():
    rows, test = factor_rows(15, 0), factor_rows(100, 1)
    vae = VariationalAutoencoder(warm_start=True, random_state=0).fit(rows)
    before = vae.score_samples(test)
    np.testing.assert_array_equal(vae.fit(rows).score_samples(test), before)
    assert vae.n_iter_ == 1
