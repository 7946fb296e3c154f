"""Rows that are not trained on, as many at a time as there is memory for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from skvae._core._batch import Batch
from skvae._core._memory import how_many_fit, in_stretches
from skvae.engine._rows import Rows
from skvae.models._base import LatentVariableModel

# As many times as the widest activations of a row and draw take is what there is of them in memory
# at once: layers before and after, and what becomes of them in a likelihood.
ACTIVATIONS = 16


def widest_activations(model: LatentVariableModel) -> int:
    """Memory of the widest activations of a row and draw; of a sequence, those of a step."""
    widest = max((max(p.shape) for p in model.parameters() if p.numel()), default=1)
    return next(model.parameters()).element_size() * widest


def memory_of_code(model: LatentVariableModel) -> int:
    """Memory that a row with one draw takes on its way through the model, about."""
    # Of a sequence each step has activations of its own, which are in memory together.
    return ACTIVATIONS * widest_activations(model) * math.prod(model.latent_shape[:-1])


def in_pieces(
    work: Callable[[Batch, Mapping[str, Tensor]], None],
    model: LatentVariableModel,
    rows: Rows,
    stretch: slice,
    noise: Mapping[str, Tensor],
    n_draws: int,
) -> None:
    """Work on a stretch of rows with their noise, some of them at a time, in their order.

    Parameters
    ----------
    work : callable
        What it does last must be to keep its result: it is called again with some of the same rows
        where it ran out of memory.
    model : LatentVariableModel
    rows : Rows
    stretch : slice
        From where to where, both within the rows.
    noise : mapping of str to Tensor
        For the whole stretch: what is drawn does not depend on how many rows there is memory for.
    n_draws : int
    """
    specs, n_rows = model.noise_spec(n_draws), stretch.stop - stretch.start

    def some(start: int, room: int) -> int:
        stop = min(start + room, n_rows)
        own = {name: specs[name].rows_of(t, slice(start, stop)) for name, t in noise.items()}
        work(rows.slice(stretch.start + start, stretch.start + stop), own)
        return stop

    room = how_many_fit(memory_of_code(model) * n_draws, n_rows)
    in_stretches(some, n_rows, room, advice="One row is too much for it: use narrower networks.")
