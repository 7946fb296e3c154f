"""Rows where they lie: gathered some at a time, standardised in float64, written where wanted.

No standardised copy of X is made. A batch always has the same number of rows, so that a step has
a fixed shape; what the last one lacks is filled with rows of weight 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from skvae._core._batch import Batch

# Entries of X that are gathered and standardised at a time on a processor; they stay in its cache.
GATHERED_AT_ONCE = 2**15
# Share of a device's free memory that X may take there; the rest is for activations.
RESIDENT_SHARE = 0.5
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
    index : ndarray of int or None
        Rows that belong to this set; None means all.
    dtype : torch.dtype
        Of the batches.
    device : torch.device
    """

    def __init__(
        self,
        X: np.ndarray,
        standardize: Callable[[Tensor], Tensor],
        *,
        placeholder: float | Tensor | None = None,
        context: np.ndarray | None = None,
        index: np.ndarray | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._X = X
        self._placeholder = placeholder
        self._context = context
        self._known: dict[str, Tensor] = {}
        self._resident = _resident(X, device)
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

    def know(self, what: Callable[..., Mapping[str, Tensor]]) -> None:
        """Compute what can be known of rows with missing entries, for all batches to come.

        `what` is the `knowable` of the model that will be given the batches.
        """
        self._known = {}
        if not self.has_missing:
            return
        with torch.no_grad():
            starts = range(0, len(self), ROWS_AT_ONCE)
            parts = [what(self.slice(s, s + ROWS_AT_ONCE), n_rows=len(self)) for s in starts]
        self._known = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def evenly_spaced(self, n_rows: int) -> Rows:
        """At most `n_rows` of these rows, evenly spaced."""
        chosen = np.linspace(0, len(self) - 1, min(n_rows, len(self))).astype(np.int64)
        some = copy.copy(self)
        some._index = chosen if self._index is None else self._index[chosen]
        some._known = self._known_of(chosen)
        return some

    def _known_of(self, positions: np.ndarray) -> dict[str, Tensor]:
        if not self._known:
            return {}
        index = torch.from_numpy(positions).to(self._device)
        return {name: t.index_select(0, index) for name, t in self._known.items()}

    def gather(self, positions: np.ndarray) -> Batch:
        """Rows at `positions` of this set, standardised, on the device."""
        rows = positions if self._index is None else self._index[positions]
        if self._resident is not None:
            x = self._resident[torch.from_numpy(rows).to(self._device)]
        else:
            x = torch.from_numpy(np.take(self._X, rows, axis=0)).to(self._device)
        own = self._standardize(x).to(self._dtype)
        context = None
        if self._context is not None:
            context = torch.from_numpy(self._context[rows]).to(self._device, self._dtype)
        if self._placeholder is None:
            return Batch(own, context=context)
        # What is not a number is not equal to itself.
        mask = torch.eq(x, x, out=torch.empty_like(own))
        if isinstance(self._placeholder, Tensor):
            own = torch.where(mask > 0, own, self._placeholder.to(own))
        else:
            own = torch.nan_to_num(own, self._placeholder, posinf=torch.inf, neginf=-torch.inf)
        return Batch(own, mask, context, **self._known_of(positions))

    def _gather_into(self, into: Batch, positions: np.ndarray) -> None:
        """Write rows at `positions`, standardised, to the first rows of `into`."""
        step = len(positions)
        if self._resident is None:
            step = max(1, GATHERED_AT_ONCE // max(1, self.n_columns))
        for start in range(0, len(positions), step):
            some = positions[start : start + step]
            rows, now = self.gather(some), slice(start, start + len(some))
            for own, source in zip(into, rows, strict=True):
                if isinstance(own, Tensor) and isinstance(source, Tensor):
                    own[now] = source

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` of this set, standardised, on the device."""
        return self.gather(np.arange(start, min(stop, len(self))))

    def fill(self, into: Batch, generator: torch.Generator) -> Iterator[int]:
        """One pass over the rows in random order, as many batches at a time as there is room for.

        Parameters
        ----------
        into : Batch of tensors of shape (n_batches, batch_size, ...)
            Where the rows of some batches go, each time it is asked for more, with their masks and
            factors if it has room for them; to its weights 1 for a row, and 0 for what fills up
            the last batch.
        generator : torch.Generator

        Yields
        ------
        n_filled : int
            How many batches were filled.
        """
        assert into.weight is not None
        n_rows, (n_batches, batch_size) = len(self), into.weight.shape
        order = torch.randperm(n_rows, generator=generator).numpy()
        flat = into.map(lambda t: t.flatten(0, 1))
        assert flat.weight is not None
        for start in range(0, n_rows, n_batches * batch_size):
            positions = order[start : start + n_batches * batch_size]
            n_filled = -(-len(positions) // batch_size)
            n_padding = n_filled * batch_size - len(positions)
            if n_padding:
                positions = np.concatenate([positions, np.resize(order, n_padding)])
            self._gather_into(flat, positions)
            part = flat.weight[: len(positions)]
            part.fill_(1.0)
            part[len(positions) - n_padding :] = 0.0
            yield n_filled


def _resident(X: np.ndarray, device: torch.device) -> Tensor | None:
    """X on the device, where that is a GPU with room for it."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if X.nbytes > RESIDENT_SHARE * free:
        return None
    return torch.tensor(np.ascontiguousarray(X), device=device)
