"""Cells of a grid, kept one by one, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import joblib
import torch

Key = tuple[Hashable, ...]
Cell = dict[str, Any]


def read_cells(path: Path) -> dict[Key, Cell]:
    """Cells that are kept in a file, by key."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {tuple(line["key"]): line["cell"] for line in lines}


def run_cells(
    path: Path, keys: Sequence[Key], function: Callable[..., Cell], *, n_jobs: int
) -> dict[Key, Cell]:
    """Cells of these keys: those that are kept, and ``function(*key)`` of the others.

    Each is computed with one thread; `n_jobs` of them at a time.
    """
    cells = read_cells(path)
    missing = [key for key in keys if key not in cells]
    jobs = (joblib.delayed(_one)(function, key) for key in missing)
    for key, cell in joblib.Parallel(n_jobs, return_as="generator_unordered")(jobs):
        cells[key] = cell
        with path.open("a") as file:
            file.write(json.dumps({"key": key, "cell": cell}) + "\n")
    return {key: cells[key] for key in keys}


def _one(function: Callable[..., Cell], key: Key) -> tuple[Key, Cell]:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return key, function(*key)
