"""Labels spread along a graph of neighbours, against what the graph leaves no doubt of."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.semi_supervised import LabelSpreading

from skvae.engine import _neighbors, spread_labels


def known_of(y, known, n_classes):
    label = torch.zeros(len(y), n_classes, dtype=torch.float64)
    label[known, y[known]] = 1.0
    return label


def test_islands_are_of_the_class_of_their_only_label():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 40)
    X = 0.1 * rng.normal(size=(120, 2)) + np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])[y]
    share = spread_labels(torch.from_numpy(X), known_of(y, [3, 50, 110], 3))
    np.testing.assert_allclose(share.numpy(), np.eye(3)[y], atol=1e-12)


def test_an_island_without_a_label_stays_without():
    X = np.concatenate([np.linspace(-1.0, -0.9, 30), np.linspace(0.9, 1.0, 30)])[:, None]
    y = np.zeros(60, dtype=int)
    share = spread_labels(torch.from_numpy(X), known_of(y, [0], 2)).numpy()
    np.testing.assert_allclose(share[:30], [[1.0, 0.0]] * 30)
    np.testing.assert_array_equal(share[30:], 0.0)


def test_it_agrees_with_label_spreading():
    """On most rows: scikit-learn's graph is one of other neighbours, and has directions."""
    X, y = make_moons(300, noise=0.08, random_state=0)
    known = np.r_[np.flatnonzero(y == 0)[:5], np.flatnonzero(y == 1)[:5]]
    share = spread_labels(torch.from_numpy(X), known_of(y, known, 2)).numpy()
    few = np.full(300, -1)
    few[known] = y[known]
    theirs = LabelSpreading(kernel="knn", n_neighbors=15, alpha=0.9, max_iter=200).fit(X, few)
    assert (share.argmax(1) == theirs.transduction_).mean() > 0.95
    np.testing.assert_allclose(share.sum(1), 1.0)


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_few_rows_do(n_rows):
    y = np.arange(n_rows) % 2
    share = spread_labels(torch.zeros(n_rows, 0), known_of(y, [0], 2)).numpy()
    assert np.isfinite(share).all() and share[0, 0] == 1.0


def test_of_many_rows_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(_neighbors, "MOST_ROWS", 50)
    y = np.zeros(200, dtype=int)
    X = torch.arange(200.0)[:, None] / 200.0
    share = spread_labels(X, known_of(y, [0, 199], 1)).numpy()
    assert share[[0, 199], 0].tolist() == [1.0, 1.0] and 40 < (share > 0.0).sum() <= 50
