"""What the benchmarks share: options, data, timing, a description of the machine, results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn
import torch
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import skvae

HERE = Path(__file__).resolve().parent
SMOKE_TEST_ROWS = 397

HOW_TO_GET_MNIST = """\
This benchmark needs MNIST: a file mnist.npz in the folder given by --data (or by the environment
variable SKVAE_DATA), with the uint8 arrays X_train (60000, 784) and X_test (10000, 784) in the
original order, and with their classes where those are used. scikit-learn can download it:

    import numpy as np
    from sklearn.datasets import fetch_openml
    X, y = (
        a.astype(np.uint8) for a in fetch_openml("mnist_784", as_frame=False, return_X_y=True)
    )
    np.savez_compressed(
        "mnist.npz", X_train=X[:60000], X_test=X[60000:], y_train=y[:60000], y_test=y[60000:]
    )

With --smoke scikit-learn's digits take its place, and no data are needed."""


# -- options -------------------------------------------------------------------------------------


def parser(description: str) -> argparse.ArgumentParser:
    """Parser with the options that all benchmarks have."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("SKVAE_DATA"),
        help="folder of the data sets (default: the environment variable SKVAE_DATA)",
    )
    options.add_argument(
        "--output",
        type=Path,
        help="folder for the results (default: benchmarks/results; with --smoke a temporary one)",
    )
    options.add_argument("--smoke", action="store_true", help="a run of seconds, on small data")
    options.add_argument("--threads", type=int, default=1, help="threads of one operation (1)")
    options.add_argument("--device", default="cpu", help="where to compute (cpu)")
    return options


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """Arguments of the command line; the number of threads is set, and the output folder made."""
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    threadpool_limits(args.threads)
    if args.output is None:
        args.output = Path(tempfile.mkdtemp()) if args.smoke else HERE / "results"
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def pin(args: argparse.Namespace) -> None:
    """Keep this process to as many cores as it may use threads.

    Packages with threads of their own do not ask torch how many they may use.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        # With OMP_PROC_BIND the main thread has its core, and the others will have theirs.
        os.sched_setaffinity(0, cores[: args.threads])


@contextmanager
def on_cores(n_cores: int) -> Iterator[None]:
    """Let threads that are begun here run on so many cores, whatever this one is bound to."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    if len(before) < n_cores:
        os.sched_setaffinity(0, range(n_cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# -- data ----------------------------------------------------------------------------------------


class Images(NamedTuple):
    """Grey values in [0, 1], float32, one image a row."""

    name: str
    train: np.ndarray
    test: np.ndarray


def load_images(args: argparse.Namespace) -> Images:
    """MNIST, or scikit-learn's digits at smoke size where MNIST is not at hand."""
    path = None if args.data is None else Path(args.data) / "mnist.npz"
    if path is not None and path.exists():
        with np.load(path) as file:
            train, test = (file[name].reshape(-1, 784) for name in ("X_train", "X_test"))
        if args.smoke:
            train, test = train[:1000], test[:SMOKE_TEST_ROWS]
        return Images("MNIST", *(np.divide(x, 255, dtype=np.float32) for x in (train, test)))
    if not args.smoke:
        sys.exit(HOW_TO_GET_MNIST)
    X = np.divide(load_digits().data, 16).astype(np.float32)
    return Images("digits", X[:-SMOKE_TEST_ROWS], X[-SMOKE_TEST_ROWS:])


def load_train_labels(args: argparse.Namespace) -> np.ndarray:
    """Classes of the training rows of `load_images`."""
    path = None if args.data is None else Path(args.data) / "mnist.npz"
    if path is None or not path.exists():
        return load_digits().target[:-SMOKE_TEST_ROWS]
    with np.load(path) as file:
        if "y_train" not in file:
            sys.exit(HOW_TO_GET_MNIST)
        labels = file["y_train"]
    return labels[:1000] if args.smoke else labels


def load_test_labels(args: argparse.Namespace) -> np.ndarray | None:
    """Classes of the test rows of `load_images`; None where the file does not hold them."""
    path = None if args.data is None else Path(args.data) / "mnist.npz"
    if path is None or not path.exists():
        return load_digits().target[-SMOKE_TEST_ROWS:]
    with np.load(path) as file:
        labels = file["y_test"] if "y_test" in file else None
    return labels[:SMOKE_TEST_ROWS] if args.smoke and labels is not None else labels


def load_faces(args: argparse.Namespace) -> np.ndarray | None:
    """Frey faces in [0, 1], (1965, 560); None where the file is not at hand."""
    path = None if args.data is None else Path(args.data) / "frey_faces.npz"
    if path is None or not path.exists():
        return None
    with np.load(path) as file:
        X = file[file.files[0]]
    return np.divide(X.reshape(len(X), -1), 255, dtype=np.float32)


# -- timing --------------------------------------------------------------------------------------


def interleave(
    contestants: Mapping[Any, Callable[[], Any]], n_repeats: int, device: str = "cpu"
) -> dict[Any, list[float]]:
    """Seconds of each repetition of contestants that take turns.

    What else happens on the machine then meets all of them. A single thread on the CPU is timed by
    what the processor spent on it: its waiting for other processes does not count.

    One round that is not counted warms up, and the order is turned by one place in each round.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    clock = time.process_time if time_taken(device) == "processor time" else time.perf_counter
    for round_ in range(n_repeats + 1):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            begin = clock()
            contestants[name]()
            synchronize(device)
            if round_:
                seconds[name].append(clock() - begin)
    return seconds


def time_taken(device: str) -> str:
    """Which time `interleave` takes."""
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return "processor time" if alone else "elapsed time"


def synchronize(device: str) -> None:
    """Wait for the device, where it works behind the back of the host."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


# -- results -------------------------------------------------------------------------------------


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """Hardware, versions and commit, without anything that names a machine or a user."""
    device = torch.device(args.device)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "skvae": skvae.__version__,
        "commit": _commit(),
    }


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Table with the keys of the first row as its head; columns that begin with a number right."""
    head = list(rows[0])
    body = [[_cell(row[key]) for key in head] for row in rows]
    rule = ["---:" if cell.strip("+-−").replace(".", "").isdigit() else "---" for cell in body[0]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body])


def result_name(args: argparse.Namespace, name: str) -> str:
    """Name of the files of results; runs on several threads have their own."""
    return name if args.threads == 1 else f"{name}_{args.threads}_threads"


def write_results(
    args: argparse.Namespace, name: str, *, text: str, results: Mapping[str, Any]
) -> None:
    """Write ``<name>.json`` and ``<name>.md``, and print the latter.

    Parameters
    ----------
    text : str
        Question, settings, tables and conclusion, in markdown.
    results : mapping
        Everything measured, for machines; hardware and versions are added.
    """
    where, name = environment(args), result_name(args, name)
    document = {"smoke": args.smoke, "environment": where, **results}
    (args.output / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    footer = ", ".join(f"{k} {v}" for k, v in where.items() if v is not None)
    text = f"{text.strip()}\n\nMeasured with: {footer}.\n"
    (args.output / f"{name}.md").write_text(text)
    print(text)
    print(f"Written to {args.output}/{name}.*")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Commit of the skvae that was imported, marked if files differed from it."""
    package = Path(skvae.__file__).resolve().parent

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *command], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "*.py", str(HERE / "*.py"))
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
