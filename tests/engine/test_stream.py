"""Rows that do not fit into memory: drawn from fairly, and each shown once in a pass."""

import threading

import numpy as np
import pytest
import torch

from skvae._core._batch import Batch
from skvae._core._summary import ColumnSummary
from skvae.engine import Rows, StreamedRows, survey
from tests.engine.toy import CPU


class Parts:
    """Source of the rows of an array, in parts, of which each comes in blocks."""

    def __init__(self, X, part_rows, block_rows):
        self.X, self.part_rows, self.block_rows = X, part_rows, block_rows
        self.n_parts, self.n_open = -(-len(X) // part_rows), 16
        self.n_read = 0

    def blocks(self, part):
        end = min(len(self.X), (part + 1) * self.part_rows)
        for start in range(part * self.part_rows, end, self.block_rows):
            block = self.X[start : min(end, start + self.block_rows)]
            self.n_read += len(block)
            yield start, block


def numbered(n_rows, n_columns=3):
    """Rows whose first entry is their number."""
    X = np.random.default_rng(0).standard_normal((n_rows, n_columns))
    X[:, 0] = np.arange(n_rows)
    return X


def surveyed(source, n_bytes=10_000, seed=0, *, skip_empty=False):
    return survey(source, n_bytes, np.random.default_rng(seed), skip_empty=skip_empty)


def streamed(source, told, *, left_out=(), window_rows=50, placeholder=None):
    sample = Rows(
        told.sample, lambda x: x, placeholder=placeholder, dtype=torch.float64, device=CPU
    )
    row_bytes = told.sample.itemsize * told.sample.shape[1]
    return StreamedRows(
        source, told, sample, np.array(left_out, dtype=int), window_rows * row_bytes
    )


def one_pass(rows, batch_size, seed=0, n_at_once=3, n_columns=3):
    """Batches of a pass: number of each row, and its weight."""
    x = torch.full((n_at_once, batch_size, n_columns), torch.nan, dtype=torch.float64)
    into = Batch(x, weight=torch.full((n_at_once, batch_size), torch.nan, dtype=torch.float64))
    found = []
    for n_filled in rows.fill(into, torch.Generator().manual_seed(seed)):
        found += [(x[i, :, 0].clone(), into.weight[i].clone()) for i in range(n_filled)]
    return found


def seen(batches):
    return [int(row) for x, weight in batches for row in x[weight == 1]]


@pytest.mark.parametrize(("part_rows", "block_rows"), [(1000, 7), (10, 10), (33, 8), (1, 1)])
@pytest.mark.parametrize("batch_size", [1, 16, 100])
def test_a_pass_shows_each_row_once_in_batches_of_one_size(part_rows, block_rows, batch_size):
    source = Parts(numbered(203), part_rows, block_rows)
    rows = streamed(source, surveyed(source), left_out=[0, 77, 202])
    batches = one_pass(rows, batch_size)
    assert len(rows) == 200
    assert len(batches) == -(-200 // batch_size)
    assert sorted(seen(batches)) == sorted(set(range(203)) - {0, 77, 202})
    sizes = [int(weight.sum()) for _, weight in batches]
    assert set(sizes[:-1]) <= {batch_size}
    # What fills up is rows, not garbage.
    assert all(torch.isfinite(x).all() for x, _ in batches)


def test_the_order_is_that_of_the_generator():
    source = Parts(numbered(200), 10, 10)
    rows = streamed(source, surveyed(source))
    first, again, other = (seen(one_pass(rows, 20, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_batch_holds_rows_from_all_over_the_place():
    """Sorted rows are what files often hold; batches of neighbours would be no samples."""
    source = Parts(numbered(10_000), 50, 50)
    rows = streamed(source, surveyed(source), window_rows=1000)
    for x, _ in one_pass(rows, 100):
        # 100 rows drawn at random have a mean within 4 standard errors of that of all; those of a
        # window come from 20 of the parts, and add the error of these.
        assert abs(float(x.mean()) - 5000) < 4 * 2887 * (1 / 100 + 1 / 20) ** 0.5
        assert len(torch.unique(x // 50)) > 10


def test_all_rows_are_sampled_where_there_is_room_and_each_alike_where_there_is_not():
    X = np.tile(numbered(1000)[:, :1], (1, 3))
    told = surveyed(Parts(X, 100, 13), X.nbytes)
    np.testing.assert_array_equal(told.sample, X)
    counts = np.zeros(1000)
    for seed in range(400):
        told = surveyed(Parts(X, 100, 13), X[:100].nbytes, seed)
        assert 100 <= len(told.sample) == len(set(told.places)) <= 102
        np.testing.assert_array_equal(told.sample, X[told.places])
        counts[told.places] += 1
    # The first and the last row are the extremes, which may come in addition.
    counts[[0, -1]] = 40
    # A binomial of 400 draws at 1/10, in five groups of blocks: 5 standard errors.
    assert np.abs(counts.reshape(5, 200).mean(1) - 40).max() < 5 * (400 * 0.09 / 200) ** 0.5
    assert counts.min() > 40 - 6 * 6.0


def test_the_moments_are_those_of_all_rows():
    X = 1e8 + numbered(500)
    X[::7, 1] = np.nan
    told, exact = surveyed(Parts(X, 90, 11), 400), ColumnSummary.of(X)
    assert told.n_rows == 500
    assert told.has_missing
    for name in ("mean", "minimum", "maximum", "n_observed"):
        np.testing.assert_allclose(getattr(told.moments, name), getattr(exact, name), rtol=1e-12)
    np.testing.assert_allclose(told.moments.scale, exact.scale, rtol=1e-8)


def test_a_sample_shows_what_few_rows_have():
    X = numbered(5000)
    X[4000, 1], X[:, 2], X[1234, 2] = -1e6, 3.0, 3.5
    told = surveyed(Parts(X, 300, 70), X[:20].nbytes)
    assert {1234, 4000} <= set(told.places)
    assert len(told.places) <= 104  # a hundred, however few would fit
    np.testing.assert_array_equal(told.sample, X[told.places])


def test_empty_rows_count_only_where_they_say_something():
    X = numbered(100)
    X[10:20] = np.nan
    source = Parts(X, 15, 4)
    told = surveyed(source, skip_empty=True)
    assert told.n_rows == 90
    assert sorted(seen(one_pass(streamed(source, told, placeholder=0.0), 16))) == [
        i for i in range(100) if not 10 <= i < 20
    ]
    assert surveyed(source).n_rows == 100
    with pytest.raises(ValueError, match="no row of which anything is observed"):
        surveyed(Parts(np.full((5, 2), np.nan), 2, 2), skip_empty=True)


@pytest.mark.parametrize("n_rows", [90, 110])
def test_rows_that_changed_since_the_first_pass_are_noticed(n_rows):
    told = surveyed(Parts(numbered(100), 10, 10))
    with pytest.raises(RuntimeError, match="same rows in the same order"):
        one_pass(streamed(Parts(numbered(n_rows), 10, 10), told), 10)


def test_reading_ends_with_the_pass_however_it_ends():
    def readers():
        return [t for t in threading.enumerate() if t.name.startswith("skvae-rows")]

    class Failing(Parts):
        def blocks(self, part):
            if part == 7:
                raise OSError("the disk is gone")
            yield from super().blocks(part)

    X = numbered(100)
    told = surveyed(Parts(X, 10, 10))
    with pytest.raises(OSError, match="the disk is gone"):
        one_pass(streamed(Failing(X, 10, 10), told, window_rows=10), 10)
    assert not readers()
    into = Batch(torch.empty(1, 10, 3, dtype=torch.float64), weight=torch.empty(1, 10))
    left = streamed(Parts(X, 10, 10), told, window_rows=10).fill(into, torch.Generator())
    next(left)
    left.close()
    assert not readers()


def test_no_more_is_read_than_is_dealt_and_two_windows_ahead():
    source = Parts(numbered(1000), 10, 10)
    rows = streamed(source, surveyed(source), window_rows=50)
    source.n_read = 0
    into = Batch(torch.empty(1, 10, 3, dtype=torch.float64), weight=torch.empty(1, 10))
    for step, _ in enumerate(rows.fill(into, torch.Generator()), start=1):
        # What is dealt, the rest of its window, and the next one.
        assert source.n_read <= 10 * step + 2 * 60
