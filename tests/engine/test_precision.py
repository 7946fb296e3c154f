"""The guard of the precision of products."""

import threading

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae.engine._precision import products_in
from tests.engine.toy import watch_products

now = torch.get_float32_matmul_precision


@pytest.fixture(autouse=True, params=["highest", "high"])
def _setting(request):
    before = now()
    torch.set_float32_matmul_precision(request.param)
    yield
    assert now() == request.param
    torch.set_float32_matmul_precision(before)


def test_it_holds_inside_and_what_was_before_comes_back():
    before = now()
    with products_in("medium"):
        assert now() == "medium"
        with products_in("high"):
            assert now() == "high"
        assert now() == "medium"
    assert now() == before


def test_default_leaves_the_setting_alone():
    before = now()
    with products_in("highest"):
        assert now() == before


def test_it_comes_back_after_an_error():
    with pytest.raises(KeyError), products_in("medium"):
        raise KeyError


def test_overlapping_users_end_in_any_order():
    entered, leave = threading.Event(), threading.Event()

    def other():
        with products_in("medium"):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with products_in("high"):
        thread.start()
        entered.wait()
    assert now() == "medium"
    leave.set()
    thread.join()


@pytest.mark.filterwarnings("ignore:The lower bound was still rising")
@pytest.mark.parametrize("n_rows", [60, 1100])
def test_fit_asks_for_it_and_ends_near_the_same_bound(n_rows, monkeypatch):
    seen = watch_products(monkeypatch, now)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, 8)) + 0.5 * rng.normal(size=(n_rows, 8))
    vae = VariationalAutoencoder(2, max_iter=5, init="random", random_state=0)
    exact = vae.fit(X).score(X)
    assert set(seen) == {now()}
    seen.clear()
    short = vae.set_params(precision="medium").fit(X).score(X)
    assert set(seen) == {"medium"}
    assert short == pytest.approx(exact, abs=0.1)
