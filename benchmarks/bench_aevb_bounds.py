"""Is AEVB above wake-sleep in every panel, and do superfluous latent variables overfit?

Figure 2 of Kingma and Welling (2014): the evidence lower bound of training and test rows by number
of training samples seen, on MNIST (500 hidden units; 3, 5, 10, 20 and 200 latent variables) and on
the Frey faces (200 hidden units; 2, 5, 10 and 20), by auto-encoding variational Bayes (AEVB) and by
wake-sleep with the same networks. Settings of the paper: one hidden layer of tanh units each way,
weights drawn from N(0, 0.01²), batches of 100, one draw, a standard normal prior on the weights,
Adagrad at a rate of 0.01, 0.02 or 0.1: the two with the better training bounds after 30,000 samples
go to the end, and that with the better training bound there is shown (the paper says "in the first
few iterations", which favours small rates too much). A normal density around a sigmoid mean, its
variance a function of z, for the faces (scaled to [0, 1]; 1,600 of 1,965 at random to train on).
What the paper leaves open: the pixels of MNIST are ones drawn anew at each visit with the grey
values as probabilities (--targets grey takes grey values as targets, which is not a
log-likelihood). One departure: the biases of the outputs start at the frequencies, or the means, of
the pixels.

Few passes over 60,000 rows can hardly overfit, so superfluous latent variables have a further panel
where they can: 1,000 rows of MNIST for as many samples, by Adam at 1e-3, which gets further.

Test rows are binarised once. Bounds have one draw for each row and are computed by lines that are
not skvae's (_bounds.py). Differences of final bounds are paired by rows; their standard errors are
those of rows, for one random seed.
"""

from __future__ import annotations

import argparse
from typing import Any

import matplotlib
import numpy as np
from _aevb import (
    METHODS,
    STANDARD_ERRORS,
    Data,
    autoencoder,
    bounds_of,
    difference,
    faces,
    mnist,
    race,
)
from _cells import Cell, Key, run_cells
from _common import markdown_table, parse, parser, result_name, write_results
from _curves import Fit, follow, forget, points
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

matplotlib.use("Agg")

SIZES = {"MNIST": (3, 5, 10, 20, 200), "Frey faces": (2, 5, 10, 20)}
SMALL_ROWS, SMALL_SIZES = 1000, (3, 5, 10, 20, 200)
CURVE_ROWS = 2000
FINAL_ROWS = 4000
# Rates of each model that go to the end.
N_FINALISTS = 2
COLORS = {"AEVB": "tab:blue", "wake-sleep": "tab:orange"}

# Read off the picture of the paper from memory, ± 4 nats on MNIST and ± 150 on the faces: to be
# taken for no more than that. Training and test bound of AEVB where the curves end.
OF_THE_PAPER = {
    ("MNIST", 3): (-132, -134),
    ("MNIST", 5): (-120, -122),
    ("MNIST", 10): (-106, -108),
    ("MNIST", 20): (-100, -103),
    ("MNIST", 200): (-102, -105),
    ("Frey faces", 2): (1000, 850),
    ("Frey faces", 5): (1300, 1100),
    ("Frey faces", 10): (1450, 1200),
    ("Frey faces", 20): (1500, 1250),
}


Runs = dict[Key, Cell]


# -- training ------------------------------------------------------------------------------------


def run(
    data: Data,
    n_latent: int,
    method: str,
    rate: float,
    args: argparse.Namespace,
    *,
    solver: str = "adagrad",
) -> Cell:
    """Curve and final bounds of one model."""

    def judge() -> dict[str, float]:
        return {
            f"{name}_bound": float(bounds_of(fit.estimator, data, rows[:CURVE_ROWS]).mean())
            for name, rows in (("seen", data.seen), ("test", data.test))
        }

    parameters = {"device": args.device, "solver": solver, "learning_rate_init": rate}
    fit = Fit(autoencoder(data, n_latent, method, 0, **parameters), data.train)
    name = f"{args.name}-{data.name}-{n_latent}-{method}-{solver}-{100 * rate:.0f}"
    name = name.replace(" ", "_").replace(",", "")
    n_passes = max(1, round(args.samples / len(data.train)))
    checkpoint = args.output / "unfinished" / name
    curve = follow(fit, points(n_passes), judge, checkpoint)
    model = fit.estimator
    forget(checkpoint)
    print(
        f"{data.name} Nz={n_latent} {method} {rate:g}: {curve['test_bound'][-1]:.2f} "
        f"({curve['seconds'][-1] / 60:.1f} minutes)",
        flush=True,
    )
    return {
        "rate": rate,
        "n_train": len(data.train),
        "n_active": int(model.active_components_.sum()),
        "final_seen": np.round(bounds_of(model, data, data.seen), 3).tolist(),
        "final_test": np.round(bounds_of(model, data, data.test), 3).tolist(),
        "own_figure": float(model.lower_bound(data.test[:CURVE_ROWS]).mean()),
        **curve,
    }


def all_runs(sets: dict[str, Data], panels: list[Key], args: argparse.Namespace) -> Runs:
    """The run of each panel with the best training bound, and what the others came to."""
    file = args.output / f"{args.name}.cells.jsonl"

    def raced(_: str, name: str, n_latent: int, method: str) -> Cell:
        model = autoencoder(sets[name], n_latent, method, 0, device=args.device)
        return {"rates": list(race(model, sets[name].train).items())}

    def followed(name: str, n_latent: int, method: str, rate: float) -> Cell:
        return run(sets[name], n_latent, method, rate, args)

    races = run_cells(file, [("race", *panel) for panel in panels], raced, n_jobs=1)
    keys: list[Key] = []
    for panel in panels:
        rates = sorted(races["race", *panel]["rates"], key=lambda pair: -pair[1])
        keys += [(*panel, rate) for rate, _ in rates[:N_FINALISTS]]
    found = run_cells(file, keys, followed, n_jobs=1)
    runs = {}
    for panel in panels:
        finalists = {key[-1]: found[key] for key in keys if key[:-1] == panel}
        best = max(finalists.values(), key=lambda one: float(np.mean(one["final_seen"])))
        ends = {str(r): float(np.mean(one["final_seen"])) for r, one in finalists.items()}
        runs[panel] = best | {"race": races["race", *panel]["rates"], "rates": ends}
    return runs


def runs_of_few(data: Data, sizes: tuple[int, ...], args: argparse.Namespace) -> Runs:
    """Runs of AEVB on few rows, by Adam."""

    def followed(_: str, n_latent: int, method: str, solver: str) -> Cell:
        return run(data, n_latent, method, 1e-3, args, solver=solver)

    file = args.output / f"{args.name}.cells.jsonl"
    keys: list[Key] = [(data.name, size, "AEVB", "adam") for size in sizes]
    return {key[:3]: one for key, one in run_cells(file, keys, followed, n_jobs=1).items()}


# -- what the cells say --------------------------------------------------------------------------


def comparison(cells: dict[Key, Cell], name: str, size: int) -> dict[str, Any]:
    """AEVB and wake-sleep at the end of one panel."""
    ours, other = (cells[name, size, method] for method in METHODS)
    apart, error = difference(ours["final_test"], other["final_test"])
    return {
        "apart": apart,
        "error": error,
        "above": apart > STANDARD_ERRORS * error,
        "sooner": _samples_to_reach(ours, other["test_bound"][-1]),
    }


def _samples_to_reach(one: Cell, level: float) -> float | None:
    """Samples seen when the test curve first is as high; None if it never is."""
    reached = np.flatnonzero(np.array(one["test_bound"]) >= level)
    if not len(reached):
        return None
    i, passes, bound = int(reached[0]), one["passes"], one["test_bound"]
    if i == 0:
        return float(passes[0] * one["n_train"])
    share = (level - bound[i - 1]) / (bound[i] - bound[i - 1])
    log_passes = np.log(passes[i - 1]) + share * np.log(passes[i] / passes[i - 1])
    return float(np.exp(log_passes) * one["n_train"])


def panels(cells: dict[Key, Cell], sizes: dict[str, tuple[int, ...]], *, is_paper: bool) -> str:
    """Table of all panels."""
    rows = []
    for name, some in sizes.items():
        for size in some:
            ours, other = (cells[name, size, method] for method in METHODS)
            found = comparison(cells, name, size)
            seen = ours["passes"][-1] * ours["n_train"]
            sooner = found["sooner"]
            paper = OF_THE_PAPER.get((name, size)) if is_paper else None
            rows.append(
                {
                    "panel": f"{name}, Nz={size}",
                    "rates": f"{ours['rate']:g}, {other['rate']:g}",
                    "AEVB test": f"{np.mean(ours['final_test']):.1f}",
                    "AEVB train": f"{np.mean(ours['final_seen']):.1f}",
                    "wake-sleep test": f"{np.mean(other['final_test']):.1f}",
                    "difference": f"{found['apart']:+.1f} ± {found['error']:.1f}",
                    "reaches the end of wake-sleep after": "never"
                    if sooner is None
                    else f"{sooner / seen:.0%} of the samples",
                    "paper, AEVB test [memory, low]": "" if paper is None else f"{paper[1]}",
                }
            )
    return markdown_table(rows)


def superfluous(cells: dict[Key, Cell], name: str, sizes: tuple[int, ...]) -> tuple[bool, str]:
    """Whether the largest size overfits beside the best smaller one, and the figures."""
    *smaller, largest = sizes
    best = max(smaller, key=lambda size: float(np.mean(cells[name, size, "AEVB"]["final_test"])))
    one, other = (cells[name, size, "AEVB"] for size in (largest, best))
    test, test_error = difference(one["final_test"], other["final_test"])
    seen, seen_error = difference(one["final_seen"], other["final_seen"])
    gap, gap_error = seen - test, float(np.hypot(seen_error, test_error))
    worse, wider = test < -STANDARD_ERRORS * test_error, gap > STANDARD_ERRORS * gap_error
    figures = (
        f"test bound {test:+.2f} ± {test_error:.2f} and train-test gap {gap:+.2f} ± "
        f"{gap_error:.2f} nats from those of Nz={best}, the best smaller size; "
        f"{one['n_active']} of {largest} latent variables are active"
    )
    if worse and wider:
        judgement = "overfits: a lower test bound with a wider gap"
    elif worse:
        judgement = "is behind, but not by overfitting: the gap is not wider"
    elif wider:
        judgement = "does not overfit: the gap is wider, but the test bound no lower"
    else:
        judgement = "does not overfit: neither a lower test bound nor a wider gap"
    return worse and wider, f"- {name}: Nz={largest} {judgement} ({figures})."


def highest_points(cells: dict[Key, Cell], name: str, sizes: tuple[int, ...]) -> str:
    """Table of the panel where models can overfit, and whether test curves have begun to fall."""
    rows, falling = [], []
    for size in sizes:
        one = cells[name, size, "AEVB"]
        peak = int(np.argmax(one["test_bound"]))
        if peak < len(one["test_bound"]) - 1:
            falling.append(size)
        rows.append(
            {
                name: f"Nz={size}",
                "rate": f"{one['rate']:g}",
                "test bound": f"{np.mean(one['final_test']):.2f}",
                "train bound": f"{np.mean(one['final_seen']):.2f}",
                "highest point of the test curve": f"{one['test_bound'][peak]:.2f}",
                "after samples": f"{one['passes'][peak] * one['n_train']:,}",
                "active": one["n_active"],
            }
        )
    which = f"those of Nz={falling} have" if falling else "none has"
    return f"{markdown_table(rows)}\n\nOf these test curves {which} begun to fall."


def plot(
    cells: dict[Key, Cell],
    sizes: dict[str, tuple[int, ...]],
    small: tuple[str, tuple[int, ...]],
    args: argparse.Namespace,
) -> None:
    """Bounds over samples seen: a row of panels for each data set, and that of few rows."""
    n_columns = max(len(sizes["MNIST"]), len(sizes["Frey faces"]) + 1)
    figure, axes = plt.subplots(2, n_columns, figsize=(3.1 * n_columns, 6.2), layout="constrained")
    for (name, some), row in zip(sizes.items(), axes, strict=True):
        tops, bottoms = [], []
        for axis, size in zip(row, some, strict=False):
            for method in METHODS:
                one = cells[name, size, method]
                samples = np.array(one["passes"]) * one["n_train"]
                axis.plot(samples, one["test_bound"], color=COLORS[method], label=f"{method}, test")
                axis.plot(
                    samples, one["seen_bound"], ":", color=COLORS[method], label=f"{method}, train"
                )
                tops.append(max(one["seen_bound"] + one["test_bound"]))
                # What comes before the first tenth is of another order of magnitude.
                late = np.array(one["test_bound"])[samples >= 0.1 * samples[-1]]
                bottoms.append(late.min())
            axis.set_title(f"{name}, Nz={size}", fontsize=10)
        margin = 0.06 * (max(tops) - min(bottoms))
        for axis in row[: len(some)]:
            axis.set_ylim(min(bottoms) - margin, max(tops) + margin)
        for axis in row[1 : len(some)]:
            axis.set_yticklabels([])
        row[0].set_ylabel("bound, nats per row")
    name, some = small
    last = axes[1, len(sizes["Frey faces"])]
    for size, color in zip(
        some, plt.get_cmap("viridis")(np.linspace(0.0, 0.9, len(some))), strict=False
    ):
        one = cells[name, size, "AEVB"]
        samples = np.array(one["passes"]) * one["n_train"]
        last.plot(samples, one["test_bound"], color=color, label=f"Nz={size}")
        last.plot(samples, one["seen_bound"], ":", color=color)
    last.set_ylim(bottom=min(cells[name, size, "AEVB"]["test_bound"][-1] for size in some) - 25)
    last.set_title(f"{name}, AEVB", fontsize=10)
    last.legend(fontsize=7, loc="upper left")
    axes[0, 0].legend(fontsize=7, loc="upper left")
    for axis in axes.ravel():
        if not axis.lines:
            axis.set_axis_off()
            continue
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(
            LogLocator(subs=(1.0,) if high > 50 * low else (1.0, 2.0, 5.0))
        )
        axis.xaxis.set_major_formatter(FuncFormatter(_samples))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("training samples seen")
    figure.savefig(args.output / f"{args.name}.png", dpi=110)


def _samples(n: float, _: Any) -> str:
    return f"{n / 1e6:g}M" if n >= 1e6 else f"{n / 1e3:g}k"


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--quick",
        action="store_true",
        help="480,000 samples for each curve: 25 minutes of a core; the default",
    )
    options.add_argument(
        "--full", action="store_true", help="as many samples as the paper; for a GPU"
    )
    options.add_argument(
        "--samples", type=float, default=1e8, help="training samples of each curve (1e8)"
    )
    options.add_argument("--targets", choices=["binary", "grey"], default="binary")
    args = parse(options)
    sizes, small_sizes, n_hidden = SIZES, SMALL_SIZES, (500, 200)
    if not args.full:
        args.samples = 4.8e5
    if args.smoke:
        args.samples, n_hidden = 3000, (32, 32)
        sizes, small_sizes = {"MNIST": (2, 20), "Frey faces": (2,)}, (2, 20)
    base = "aevb_bounds" if args.targets == "binary" else f"aevb_bounds_{args.targets}"
    args.name = result_name(args, base)

    digits = mnist(args, n_hidden=n_hidden[0], n_judged=FINAL_ROWS, targets=args.targets)
    few = min(SMALL_ROWS, len(digits.train) // 4)
    small = digits._replace(
        name=f"MNIST, {few:,} rows", train=digits.train[:few], seen=digits.seen[:few]
    )
    sets = {"MNIST": digits, "Frey faces": faces(args, n_hidden=n_hidden[1])}
    keys: list[Key] = [(n, size, m) for n, some in sizes.items() for size in some for m in METHODS]
    cells = all_runs(sets, keys, args) | runs_of_few(small, small_sizes, args)
    plot(cells, sizes, (small.name, small_sizes), args)

    compared = {
        (name, size): comparison(cells, name, size) for name, some in sizes.items() for size in some
    }
    n_above = sum(found["above"] for found in compared.values())
    below = [f"{name} Nz={size}" for (name, size), found in compared.items() if not found["above"]]
    lines = [
        f"AEVB ends above wake-sleep in {n_above} of {len(compared)} panels (test bound, by more "
        f"than {STANDARD_ERRORS:g} standard errors)" + (f"; not in {below}." if below else ".")
    ]
    verdicts = [
        superfluous(cells, "MNIST", sizes["MNIST"]),
        superfluous(cells, small.name, small_sizes),
    ]
    overfits = any(bad for bad, _ in verdicts)
    lines.append(
        "Superfluous latent variables "
        + ("overfit in at least one panel." if overfits else "do not overfit.")
    )
    apart = [c["own_figure"] - c["test_bound"][-1] for (n, *_), c in cells.items() if "MNIST" in n]
    text = "\n\n".join(
        [
            "# Bounds of auto-encoding variational Bayes and of wake-sleep",
            __doc__.strip(),
            f"Samples seen by each model: {args.samples:,.0f}. Pixels of MNIST: {args.targets}.",
            f"![Bounds over samples seen]({args.name}.png)",
            "## Answers",
            "\n".join(f"- {line}" for line in lines),
            "## Panels",
            panels(cells, sizes, is_paper=not args.smoke),
            "The rates are those of AEVB and of wake-sleep. The figures of the paper are read off "
            "its picture from memory, where the curves end, ± 4 nats on MNIST and ± 150 on the "
            "faces. Its axes go from 10^5 to 10^8 samples, from -150 to -100 nats on MNIST and "
            "from 0 to 1,600 on the faces [seen].",
            "## Do superfluous latent variables overfit?",
            "\n".join(line for _, line in verdicts),
            highest_points(cells, small.name, small_sizes),
            f"On the rows of the curves of MNIST `lower_bound` is {np.mean(apart):+.2f} nats from "
            f"the independent figure, {min(apart):+.2f} to {max(apart):+.2f} for single models: "
            "its draws are shared by all rows.",
        ]
    )
    arrays = ("final_seen", "final_test")
    results = {
        "samples": args.samples,
        "targets": args.targets,
        "answers": lines,
        "cells": [
            {"data": name, "n_latent": size, "method": method}
            | {k: v for k, v in c.items() if k not in arrays}
            | {f"{k}_mean": float(np.mean(c[k])) for k in arrays}
            for (name, size, method), c in cells.items()
        ],
    }
    write_results(args, base, text=text, results=results)


if __name__ == "__main__":
    main()
