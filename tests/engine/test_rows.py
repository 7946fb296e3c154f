"""Batches of fixed shape from rows that stay where they are."""

import numpy as np
import pytest
import torch

from skvae._core._batch import Batch
from skvae.engine import Rows
from skvae.likelihoods import GaussianLikelihood
from tests.engine.toy import CPU


def identity(x):
    return x


def numbered(n_rows, n_columns=2):
    """Rows whose first entry is their number."""
    X = np.zeros((n_rows, n_columns))
    X[:, 0] = np.arange(n_rows)
    return X


def rows_for(X, standardize=identity, *, dtype=torch.float32, index=None):
    return Rows(X, standardize, index=index, dtype=dtype, device=CPU)


def batches(rows, batch_size, generator, n_at_once=64):
    """Batches of one pass, copied as they are handed out."""
    x = torch.full((n_at_once, batch_size, rows.n_columns), torch.nan, dtype=rows._dtype)
    weight = torch.full((n_at_once, batch_size), torch.nan, dtype=rows._dtype)
    for n_filled in rows.fill(Batch(x, weight=weight), generator):
        for i in range(n_filled):
            yield Batch(x[i].clone(), weight=weight[i].clone())


def one_pass(rows, batch_size, seed=0, n_at_once=64):
    return list(batches(rows, batch_size, torch.Generator().manual_seed(seed), n_at_once))


def seen(batches):
    """Numbers of the rows with weight 1, in the order in which they came."""
    return [int(x) for batch in batches for x in batch.x[batch.weight == 1, 0]]


SHAPES = [(10, 4), (12, 4), (3, 7), (5, 1), (1, 1), (100, 33), (2, 2)]


@pytest.mark.parametrize("n_at_once", [1, 2, 64])
@pytest.mark.parametrize(("n_rows", "batch_size"), SHAPES)
def test_each_epoch_has_every_row_once_in_batches_of_one_shape(n_rows, batch_size, n_at_once):
    given = one_pass(rows_for(numbered(n_rows)), batch_size, n_at_once=n_at_once)
    assert len(given) == -(-n_rows // batch_size)
    for batch in given:
        assert batch.x.shape == (batch_size, 2)
        assert batch.weight.shape == (batch_size,)
        assert batch.x.dtype == batch.weight.dtype == torch.float32
        assert set(batch.weight.tolist()) <= {0.0, 1.0}
    assert sorted(seen(given)) == list(range(n_rows))
    # What is filled up comes last, and it is rows, not garbage.
    assert all(bool((batch.weight == 1).all()) for batch in given[:-1])
    assert set(given[-1].x[:, 0].tolist()) <= set(range(n_rows))


def test_order_does_not_depend_on_how_many_batches_there_is_room_for():
    rows = rows_for(numbered(10))
    assert seen(one_pass(rows, 4, n_at_once=1)) == seen(one_pass(rows, 4, n_at_once=64))


def test_order_is_that_of_the_generator():
    rows = rows_for(numbered(50))
    generator = torch.Generator().manual_seed(3)
    epochs = [seen(batches(rows, 8, generator)) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] == seen(one_pass(rows, 8, seed=3))
    assert epochs[0] != seen(one_pass(rows, 8, seed=4))


def test_first_row_of_an_epoch_is_any_row():
    """Each of 4 rows is first in a quarter of 400 epochs, within 4.5 standard errors."""
    rows = rows_for(numbered(4))
    generator = torch.Generator().manual_seed(0)
    first = [seen(batches(rows, 4, generator))[0] for _ in range(400)]
    error = 4.5 * np.sqrt(400 * 0.25 * 0.75)
    assert np.all(np.abs(np.bincount(first, minlength=4) - 100) < error)


def test_index_names_the_rows_of_a_set():
    index = np.array([9, 2, 5, 11, 3])
    rows = rows_for(numbered(12), index=index)
    assert len(rows) == 5
    assert rows.slice(0, 3).x[:, 0].tolist() == [9, 2, 5]
    assert rows.gather(np.array([4, 0])).x[:, 0].tolist() == [3, 9]
    given = one_pass(rows, 2)
    assert sorted(seen(given)) == sorted(index)
    # A set's padding is its own: held-out rows never come near training.
    assert set(given[-1].x[:, 0].tolist()) <= set(index.tolist())


def test_slices_end_with_the_rows():
    rows = rows_for(numbered(5))
    assert len(rows) == 5
    assert rows.slice(3, 99).x[:, 0].tolist() == [3, 4]


def test_rows_are_not_copied():
    X = numbered(6)
    rows = rows_for(X)
    X[:, 1] = 7.0
    assert rows.slice(0, 6).x[:, 1].tolist() == [7.0] * 6
    assert all(batch.x[0, 1] == 7.0 for batch in one_pass(rows, 2))


def test_rows_are_not_written_to():
    X = numbered(6)
    X.setflags(write=False)
    before = X.copy()
    rows = rows_for(X)
    for batch in one_pass(rows, 4):
        batch.x.zero_()
    rows.slice(0, 3).x.fill_(9.0)
    np.testing.assert_array_equal(X, before)


FORMS = {
    "read-only": lambda X: np.frombuffer(X.astype(np.float64).tobytes()).reshape(X.shape),
    "Fortran order": np.asfortranarray,
    "every other row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "negative strides": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "float32": lambda X: X.astype(np.float32),
    "uint8": lambda X: X.astype(np.uint8),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_form_of_the_rows_does_not_matter(form, dtype):
    plain = np.random.default_rng(0).integers(0, 256, size=(9, 3)).astype(np.float64)
    expected = one_pass(rows_for(plain, lambda x: x.to(torch.float64) / 255, dtype=dtype), 4)
    X = FORMS[form](plain)
    given = one_pass(rows_for(X, lambda x: x.to(torch.float64) / 255, dtype=dtype), 4)
    for a, b in zip(expected, given, strict=True):
        assert b.x.dtype == dtype
        assert torch.equal(a.x, b.x)


def test_boolean_rows():
    X = np.array([[True, False], [False, False], [True, True]])
    rows = rows_for(X)
    np.testing.assert_array_equal(rows.slice(0, 3).x.numpy(), X.astype(np.float32), strict=True)


def test_standardised_in_float64_before_the_cast():
    """An offset of 1e8, at which float32 has steps of 8, costs no digits."""
    rng = np.random.default_rng(0)
    X = 1e8 + rng.normal(size=(50, 3))
    likelihood = GaussianLikelihood()
    head = likelihood.build(likelihood.summarize(X), torch.float32)
    batch = rows_for(X, head.standardize).slice(0, 50).x
    assert batch.dtype == torch.float32
    # 1e8 itself has 1.5e-8 in float64.
    expected = (X - X.mean(axis=0)) / X.std(axis=0)
    np.testing.assert_allclose(batch.numpy(), expected, atol=3e-7)


@pytest.mark.parametrize("placeholder", [None, 0.5])
def test_rows_that_lie_on_the_device_are_those_that_are_taken_there(placeholder):
    X = numbered(20, 3)
    X[::3, 2] = np.nan
    how = {"placeholder": placeholder, "index": np.arange(1, 20), "dtype": torch.float32}
    ours = Rows(X, identity, device=CPU, **how)
    # The host may hold anything, if the rows that lie there are those that are used.
    there = Rows(np.zeros_like(X), identity, device=CPU, resident=torch.tensor(X), **how)
    elsewhere = Rows(X, identity, device=CPU, resident=torch.empty(20, 3, device="meta"), **how)
    into = Batch(torch.zeros(4, 5, 3), torch.ones(4, 5, 3), weight=torch.ones(4, 5))
    for other in (there, elsewhere):
        for own, given in zip(ours.slice(2, 9), other.slice(2, 9), strict=True):
            assert own is given or torch.equal(own.nan_to_num(-1.0), given.nan_to_num(-1.0))
        filled = []
        for rows in (ours, other):
            assert sum(rows.fill(into, torch.Generator().manual_seed(0))) == 4
            filled.append(into.x.nan_to_num(-1.0).clone())
        assert torch.equal(*filled)
