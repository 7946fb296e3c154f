"""Moments of columns."""

import functools
import warnings

import numpy as np
import pytest

from skvae._core import _summary
from skvae._core._summary import ColumnSummary

RNG = np.random.default_rng(0)
X = RNG.normal(size=(101, 4)) * [1.0, 10.0, 0.01, 3.0] + [0.0, -5.0, 2.0, 100.0]


def assert_moments(summary, X, rtol=1e-12):
    np.testing.assert_allclose(summary.mean, X.mean(axis=0), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(summary.scale, X.std(axis=0), rtol=rtol)
    np.testing.assert_array_equal(summary.minimum, X.min(axis=0))
    np.testing.assert_array_equal(summary.maximum, X.max(axis=0))
    np.testing.assert_array_equal(summary.n_observed, len(X))
    assert summary.mean.dtype == summary.scale.dtype == np.float64


def test_moments_are_those_of_numpy():
    assert_moments(ColumnSummary.of(X), X)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 8 * 4 * 50])
def test_chunks_do_not_matter(monkeypatch, chunk_bytes):
    monkeypatch.setattr(_summary, "CHUNK_BYTES", chunk_bytes)
    assert_moments(ColumnSummary.of(X), X)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_])
def test_every_dtype_is_summed_in_float64(dtype):
    rows = (np.abs(X) * 3).astype(dtype)
    assert_moments(ColumnSummary.of(rows), rows.astype(np.float64))


def test_order_of_memory_does_not_matter():
    one, other = ColumnSummary.of(X), ColumnSummary.of(np.asfortranarray(X))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_offset_costs_no_digits():
    # The naive mean of squares would have lost all of them: 1e16 is the end of float64.
    offset = 2.0**27 * np.array([1.0, -1.0, 1.0, -1.0])
    whole_numbers = np.round(X * 100)
    shifted = ColumnSummary.of(whole_numbers + offset)
    np.testing.assert_allclose(shifted.scale, whole_numbers.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(shifted.mean - offset, whole_numbers.mean(axis=0), atol=1e-7)


@pytest.mark.parametrize("exponent", [-300, 300, 307])
def test_extreme_units_neither_overflow_nor_vanish(exponent):
    size = 10.0**exponent
    rows = RNG.uniform(-1.0, 1.0, size=(50, 3))
    summary = ColumnSummary.of(rows * size)
    np.testing.assert_allclose(summary.scale / size, rows.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(summary.mean / size, rows.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e300, 1e-310])
def test_a_constant_column_has_a_scale_of_exactly_zero(value):
    rows = np.full((7, 1), value)
    summary = ColumnSummary.of(rows)
    assert summary.scale.item() == 0.0
    assert summary.mean.item() == value


def test_values_are_transformed_first():
    summary = ColumnSummary.of(X, lambda x: x > 0)
    assert_moments(summary, (X > 0).astype(np.float64))


def test_infinity_shows_without_a_warning():
    rows = X.copy()
    rows[3, 0], rows[4, 1] = np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = ColumnSummary.of(rows)
    finite = np.isfinite(summary.mean) & np.isfinite(summary.scale)
    np.testing.assert_array_equal(finite, [False, False, True, True])


@pytest.mark.parametrize("chunk_bytes", [1, 8 * 2**20])
def test_missing_entries_are_left_out(monkeypatch, chunk_bytes):
    monkeypatch.setattr(_summary, "CHUNK_BYTES", chunk_bytes)
    rows = X.copy()
    rows[RNG.random(X.shape) < 0.3] = np.nan
    rows[:, 3] = np.nan
    summary = ColumnSummary.of(rows)
    for j in range(3):
        observed = rows[~np.isnan(rows[:, j]), j]
        np.testing.assert_allclose(summary.mean[j], observed.mean(), rtol=1e-12)
        np.testing.assert_allclose(summary.scale[j], observed.std(), rtol=1e-12)
        assert (summary.minimum[j], summary.maximum[j]) == (observed.min(), observed.max())
    np.testing.assert_array_equal(summary.n_observed, (~np.isnan(rows)).sum(axis=0))
    # Nothing is known of a column that was never observed.
    assert all(values[3] == 0.0 for values in summary[:5])


def test_missing_entries_stay_missing_when_transformed():
    rows = X.copy()
    rows[::3] = np.nan
    transformed = ColumnSummary.of(rows, lambda x: x > 0)
    complete = ColumnSummary.of(np.delete(X, np.s_[::3], axis=0), lambda x: x > 0)
    np.testing.assert_allclose(transformed.mean, complete.mean)
    np.testing.assert_array_equal(transformed.n_observed, complete.n_observed)


def test_blank_is_a_summary_of_no_rows():
    blank = ColumnSummary.blank(3)
    assert not blank.n_observed.any()
    assert all(v.shape == (3,) for v in blank[:4])


def assert_merged(parts, whole, rtol=1e-11):
    """The summaries of the parts, merged from the left and as a tree, are that of the whole."""
    left = functools.reduce(ColumnSummary.merged, [ColumnSummary.of(part) for part in parts])
    half = len(parts) // 2
    first, second = (
        functools.reduce(ColumnSummary.merged, [ColumnSummary.of(part) for part in some])
        for some in (parts[:half], parts[half:])
    )
    expected = ColumnSummary.of(whole)
    for merged in (left, first.merged(second), second.merged(first)):
        size = np.maximum(np.abs(expected.minimum), np.abs(expected.maximum))
        assert (np.abs(merged.mean - expected.mean) <= rtol * (expected.scale + 1e-4 * size)).all()
        np.testing.assert_allclose(
            merged.scale,
            expected.scale,
            rtol=rtol
            + 1e-16 * max(1.0, np.max(size / np.where(expected.scale > 0, expected.scale, np.inf))),
        )
        for name in ("minimum", "maximum", "n_observed"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(expected, name))


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1.0, 1e150, 1e300, 1e307])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_merged_parts_are_the_whole(size, offset):
    rows = RNG.uniform(-1.0, 1.0, size=(101, 3)) * [1.0, 1e-3, 5.0]
    rows[40:] += [3.0, 0.0, -2.0]  # parts of which the means differ
    rows = (rows / 5.0 + offset) * (size / max(1.0, offset))
    assert_merged([rows[:1], rows[1:40], rows[40:42], rows[42:]], rows)


def test_means_as_far_apart_as_can_be_are_merged():
    rows = np.array([[-1.5e308], [-1.2e308], [1.5e308], [1.7e308]])
    merged = ColumnSummary.of(rows[:2]).merged(ColumnSummary.of(rows[2:]))
    scaled = rows / 1e308
    np.testing.assert_allclose(merged.mean / 1e308, scaled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(merged.scale / 1e308, scaled.std(axis=0), rtol=1e-12)


def test_merging_counts_what_is_observed_in_each_column():
    rows = X.copy()
    rows[RNG.random(X.shape) < 0.3] = np.nan
    rows[:50, 1] = np.nan  # seen in the second part only
    rows[50:, 2] = np.nan  # in the first one
    rows[:, 3] = np.nan  # in none
    assert_merged([rows[:50], rows[50:]], rows)


def test_a_part_without_rows_changes_nothing():
    summary, empty = ColumnSummary.of(X), ColumnSummary.of(X[:0])
    blank = ColumnSummary.blank(X.shape[1])
    for merged in (summary.merged(empty), empty.merged(summary), blank.merged(summary)):
        for name in ("mean", "scale", "minimum", "maximum", "n_observed"):
            np.testing.assert_array_equal(getattr(merged, name), getattr(summary, name))
    assert not empty.merged(empty).n_observed.any()


@pytest.mark.parametrize("value", [0.1, -1e300])
def test_a_column_that_is_constant_in_all_parts_keeps_a_scale_of_exactly_zero(value):
    part = ColumnSummary.of(np.full((7, 1), value))
    merged = part.merged(part).merged(part)
    assert merged.scale.item() == 0.0
    assert merged.mean.item() == value


def test_infinity_shows_in_what_is_merged():
    rows = X.copy()
    rows[3, 0] = np.inf
    merged = ColumnSummary.of(rows).merged(ColumnSummary.of(X))
    finite = np.isfinite(merged.mean) & np.isfinite(merged.scale)
    np.testing.assert_array_equal(finite, [False, True, True, True])
