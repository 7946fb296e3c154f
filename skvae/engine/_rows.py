"""Rows where they lie: gathered some at a time, standardised in float64, written where wanted.

No standardised copy of X is made. A batch always has the same number of rows, so that a step has
a fixed shape; what the last one lacks is filled with rows of weight 0.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from skvae._core._batch import Batch
from skvae._core._memory import release_unused
from skvae.engine._group import Portion

# Entries of X that are gathered and standardised at a time on a processor; they stay in its cache.
GATHERED_AT_ONCE = 2**15
# Share of a device's free memory that X may take there; the rest is for activations.
RESIDENT_SHARE = 0.5
# Share of the size of X that has to be free once X is there.
LEFT_SHARE = 0.8
# Share of a batch that rows shown often take up, where they are so many.
OFTEN = 0.25
# Rows of which something is computed at a time to be known afterwards.
ROWS_AT_ONCE = 4096


class Rows:
    """The rows of `X` that `index` names.

    Parameters
    ----------
    X : ndarray of shape (n, n_columns)
        Kept as it is, neither copied (but for its transfer to a GPU) nor written to.
    standardize : callable
        Map from rows in the user's units to the units of the model.
    placeholder : float, Tensor of shape (n_columns,) or None, default=None
        What stands for missing entries (NaN), in the units of the model. None means that no entry
        is missing, and batches have no mask.
    context : ndarray of shape (n, n_context) or None, default=None
        What a conditional model is told of each row.
    spread : ndarray of shape (n, n_columns) or None, default=None
        Standard deviations of the entries of X, if these are means. The units of the model are then
        linear in those of X.
    hint : ndarray of shape (n, n_classes) or None, default=None
        What a classifier is told of the class of each row that is not known.
    often : ndarray of bool of shape (n,) or None, default=None
        Rows that every batch is to hold some of, being few. They then count for less each time, so
        that over a pass all rows count the same.
    index : ndarray of int or None
        Rows that belong to this set; None means all.
    dtype : torch.dtype
        Of the batches.
    device : torch.device
    resident : Tensor of shape (n, n_columns) or None, default=None
        X where it lies already; it is used there if that is `device`.
    """

    def __init__(
        self,
        X: np.ndarray,
        standardize: Callable[[Tensor], Tensor],
        *,
        placeholder: float | Tensor | None = None,
        context: np.ndarray | None = None,
        spread: np.ndarray | None = None,
        hint: np.ndarray | None = None,
        often: np.ndarray | None = None,
        index: np.ndarray | None = None,
        dtype: torch.dtype,
        device: torch.device,
        resident: Tensor | None = None,
    ) -> None:
        self._X = X
        self._placeholder = placeholder
        self._context = context
        self._spread = spread
        self._hint = hint
        self._often = often
        self._known: dict[str, Tensor] = {}
        is_there = resident is not None and resident.device == device
        self._resident = resident if is_there else _resident(X, device)
        self._may_move = True
        self._standardize = standardize
        self._index = index
        self._dtype = dtype
        self._device = device

    @property
    def n_columns(self) -> int:
        """Columns of X."""
        return self._X.shape[1]

    def __len__(self) -> int:
        return len(self._X) if self._index is None else len(self._index)

    @property
    def has_missing(self) -> bool:
        """Whether batches have masks."""
        return self._placeholder is not None

    def leave_device(self) -> bool:
        """Read X from where it lies from now on; whether there was a copy of it on the device."""
        was_there, self._resident = self._resident is not None, None
        self._may_move = False
        return was_there

    def know(self, what: Callable[..., Mapping[str, Tensor]], n_kept: int | None = None) -> None:
        """Compute what can be known of rows with missing entries, for all batches to come.

        `what` is the `knowable` of the model that will be given the batches, and `n_kept` how many
        rows it is kept for at a time; None means these.
        """
        self._known = {}
        if not self.has_missing:
            return
        with torch.no_grad():
            starts = range(0, len(self), ROWS_AT_ONCE)
            n_rows = len(self) if n_kept is None else n_kept
            parts = [what(self.slice(s, s + ROWS_AT_ONCE), n_rows=n_rows) for s in starts]
        self._known = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def evenly_spaced(self, n_rows: int) -> Rows:
        """At most `n_rows` of these rows, evenly spaced."""
        return self.some(np.linspace(0, len(self) - 1, min(n_rows, len(self))).astype(np.int64))

    def some(self, positions: np.ndarray) -> Rows:
        """Those of these rows that lie at `positions`."""
        some = copy.copy(self)
        some._index = positions if self._index is None else self._index[positions]
        some._known = self._known_of(positions)
        return some

    def over(self, X: np.ndarray) -> Rows:
        """All rows of another X, of which nothing is known beside themselves, seen as these are."""
        rows = copy.copy(self)
        rows._X, rows._resident = X, _resident(X, self._device) if self._may_move else None
        rows._index, rows._known = None, {}
        return rows

    def example(self) -> Batch:
        """A row, as batches hold them."""
        return self.slice(0, 1)

    def representatives(self) -> Rows:
        """Rows in memory that stand for all: themselves."""
        return self

    def drawn(self, seed: int) -> Rows:
        """The same rows, of which one draw takes the place of means with a spread."""
        if self._spread is None:
            return self
        noise = np.random.default_rng(seed).standard_normal(self._X.shape)
        some = copy.copy(self)
        some._X = self._X + (self._spread * noise).astype(self._X.dtype)
        some._resident, some._spread = _resident(some._X, self._device), None
        return some

    def _known_of(self, positions: np.ndarray) -> dict[str, Tensor]:
        if not self._known:
            return {}
        index = torch.from_numpy(positions).to(self._device)
        return {name: t.index_select(0, index) for name, t in self._known.items()}

    def gather(self, positions: np.ndarray) -> Batch:
        """Rows at `positions` of this set, standardised, on the device."""
        if len(positions) <= self._n_at_once:
            return self._gathered(positions)
        # Standardised in float64, all of them at once would be several times what is asked for.
        like = self._gathered(positions[:1])
        into = like.map(lambda t: t.new_empty(len(positions), *t.shape[1:]))
        self.gather_into(into, positions)
        return into

    @property
    def _n_at_once(self) -> int:
        """Rows that are gathered at a time."""
        if self._resident is not None and self._device.type != "cpu":
            return sys.maxsize
        return max(1, GATHERED_AT_ONCE // max(1, self.n_columns))

    def _gathered(self, positions: np.ndarray) -> Batch:
        """Rows at `positions` of this set, gathered at once."""
        rows = positions if self._index is None else self._index[positions]
        if self._resident is not None:
            x = self._resident[torch.from_numpy(rows).to(self._device)]
        else:
            x = torch.from_numpy(np.take(self._X, rows, axis=0)).to(self._device)
        own = self._standardize(x).to(self._dtype)
        beside = {
            name: torch.from_numpy(a[rows]).to(self._device, self._dtype)
            for name, a in (("context", self._context), ("hint", self._hint))
            if a is not None
        }
        if self._spread is not None:
            beyond = x.double() + torch.from_numpy(self._spread[rows]).to(self._device)
            spread = self._standardize(beyond) - self._standardize(x.double())
            beside["spread"] = spread.to(self._dtype)
        if self._placeholder is None:
            return Batch(own, **beside)
        # What is not a number is not equal to itself.
        mask = torch.eq(x, x, out=torch.empty_like(own))
        if isinstance(self._placeholder, Tensor):
            own = torch.where(mask > 0, own, self._placeholder.to(own))
        else:
            own = torch.nan_to_num(own, self._placeholder, posinf=torch.inf, neginf=-torch.inf)
        return Batch(own, mask, **beside, **self._known_of(positions))

    def gather_into(self, into: Batch, positions: np.ndarray) -> None:
        """Write rows at `positions`, standardised, to the first rows of `into`."""
        step = min(self._n_at_once, max(1, len(positions)))
        for start in range(0, len(positions), step):
            some = positions[start : start + step]
            rows, now = self._gathered(some), slice(start, start + len(some))
            for own, source in zip(into, rows, strict=True):
                if isinstance(own, Tensor) and isinstance(source, Tensor):
                    own[now] = source

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` of this set, standardised, on the device."""
        return self.gather(np.arange(start, min(stop, len(self))))

    def fill(
        self, into: Batch, generator: torch.Generator, portion: Portion | None = None
    ) -> Iterator[int]:
        """One pass over the rows in random order, as many batches at a time as there is room for.

        Parameters
        ----------
        into : Batch of tensors of shape (n_batches, batch_size, ...)
            Where the rows of some batches go, each time it is asked for more, with their masks and
            factors if it has room for them; to its weights 1 for a row, and 0 for what fills up
            the last batch.
        generator : torch.Generator
        portion : Portion or None, default=None
            Which rows of each batch are wanted, there being other processes for the others; None
            means all.

        Yields
        ------
        n_filled : int
            How many batches were filled.
        """
        assert into.weight is not None
        n_batches, batch_size = into.weight.shape
        if portion is None:
            order, weights = self._deal(batch_size, generator)
        else:
            order, weights = self._deal(portion.n_whole, generator)
            order = order[:, portion.rows]
            weights = weights[:, portion.rows] * portion.counts
        flat = into.map(lambda t: t.flatten(0, 1))
        assert flat.weight is not None
        for start in range(0, len(order), n_batches):
            positions = order[start : start + n_batches].ravel()
            self.gather_into(flat, positions)
            some = torch.from_numpy(weights[start : start + n_batches].ravel())
            flat.weight[: len(positions)] = some.to(flat.weight)
            yield len(positions) // batch_size

    def _deal(self, batch_size: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows of each batch of a pass, and what each counts for, (n_batches, batch_size)."""
        often = self.shown_often()
        order = torch.randperm(len(self), generator=generator).numpy()
        if often is None:
            return _dealt(order, -(-len(order) // batch_size), batch_size)
        few, others = order[often[order]], order[~often[order]]
        n_few, n_batches = self._few_per_batch(batch_size)
        n_passes = -(-n_few * n_batches // len(few))
        again = [
            few[torch.randperm(len(few), generator=generator).numpy()] for _ in range(n_passes)
        ]
        repeated = np.concatenate(again)[: n_few * n_batches].reshape(n_batches, n_few)
        dealt, weights = _dealt(others, n_batches, batch_size - n_few)
        share = np.full(repeated.shape, len(few) / repeated.size)
        return np.hstack([repeated, dealt]), np.hstack([share, weights])

    def shown_often(self) -> np.ndarray | None:
        """Whether each row of this set is shown often; None if all rows are shown alike."""
        if self._often is None:
            return None
        often = self._often if self._index is None else self._often[self._index]
        return often if often.any() and not often.all() else None

    def _few_per_batch(self, batch_size: int) -> tuple[int, int]:
        """Rows shown often of a batch of about `batch_size`, and batches of a pass."""
        often = self.shown_often()
        assert often is not None
        n_few, n_batches = int(often.sum()), -(-len(often) // batch_size)
        return max(-(-n_few // n_batches), min(n_few, int(OFTEN * batch_size))), n_batches

    def batch_size(self, wanted: int) -> int:
        """Rows of a batch, where `wanted` are wanted: more, where some rows are shown often."""
        often = self.shown_often()
        if often is None:
            return wanted
        n_few, n_batches = self._few_per_batch(wanted)
        return n_few - (-int((~often).sum()) // n_batches)


def _dealt(order: np.ndarray, n_batches: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in batches of one size, and 1 for each of them, 0 for what fills up the last one."""
    filled = np.resize(order, (n_batches, size))
    weights = (np.arange(n_batches * size) < len(order)).astype(np.float64)
    return filled, weights.reshape(n_batches, size)


def _resident(X: np.ndarray, device: torch.device) -> Tensor | None:
    """X on the device, where that is a GPU with room for it."""
    if device.type != "cuda" or X.nbytes > RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    try:
        resident = torch.tensor(np.ascontiguousarray(X), device=device)
    except torch.OutOfMemoryError:
        release_unused()
        return None
    # Other processes may have found the same memory free, and taken it at the same moment: X stays
    # only where as much is left again, or nearly.
    if torch.cuda.mem_get_info(device)[0] < LEFT_SHARE * X.nbytes:
        del resident
        release_unused()
        return None
    return resident
