"""Second moments of residuals: as a matrix, as an operator, and from some of the rows."""

import numpy as np
import pytest
import torch

from skvae.engine import Rows, residual_moments
from skvae.likelihoods import BernoulliLikelihood, GaussianLikelihood
from skvae.likelihoods._base import ObservationHead
from tests.engine.toy import CPU
from tests.registry import BINARY, REAL, likelihood, make_rows

GAUSSIAN = likelihood(GaussianLikelihood(), REAL)
BERNOULLI = likelihood(BernoulliLikelihood(), BINARY)


def moments_of(case, X, *, index=None, dtype=torch.float64):
    head = case.component.build(case.component.summarize(X), dtype)
    rows = Rows(X, head.standardize, index=index, dtype=dtype, device=CPU)
    return residual_moments(rows, head, 1)


def matrix(moments):
    return moments.times(np.eye(len(moments.diagonal)))


@pytest.fixture(params=["matrix", "operator"])
def _form(request, monkeypatch):
    if request.param == "operator":
        monkeypatch.setattr("skvae.engine._moments.DENSE_COLUMNS", 0)


@pytest.mark.usefixtures("_form")
def test_gaussian_moments_are_the_correlations(monkeypatch):
    X = make_rows(GAUSSIAN, 60, 5) * 100.0 + 7.0
    moments = moments_of(GAUSSIAN, X)
    expected = np.corrcoef(X.T)
    np.testing.assert_allclose(matrix(moments), expected, atol=1e-12)
    np.testing.assert_allclose(moments.diagonal, np.ones(5), atol=1e-12)
    vectors = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(moments.times(vectors), expected @ vectors, atol=1e-12)
    # However many pieces the rows come in.
    monkeypatch.setattr("skvae.engine._moments.CHUNK_ROWS", 7)
    np.testing.assert_allclose(matrix(moments_of(GAUSSIAN, X)), expected, atol=1e-12)


@pytest.mark.usefixtures("_form")
def test_bernoulli_moments_are_those_of_standardised_deviations():
    X = make_rows(BERNOULLI, 80, 4)
    # Half a one and half a zero are added to the counts.
    frequency = (X.sum(axis=0) + 0.5) / (len(X) + 1.0)
    residuals = (X - frequency) / np.sqrt(frequency * (1 - frequency))
    expected = residuals.T @ residuals / len(X)
    moments = moments_of(BERNOULLI, X)
    np.testing.assert_allclose(matrix(moments), expected, atol=1e-12)
    np.testing.assert_allclose(moments.diagonal, np.diag(expected), atol=1e-12)


@pytest.mark.usefixtures("_form")
def test_moments_are_of_the_rows_of_the_set():
    X = make_rows(GAUSSIAN, 60, 3)
    index = np.arange(5, 40)
    standard = (X - X.mean(axis=0)) / X.std(axis=0)
    expected = standard[index].T @ standard[index] / len(index)
    np.testing.assert_allclose(matrix(moments_of(GAUSSIAN, X, index=index)), expected, atol=1e-12)


@pytest.mark.usefixtures("_form")
def test_float32_rows_are_summed_in_float64():
    """The moments of 20 000 float32 rows are right to what the rows themselves hold."""
    X = np.random.default_rng(0).normal(size=(20_000, 2)) @ np.array([[1.0, 0.3], [0.0, 1.0]])
    moments = moments_of(GAUSSIAN, X, dtype=torch.float32)
    np.testing.assert_allclose(matrix(moments), np.corrcoef(X.T), atol=2e-6)


def test_of_many_rows_some_stand_for_all(monkeypatch):
    X = make_rows(GAUSSIAN, 1000, 4)
    head = GAUSSIAN.component.build(GAUSSIAN.component.summarize(X), torch.float64)
    touched = []

    def standardize(x):
        touched.append(len(x))
        return head.standardize(x)

    rows = Rows(X, standardize, dtype=torch.float64, device=CPU)
    monkeypatch.setattr("skvae.engine._moments.BUDGET", 200 * 16)  # 200 rows of 4 × 4 products
    moments = residual_moments(rows, head, 1)
    assert 200 <= sum(touched) <= 202
    standard = (X - X.mean(axis=0)) / X.std(axis=0)
    fourth_moments = np.mean(standard[:, :, None] ** 2 * standard[:, None, :] ** 2, axis=0)
    error = np.sqrt(fourth_moments / 200)
    assert np.all(np.abs(matrix(moments) - np.corrcoef(X.T)) < 4.5 * error)


def test_sorted_rows_are_represented_from_end_to_end(monkeypatch):
    X = np.sort(make_rows(GAUSSIAN, 1000, 2), axis=0)
    monkeypatch.setattr("skvae.engine._moments.BUDGET", 100 * 4)
    np.testing.assert_allclose(matrix(moments_of(GAUSSIAN, X)), np.corrcoef(X.T), atol=0.2)


def test_no_moments_without_residuals():
    class Bare(ObservationHead):
        n_columns = n_outputs = n_location_outputs = n_features = 2
        features = initial_outputs = params_from = log_prob_columns = None
        sample = expectation = from_expectation = None

    rows = Rows(np.zeros((4, 2)), lambda x: x, dtype=torch.float64, device=CPU)
    assert residual_moments(rows, Bare(), 1) is None
