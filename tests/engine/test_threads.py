"""The guard of the number of threads."""

import threading

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae.engine._threads import FEWEST_OPERATIONS, threads_for
from tests.engine.toy import watch_products

pytestmark = pytest.mark.skipif(
    not torch.backends.openmp.is_available(), reason="torch was built without OpenMP"
)
SMALL, LARGE = 0.1 * FEWEST_OPERATIONS, 10 * FEWEST_OPERATIONS


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def in_a_new_thread(function=torch.get_num_threads):
    """What a thread gets that has not used torch before."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_small_steps_run_on_one_thread_and_the_number_comes_back():
    with threads_for(SMALL):
        assert torch.get_num_threads() == 1
        with threads_for(SMALL):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_large_steps_keep_the_number():
    with threads_for(LARGE):
        assert torch.get_num_threads() == 3


def test_number_is_never_raised():
    torch.set_num_threads(1)
    for n_operations in (SMALL, LARGE):
        with threads_for(n_operations):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1


def test_number_comes_back_after_an_error():
    with pytest.raises(KeyError), threads_for(SMALL):
        raise KeyError
    assert torch.get_num_threads() == 3


def test_other_threads_do_not_notice():
    def guarded():
        with threads_for(SMALL):
            return torch.get_num_threads()

    with threads_for(SMALL):
        # Also if their first call falls into the window, and they have windows of their own.
        assert in_a_new_thread() == 3
        assert in_a_new_thread(guarded) == 1
        assert torch.get_num_threads() == 1
        assert in_a_new_thread() == 3
    assert in_a_new_thread() == 3


def test_many_windows_at_once():
    """Threads that come and go in each other's windows all get their number back."""
    after = []

    def fits():
        for _ in range(20):
            with threads_for(SMALL):
                torch.ones(3).sum()
        after.append(torch.get_num_threads())

    threads = [threading.Thread(target=fits) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert after == [3] * 8
    assert torch.get_num_threads() == in_a_new_thread() == 3


@pytest.mark.filterwarnings("ignore:The lower bound was still rising")
@pytest.mark.parametrize("n_rows", [60, 1100])
def test_fit_is_guarded(n_rows, monkeypatch):
    seen = watch_products(monkeypatch, torch.get_num_threads)
    X = np.random.default_rng(0).normal(size=(n_rows, 4))
    VariationalAutoencoder(1, max_iter=2, random_state=0).fit(X)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 3
