"""X in, and which rows are held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data

# Rows are read as they are in these dtypes and as float64 in any other.
KEPT_DTYPES = [np.float64, np.float32, np.uint8, np.bool_]
# Held-out rows are never fewer than this, and of fewer rows than FEWEST_ROWS none are held out.
MIN_VALIDATION_ROWS = 5
FEWEST_ROWS = 20


def read_rows(estimator: Any, X: Any, *, reset: bool) -> np.ndarray:
    """Validated rows, in one of `KEPT_DTYPES`, not copied where that can be helped."""
    return validate_data(
        estimator, X, dtype=KEPT_DTYPES, ensure_min_samples=2 if reset else 1, reset=reset
    )


def compute_dtype(X: np.ndarray) -> np.dtype:
    """Dtype in which rows are answered: float64 only for float64."""
    return np.dtype(np.float64 if X.dtype == np.float64 else np.float32)


def hold_out(
    n_rows: int, fraction: float, generator: torch.Generator
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Sorted indices of training and held-out rows; (None, None) where there are too few."""
    n_validation = max(int(n_rows * fraction), MIN_VALIDATION_ROWS)
    if n_rows < FEWEST_ROWS or n_rows - n_validation < 2:
        return None, None
    order = torch.randperm(n_rows, generator=generator).numpy()
    return np.sort(order[n_validation:]), np.sort(order[:n_validation])
