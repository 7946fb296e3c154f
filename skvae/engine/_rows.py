"""Rows where they lie: gathered some at a time, standardised in float64, written where wanted.

No standardised copy of X is made. A batch always has the same number of rows, so that a step has
a fixed shape; what the last one lacks is filled with rows of weight 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

# Entries of X that are gathered and standardised at a time on a processor; they stay in its cache.
GATHERED_AT_ONCE = 2**15
# Share of a device's free memory that X may take there; the rest is for activations.
RESIDENT_SHARE = 0.5


class Rows:
    """The rows of `X` that `index` names.

    Parameters
    ----------
    X : ndarray of shape (n, n_columns)
        Kept as it is, neither copied (but for its transfer to a GPU) nor written to.
    standardize : callable
        Map from rows in the user's units to the units of the model.
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
        index: np.ndarray | None = None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._X = X
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

    def evenly_spaced(self, n_rows: int) -> Rows:
        """At most `n_rows` of these rows, evenly spaced."""
        chosen = np.linspace(0, len(self) - 1, min(n_rows, len(self))).astype(np.int64)
        some = copy.copy(self)
        some._index = chosen if self._index is None else self._index[chosen]
        return some

    def gather(self, positions: np.ndarray) -> Tensor:
        """Rows at `positions` of this set, standardised, on the device."""
        rows = positions if self._index is None else self._index[positions]
        if self._resident is not None:
            x = self._resident[torch.from_numpy(rows).to(self._device)]
        else:
            x = torch.from_numpy(np.take(self._X, rows, axis=0)).to(self._device)
        return self._standardize(x).to(self._dtype)

    def _gather_into(self, x: Tensor, positions: np.ndarray) -> None:
        """Write rows at `positions`, standardised, to the first rows of `x`."""
        step = len(positions)
        if self._resident is None:
            step = max(1, GATHERED_AT_ONCE // max(1, self.n_columns))
        for start in range(0, len(positions), step):
            some = positions[start : start + step]
            x[start : start + len(some)] = self.gather(some)

    def slice(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of this set, standardised, on the device."""
        return self.gather(np.arange(start, min(stop, len(self))))

    def fill(self, x: Tensor, weight: Tensor, generator: torch.Generator) -> Iterator[int]:
        """One pass over the rows in random order, as many batches at a time as there is room for.

        Parameters
        ----------
        x : Tensor of shape (n_batches, batch_size, n_columns)
            Where the rows of some batches go, each time it is asked for more.
        weight : Tensor of shape (n_batches, batch_size)
            Where 1 goes for a row, and 0 for what fills up the last batch.
        generator : torch.Generator

        Yields
        ------
        n_filled : int
            How many batches were filled.
        """
        n_rows, (n_batches, batch_size) = len(self), weight.shape
        order = torch.randperm(n_rows, generator=generator).numpy()
        flat_x, flat_weight = x.view(-1, x.shape[-1]), weight.view(-1)
        for start in range(0, n_rows, n_batches * batch_size):
            positions = order[start : start + n_batches * batch_size]
            n_filled = -(-len(positions) // batch_size)
            n_padding = n_filled * batch_size - len(positions)
            if n_padding:
                positions = np.concatenate([positions, np.resize(order, n_padding)])
            self._gather_into(flat_x, positions)
            part = flat_weight[: len(positions)]
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
