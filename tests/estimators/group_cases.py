"""Script for `test_group.py`, launched in two processes: what they fit is left in a folder."""

import contextlib
import io
import json
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch.distributed as dist

from skvae import VariationalAutoencoder
from skvae.engine import ProcessGroup
from skvae.solvers import Adam
from tests.estimators.small import factor_rows

N_ROWS = 1201


def curved(n_rows=N_ROWS, seed=0):
    """Rows near a curve, so that there is something to learn beyond a linear model."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, size=(n_rows, 1))
    X = np.hstack([t, t**2, np.sin(3 * t)]) + 0.1 * rng.normal(size=(n_rows, 3))
    return X.astype(np.float32)


def holed():
    """The same with missing entries, and a row of nothing else."""
    X = curved()
    X[np.random.default_rng(1).uniform(size=X.shape) < 0.1] = np.nan
    X[700] = np.nan
    return X


def table():
    """A table with categories."""
    X = curved()
    kind = pd.Categorical.from_codes((X[:, 0] > 0).astype(int), ["low", "high", "none"])
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(np.float64), "kind": kind})


def vae(**parameters):
    """Estimator of the cases."""
    defaults = {"hidden_layer_sizes": (16,), "max_iter": 30, "random_state": 0}
    return VariationalAutoencoder(1, **{**defaults, **parameters})


# What is fitted, and to what; each also by a single process.
CASES = {
    "stops early": (
        vae(max_iter=300, tol=0.1, n_iter_no_change=2, solver=Adam(cooldown_steps=30)),
        curved,
    ),
    "float64": (vae(), lambda: curved().astype(np.float64)),
    "n_init=2": (vae(n_init=2, max_iter=10), curved),
    "missing entries": (vae(max_iter=10), holed),
    "categories": (vae(likelihood="auto", max_iter=10), table),
    "few rows": (vae(max_iter=50), lambda: factor_rows(90)),
    "fewer still": (vae(), lambda: factor_rows(10)),
    "one column": (vae(max_iter=5), lambda: 1e6 * curved()[:, :1]),
    "no components": (vae().set_params(n_components=0), curved),
    "no rows held out": (vae(early_stopping=False, max_iter=5), curved),
}

SHORT = {"max_iter": 2, "hidden_layer_sizes": (4,), "early_stopping": False, "init": "random"}
# Memory maps, by name of the file, and how they are fitted.
FILES = {"held": SHORT, "streamed": SHORT | {"max_memory": 8}}


def fitted(name):
    """The estimator of a case."""
    estimator, X = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X())


def said_of(estimator, X):
    """What a fitted estimator says."""
    return {
        "lower_bound_": estimator.lower_bound_,
        "n_iter_": estimator.n_iter_,
        "bounds": estimator.lower_bounds_,
        "scores": estimator.score_samples(X[:20]).tolist(),
    }


def message_of(action):
    """The error that something ends with."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def resident(path):
    """Bytes of a file that this process has read through a memory map; -1 if it is not told."""
    kib, ours = -1, False
    with contextlib.suppress(OSError), open("/proc/self/smaps", encoding="utf-8") as lines:
        for line in lines:
            head = line.split()
            if not head[0].endswith(":"):
                ours = head[-1] == str(path)
            elif ours and head[0] == "Rss:":
                kib = max(kib, 0) + int(head[1])
    return 1024 * kib


def main(folder):
    """All of it."""
    dist.init_process_group("gloo")
    group = ProcessGroup.current()
    found = {}
    for name in CASES:
        estimator = fitted(name)
        found[name] = said_of(estimator, CASES[name][1]())
        weights = {key: t.numpy() for key, t in estimator.model_.state_dict().items()}
        (folder / f"{name}.{group.rank}").write_bytes(pickle.dumps(weights))

    # Files, of which each process reads its part: together they hold the rows, or they do not.
    for name, parameters in FILES.items():
        path = folder.resolve() / f"{name}.npy"
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            X = np.load(path, mmap_mode="r")
            estimator = vae(**parameters).fit(X)
        found[name] = {"bytes": resident(path), "bound": estimator.lower_bounds_[-1]}
        found[name]["weights"] = float(sum(p.double().sum() for p in estimator.model_.parameters()))
    found["warnings"] = [str(warning.message) for warning in warned]
    found["bad file"] = message_of(lambda: vae().fit(np.load(folder / "bad.npy", mmap_mode="r")))

    # What is not alike.
    found["other rows"] = message_of(lambda: vae().fit(curved(seed=group.rank)))
    found["fewer rows"] = message_of(lambda: vae().fit(curved(1200 + group.rank)))
    found["text"] = message_of(
        lambda: vae().fit(curved() if group.rank == 0 else [["a", "b", "c"]] * 9)
    )

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        seedless = vae(random_state=None, verbose=1, max_iter=2, n_iter_no_change=99)
        for _ in range(2):
            seedless.partial_fit(curved())
    found["printed"] = printed.getvalue()
    found["seedless"] = seedless.transform(curved()[:5]).tolist()
    (folder / f"{group.rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
