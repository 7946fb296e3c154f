"""Bounds of a model on its way, as a function of passes, kept so that a run can go on."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skvae import VariationalAutoencoder, load, save
from skvae.exceptions import PosteriorCollapseWarning

# Processor time after which an unfinished model is kept, in seconds.
BETWEEN_CHECKPOINTS = 60.0


def points(n_passes: int, n_points: int = 16) -> list[int]:
    """Numbers of passes after which a model is judged, about evenly spaced in their logarithm."""
    return sorted({round(n) for n in np.geomspace(1, n_passes, n_points)})


def follow(
    make: Callable[[], VariationalAutoencoder],
    X: np.ndarray,
    passes: Sequence[int],
    judge: Callable[[VariationalAutoencoder], dict[str, Any]],
    checkpoint: Path,
    *,
    device: str = "cpu",
) -> tuple[VariationalAutoencoder, dict[str, Any]]:
    """Train a model and judge it after so many passes.

    An unfinished one is kept at `checkpoint`, from where an interrupted run goes on.

    Parameters
    ----------
    make : callable
        Estimator with ``warm_start=True`` that is not fitted.
    X : ndarray
        Training rows.
    passes : sequence of int
        When to judge, ascending; the last of them is the end.
    judge : callable
        What to note of an estimator.
    checkpoint : Path
        Without suffix.

    Returns
    -------
    estimator : VariationalAutoencoder
    curve : dict
        ``passes``, ``training`` (the mean bound during each pass), ``seconds`` of processor time
        in training, and of each entry of `judge` a list.
    """
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    kept = checkpoint.with_suffix(".json")
    curve: dict[str, Any] = {"passes": [], "seconds": [], "n_done": 0, "spent": 0.0}
    estimator = make()
    if kept.exists():
        curve = json.loads(kept.read_text())
        estimator = load(_model_file(checkpoint, curve)).set_params(device=device)
    last = curve["spent"]
    for point in passes[len(curve["passes"]) :]:
        while curve["n_done"] < point:
            pace = curve["spent"] / curve["n_done"] if curve["n_done"] else BETWEEN_CHECKPOINTS
            n_next = max(1, int(BETWEEN_CHECKPOINTS / max(pace, 1e-6)))
            n_next = min(n_next, point - curve["n_done"])
            _train(estimator, X, n_next, curve)
            if curve["spent"] - last > BETWEEN_CHECKPOINTS:
                last = curve["spent"]
                _keep(estimator, curve, checkpoint)
        for name, value in judge(estimator).items():
            curve.setdefault(name, []).append(value)
        curve["passes"].append(point)
        curve["seconds"].append(curve["spent"])
    curve["training"] = [float(b) for b in estimator.lower_bounds_]
    for file in (kept, *_model_files(checkpoint)):
        file.unlink(missing_ok=True)
    return estimator, curve


def _train(
    estimator: VariationalAutoencoder, X: np.ndarray, n_passes: int, curve: dict[str, Any]
) -> None:
    begin = time.process_time()
    with warnings.catch_warnings():
        # The bound still rises, and nothing may be active yet: it is to go on.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", PosteriorCollapseWarning)
        estimator.set_params(max_iter=n_passes).fit(X)
    curve["spent"] += time.process_time() - begin
    curve["n_done"] += n_passes


def _keep(estimator: VariationalAutoencoder, curve: dict[str, Any], checkpoint: Path) -> None:
    """Write the model, then what belongs to it: an interruption between leaves the earlier pair."""
    earlier = _model_files(checkpoint)
    save(estimator, _model_file(checkpoint, curve))
    new = checkpoint.with_suffix(".new")
    new.write_text(json.dumps(curve))
    new.replace(checkpoint.with_suffix(".json"))
    for file in earlier:
        file.unlink()


def _model_file(checkpoint: Path, curve: dict[str, Any]) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}-{curve['n_done']}.skvae")


def _model_files(checkpoint: Path) -> list[Path]:
    return list(checkpoint.parent.glob(f"{checkpoint.name}-*.skvae"))
