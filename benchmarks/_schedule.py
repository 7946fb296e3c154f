"""Training by a schedule of learning rates that may be cut at any time and goes on, and judgement.

After every few minutes the estimator is saved. Called again, a run goes on from what was saved:
the number of epochs that the estimator has seen says where in the schedule it is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import time_taken
from sklearn.exceptions import ConvergenceWarning

import skvae
from skvae.exceptions import PosteriorCollapseWarning

# Share of the epochs, and of the learning rate, of each phase of a short run.
SHARES = ((0.8, 1.0), (0.1, 0.3), (0.1, 0.1))
# Draws of the bound by which rows that are not scored are compared with those that are.
BOUND_DRAWS = 50


def check_names(options: argparse.ArgumentParser, given: Sequence[str] | None, known: set) -> None:
    """End with a message if --only names what there is not."""
    unknown = [name for name in given or () if name not in known]
    if unknown:
        options.error(f"--only got {unknown}; there are {sorted(known)}")


class Phase(NamedTuple):
    """So many epochs at one learning rate."""

    n_epochs: int
    learning_rate: float


def short_schedule(n_epochs: int, learning_rate: float) -> list[Phase]:
    """So many epochs, the last fifth of them at three tenths and then a tenth of the rate."""
    ends = np.rint(n_epochs * np.cumsum([share for share, _ in SHARES])).astype(int)
    lengths = np.diff(ends, prepend=0)
    phases = zip(lengths, SHARES, strict=True)
    return [Phase(int(n), learning_rate * factor) for n, (_, factor) in phases if n]


def burda_schedule(n_phases: int = 8) -> list[Phase]:
    """3^i passes at 0.001 · 10^(-i/7), i = 0 … 7: 3280 epochs in all (Burda et al., 2016)."""
    return [Phase(3**i, 1e-3 * 10 ** (-i / 7)) for i in range(n_phases)]


class Pause:
    """Callback that ends a call of ``fit`` after so many seconds, at the end of an epoch."""

    def __init__(self, seconds: float) -> None:
        self.end = time.perf_counter() + seconds

    def setup(self, estimator: Any, context: Any) -> None:
        """Nothing."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Nothing."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Nothing."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        """Whether to stop."""
        return context.task_name == "epoch" and time.perf_counter() >= self.end


class Training(NamedTuple):
    """A trained estimator, and the minutes that its training has taken in all its parts."""

    model: Any
    minutes: float


def train(
    make: Callable[[], Any],
    X: np.ndarray,
    phases: Sequence[Phase],
    checkpoint: Path,
    *,
    y: np.ndarray | None = None,
    device: str = "cpu",
    seconds_between: float = 240.0,
) -> Training:
    """Train by a schedule, from the checkpoint where there is one.

    Parameters
    ----------
    make : callable
        Makes the estimator, which is then trained with ``warm_start=True``.
    X : ndarray of shape (n_samples, n_features)
    phases : sequence of Phase
    checkpoint : Path
        Where the estimator is saved; beside it, in a .json, the minutes taken.
    y : ndarray of shape (n_samples,) or None, default=None
        Labels, for an estimator that asks for them.
    device : str
        Where to go on, whatever the device of earlier parts.
    seconds_between : float
        Time between two savings, from which a run that is cut goes on.

    Returns
    -------
    training : Training
        Minutes are processor time for a single thread on the CPU, else elapsed time.
    """
    clock = time.process_time if time_taken(device) == "processor time" else time.perf_counter
    minutes_file = checkpoint.with_suffix(".json")
    model, minutes = make(), 0.0
    if checkpoint.exists() and minutes_file.exists():
        model = skvae.load(checkpoint)
        minutes = json.loads(minutes_file.read_text())["minutes"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    ends = list(itertools.accumulate(phase.n_epochs for phase in phases))
    while (n_seen := getattr(model, "n_iter_", 0)) < ends[-1]:
        i = next(i for i, end in enumerate(ends) if n_seen < end)
        model.set_params(
            learning_rate_init=phases[i].learning_rate,
            max_iter=ends[i] - n_seen,
            warm_start=True,
            device=device,
            n_iter_no_change=ends[-1] + 1,
        )
        model.set_callbacks(Pause(seconds_between))
        begin = clock()
        with warnings.catch_warnings():
            # The bound still rises, and nothing may be active yet: it is to go on.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", PosteriorCollapseWarning)
            model.fit(X, y)
        minutes += (clock() - begin) / 60
        skvae.save(model, checkpoint)
        minutes_file.write_text(json.dumps({"minutes": minutes}))
        print(
            f"{checkpoint.stem}: epoch {model.n_iter_} of {ends[-1]}, training bound "
            f"{model.lower_bounds_[-1]:.2f}, {minutes:.1f} minutes",
            flush=True,
        )
    return Training(model, minutes)


class Judgement(NamedTuple):
    """What test rows say of a model, in nats per row.

    Attributes
    ----------
    scores : ndarray of shape (n_scored,)
        Log-likelihoods of the rows that were scored, by importance sampling.
    bound : float
        Mean evidence lower bound of all test rows.
    nll, error : float
        Negative log-likelihood of all test rows, and its standard error for not having scored all
        of them: the mean over those that were of what a score is above the bound, and the bound
        of all.
    """

    scores: np.ndarray
    bound: float
    nll: float
    error: float


def judge(model: Any, X: np.ndarray, scored: np.ndarray, n_draws: int) -> Judgement:
    """Score the rows `scored` of X by `n_draws` draws each, and compute the bound of all rows."""
    bounds = model.set_params(n_score_draws=min(BOUND_DRAWS, n_draws)).lower_bound(X)
    scores = model.set_params(n_score_draws=n_draws).score_samples(X[scored])
    bounds, scores = bounds.astype(np.float64), scores.astype(np.float64)
    above = scores - bounds[scored]
    unscored = 1.0 - len(scored) / len(X)  # with all rows scored there is no such error
    return Judgement(
        scores,
        float(bounds.mean()),
        -float(bounds.mean() + above.mean()),
        float(np.sqrt(unscored * above.var(ddof=1) / len(above))),
    )


def binarized_once(X: np.ndarray, seed: int) -> np.ndarray:
    """Zeros and ones drawn once with the grey values as probabilities of ones, float32."""
    return (np.random.default_rng(seed).random(X.shape) < X).astype(np.float32)


def some_rows(n_rows: int, n_scored: int) -> np.ndarray:
    """Positions of rows to score, the same at every call: MNIST's first rows are the easier."""
    order = np.random.default_rng(0).permutation(n_rows)
    return np.sort(order[: min(n_scored, n_rows)])


def paired(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean of a - b over rows, and its standard error."""
    difference = np.asarray(a) - np.asarray(b)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
