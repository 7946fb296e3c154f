"""What is known of rows beside themselves: y in, numbers and indicators of categories out."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.utils.validation import _num_samples

# Different contexts that stand for the distribution of y, at most, and rows they are found from.
MAX_CONTEXTS, CONTEXT_ROWS = 50, 20_000


class Given(NamedTuple):
    """Rows with their y, or the code of it, for methods that take rows."""

    X: Any
    y: Any = None
    context: np.ndarray | None = None


def coding_of(y: Any, y_type: str) -> list[dict[str, Any]]:
    """How each column of y is read, as a file can hold it.

    Parameters
    ----------
    y : array-like of shape (n_rows,) or (n_rows, n_columns)
    y_type : {"auto", "categorical", "continuous"}

    Returns
    -------
    coding : list of dict
        For each column its `name` (a string, or None), and either `mean` and `scale`, or
        `categories`, sorted.
    """
    coding: list[dict[str, Any]] = []
    columns = _columns(y)
    if not columns:
        raise ValueError("y has no columns. Use VariationalAutoencoder for rows without y.")
    for name, column in columns:
        numbers = _as_numbers(column)
        is_number = y_type == "continuous" or (
            y_type == "auto" and numbers is not None and _has_fractions(column)
        )
        if is_number:
            numbers = _checked_numbers(column, name)
            coding.append({"name": name, **_location_and_scale(numbers)})
        else:
            values = _checked_categories(column, name)
            coding.append({"name": name, "categories": _sorted(set(values))})
    return coding


def encode(y: Any, coding: list[dict[str, Any]], n_rows: int | None = None) -> np.ndarray:
    """Code of y, (n_rows, n_context), float64.

    Parameters
    ----------
    y : array-like of shape (n_rows,) or (n_rows, n_columns)
    coding : list of dict
    n_rows : int or None, default=None
        Rows that there have to be; a single value then stands for all of them. None allows any.
    """
    columns = _in_order(_columns(y), coding)
    parts = []
    for (_, column), own in zip(columns, coding, strict=True):
        name = own["name"]
        if "categories" not in own:
            parts.append((_checked_numbers(column, name) - own["mean"])[:, None] / own["scale"])
            continue
        places = {value: i for i, value in enumerate(own["categories"])}
        values = _checked_categories(column, name)
        unknown = set(values) - set(places)
        if unknown:
            first = next(value for value in values if value in unknown)
            raise ValueError(
                f"{_called(name)} holds {first!r}, which fit has not seen: it knows "
                f"{_listed(own['categories'])}. "
                + (
                    'Pass one of them, or fit with y_type="continuous" to read whole numbers as '
                    "numbers."
                    if all(isinstance(value, Real) for value in own["categories"])
                    else "Pass one of them."
                )
            )
        indicators = np.zeros((len(values), len(places)))
        indicators[np.arange(len(values)), [places[value] for value in values]] = 1.0
        parts.append(indicators)
    code = np.concatenate(parts, axis=1)
    if n_rows is not None and len(code) != n_rows:
        if len(code) != 1:
            raise ValueError(
                f"y has {len(code)} rows, but X has {n_rows}. Pass one value for each row, or one "
                "for all."
            )
        code = np.repeat(code, n_rows, axis=0)
    return code


def representatives(
    context: np.ndarray, coding: list[dict[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Contexts that stand for the distribution of those of the training rows.

    All that there are; of more than `MAX_CONTEXTS`, the most frequent ones where y consists of
    categories, and centres of clusters where it has numbers.

    Returns
    -------
    contexts : ndarray of shape (n_contexts, n_context)
    probability : ndarray of shape (n_contexts,)
    """
    has_numbers = any("categories" not in column for column in coding)
    if has_numbers:
        some = np.linspace(0, len(context) - 1, min(len(context), CONTEXT_ROWS)).astype(np.int64)
        context = context[some]
    # Indicators by a number of each row: sorting whole rows takes seconds for a million of them.
    rng = np.random.default_rng(0)
    words = context.view(np.int64) if has_numbers else context.astype(np.int64)
    keys = words @ rng.integers(2**62, size=context.shape[1], dtype=np.int64)
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    found = context[first]
    order = np.lexsort(found.T[::-1])
    found, counts = found[order], counts[order]
    if len(found) > MAX_CONTEXTS and has_numbers:
        clusters = KMeans(MAX_CONTEXTS, n_init=1, random_state=0).fit(context)
        found = clusters.cluster_centers_
        counts = np.bincount(clusters.labels_, minlength=MAX_CONTEXTS)
        found, counts = found[counts > 0], counts[counts > 0]
    elif len(found) > MAX_CONTEXTS:
        most = np.sort(np.argsort(-counts, kind="stable")[:MAX_CONTEXTS])
        found, counts = found[most], counts[most]
    return found, counts / counts.sum()


def _columns(y: Any) -> list[tuple[str | None, np.ndarray]]:
    """Name, where there is one, and values of each column of y."""
    if hasattr(y, "columns") and hasattr(y, "shape") and len(y.shape) == 2:
        names = [str(name) for name in y.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"y has several columns named {twice[0]!r}. Rename them.")
        return [(str(name), np.asarray(y[name])) for name in y.columns]
    name = getattr(y, "name", None)
    # Of lists each value keeps its kind.
    values = np.array(y, dtype=object) if isinstance(y, (list, tuple)) else np.asarray(y)
    values = values.reshape(1) if values.ndim == 0 else values
    if values.ndim == 1:
        return [(name if isinstance(name, str) else None, values)]
    if values.ndim != 2:
        raise ValueError(f"y must have one or two axes; got an array of shape {values.shape}.")
    if values.shape[1] == 1:
        return [(None, values[:, 0])]
    return [(_position(j), values[:, j]) for j in range(values.shape[1])]


def _position(j: int) -> str:
    """Name of a column that has none."""
    return f"column {j}"


def _in_order(
    columns: list[tuple[str | None, np.ndarray]], coding: list[dict[str, Any]]
) -> list[tuple[str | None, np.ndarray]]:
    """Columns as they were in fit: by their names if both have names, else by their places."""
    if len(columns) != len(coding):
        raise ValueError(
            f"y has {len(columns)} columns, but had {len(coding)} in fit. Pass the same columns, "
            "or one row of them, y=[[...]], for all rows."
        )
    named = dict(columns)
    places = [_position(j) for j in range(len(coding))]
    before = [column["name"] for column in coding]
    if len(coding) == 1 or before == places or list(named) == places:
        return columns
    if set(named) != set(before):
        raise ValueError(f"y has the columns {list(named)}, but had {before} in fit.")
    return [(name, named[name]) for name in before]


def _location_and_scale(numbers: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation, 1 if the numbers vary by no more than rounding."""
    largest = float(np.abs(numbers).max()) or 1.0
    shares = numbers / largest  # whose squares neither overflow nor vanish
    scale = float(shares.std())
    varies = scale > np.finfo(np.float64).eps
    return {"mean": float(shares.mean()) * largest, "scale": scale * largest if varies else 1.0}


def _as_numbers(column: np.ndarray) -> np.ndarray | None:
    """The values as float64; None if some are not numbers."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if column.dtype.kind != "O" or not all(
        isinstance(value, Real) and not isinstance(value, (bool, np.bool_)) for value in column
    ):
        return None
    return column.astype(np.float64)


def _has_fractions(column: np.ndarray) -> bool:
    """Whether the values are of a kind that has fractions: floats, whatever they are."""
    if column.dtype.kind == "O":
        return any(isinstance(value, (float, np.floating)) for value in column)
    return column.dtype.kind == "f"


def _checked_numbers(column: np.ndarray, name: str | None) -> np.ndarray:
    numbers = _as_numbers(column)
    if numbers is None:
        bad = next(v for v in column if not isinstance(v, Real) or isinstance(v, (bool, np.bool_)))
        raise ValueError(f"{_called(name)} needs numbers; it holds {bad!r}.")
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        what = "NaN" if np.isnan(numbers[wrong[0]]) else "infinity"
        raise ValueError(
            f"Input {_called(name)} contains {what} in row {wrong[0]}. What is known of rows has "
            "to be known of all of them: leave out that row, or give the missing value a category."
        )
    return numbers


def _checked_categories(column: np.ndarray, name: str | None) -> list[Any]:
    values = column.tolist()
    if set(map(type, values)) <= {str, bool, int}:
        return values
    for i, value in enumerate(values):
        if _is_missing(value) or (isinstance(value, float) and np.isinf(value)):
            what = "infinity" if isinstance(value, float) and np.isinf(value) else "NaN"
            raise ValueError(
                f"Input {_called(name)} contains {what} in row {i}. What is known of rows has to "
                "be known of all of them: leave out that row, or give the missing value a category."
            )
        if not isinstance(value, (str, bool, int, float)):
            raise ValueError(
                f"{_called(name)} needs numbers or strings; it holds {value!r} in row {i}."
            )
    return values


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN, or pandas' NA, of which nobody knows whether it equals itself."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:
        return True


def _sorted(values: set[Any]) -> list[Any]:
    """In their own order, or as strings where kinds are mixed."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=lambda value: (type(value).__name__, str(value)))


def _called(name: str | None) -> str:
    return "y" if name is None else f"y ({name})"


def _listed(values: list[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:10])
    return shown + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def check_same_length(n_rows: int, y: Any) -> None:
    """Refuse a y of training that has not one value for each row."""
    n_values = _num_samples(y)
    if n_values != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {n_rows} rows, "
            f"y has {n_values}."
        )
