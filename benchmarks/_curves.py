"""What a model is worth on its way, as a function of passes, kept so that a run can go on."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skvae import VariationalAutoencoder, load, save
from skvae.exceptions import PosteriorCollapseWarning

# Processor time after which an unfinished model is kept, in seconds.
BETWEEN_CHECKPOINTS = 60.0


class Trainee(Protocol):
    """Something that can be trained for a while, kept, and trained further."""

    def train(self, n_passes: int) -> Any:
        """Train for so many passes over the rows."""

    def keep(self, path: Path) -> None:
        """Write all that is needed to go on."""

    def resume(self, path: Path) -> None:
        """Go on from there."""


class Fit:
    """An estimator with ``warm_start=True`` and the rows that it is trained on."""

    def __init__(self, estimator: VariationalAutoencoder, X: np.ndarray) -> None:
        self.estimator = estimator
        self._X = X

    def train(self, n_passes: int) -> None:
        with warnings.catch_warnings():
            # The bound still rises, and nothing may be active yet: it is to go on.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", PosteriorCollapseWarning)
            self.estimator.set_params(max_iter=n_passes).fit(self._X)

    def keep(self, path: Path) -> None:
        save(self.estimator, path)

    def resume(self, path: Path) -> None:
        self.estimator = load(path).set_params(device=self.estimator.device)


def points(n_passes: int, n_points: int = 16) -> list[int]:
    """Numbers of passes after which a model is judged, about evenly spaced in their logarithm."""
    return sorted({round(n) for n in np.geomspace(1, n_passes, n_points)})


def follow(
    trainee: Trainee,
    passes: Sequence[int],
    judge: Callable[[], dict[str, Any]],
    checkpoint: Path,
) -> dict[str, list[Any]]:
    """Train and judge after so many passes.

    The trainee is kept beside `checkpoint`, from where an interrupted run goes on; at the end too,
    until `forget`.

    Parameters
    ----------
    trainee : Trainee
    passes : sequence of int
        When to judge, ascending; the last of them is the end.
    judge : callable
        What to note.
    checkpoint : Path
        Without suffix.

    Returns
    -------
    curve : dict
        Lists: ``passes``, ``seconds`` of processor time in training, and each entry of `judge`.
    """
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    kept = checkpoint.with_suffix(".json")
    curve: dict[str, Any] = {"passes": [], "seconds": []}
    n_done, spent = 0, 0.0
    if kept.exists():
        n_done, spent, curve = json.loads(kept.read_text())
        trainee.resume(_state(checkpoint, n_done))
    last = spent
    for point in passes[len(curve["passes"]) :]:
        while n_done < point:
            pace = spent / n_done if n_done else BETWEEN_CHECKPOINTS
            n_next = max(1, int(BETWEEN_CHECKPOINTS / max(pace, 1e-6)))
            n_next = min(n_next, point - n_done)
            begin = time.process_time()
            trainee.train(n_next)
            spent += time.process_time() - begin
            n_done += n_next
            if spent - last > BETWEEN_CHECKPOINTS:
                last = spent
                _keep(trainee, checkpoint, (n_done, spent, curve))
        for name, value in judge().items():
            curve.setdefault(name, []).append(value)
        curve["passes"].append(point)
        curve["seconds"].append(spent)
    if last < spent:
        _keep(trainee, checkpoint, (n_done, spent, curve))
    return curve


def forget(checkpoint: Path) -> None:
    """Delete what `follow` has kept."""
    for file in (checkpoint.with_suffix(".json"), *_states(checkpoint)):
        file.unlink(missing_ok=True)


def _keep(trainee: Trainee, checkpoint: Path, progress: tuple[int, float, dict[str, Any]]) -> None:
    """Write the state, then what belongs to it: an interruption between leaves the earlier pair."""
    current = _state(checkpoint, progress[0])
    earlier = [file for file in _states(checkpoint) if file != current]
    trainee.keep(current)
    new = checkpoint.with_suffix(".new")
    new.write_text(json.dumps(progress))
    new.replace(checkpoint.with_suffix(".json"))
    for file in earlier:
        file.unlink()


def _state(checkpoint: Path, n_done: int) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}-{n_done}.state")


def _states(checkpoint: Path) -> list[Path]:
    return list(checkpoint.parent.glob(f"{checkpoint.name}-*.state"))
