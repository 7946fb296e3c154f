"""Rows that do not fit into memory: surveyed in one pass, then read ahead and shuffled in windows.

The rows lie in parts that can be read in any order (blocks of a memory map, row groups of a file;
a stream is a single part). An epoch reads the parts in random order, several at a time in turn,
into a window, deals the rows of the window in random order, and reads the next window meanwhile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from skvae._core._batch import Batch
from skvae._core._random import MAX_SEED
from skvae._core._summary import ColumnSummary
from skvae.engine._group import ALONE, Portion, ProcessGroup
from skvae.engine._rows import Rows

# Share of the standard deviation of a column that a sample should show.
FAIR_SCALE = 0.9
# Rows of a sample, however large they are; and as many times its columns, up to so many bytes.
LEAST_ROWS, ROWS_PER_COLUMN, LEAST_BYTES = 100, 10, 2**25
# Rows by whose bound states are told apart where no rows are held out.
REPRESENTATIVES = 20_000


class BlockSource(Protocol):
    """Where rows are read from.

    Attributes
    ----------
    n_parts : int
        Parts that can be read in any order.
    n_open : int
        Parts that may be read in turn.
    """

    n_parts: int
    n_open: int

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
    shares : list of Share
        Of each process.
    has_missing : bool
        Whether an entry of any row is missing.
    skips_empty : bool
        Whether rows of which nothing is observed do not count.
    """

    n_rows: int
    moments: ColumnSummary
    sample: np.ndarray
    places: np.ndarray
    shares: list[Share]
    has_missing: bool
    skips_empty: bool


class Share(NamedTuple):
    """Rows that a process reads.

    Attributes
    ----------
    n_rows : int
        Rows that count.
    start, stop : int
        Places between which they lie.
    """

    n_rows: int
    start: int
    stop: int

    def n_others(self, left_out: np.ndarray) -> int:
        """Rows but for those whose places are left out."""
        first, last = np.searchsorted(left_out, [self.start, self.stop])
        return self.n_rows - int(last - first)


def survey(
    source: BlockSource,
    n_bytes: int,
    rng: np.random.Generator,
    *,
    skip_empty: bool,
    group: ProcessGroup = ALONE,
) -> Survey:
    """Read all rows once, each process those of its parts.

    Parameters
    ----------
    source : BlockSource
    n_bytes : int
        Size of the sample, at most; while it is drawn it takes three times as much.
    rng : Generator
    skip_empty : bool
        Whether rows of which nothing is observed do not count.
    group : ProcessGroup, default=ALONE
    """
    own = _Pass(n_bytes, rng, skip_empty=skip_empty)
    error: Exception | None = None
    try:
        own.read(source, group)
    except Exception as raised:
        error = raised
    group.agree(error)
    # Without marginals, which merging leaves out; and of which even none cannot be sent.
    moments = None if own.moments is None else own.moments._replace(marginals={})
    told = group.values((Share(own.n_rows, own.start, own.stop), moments))
    shares = [share for share, _ in told]
    n_rows = sum(share.n_rows for share in shares)
    if not n_rows:
        raise ValueError("X holds no row of which anything is observed.")
    moments = functools.reduce(
        lambda before, further: before.merged(further), (m for _, m in told if m is not None)
    )
    # Of each process as many rows as it has of all.
    sample, places = own.result(own.n_rows / n_rows, moments)
    return Survey(
        n_rows=n_rows,
        moments=moments,
        sample=group.gather(sample),
        places=group.gather(places),
        shares=shares,
        has_missing=bool((moments.n_observed < n_rows).any()),
        skips_empty=skip_empty,
    )


class _Pass:
    """What a process finds in its parts.

    Attributes
    ----------
    n_rows : int
    start, stop : int
        Places between which its rows lie.
    moments : ColumnSummary or None
        None where it has no rows.
    """

    def __init__(self, n_bytes: int, rng: np.random.Generator, *, skip_empty: bool) -> None:
        self.n_rows = self.start = self.stop = 0
        self.moments: ColumnSummary | None = None
        self._n_bytes, self._skip_empty = n_bytes, skip_empty
        self._draw, self._extremes = _Draw(rng), _Extremes(n_bytes)
        self._n_sampled = 0

    def read(self, source: BlockSource, group: ProcessGroup) -> None:
        """Read all rows of the parts of this process."""
        for part in range(source.n_parts)[group.part(source.n_parts)]:
            for start, block in source.blocks(part):
                if not self.stop:
                    self.start = start
                self.stop = start + len(block)
                self._consider(start, block)

    def _consider(self, start: int, block: np.ndarray) -> None:
        kept = _not_empty(block) if self._skip_empty else None
        rows = block if kept is None else block[kept]
        if not len(rows):
            return
        places = start + (np.arange(len(block)) if kept is None else np.flatnonzero(kept))
        own = ColumnSummary.of(rows)
        self.moments = own if self.moments is None else self.moments.merged(own)
        self.n_rows += len(rows)
        row_bytes = max(1, rows.itemsize * rows.shape[1])
        least = max(LEAST_ROWS, min(ROWS_PER_COLUMN * rows.shape[1], LEAST_BYTES // row_bytes))
        self._n_sampled = max(least, self._n_bytes // row_bytes)
        self._draw.consider(rows, places, self._n_sampled)
        self._extremes.consider(rows, places, own)

    def result(self, share: float, moments: ColumnSummary) -> tuple[np.ndarray, np.ndarray]:
        """Sampled rows and their places, so many that all processes have a whole sample together.

        `moments` are those of the rows of all processes.
        """
        if self.moments is None:
            return np.empty((0, len(moments.mean))), np.empty(0, dtype=np.int64)
        drawn = self._draw.result(-int(-self._n_sampled * share // 1))
        return self._extremes.added_to(*drawn, moments)


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
        """Keep no more rows than are wanted."""
        keys, places, rows = (np.concatenate(own) for own in zip(*self._kept, strict=True))
        if len(keys) > self._n_wanted:
            order = np.argpartition(keys, self._n_wanted - 1)[: self._n_wanted]
            keys, places, rows = keys[order], places[order], rows[order]
            self._largest = float(keys.max())
        self._kept, self._n_kept = [(keys, places, rows)], len(keys)

    def result(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """At most `n_rows` of the rows that are kept and their places, in order of place."""
        self._n_wanted = n_rows
        self._forget()
        ((_, places, rows),) = self._kept
        order = np.argsort(places)
        return rows[order], places[order]


class _Extremes:
    """Rows of the smallest and the largest entry of each column.

    Of a column that varies in a few rows only, a sample may show nothing; what is learned from it
    would then rule these rows out.

    Parameters
    ----------
    n_bytes : int
        That they may take up; where they would take more, none are kept.
    """

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes
        self._bounds: np.ndarray | None = None

    def consider(self, rows: np.ndarray, places: np.ndarray, own: ColumnSummary) -> None:
        """Rows that may hold extremes, and their moments."""
        p = rows.shape[1]
        if 2 * p * p * rows.itemsize > self._n_bytes:
            return
        # The largest entries are the smallest ones of what has the other sign.
        found = np.stack([own.minimum, -own.maximum])
        if self._bounds is None:
            self._bounds = np.full((2, p), np.inf)
            self._rows = np.empty((2, p, p), dtype=rows.dtype)
            self._places = np.full((2, p), -1)
        for end, column in np.argwhere((found < self._bounds) & (own.n_observed > 0)):
            entries = rows[:, column]
            row = np.nanargmax(entries) if end else np.nanargmin(entries)
            self._rows[end, column], self._places[end, column] = rows[row], places[row]
            self._bounds[end, column] = found[end, column]

    def added_to(
        self, sample: np.ndarray, places: np.ndarray, moments: ColumnSummary
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sample with the extremes of those columns that vary more elsewhere than in it."""
        if self._bounds is None:
            return sample, places
        columns = ColumnSummary.of(sample).scale < FAIR_SCALE * moments.scale
        added, first = np.unique(self._places[:, columns], return_index=True)
        lacking = (added >= 0) & ~np.isin(added, places)
        if not lacking.any():
            return sample, places
        rows = self._rows[:, columns].reshape(-1, sample.shape[1])[first[lacking]]
        sample = np.concatenate([sample, rows.astype(sample.dtype)])
        places = np.concatenate([places, added[lacking]])
        order = np.argsort(places)
        return sample[order], places[order]


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
    group : ProcessGroup, default=ALONE
        Of several processes each reads the rows of its parts.
    """

    def __init__(
        self,
        source: BlockSource,
        told: Survey,
        sample: Rows,
        left_out: np.ndarray,
        window_bytes: int,
        group: ProcessGroup = ALONE,
    ) -> None:
        self._group = group
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

    def leave_device(self) -> bool:
        """Read windows from where they lie from now on; whether they went to the device before."""
        return self._sample.leave_device()

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

    def fill(
        self, into: Batch, generator: torch.Generator, portion: Portion | None = None
    ) -> Iterator[int]:
        """One pass over the rows, as that of `Rows`.

        Of several processes each fills its portions of the batches with rows of its parts; where it
        has fewer than others, the last portions are empty.
        """
        assert into.weight is not None
        n_batches, batch_size = into.weight.shape
        n_own, n_steps = self._shares_of(batch_size if portion is None else portion.n_whole)
        flat = into.map(lambda t: t.flatten(0, 1))
        seed = int(torch.randint(MAX_SEED, (), generator=generator))
        with _Deck(self._windows(seed), self._sample, seed) as deck:
            for first in range(0, n_steps, n_batches):
                n_filled = min(n_batches, n_steps - first)
                n_rows = min(max(n_own - first * batch_size, 0), n_filled * batch_size)
                self._deal(deck, flat.map(itemgetter(slice(n_filled * batch_size))), n_rows)
                yield n_filled
            if deck.take(1) is not None:
                raise self._changed("more")

    def _shares_of(self, n_whole: int) -> tuple[int, int]:
        """Rows of this process, and steps that a pass takes, with batches of `n_whole` rows."""
        counts = [share.n_others(self._left_out) for share in self._told.shares]
        sizes = [self._group.part(n_whole, rank) for rank in range(self._group.size)]
        at_once = [part.stop - part.start for part in sizes]
        if not min(counts) or not min(at_once):
            raise ValueError(
                f"Batches of batch_size={n_whole} rows, and parts of X of "
                f"{', '.join(map(str, counts))} rows, cannot be shared out among "
                f"{self._group.size} processes: each needs a row at least. Use fewer processes, a "
                "larger batch_size, or files of more row groups."
            )
        n_steps = max(-(-n // size) for n, size in zip(counts, at_once, strict=True))
        return counts[self._group.rank], n_steps

    def _deal(self, deck: _Deck, into: Batch, n_rows: int) -> None:
        """Write the next `n_rows` rows, and what fills up the last batch."""
        at = 0
        while at < n_rows:
            rows = deck.take(n_rows - at)
            if rows is None:
                raise self._changed("fewer")
            free = into.map(itemgetter(slice(at, None)))
            self._known(rows).gather_into(free, np.arange(len(rows)))
            at += len(rows)
        assert into.weight is not None
        if n_rows:  # otherwise the rows of an earlier time fill up
            rest = torch.arange(len(into.weight) - n_rows, device=into.weight.device) % n_rows
            for t in into:
                if isinstance(t, Tensor):
                    t[n_rows:] = t[rest]
        into.weight[:n_rows] = 1.0
        into.weight[n_rows:] = 0.0

    def _changed(self, how: str) -> RuntimeError:
        return RuntimeError(
            f"X gave {how} rows in this pass than in the first one, which were "
            f"{self._told.n_rows}. It has to give the same rows in the same order each time."
        )

    def _windows(self, seed: int) -> Iterator[np.ndarray]:
        """Rows of some blocks at a time, from parts in random order."""
        rng = np.random.default_rng((seed, self._group.rank))
        own = range(self._source.n_parts)[self._group.part(self._source.n_parts)]
        waiting = iter(rng.permutation(own).tolist())
        parts: list[Iterator[tuple[int, np.ndarray]]] = []
        turn, some, n_some = 0, [], 0
        while True:
            while len(parts) < self._source.n_open and (part := next(waiting, None)) is not None:
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

    def __enter__(self) -> _Deck:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)

    def take(self, n_rows: int) -> Rows | None:
        """The next rows, `n_rows` at most; None if there are none left."""
        while self._window is None or self._n_dealt == len(self._window):
            window = self._ahead.result()
            if window is None:
                return None
            self._ahead = self._reader.submit(next, self._windows, None)
            order = self._rng.permutation(len(window))
            self._window, self._n_dealt = self._like.over(window).some(order), 0
        places = np.arange(self._n_dealt, min(self._n_dealt + n_rows, len(self._window)))
        self._n_dealt += len(places)
        return self._window.some(places)


def _not_empty(rows: np.ndarray) -> np.ndarray | None:
    """Whether something of each row is observed; None if of all of them."""
    if rows.dtype.kind != "f":
        return None
    observed = ~np.isnan(rows).all(axis=1)
    return None if observed.all() else observed
