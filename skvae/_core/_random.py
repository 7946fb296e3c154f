"""Named random streams: one seed, one generator for each purpose.

Separate streams mean that, say, another number of scoring draws does not change the trained
weights. No generator of the process (torch's or NumPy's) is touched.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

StreamName = Literal["init", "rows", "noise", "validation", "scoring", "refinement", "weights"]
# New streams go to the end, so that the seeds of the others stay.
_ORDER: tuple[StreamName, ...] = (
    "init",
    "rows",
    "noise",
    "validation",
    "scoring",
    "refinement",
    "weights",
)

MAX_SEED = 2**31 - 1


class Streams:
    """Generators derived from one integer seed.

    Parameters
    ----------
    seed : int
        Non-negative.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def derived_seed(self, name: StreamName) -> int:
        """Integer seed of the named stream."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(_ORDER.index(name),))
        return int(sequence.generate_state(1, np.uint32)[0])

    def generator(self, name: StreamName, device: torch.device | str = "cpu") -> torch.Generator:
        """New generator of the named stream, at its beginning."""
        return torch.Generator(device=device).manual_seed(self.derived_seed(name))


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """Generator on a device, seeded by one on the CPU; that one itself where the device is the CPU.

    For draws that are many or depend on what is on the device: all others are drawn on the CPU and
    then moved, so that they are the same on every device.
    """
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(MAX_SEED, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
