"""Curves of the benchmarks: a run that was interrupted ends where one that was not does."""

import pytest

from benchmarks import _curves
from benchmarks._baselines import WakeSleep
from benchmarks._curves import Fit, follow, forget, points
from skvae import VariationalAutoencoder
from tests.helpers import linear_gaussian_of, tight_linear_model


class Interrupted(Exception):
    pass


def test_points_end_where_they_should():
    for n_passes in (1, 2, 7, 1000):
        judged = points(n_passes)
        assert (judged[0], judged[-1]) == (1, n_passes)
        assert sorted(set(judged)) == judged


@pytest.mark.parametrize("objective", ["sgvb", WakeSleep()], ids=["sgvb", "wake-sleep"])
@pytest.mark.parametrize("between", [0.0, 1e9], ids=["kept after each pass", "kept at the end"])
def test_interrupted_run_goes_on(between, objective, tmp_path, monkeypatch):
    monkeypatch.setattr(_curves, "BETWEEN_CHECKPOINTS", between)
    X = linear_gaussian_of(tight_linear_model()).sample(60).astype("float32")

    def curve(checkpoint, *, stop_after=None):
        fit = Fit(
            VariationalAutoencoder(
                2,
                hidden_layer_sizes=(),
                objective=objective,
                init="random",
                solver="adagrad",
                early_stopping=False,
                n_iter_no_change=10**9,
                warm_start=True,
                random_state=0,
            ),
            X,
        )

        def judge():
            if fit.estimator.n_iter_ == stop_after:
                raise Interrupted
            return {"bound": float(fit.estimator.lower_bound(X).mean())}

        return follow(fit, [1, 2, 4, 7], judge, checkpoint)

    whole = curve(tmp_path / "whole")
    for stop_after in (2, 7):
        with pytest.raises(Interrupted):
            curve(tmp_path / "parts", stop_after=stop_after)
    resumed = curve(tmp_path / "parts")
    assert resumed["passes"] == whole["passes"]
    assert resumed["bound"] == pytest.approx(whole["bound"], rel=1e-6)
    # What has ended is not run again.
    assert curve(tmp_path / "parts", stop_after=1) == resumed
    forget(tmp_path / "parts")
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("parts")]
