"""Rows for processes that train together: all have the same, and none reads more than it must.

A file that is mapped into memory is read in parts, one by each process, which then tell each other;
what is in memory already is looked at by every process, since sending it would take longer.
"""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np

from skvae.engine import ProcessGroup

# Fewer rows than this are not worth sharing out, and a part of them might be none.
FEWEST_SHARED = 1000
# Rows by which processes see that they were given the same.
N_WITNESSES = 16


def read_alike(estimator: Any, X: Any, *, reset: bool) -> np.ndarray:
    """Validated rows of X, those of the whole on every process of the group.

    Raises
    ------
    ValueError
        On all processes alike, if X is not acceptable to one of them, or not the same on all.
    """
    group = ProcessGroup.current()
    if group.is_alone:
        return estimator._read_rows(X, reset=reset)
    if not estimator._reads_by_row:
        rows = estimator._read_rows(X, reset=reset)
    elif not _is_shared_out(X, group):
        rows = _agreed(group, estimator, X, reset=reset)
    else:
        # Its first rows, since these are in the part of one of the processes.
        check_same(group, np.array(X[:N_WITNESSES]), whole=X.shape)
        return group.gather(_agreed(group, estimator, X, group.part(len(X)), reset=reset))
    check_same(group, rows, names=[str(name) for name in getattr(X, "columns", [])])
    return rows


def _is_shared_out(X: Any, group: ProcessGroup) -> bool:
    """Whether each process is to read a part of X."""
    if not isinstance(X, np.ndarray) or X.ndim != 2 or X.dtype.kind not in "fiub":
        return False
    return len(X) >= max(FEWEST_SHARED, 2 * group.size) and _is_mapped(X)


def _is_mapped(X: Any) -> bool:
    """Whether the memory of X is that of a file."""
    while isinstance(X, np.ndarray):
        if isinstance(X, np.memmap):
            return True
        X = X.base
    return False


def _agreed(
    group: ProcessGroup, estimator: Any, X: Any, part: slice | None = None, *, reset: bool
) -> np.ndarray:
    """Validated rows (those of a part of X), or the same error on all processes."""
    error: Exception | None = None
    rows = None
    try:
        rows = estimator._read_rows(X if part is None else X[part], reset=reset)
    except Exception as raised:
        error = raised
    if part is not None and group.any(error is not None):
        # What an error says of rows counts those of the whole. It is that of the first process that
        # has one, so that there is nothing wrong with the rows before its part.
        failed = group.values(error is not None)
        if failed.index(True) == group.rank:
            try:
                estimator._read_rows(X[: part.stop], reset=reset)
            except Exception as raised:
                error = raised
    group.agree(error)
    assert rows is not None
    return rows


def check_same(group: ProcessGroup, rows: Any, **more: Any) -> None:
    """Refuse rows that are not the same on all processes, as far as some of them tell.

    Parameters
    ----------
    group : ProcessGroup
    rows : ndarray or DataFrame
    **more : object
        What else has to be the same.
    """
    if group.is_alone:
        return
    witnesses = np.linspace(0, len(rows) - 1, min(N_WITNESSES, len(rows))).astype(np.int64)
    if isinstance(rows, np.ndarray):
        some, about = np.ascontiguousarray(rows[witnesses]), {"dtype": str(rows.dtype)}
    else:
        some = rows.iloc[witnesses] if hasattr(rows, "iloc") else rows[witnesses.tolist()]
        about = {"names": [str(name) for name in rows.columns]}
    group.same(
        {"shape": tuple(rows.shape), "digest": joblib.hash(some), **about, **more},
        "X is not the same on all processes ({}). Give all rows to every process: each computes "
        "its own part of them.",
    )
