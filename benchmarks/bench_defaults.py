"""Why is each default what it is?

Each default of `VariationalAutoencoder` is changed, one at a time, on tables of many kinds, and
compared with the default by held-out log-likelihood (nats per row) and processor seconds of a fit.
Choices inside skvae that are not parameters are changed too.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from _cells import Cell, Key, run_cells
from _common import markdown_table, parse, parser, write_results
from _data_sets import images, more_tables, tables
from sklearn.model_selection import train_test_split

from skvae import VariationalAutoencoder
from skvae.likelihoods import GaussianLikelihood
from skvae.solvers import Adam

# Differences of one set count as no more than this in the mean: a few sets would decide all.
LARGEST_DIFFERENCE = 1.0
# Differences below this, in nats per row, count as equal.
EQUAL = 0.05

# What is changed: parameters, and module constants by their path.
Change = tuple[dict[str, Any], dict[str, Any]]
CHANGES: dict[str, Change] = {
    "default": ({}, {}),
    "init='random'": ({"init": "random"}, {}),
    "hidden_layer_sizes=(32,)": ({"hidden_layer_sizes": (32,)}, {}),
    "hidden_layer_sizes=(128,)": ({"hidden_layer_sizes": (128,)}, {}),
    "hidden_layer_sizes=(64, 64)": ({"hidden_layer_sizes": (64, 64)}, {}),
    "activation='tanh'": ({"activation": "tanh"}, {}),
    "activation='softplus'": ({"activation": "softplus"}, {}),
    "learning_rate_init=1e-3": ({"learning_rate_init": 1e-3}, {}),
    "learning_rate_init=6e-3": ({"learning_rate_init": 6e-3}, {}),
    "24 steps per epoch, batches from 16": (
        {},
        {"estimators._fitting.STEPS_PER_EPOCH": 24, "estimators._fitting.MIN_BATCH": 16},
    ),
    "max_iter=300": ({"max_iter": 300}, {}),
    "patience of 500 steps": ({}, {"estimators._fitting.PATIENCE_STEPS": 500}),
    "patience of 2000 steps": ({}, {"estimators._fitting.PATIENCE_STEPS": 2000}),
    "warmup_steps=0": ({"solver": Adam(warmup_steps=0)}, {}),
    "cooldown_steps=0": ({"solver": Adam(cooldown_steps=0)}, {}),
    "validation_fraction=0.2": ({"validation_fraction": 0.2}, {}),
    "no cross-fitting": ({}, {"estimators._fitting.CROSS_FIT_ROWS": 0}),
    "start left for any gain": ({}, {"engine._loop.STANDARD_ERRORS": 0.0}),
    "linear path at the full rate": ({}, {"networks._mlp.LinearPath.rate_factor": 1.0}),
    "training from factor analysis itself": ({}, {"likelihoods._gaussian.LEAST_NOISE": 0.0}),
    "least noise of 0.1": ({}, {"likelihoods._gaussian.LEAST_NOISE": 0.1}),
    "noise floor of 1e-4": ({}, {"likelihoods._gaussian.NOISE_FLOOR": 1e-4}),
    "noise='shared'": ({"likelihood": GaussianLikelihood(noise="shared")}, {}),
}
# Changes that mean something only where the rows are judged in one of the two ways.
FROM_1000_ROWS, UNDER_1000_ROWS = {"validation_fraction=0.2"}, {"no cross-fitting"}


@contextmanager
def constants(changes: dict[str, Any]) -> Iterator[None]:
    """Module constants of skvae set to other values."""
    patches = []
    for path, value in changes.items():
        module, name = path.split(".")[:2], path.split(".")[2:]
        owner = importlib.import_module("skvae." + ".".join(module))
        for part in name[:-1]:
            owner = getattr(owner, part)
        patches.append(mock.patch.object(owner, name[-1], value))
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def data_sets(folder: Path | None) -> dict[str, np.ndarray]:
    """All tables, and the images if a folder with them is given."""
    return {**tables(), **more_tables(), **({} if folder is None else images(folder))}


def one_cell(change: str, name: str, k: int, seed: int, *, folder: Path | None) -> Cell:
    """Held-out score and seconds of one fit."""
    X = data_sets(folder)[name]
    train, test = train_test_split(X, test_size=0.25, random_state=seed)
    parameters, others = CHANGES[change]
    if name == "MNIST":
        parameters = {"likelihood": "bernoulli", **parameters}
    with constants(others):
        began = time.process_time()
        model = VariationalAutoencoder(k, random_state=seed, **parameters).fit(train)
        seconds = time.process_time() - began
        score = model.score(test)
    return {"score": score, "seconds": seconds, "epochs": model.n_iter_}


def n_latent(X: np.ndarray) -> int:
    """Latent variables for a table: few, and fewer than its columns."""
    return 5 if X.shape[1] >= 100 else 1 if X.shape[1] <= 3 else 2


def applies(change: str, name: str, X: np.ndarray) -> bool:
    """Whether a change means something for a data set."""
    cross_fitted = 0.75 * len(X) < 1000 and X.size <= 500_000
    if change in (FROM_1000_ROWS if cross_fitted else UNDER_1000_ROWS):
        return False
    return not (name == "MNIST" and "noise" in change)


def report(cells: dict[Key, Cell]) -> list[dict[str, Any]]:
    """One row for each change, compared with the default over the data sets."""
    default = {key[1:]: cell for key, cell in cells.items() if key[0] == "default"}
    rows = []
    for change in dict.fromkeys(key[0] for key in cells):
        pairs: dict[str, list[tuple[float, float]]] = {}
        for key, cell in cells.items():
            if key[0] == change and key[1:] in default:
                reference = default[key[1:]]
                pairs.setdefault(str(key[1]), []).append(
                    (
                        cell["score"] - reference["score"],
                        np.log(cell["seconds"] / reference["seconds"]),
                    )
                )
        gains = {name: float(np.mean([gain for gain, _ in p])) for name, p in pairs.items()}
        time_ratio = np.exp(np.mean([ratio for p in pairs.values() for _, ratio in p]))
        worst, best = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
        values = np.array(list(gains.values()))
        clipped = values.clip(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
        rows.append(
            {
                "change": f"`{change}`" if "=" in change else change,
                "sets": len(values),
                "better": int((values > EQUAL).sum()),
                "worse": int((values < -EQUAL).sum()),
                "mean, at most ±1": f"{clipped.mean():+.3f}",
                "largest loss": f"{gains[worst]:+.2f} ({worst})" if gains[worst] < -EQUAL else "",
                "largest gain": f"{gains[best]:+.2f} ({best})" if gains[best] > EQUAL else "",
                "time": f"× {time_ratio:.2f}",
            }
        )
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=2, help="splits of each data set (2)")
    options.add_argument("--changes", help="some of the changes, with semicolons between")
    options.add_argument("--jobs", type=int, default=1, help="fits at a time (1)")
    args = parse(options)
    sets, n_seeds = data_sets(args.data), args.seeds
    changes = list(CHANGES) if args.changes is None else ["default", *args.changes.split(";")]
    if args.smoke:
        sets, n_seeds = {name: sets[name] for name in ("iris", "20 rows")}, 1
        changes = ["default", "hidden_layer_sizes=(32,)", "start left for any gain"]
    keys = [
        (change, name, n_latent(X), seed)
        for change in changes
        for name, X in sets.items()
        for seed in range(n_seeds)
        if applies(change, name, X)
    ]
    function = partial(one_cell, folder=args.data)
    cells = run_cells(args.output / "defaults.cells.jsonl", keys, function, n_jobs=args.jobs)
    table = report(cells)
    text = f"""# {__doc__.splitlines()[0]}

Held-out log-likelihood in nats per row, of a change less that of the default, on {len(sets)} data
sets × {n_seeds} splits (three quarters for training). A difference counts as better or worse beyond
{EQUAL} nats. Time is the geometric mean of ratios of processor seconds.

{markdown_table(table)}
"""
    write_results(args, "defaults", text=text, results={"table": table, "sets": list(sets)})


if __name__ == "__main__":
    main()
