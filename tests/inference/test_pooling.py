"""Rubin's rules, against numbers worked out by hand and by how often intervals cover."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

import skvae
from tests.helpers import assert_mean


def test_three_imputations_by_hand():
    pooled = skvae.pool_estimates([1.0, 2.0, 3.0], [0.5, 1.0, 1.5])
    # Within 1, between 1: total 1 + 4/3, of which 4/7 is from what is missing.
    assert pooled.estimate == 2.0
    np.testing.assert_allclose(pooled.standard_error**2, 7 / 3)
    np.testing.assert_allclose(pooled.degrees_of_freedom, 2 / (4 / 7) ** 2)
    r, df = Fraction(4, 3), Fraction(49, 8)
    np.testing.assert_allclose(
        pooled.fraction_missing_information, float((r + 2 / (df + 3)) / (r + 1))
    )
    low, high = pooled.confidence_interval(0.9)
    half = stats.t(49 / 8).ppf(0.95) * np.sqrt(7 / 3)
    np.testing.assert_allclose([low, high], [2.0 - half, 2.0 + half])


def test_small_tables_by_hand():
    pooled = skvae.pool_estimates([1, 2, 3], [1, 1, 1], complete_degrees_of_freedom=10)
    observed = Fraction(11, 13) * 10 * Fraction(3, 7)
    expected = 1 / (Fraction(8, 49) + 1 / observed)
    np.testing.assert_allclose(pooled.degrees_of_freedom, float(expected))
    # Never more than there would have been without missing entries, or by Rubin's first rule.
    assert pooled.degrees_of_freedom < min(10, 49 / 8)
    # Of a large table it is that rule.
    large = skvae.pool_estimates([1, 2, 3], [1, 1, 1], complete_degrees_of_freedom=1e12)
    np.testing.assert_allclose(large.degrees_of_freedom, 49 / 8)
    infinite = skvae.pool_estimates([1, 2, 3], [1, 1, 1], complete_degrees_of_freedom=np.inf)
    np.testing.assert_allclose(infinite.degrees_of_freedom, 49 / 8)


def test_vectors_are_pooled_number_by_number():
    rng = np.random.default_rng(0)
    estimates, variances = rng.normal(size=(5, 2, 3)), rng.uniform(size=(5, 2, 3))
    whole = skvae.pool_estimates(estimates, variances, complete_degrees_of_freedom=40)
    for i, j in np.ndindex(2, 3):
        one = skvae.pool_estimates(
            estimates[:, i, j], variances[:, i, j], complete_degrees_of_freedom=40
        )
        for name in whole._fields:
            np.testing.assert_allclose(getattr(whole, name)[i, j], getattr(one, name))
    low, high = whole.confidence_interval()
    assert low.shape == high.shape == (2, 3)


@pytest.mark.parametrize("variance", [0.0, 4.0])
def test_where_nothing_is_missing_it_is_the_complete_analysis(variance):
    pooled = skvae.pool_estimates([1.0, 1.0], [variance, variance])
    assert pooled.standard_error == np.sqrt(variance)
    assert pooled.degrees_of_freedom == np.inf
    assert pooled.fraction_missing_information == 0.0
    half = 1.959963984540054 * np.sqrt(variance)
    np.testing.assert_allclose(pooled.confidence_interval(), [1.0 - half, 1.0 + half])
    corrected = skvae.pool_estimates([1.0, 1.0], [variance] * 2, complete_degrees_of_freedom=7)
    np.testing.assert_allclose(corrected.degrees_of_freedom, 7 * 8 / 10)


def test_estimates_without_variance_of_their_own():
    """All of the uncertainty is that between the tables."""
    pooled = skvae.pool_estimates([0.0, 2.0], [0.0, 0.0], complete_degrees_of_freedom=5)
    np.testing.assert_allclose(pooled.standard_error**2, 1.5 * 2.0)
    assert pooled.degrees_of_freedom == 0.0
    assert pooled.fraction_missing_information == 1.0
    assert pooled.confidence_interval() == (-np.inf, np.inf)


def test_intervals_cover_the_mean_of_a_half_observed_column():
    """Draws from the posterior predictive of a normal sample: coverage is the level."""
    rng = np.random.default_rng(0)
    n_repetitions, n_rows, n_observed, m = 8000, 40, 20, 10
    y = rng.normal(size=(n_repetitions, n_observed))
    # Proper draws: the variance and the mean are drawn from their posterior, then the entries.
    scaled = (n_observed - 1) * y.var(axis=1, ddof=1)
    variance = scaled / rng.chisquare(n_observed - 1, size=(m, n_repetitions))
    mean = y.mean(axis=1) + np.sqrt(variance / n_observed) * rng.normal(size=variance.shape)
    missing = rng.normal(size=(m, n_repetitions, n_rows - n_observed))
    missing = mean[..., None] + np.sqrt(variance)[..., None] * missing
    tables = np.concatenate([np.broadcast_to(y, (m, *y.shape)), missing], axis=2)
    estimates, variances = tables.mean(axis=2), tables.var(axis=2, ddof=1) / n_rows
    pooled = skvae.pool_estimates(estimates, variances, complete_degrees_of_freedom=n_rows - 1)
    low, high = pooled.confidence_interval()
    covered = (low < 0.0) & (high > 0.0)
    # The rules are an approximation: half a per cent beside the error of 8000 repetitions.
    assert abs(covered.mean() - 0.95) < 0.005 + 4 * np.sqrt(0.95 * 0.05 / n_repetitions)
    # One imputed table taken for complete: the intervals are far too short.
    half = stats.t(n_rows - 1).ppf(0.975) * np.sqrt(variances[0])
    assert (np.abs(estimates[0]) < half).mean() < 0.87
    # Half of the entries carry half of the information.
    assert_mean(pooled.estimate, 0.0)
    assert 0.4 < np.median(pooled.fraction_missing_information) < 0.65


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (([1.0], [1.0]), {}, r"at least 2 imputed tables, along the first axis; got shape \(1,\)"),
        ((1.0, 1.0), {}, r"at least 2 imputed tables, along the first axis; got shape \(\)"),
        (([1.0, 2.0], [1.0]), {}, r"same shape, .* got \(2,\) and \(1,\)"),
        (([1.0, np.nan], [1.0, 1.0]), {}, "estimates must be finite; got nan"),
        (([1.0, 2.0], [1.0, np.inf]), {}, "variances must be finite; got inf"),
        (([1.0, 2.0], [1.0, -0.5]), {}, "variances must not be negative; got -0.5"),
        (
            ([1.0, 2.0], [1.0, 1.0]),
            {"complete_degrees_of_freedom": 0},
            "complete_degrees_of_freedom must be positive or None; got 0",
        ),
    ],
)
def test_arguments_are_checked(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        skvae.pool_estimates(*arguments, **keywords)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, np.nan])
def test_levels_are_probabilities(level):
    pooled = skvae.pool_estimates([1.0, 2.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        pooled.confidence_interval(level)
