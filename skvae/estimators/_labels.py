"""Labels in, of which some may not be known; codes of classes out."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d


class LabelsAmong(NamedTuple):
    """Labels, and all that there may be, where those are told."""

    y: Any
    classes: Any


def read_labels(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n_rows,), and whether each of them is known: neither -1 nor NaN nor None.

    Where there is nothing but -1 and 1, these are two classes: with one of them there would be
    nothing to tell apart.
    """
    labels = column_or_1d(y, warn=True)
    if labels.dtype.kind in "if" and set(np.unique(labels).tolist()) == {-1, 1}:
        return labels, np.ones(len(labels), dtype=bool)
    if labels.dtype.kind == "O":
        is_known = np.array([_is_label(value) for value in labels], dtype=bool)
        labels = labels.copy()
        if is_known.any():
            kinds = np.array(labels[is_known].tolist())
            if kinds.dtype.kind in "biuf":  # numbers beside None
                numbers = np.full(len(labels), -1, dtype=kinds.dtype)
                numbers[is_known] = kinds
                labels = numbers
    elif labels.dtype.kind == "f":
        is_known = ~(np.isnan(labels) | (labels == -1.0))
    elif labels.dtype.kind == "i":
        is_known = labels != -1
    else:
        is_known = np.ones(len(labels), dtype=bool)
    known = labels[is_known]
    if known.dtype.kind in "OU":
        texts = {value for value in known.tolist() if isinstance(value, str)}
        if "-1" in texts and texts != {"-1", "1"}:
            raise ValueError(
                "y holds the text '-1', which NumPy makes of -1 beside strings; it would be one "
                "class more. Use an array of dtype object with -1 or None in it."
            )
    if known.dtype.kind == "f" and not np.isfinite(known).all():
        raise ValueError(
            "Input y contains infinity or a value too large for a label. Use -1 for a label "
            "that is not known."
        )
    if len(known):
        check_classification_targets(known)
    return labels, is_known


def _is_label(value: Any) -> bool:
    """Whether a value is a label, and not a mark of one that is not known."""
    if value is None:
        return False
    try:
        if value != value:  # NaN
            return False
    except TypeError:  # pandas.NA, of which nothing is true or false
        return False
    return not (isinstance(value, Real) and value == -1)


def codes_of(y: Any, classes: np.ndarray, n_rows: int | None = None) -> np.ndarray:
    """Indicators (n_rows, n_classes) of the classes of labels; one may stand for all rows."""
    labels = np.asarray(y)
    labels = labels.reshape(1) if labels.ndim == 0 else column_or_1d(labels)
    places = {value: i for i, value in enumerate(classes.tolist())}
    unknown = [value for value in labels.tolist() if value not in places]
    if unknown:
        raise ValueError(
            f"y holds the label {unknown[0]!r}, which fit has not seen; classes_ are "
            f"{classes.tolist()}. Pass one of them."
        )
    indicators = np.zeros((len(labels), len(classes)))
    indicators[np.arange(len(labels)), [places[value] for value in labels.tolist()]] = 1.0
    if n_rows is not None and len(indicators) != n_rows:
        if len(indicators) != 1:
            raise ValueError(
                f"y has {len(indicators)} rows, but {n_rows} are needed. Pass one label for each, "
                "or one for all."
            )
        indicators = np.repeat(indicators, n_rows, axis=0)
    return indicators
