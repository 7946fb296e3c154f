"""Rows that are not in memory: where they are read from, and what answers do with them.

One way in for each kind of storage: a memory map (``np.load(path, mmap_mode="r")``), an array of
HDF5, Zarr or Dask (anything with a shape, a dtype, chunks and slices), a dataset of Parquet or
Arrow files (``pyarrow.dataset.dataset(folder)``), and for everything else a function without
arguments that returns an iterator of arrays or DataFrames.
"""

from __future__ import annotations

import functools
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from skvae._core._random import Streams
from skvae.engine import ProcessGroup, Rows, StreamedRows, Survey, survey
from skvae.estimators._memory import memory_limit
from skvae.estimators._rows import FEWEST_ROWS, MIN_VALIDATION_ROWS
from skvae.estimators._shards import check_same
from skvae.estimators._table import library_of, module_of

# Shares of the memory that a call may take: rows up to this size are read as a whole; the sample
# that stands for rows where a few suffice; one of the windows that are in memory at a time.
SHARE_OF_WHOLE, SHARE_OF_SAMPLE, SHARE_OF_WINDOW = 1 / 4, 1 / 16, 1 / 32
# And what may be decoded of files and chunks at a time.
SHARE_OF_OPEN = 1 / 8
# Rows of the sample that may be held out.
SHARE_HELD_OUT = 1 / 4
# The least size of a window, and what a block of a window is read in: reading less than that at a
# time is slow, more mixes the rows less.
LEAST_WINDOW, BLOCKS_OF_WINDOW, MOST_BLOCK = 2**18, 16, 2**20
# What is noted of each row of an array in memory while it is trained on.
NOTED_BYTES, LEAST_NOTED = 64, 2**23
# Rows of a block of a file whose rows have a size that is not known.
BLOCK_ROWS = 2**14


class Store(ABC):
    """Where rows are read from, in parts that can be read in any order.

    Attributes
    ----------
    n_parts : int
    n_open : int
        Parts that may be read in turn: of each what it decodes is in memory.
    n_bytes : int or None
        That all rows take up in memory; None if nobody knows.
    """

    n_parts: int = 1
    n_open: int = 16
    n_bytes: int | None = None

    @abstractmethod
    def chunks(self, part: int) -> Iterator[tuple[int, Any]]:
        """Arrays or DataFrames of a part, in order, and the place of their first row."""

    @abstractmethod
    def whole(self) -> Any:
        """All rows, in memory."""

    def in_order(self) -> Iterator[Any]:
        """Arrays or DataFrames of all rows, in the order in which they lie."""
        return (chunk for part in range(self.n_parts) for _, chunk in self.chunks(part))

    def share_out(self, n_processes: int) -> None:
        """Refuse to let several processes read a part each, where there are too few parts."""
        if self.n_parts < n_processes:
            raise ValueError(
                f"X is read in {self.n_parts} part(s), which {n_processes} processes cannot share "
                "out. Use a memory map, an array of HDF5 or Zarr, or Parquet files of more row "
                "groups."
            )


class SlicedStore(Store):
    """An array that is read in slices."""

    def __init__(self, X: Any, limit: int) -> None:
        self._X = X
        n_rows = X.shape[0]
        if n_rows != n_rows:
            raise ValueError(
                f"X ({type(X).__name__}) does not know how many rows it has. Of a Dask array, call "
                "compute_chunk_sizes() first."
            )
        row_bytes = max(1, X.dtype.itemsize * X.shape[1])
        self.n_bytes = n_rows * row_bytes
        block = max(1, min(window_bytes(limit) // BLOCKS_OF_WINDOW, MOST_BLOCK) // row_bytes)
        chunks = getattr(X, "chunks", None)
        if chunks:
            # A chunk is read as a whole, whatever part of it is asked for.
            first = chunks[0][0] if isinstance(chunks[0], tuple) else chunks[0]
            if first <= block or first * row_bytes <= limit * SHARE_OF_OPEN:
                block = max(first, block // first * first)
            elif n_rows * row_bytes > limit * SHARE_OF_WHOLE:
                warnings.warn(
                    f"X lies in chunks of {first} rows, which do not fit into memory together. "
                    f"They are read {block} rows at a time, and each chunk many times over: "
                    "store X in chunks of fewer rows.",
                    UserWarning,
                    stacklevel=2,
                )
        self._block = block
        self.n_parts = -(-n_rows // block)

    def chunks(self, part: int) -> Iterator[tuple[int, Any]]:
        start = part * self._block
        yield start, np.asarray(self._X[start : start + self._block])

    def whole(self) -> Any:
        return np.asarray(self._X)


class ArrowStore(Store):
    """A dataset of Parquet or Arrow files."""

    def __init__(self, dataset: Any, limit: int) -> None:
        types = sys.modules["pyarrow"].types
        self._dataset = dataset
        self._columns = list(dataset.schema.names)
        fragments = [
            part
            for fragment in _fragments(dataset)
            for part in (
                fragment.split_by_row_group()
                if hasattr(fragment, "split_by_row_group")
                else [fragment]
            )
        ]
        counts = [_n_rows_of(fragment) for fragment in fragments]
        self._fragments = fragments
        self._starts = np.cumsum([0, *counts])
        self.n_parts = len(fragments)
        row_bytes = 8 * len(self._columns)
        self.n_bytes = int(self._starts[-1]) * row_bytes
        # A row group is decoded as a whole, whatever part of it is asked for.
        largest = max(1, max(counts, default=0) * row_bytes)
        self.n_open = max(1, min(self.n_open, int(limit * SHARE_OF_OPEN) // largest))
        self._categories = {
            name: self._categories_of(name, kind.ordered)
            for name, kind in zip(self._columns, dataset.schema.types, strict=True)
            if types.is_dictionary(kind)
        }

    def _categories_of(self, name: str, ordered: bool) -> Any:
        """Categories of a column in any of the files: each knows those of its own rows only."""
        pd = module_of("pandas")
        found: dict[Any, None] = {}
        for batch in self._dataset.to_batches(columns=[name]):
            found.update(dict.fromkeys(batch.column(0).dictionary.to_pylist()))
        # Without an order of their own they do not depend on which file comes first.
        return pd.CategoricalDtype(list(found) if ordered else sorted(found), ordered=ordered)

    def _frame(self, table: Any, start: int = 0) -> Any:
        """Rows as a DataFrame, numbered from `start` on."""
        pd = module_of("pandas")
        # Booleans that may be missing are booleans, whether some are or not.
        booleans = {sys.modules["pyarrow"].bool_(): pd.BooleanDtype()}
        frame = table.to_pandas(split_blocks=True, types_mapper=booleans.get)
        frame.index = pd.RangeIndex(start, start + len(frame))
        for name, dtype in self._categories.items():
            frame[name] = frame[name].astype(dtype)
        return frame

    def chunks(self, part: int) -> Iterator[tuple[int, Any]]:
        start = int(self._starts[part])
        batches = self._fragments[part].to_batches(
            schema=self._dataset.schema, batch_size=BLOCK_ROWS, batch_readahead=2
        )
        for batch in batches:
            if len(batch):
                yield start, self._frame(batch, start)
                start += len(batch)

    def whole(self) -> Any:
        return self._frame(self._dataset.to_table())


class ChunkStore(Store):
    """A function that returns an iterator of arrays or DataFrames."""

    def __init__(self, function: Callable[[], Iterator[Any]], limit: int) -> None:
        self._function = function
        self._first: Iterator[Any] | None = None
        kept: list[Any] | None = []
        n_bytes = 0
        for _, chunk in self.chunks(0):
            kept.append(chunk)
            n_bytes += _bytes_of(chunk)
            if n_bytes > limit * SHARE_OF_WHOLE:
                kept = None
                break
        self._kept = kept
        self.n_bytes = None if kept is None else n_bytes

    def chunks(self, part: int) -> Iterator[tuple[int, Any]]:
        start = 0
        for chunk in self._begun():
            rows = chunk if library_of(chunk) else np.asarray(chunk)
            if rows.ndim != 2:
                raise ValueError(
                    "X(), a function, has to return an iterator of arrays of two dimensions or of "
                    f"DataFrames; after {start} rows came {_described(chunk)}."
                )
            if len(rows):
                yield start, rows
                start += len(rows)

    def _begun(self) -> Iterator[Any]:
        """The chunks, from the first one on."""
        chunks = self._function()
        if library_of(chunks) or not isinstance(chunks, Iterable):
            raise ValueError(
                "X(), a function, has to return an iterator of arrays or DataFrames; got "
                f"{_described(chunks)}."
            )
        iterator = iter(chunks)
        if iterator is self._first:
            raise ValueError(
                "X() returned the same iterator again, which gives its rows only once. It has to "
                "begin anew each time it is called."
            )
        if self._first is None:
            self._first = iterator
        return iterator

    def whole(self) -> Any:
        assert self._kept is not None
        if not self._kept:
            raise ValueError("X(), which is to return an iterator of chunks, gave none.")
        return _joined(self._kept)


def store_of(X: Any, max_memory: float | None) -> tuple[Any, Store | None]:
    """X in memory, or where its rows are read from; one of them.

    Rows that fit into a share of the memory that a call may take are read as a whole.
    """
    limit = memory_limit(max_memory)
    store: Store
    if isinstance(X, np.ndarray):
        is_large = isinstance(X, np.memmap) and X.nbytes > limit * SHARE_OF_WHOLE
        is_large = is_large or (X.ndim > 0 and len(X) * NOTED_BYTES > max(limit, LEAST_NOTED))
        return X, SlicedStore(X, limit) if X.ndim == 2 and is_large else None
    if _is_chunked(X):
        store = SlicedStore(X, limit)
    elif _is_dataset(X):
        store = ArrowStore(X, limit)
    elif callable(X):
        store = ChunkStore(X, limit)
    elif isinstance(X, Iterator):
        raise ValueError(
            f"X is an iterator ({type(X).__name__}), which gives its rows only once. Pass a "
            "function without arguments that returns a new one each time it is called, or each "
            "chunk to partial_fit."
        )
    else:
        return X, None
    if store.n_bytes is not None and store.n_bytes <= limit * SHARE_OF_WHOLE:
        return store.whole(), None
    return X, store


def window_bytes(limit: int) -> int:
    """Size of a window of rows."""
    return max(int(limit * SHARE_OF_WINDOW), LEAST_WINDOW)


def _is_chunked(X: Any) -> bool:
    """Whether X is an array that lies in chunks, such as those of h5py, Zarr and Dask."""
    is_array = all(hasattr(X, name) for name in ("shape", "dtype", "chunks", "__getitem__"))
    return is_array and len(X.shape) == 2


def _is_dataset(X: Any) -> bool:
    module = sys.modules.get("pyarrow.dataset")
    return module is not None and isinstance(X, module.Dataset)


def _bytes_of(chunk: Any) -> int:
    return int(len(chunk) * max(1, np.prod(np.shape(chunk)[1:])) * 8)


class Stream:
    """Rows of a store, as `fit` sees them.

    Parameters
    ----------
    store : Store
    read : callable
        ``read(chunk, reset=reset)`` are the validated rows of an array or DataFrame.
    max_memory : float or None

    Attributes
    ----------
    head : array or DataFrame
        The first rows as they lie there.
    seed : int
        Of the fit.
    told : Survey
    """

    n_parts: int
    n_open: int

    def __init__(
        self, store: Store, read: Callable[..., np.ndarray], max_memory: float | None
    ) -> None:
        self._store, self._read, self._group = store, read, ProcessGroup.current()
        self._limit = memory_limit(max_memory)
        self.n_parts, self.n_open = store.n_parts, store.n_open

    def blocks(self, part: int) -> Iterator[tuple[int, np.ndarray]]:
        """Validated rows of a part."""
        for start, chunk in self._store.chunks(part):
            yield start, self._validated(start, chunk, reset=False)

    def _validated(self, start: int, chunk: Any, *, reset: bool) -> np.ndarray:
        with _placed(start):
            return self._read(chunk, reset=reset)

    def begin(self, seed: int, *, reset: bool, skip_empty: bool) -> None:
        """Read all rows once; with `reset`, the first of them say what columns there are."""
        self.seed = seed
        error: Exception | None = None
        try:
            self._read_head(reset=reset)
        except Exception as raised:
            error = raised
        self._group.agree(error)
        check_same(self._group, self.head, parts=self.n_parts, n_bytes=self._store.n_bytes)
        rng = np.random.default_rng((Streams(seed).derived_seed("validation"), self._group.rank))
        n_bytes = int(self._limit * SHARE_OF_SAMPLE)
        self.told: Survey = survey(self, n_bytes, rng, skip_empty=skip_empty, group=self._group)

    def _read_head(self, *, reset: bool) -> None:
        if not self._group.is_alone:
            self._store.share_out(self._group.size)
        first = next(self._store.in_order(), None)
        if first is None:
            raise ValueError("X holds no rows.")
        self.head = first
        self._validated(0, first, reset=reset)

    def rows(self) -> Iterator[np.ndarray]:
        """All rows, block by block, in the order in which they lie."""
        for part in range(self.n_parts):
            for _, block in self.blocks(part):
                yield block

    def check(self, check: Callable[[np.ndarray], None]) -> None:
        """Pass all rows to `check`, which raises an error where they are not acceptable."""
        failure: Exception | None = None
        try:
            for part in range(self.n_parts)[self._group.part(self.n_parts)]:
                for start, rows in self.blocks(part):
                    with _placed(start):
                        check(rows)
        except Exception as error:
            failure = error
        self._group.agree(failure)

    def with_extremes(self, rows: np.ndarray) -> np.ndarray:
        """Rows, and one each of the smallest and the largest entries of all columns."""
        moments = self.told.moments
        extremes = np.stack([moments.minimum, moments.maximum])
        return np.vstack([rows, extremes.astype(rows.dtype)])

    def hold_out(self, fraction: float) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Sorted indices of rows of the sample: those not held out, and those held out.

        (None, None) where there are too few rows. Held out are `fraction` of all rows, but not
        more than a share of the sample.
        """
        n_sampled = len(self.told.sample)
        n_validation = max(int(self.told.n_rows * fraction), MIN_VALIDATION_ROWS)
        n_validation = min(n_validation, int(n_sampled * SHARE_HELD_OUT))
        if self.told.n_rows < FEWEST_ROWS or n_validation < MIN_VALIDATION_ROWS:
            return None, None
        rng = np.random.default_rng((self.seed, 1))
        chosen = np.zeros(n_sampled, dtype=bool)
        chosen[rng.permutation(n_sampled)[:n_validation]] = True
        return np.flatnonzero(~chosen), np.flatnonzero(chosen)

    def training(self, sample: Rows, held_out: np.ndarray | None) -> StreamedRows:
        """All rows but those of the sample that are held out, for training."""
        places = np.empty(0, dtype=np.int64) if held_out is None else self.told.places[held_out]
        window = window_bytes(self._limit)
        return StreamedRows(self, self.told, sample, places, window, self._group)


@contextmanager
def _placed(start: int) -> Iterator[None]:
    """Let errors that count rows from the first one of a block say where the block begins."""
    try:
        yield
    except ValueError as error:
        if not start:
            raise
        raise type(error)(f"In the rows of X from row {start} on: {error}") from error


def _joined(parts: Sequence[Any]) -> Any:
    """Arrays or DataFrames, one after the other."""
    library, start = library_of(parts[0]), 0
    for part in parts:
        if library_of(part) != library:
            raise ValueError(
                f"X gives {_described(parts[0])} first, and {_described(part)} after {start} rows."
            )
        own, first = _columns(part), _columns(parts[0])
        if own != first:
            raise ValueError(f"X has the columns {first} first, and {own} after {start} rows.")
        start += len(part)
    if library is None:
        return np.concatenate(parts)
    how = {"how": "vertical_relaxed"} if library == "polars" else {}
    return sys.modules[library].concat(parts, **how)


def _columns(part: Any) -> list[Any]:
    return list(getattr(part, "columns", range(np.shape(part)[1] if np.ndim(part) > 1 else 1)))


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if shape else "")


def _n_rows_of(fragment: Any) -> int:
    """Rows of a file, or of a row group of one."""
    groups = getattr(fragment, "row_groups", None)
    if groups is None:
        return int(fragment.count_rows())
    return sum(group.num_rows for group in groups)


def _fragments(dataset: Any) -> list[Any]:
    """Files of a dataset."""
    try:
        return list(dataset.get_fragments())
    except ValueError as error:
        raise ValueError(
            f"X ({type(dataset).__name__}) cannot be read file by file ({error}). Write the rows "
            "that are wanted to a folder, or pass a function that returns its batches."
        ) from error


def by_chunks(method: Callable) -> Callable:
    """Decorate a method whose answer for a row depends on nothing but the row.

    Rows that are not in memory are answered chunk by chunk, in the order in which they lie.
    """

    @functools.wraps(method)
    def answered(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        X, store = store_of(X, self.max_memory)
        if store is None or type(X) is np.ndarray:
            return method(self, X, *args, **kwargs)
        parts = [method(self, chunk, *args, **kwargs) for chunk in store.in_order()]
        if isinstance(parts[0], tuple):
            return tuple(_joined(own) for own in zip(*parts, strict=True))
        return _joined(parts)

    return answered
