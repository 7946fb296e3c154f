"""What happens beside training after each epoch: a printed line, scikit-learn's callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from skvae._core._sklearn import HAS_CALLBACKS
from skvae.engine import EpochReport, Status

SECONDS_BETWEEN_LINES = 0.5


class Progress:
    """Observer of training on behalf of an estimator.

    Parameters
    ----------
    estimator : estimator
    X, y : as given to ``fit``
    verbose : int
        0 prints nothing; otherwise at most one line for each half second, and a last one.
    speaks : bool, default=True
        Whether anything is printed or called back at all: of several processes one does.

    Attributes
    ----------
    attributes : callable
        Fitted attributes as if training had ended now, called only if a callback asks for them.
    """

    def __init__(
        self, estimator: Any, X: Any, y: Any, *, verbose: int, speaks: bool = True
    ) -> None:
        self._estimator = estimator
        self._data = {"X": X, "y": y}
        self._verbose = verbose if speaks else 0
        self.attributes: Callable[[], dict] = dict
        self._printed_at = 0.0
        self._last_line = ""
        self._unprinted = False
        self._root = self._epoch = None
        if HAS_CALLBACKS and speaks:
            self._root = estimator._init_callback_context(max_subtasks=estimator.max_iter)
            self._root.call_on_fit_task_begin(estimator=estimator, **self._data)

    def epoch_begins(self) -> None:
        if self._root is not None:
            self._epoch = self._root.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(estimator=self._estimator, **self._data)

    def epoch_ends(self, report: EpochReport) -> bool:
        if self._verbose:
            held_out = "" if report.validation is None else f"  held out {report.validation:.3f}"
            self._last_line = (
                f"epoch {report.epoch:d}  bound {report.bound:.3f}{held_out} nats per row  "
                f"rate {report.learning_rate:.1e}  {report.seconds:.1f} s"
            )
            self._unprinted = True
            if report.seconds - self._printed_at >= SECONDS_BETWEEN_LINES or report.epoch == 1:
                self._print_line(report.seconds)
        if self._epoch is None:
            return False
        return self._epoch.call_on_fit_task_end(
            estimator=self._estimator,
            reconstruction_attributes=self.attributes,
            **self._data,
        )

    def training_ends(self, status: Status) -> None:
        """Print what is left to print, and why training ended."""
        if self._verbose:
            if self._unprinted:
                self._print_line(time.perf_counter())
            self._print(f"stopped: {status.value}")

    def fit_ends(self) -> None:
        """Tell the callbacks that all is done."""
        if self._root is not None:
            self._root.call_on_fit_task_end(
                estimator=self._estimator, reconstruction_attributes={}, **self._data
            )

    def _print_line(self, seconds: float) -> None:
        self._print(self._last_line)
        self._printed_at = seconds
        self._unprinted = False

    def _print(self, text: str) -> None:
        print(f"[{type(self._estimator).__name__}] {text}", flush=True)
