"""Processes that train one model together: the only file that knows ``torch.distributed``.

Every process holds all weights and takes every step; of each batch it computes a portion of the
rows. What they add up or tell each other goes through a `ProcessGroup`, in the same order on all.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from skvae.exceptions import ProcessGroupError


class Portion(NamedTuple):
    """The rows of a batch that a process computes.

    Attributes
    ----------
    rows : slice
        One row at least, so that shapes stay what they are where there are more processes than
        rows.
    n_whole : int
        Rows of the batch of all processes.
    counts : bool
        Whether the rows are for this process to count; if not, another one does.
    """

    rows: slice
    n_whole: int
    counts: bool = True

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)


class ProcessGroup:
    """The processes that ``torch.distributed`` was initialised with, or this one alone.

    What is said of all processes holds of a single one too: its sums are what they were, and
    nothing is sent.

    Parameters
    ----------
    rank : int, default=0
        Of this process.
    size : int, default=1
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._interrupted = False

    @classmethod
    def current(cls) -> ProcessGroup:
        """The group of this process: that of ``init_process_group``, or itself alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def speaks(self) -> bool:
        """Whether it is for this process to print, warn and call back."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """What messages call this process."""
        return f"rank {self.rank} of {self.size}"

    # -- who does what --------------------------------------------------------------------------

    def part(self, n_rows: int, rank: int | None = None) -> slice:
        """Those of `n_rows` rows that are a process's, this one's by default; there may be none."""
        rank = self.rank if rank is None else rank
        return slice(n_rows * rank // self.size, n_rows * (rank + 1) // self.size)

    def portion(self, n_rows: int) -> Portion:
        """What this process computes of a batch of `n_rows` rows."""
        own = self.part(n_rows)
        if own.stop == own.start:
            return Portion(slice(0, 1), n_rows, counts=False)
        return Portion(own, n_rows)

    # -- sums and values of all -----------------------------------------------------------------

    def sum_(self, t: Tensor) -> Tensor:
        """Put the sum over all processes in the place of `t`, to the last bit the same on all."""
        if self.is_alone:
            return t
        with self._telling():
            there = self._where_it_travels(t)
            dist.all_reduce(there)
        return t if there is t else t.copy_(there)

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Put the values that the first process has in the place of `tensors`."""
        if self.is_alone:
            return
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            own = [t for t in tensors if t.dtype == dtype and t.numel()]
            if not own:
                continue
            flat = torch.cat([t.detach().reshape(-1).to(own[0].device) for t in own])
            with self._telling():
                there = self._where_it_travels(flat)
                dist.broadcast(there, src=0)
            for t, value in zip(own, there.split([t.numel() for t in own]), strict=True):
                t.detach().copy_(value.view(t.shape))

    def integer(self, value: int) -> int:
        """The value that the first process has."""
        if self.is_alone:
            return value
        t = torch.tensor([value])
        self.broadcast_([t])
        return int(t)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any process."""
        return bool(flag) if self.is_alone else bool(self.sum_(torch.tensor([int(flag)])) > 0)

    def values(self, value: Any) -> list[Any]:
        """Small objects of all processes, in order of rank."""
        values = [value] * self.size
        if not self.is_alone:
            with self._telling():
                dist.all_gather_object(values, value)
        return values

    def gather(self, own: np.ndarray) -> np.ndarray:
        """Rows of all processes, which may have different numbers of them, in order of rank.

        Those of a process that has none may be of any kind.
        """
        if self.is_alone:
            return own
        told = self.values((len(own), own.shape[1:], own.dtype))
        counts = [n_rows for n_rows, _, _ in told]
        kinds = [(shape, dtype) for n_rows, shape, dtype in told if n_rows] or [told[0][1:]]
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError(f"rows of processes differ in shape or dtype: {kinds}")
        ((shape, dtype), *_) = kinds
        rows = np.empty((sum(counts), *shape), dtype=dtype)
        parts = np.split(rows, np.cumsum(counts)[:-1])
        if len(own):
            parts[self.rank][:] = own
        for rank, part in enumerate(parts):
            if not part.size:
                continue
            # As bytes, of which every backend knows the type.
            t = torch.from_numpy(part.reshape(-1).view(np.uint8))
            with self._telling():
                there = self._where_it_travels(t)
                dist.broadcast(there, src=rank)
            if there is not t:
                t.copy_(there)
        return rows

    # -- what ends training ---------------------------------------------------------------------

    def agree(self, error: BaseException | None) -> None:
        """Raise on every process, and in the same words, the error that one of them met, if any.

        Parameters
        ----------
        error : BaseException or None
            What happened on this process.
        """
        if self.is_alone:
            if error is not None:
                raise error
            return
        if not self.any(error is not None):
            return
        said = self.values(None if error is None else (type(error), str(error)))
        rank, (kind, message) = next((i, s) for i, s in enumerate(said) if s is not None)
        message = f"Rank {rank} of {self.size}: {message}"
        try:
            common = kind(message)
        except TypeError:  # a kind of error that takes more than a message
            common = RuntimeError(f"{message} ({kind.__name__})")
        raise common from error

    def same(self, own: Mapping[str, Any], message: str) -> None:
        """Raise a ValueError on all processes where they do not have the same values.

        Parameters
        ----------
        own : mapping of str to object
            What this process has.
        message : str
            Says so, with a place for what differs, ``{}``.
        """
        everyone = self.values(dict(own))
        names = [name for name in own if any(o.get(name) != own[name] for o in everyone)]
        if names:
            listed = (
                f"rank {rank} has {', '.join(f'{name}={one.get(name)!r}' for name in names)}"
                for rank, one in enumerate(everyone)
            )
            raise ValueError(message.format("; ".join(listed)))

    @contextmanager
    def holding_interrupts(self) -> Iterator[None]:
        """Hold an interrupt back until `was_interrupted` asks for it, as others wait for sums.

        A second one is not held back, nor is any for which there is another handler than Python's
        own. Only the main thread of a process receives interrupts.
        """
        is_main = threading.current_thread() is threading.main_thread()
        is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.is_alone or not is_main or not is_usual:
            yield
            return

        def hold(number: int, frame: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        earlier = signal.signal(signal.SIGINT, hold)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, earlier)
        if self.was_interrupted():
            raise KeyboardInterrupt

    def was_interrupted(self) -> bool:
        """Whether an interrupt was held back; asking takes note of it."""
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    @cached_property
    def _backends(self) -> dict[str, str]:
        """Backend for the tensors of each type of device, for instance gloo for the CPU's."""
        pairs = (pair.split(":") for pair in dist.get_backend_config().split(","))
        return {device: backend for device, backend in pairs}

    def _where_it_travels(self, t: Tensor) -> Tensor:
        """The tensor where a backend takes it: itself, or a copy on another device."""
        own = self._backends.get(t.device.type)
        # Through gloo a GPU's tensors go by way of the host.
        if own is not None and (own != "gloo" or t.device.type == "cpu"):
            return t.contiguous()
        if "cpu" in self._backends:
            return t.cpu()
        return t.to(torch.device("cuda", torch.cuda.current_device()))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn the error of a backend into one that says where to look."""
        try:
            yield
        except RuntimeError as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise ProcessGroupError(
                f"{self.name}: another process of the group failed or stopped answering; look for "
                f"its error above. Training cannot go on without it. ({first_line})"
            ) from error


ALONE = ProcessGroup()
