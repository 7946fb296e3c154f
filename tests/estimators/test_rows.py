"""Which rows may judge a model: those that it has not seen, and no copies of those it has."""

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae.engine import deal_folds
from skvae.estimators._rows import _hashes, copies, hold_out


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("values", ["small integers", "normal", "bits"])
def test_rows_have_one_hash_if_and_only_if_they_are_equal(values, dtype):
    rng = np.random.default_rng(0)
    draws = {
        "small integers": lambda: rng.integers(0, 4, size=(20_000, 5)),
        "normal": lambda: rng.normal(size=(20_000, 5)),
        "bits": lambda: rng.integers(0, 2, size=(20_000, 16)),
    }
    X = draws[values]().astype(dtype)
    X = np.concatenate([X, X[::7]])
    expected = np.unique(X, axis=0, return_inverse=True)[1]
    pairs = set(zip(_hashes(X).tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len(np.unique(expected)) == len(np.unique(_hashes(X)))


def test_columns_are_told_apart_and_zero_has_no_sign():
    X = np.array([[0.1, 0.2], [0.2, 0.1], [0.1, 0.2], [0.0, 1.0], [-0.0, 1.0]])
    numbers = _hashes(X)
    assert numbers[0] == numbers[2] != numbers[1]
    assert numbers[3] == numbers[4]


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_layout_does_not_matter(order):
    X = np.random.default_rng(0).integers(0, 3, size=(50, 3)).astype(float)
    np.testing.assert_array_equal(_hashes(np.asarray(X, order=order)), _hashes(X))


def test_repeated_rows_of_real_numbers_are_copies():
    X = np.random.default_rng(0).normal(size=(40, 3))
    repeated = X[np.random.default_rng(1).integers(40, size=300)]
    expected = np.unique(repeated, axis=0, return_inverse=True)[1]
    pairs = set(zip(copies(repeated).tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len(np.unique(expected))


@pytest.mark.parametrize("n_values", [2, 5])
def test_equal_rows_of_few_values_are_draws(n_values):
    X = np.random.default_rng(0).integers(n_values, size=(500, 3)) / 10
    assert len(np.unique(copies(X))) == 500


def test_a_row_that_is_far_more_frequent_than_others_is_many_draws():
    X = np.random.default_rng(0).normal(size=(100, 3))
    with_zeros = np.concatenate([np.zeros((200, 3)), X, X[:10]])
    assert len(np.unique(copies(with_zeros))) == 200 + 100


def test_held_out_rows_are_as_many_as_asked_whatever_the_sizes_of_groups():
    groups = np.concatenate([np.zeros(1500, dtype=int), np.arange(1, 501)])
    for seed in range(20):
        training, held_out = hold_out(groups, 0.1, generator(seed))
        assert len(held_out) == 200 and len(training) == 1800


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


@pytest.mark.filterwarnings("ignore:The lower bound")
def test_few_patterns_of_bits_are_learned():
    """The third bit is the exclusive or of the first two: log 4 of entropy where columns have 3."""
    bits = np.random.default_rng(0).integers(0, 2, size=(2000, 2))
    X = np.column_stack([bits, bits[:, 0] ^ bits[:, 1]]).astype(float)
    vae = VariationalAutoencoder(2, likelihood="bernoulli", max_iter=150, random_state=0).fit(X)
    assert vae.score(X) > -3 * np.log(2) + 0.3


@pytest.mark.filterwarnings("ignore:The lower bound")
def test_rows_of_zeros_do_not_stop_the_rest_from_being_learned():
    def draw(seed):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(300, 2))
        rows = 2 * np.sin(z @ np.random.default_rng(5).normal(size=(2, 5)))
        return np.concatenate([np.zeros((300, 5)), rows + 0.1 * rng.normal(size=rows.shape)])

    X, X_test = draw(0), draw(1)
    linear = VariationalAutoencoder(2, max_iter=1, random_state=0).fit(X).score(X_test)
    assert VariationalAutoencoder(2, max_iter=300, random_state=0).fit(X).score(X_test) > linear + 1


@pytest.mark.parametrize("as_frame", [False, True])
def test_infinity_is_named_by_its_column_and_row(as_frame):
    X = np.random.default_rng(0).normal(size=(30, 3))
    X[4, 1] = -np.inf
    name = "1"
    if as_frame:
        X = pytest.importorskip("pandas").DataFrame(X, columns=list("abc"))
        name = r"'b' \(index 1\)"
    message = rf"contains infinity.* Column {name} holds -inf in row 4\. Remove or replace it"
    with pytest.raises(ValueError, match=message):
        VariationalAutoencoder().fit(X)
