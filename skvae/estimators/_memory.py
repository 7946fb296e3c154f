"""How much memory a call may take for itself."""

from __future__ import annotations

import sys

from sklearn import get_config

from skvae._core._memory import MEBIBYTE


def memory_limit(max_memory: float | None) -> int:
    """Bytes that a call may take for itself, from `max_memory` in MiB.

    Beside X, what the call returns, and the weights with the state of the solver. None follows
    scikit-learn's `working_memory`, as it is now.
    """
    limit = get_config()["working_memory"] if max_memory is None else max_memory
    return int(min(max(1, limit * MEBIBYTE), sys.maxsize))
