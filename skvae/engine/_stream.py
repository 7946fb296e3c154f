"""Rows that do not fit into memory: surveyed in one pass, then read ahead and shuffled in windows.

The rows lie in parts that can be read in any order (blocks of a memory map, row groups of a file;
a stream is a single part). An epoch reads the parts in random order, several at a time in turn,
into a window, deals the rows of the window in random order, and reads the next window meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skvae._core._batch import Batch
from skvae._core._random import MAX_SEED
from skvae._core._summary import ColumnSummary
from skvae.engine._rows import Rows

# Parts that are read in turn.
OPEN_AT_ONCE = 16
# Rows by whose bound states are told apart where no rows are held out.
REPRESENTATIVES = 20_000


class BlockSource(Protocol):
    """Where rows are read from.

    Attributes
    ----------
    n_parts : int
        Parts that can be read in any order.
    """

    n_parts: int

    def blocks(self, part: int) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of a part, in order: place of the first row among all rows, and the rows."""


class Survey(NamedTuple):
    """What one pass over the rows tells.

    Attributes
    ----------
    n_rows : int
        Rows, without those of which nothing is observed where these do not count.
    moments : ColumnSummary
        Of all rows.
    sample : ndarray of shape (n_sampled, n_columns)
        Rows drawn at random, each at most once, in the order in which they lie.
    places : ndarray of int of shape (n_sampled,)
        Their places among all rows.
    has_missing : bool
        Whether an entry of any row is missing.
    skips_empty : bool
        Whether rows of which nothing is observed do not count.
    """

    n_rows: int
    moments: ColumnSummary
    sample: np.ndarray
    places: np.ndarray
    has_missing: bool
    skips_empty: bool


def survey(
    source: BlockSource, n_bytes: int, rng: np.random.Generator, *, skip_empty: bool
) -> Survey:
    """Read all rows once.

    Parameters
    ----------
    source : BlockSource
    n_bytes : int
        Size of the sample, at most; while it is drawn it takes three times as much.
    rng : Generator
    skip_empty : bool
        Whether rows of which nothing is observed do not count.
    """
    n_rows, moments, drawn = 0, None, _Draw(rng)
    for part in range(source.n_parts):
        for start, block in source.blocks(part):
            kept = _not_empty(block) if skip_empty else None
            rows = block if kept is None else block[kept]
            if not len(rows):
                continue
            places = start + (np.arange(len(block)) if kept is None else np.flatnonzero(kept))
            own = ColumnSummary.of(rows)
            moments = own if moments is None else moments.merged(own)
            n_rows += len(rows)
            n_sampled = max(2, n_bytes // max(1, rows.itemsize * rows.shape[1]))
            drawn.consider(rows, places, n_sampled)
    if moments is None:
        raise ValueError("X holds no row of which anything is observed.")
    sample, places = drawn.result()
    return Survey(
        n_rows=n_rows,
        moments=moments,
        sample=sample,
        places=places,
        has_missing=bool((moments.n_observed < n_rows).any()),
        skips_empty=skip_empty,
    )


class _Draw:
    """Rows of a stream, all with the same chance to be among those that are kept.

    Each row gets a random key; the rows of the smallest keys are kept.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._largest = np.inf
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._n_kept = self._n_wanted = 0

    def consider(self, rows: np.ndarray, places: np.ndarray, n_wanted: int) -> None:
        """Rows that may be kept, of which so many are wanted in all."""
        self._n_wanted = n_wanted
        keys = self._rng.random(len(rows))
        chosen = np.flatnonzero(keys < self._largest)
        self._kept.append((keys[chosen], places[chosen], rows[chosen]))
        self._n_kept += len(chosen)
        if self._n_kept > 2 * n_wanted:
            self._forget()

    def _forget(self) -> None:
        keys, places, rows = (np.concatenate(own) for own in zip(*self._kept, strict=True))
        if len(keys) > self._n_wanted:
            order = np.argpartition(keys, self._n_wanted - 1)[: self._n_wanted]
            keys, places, rows = keys[order], places[order], rows[order]
            self._largest = float(keys.max())
        self._kept, self._n_kept = [(keys, places, rows)], len(keys)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows that are kept and their places, in order of place."""
        self._forget()
        ((_, places, rows),) = self._kept
        order = np.argsort(places)
        return rows[order], places[order]


class StreamedRows:
    """The rows of a source, but for those held out, for training; used as `Rows` are.

    Parameters
    ----------
    source : BlockSource
    told : Survey
        What the pass before told.
    sample : Rows
        The sampled rows, as the model is to see them; all others are seen likewise.
    left_out : ndarray of int
        Places of rows that do not belong to this set, in order.
    window_bytes : int
        Size of a window. Three of them are in memory at a time.
    """

    def __init__(
        self,
        source: BlockSource,
        told: Survey,
        sample: Rows,
        left_out: np.ndarray,
        window_bytes: int,
    ) -> None:
        self._source, self._told, self._sample = source, told, sample
        self._left_out = left_out
        row_bytes = told.sample.itemsize * told.sample.shape[1]
        self._window_rows = max(1, window_bytes // max(1, row_bytes))
        self._knowable: Callable[..., Mapping[str, Tensor]] | None = None

    def __len__(self) -> int:
        return self._told.n_rows - len(self._left_out)

    @property
    def has_missing(self) -> bool:
        """Whether batches have masks."""
        return self._sample.has_missing

    def know(self, what: Callable[..., Mapping[str, Tensor]]) -> None:
        """Compute what can be known of rows with missing entries, for all batches to come.

        `what` is the `knowable` of the model that will be given the batches.
        """
        self._knowable = what

    def example(self) -> Batch:
        """A row, as batches hold them."""
        return self._known(self._sample.some(np.zeros(1, dtype=np.int64))).example()

    def representatives(self) -> Rows:
        """Rows in memory that stand for all."""
        return self._known(self._sample.evenly_spaced(REPRESENTATIVES))

    def _known(self, rows: Rows) -> Rows:
        """The rows, with what can be known of them; the same of each, however many they are."""
        if self._knowable is not None:
            rows.know(self._knowable, self._window_rows)
        return rows

    def batch_size(self, wanted: int) -> int:
        """Rows of a batch, where `wanted` are wanted."""
        return wanted

    def fill(self, into: Batch, generator: torch.Generator) -> Iterator[int]:
        """One pass over the rows, as that of `Rows`, with what fills up spread over all batches."""
        assert into.weight is not None
        n_batches, batch_size = into.weight.shape
        flat = into.map(lambda t: t.flatten(0, 1))
        n_steps = -(-len(self) // batch_size)
        ends = np.arange(n_steps + 1) * len(self) // n_steps
        seed = int(torch.randint(MAX_SEED, (), generator=generator))
        deck = _Deck(self._windows(seed), self._sample, seed)
        with deck:
            for first in range(0, n_steps, n_batches):
                counts = np.diff(ends[first : first + n_batches + 1])[:, None]
                rows = deck.take(int(counts.sum()))
                if rows is None:
                    raise self._changed("fewer")
                self._known(rows)
                slots = np.arange(batch_size)
                positions = np.cumsum(counts, axis=0) - counts + slots % counts
                rows.gather_into(flat, positions.ravel())
                weight = torch.from_numpy((slots < counts).ravel())
                flat.weight[: positions.size] = weight.to(flat.weight)
                yield len(counts)
            if deck.has_more():
                raise self._changed("more")

    def _changed(self, how: str) -> RuntimeError:
        return RuntimeError(
            f"X gave {how} rows in this pass than in the first one, which were "
            f"{self._told.n_rows}. It has to give the same rows in the same order each time."
        )

    def _windows(self, seed: int) -> Iterator[np.ndarray]:
        """Rows of some blocks at a time, from parts in random order."""
        rng = np.random.default_rng(seed)
        waiting = iter(rng.permutation(self._source.n_parts).tolist())
        parts: list[Iterator[tuple[int, np.ndarray]]] = []
        turn, some, n_some = 0, [], 0
        while True:
            while len(parts) < OPEN_AT_ONCE and (part := next(waiting, None)) is not None:
                parts.append(self._source.blocks(part))
            if parts:
                turn %= len(parts)
                block = next(parts[turn], None)
                if block is None:
                    del parts[turn]
                    continue
                turn += 1
                rows = self._own(*block)
                some.append(rows)
                n_some += len(rows)
            if n_some and (n_some >= self._window_rows or not parts):
                yield np.concatenate(some)
                some, n_some = [], 0
            if not parts:
                return

    def _own(self, start: int, rows: np.ndarray) -> np.ndarray:
        """Rows of a block that belong to this set."""
        first, last = np.searchsorted(self._left_out, [start, start + len(rows)])
        kept = None
        if last > first:
            kept = np.ones(len(rows), dtype=bool)
            kept[self._left_out[first:last] - start] = False
        if self._told.skips_empty:
            observed = _not_empty(rows)
            if observed is not None:
                kept = observed if kept is None else kept & observed
        return rows if kept is None else rows[kept]


class _Deck:
    """Rows of windows in random order, the next window being read while one is dealt.

    Parameters
    ----------
    windows : iterator of ndarray
    like : Rows
        Rows of the same kind.
    seed : int
        Of the order.
    """

    def __init__(self, windows: Iterator[np.ndarray], like: Rows, seed: int) -> None:
        self._like, self._windows = like, windows
        self._rng = np.random.default_rng((seed, 1))
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="skvae-rows")
        self._ahead = self._reader.submit(next, windows, None)
        self._window: Rows | None = None
        self._order = np.empty(0, dtype=np.int64)

    def __enter__(self) -> _Deck:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)

    def take(self, n_rows: int) -> Rows | None:
        """The next `n_rows` rows; None if there are fewer left."""
        while len(self._order) < n_rows:
            window = self._ahead.result()
            if window is None:
                return None
            self._ahead = self._reader.submit(next, self._windows, None)
            if self._window is not None and len(self._order):
                window = np.concatenate([self._window.values(self._order), window])
            self._window = self._like.over(window)
            self._order = self._rng.permutation(len(window))
        now, self._order = self._order[:n_rows], self._order[n_rows:]
        assert self._window is not None
        return self._window.some(now)

    def has_more(self) -> bool:
        """Whether rows are left."""
        return len(self._order) > 0 or self._ahead.result() is not None


def _not_empty(rows: np.ndarray) -> np.ndarray | None:
    """Whether something of each row is observed; None if of all of them."""
    if rows.dtype.kind != "f":
        return None
    observed = ~np.isnan(rows).all(axis=1)
    return None if observed.all() else observed
