"""How does the marginal likelihood grow with AEVB, wake-sleep and Monte Carlo EM?

Figure 3 of Kingma and Welling (2014): the estimated log-likelihood of training and test rows by
number of training samples evaluated, for 1,000 and for 50,000 rows of MNIST, 3 latent variables and
100 hidden units. All else is as in bench_aevb_bounds.py, the choice of rates too, but that all rows
are binarised once, so that the posterior that a chain of Monte Carlo EM draws from stays the same.

Monte Carlo EM (appendix E) has no encoder: at each visit of a batch the posterior draw of each row
makes one move of 10 leapfrog steps, with one step size tuned to accept 90 %, and 5 updates of the
weights follow. A sample is evaluated whenever the gradient of its log p(x, z) is taken: once per
visit by AEVB and wake-sleep, 16 times by Monte Carlo EM. Processor time is shown beside it.

What the encoder of a method can do is not the question here, so all decoders are judged alike: with
the decoder held, a fresh encoder is fitted to the rows that are judged (importance-weighted bound,
10 draws), and serves

- importance sampling (a stochastic lower bound), for the curves and the table;
- the estimator of appendix D of the paper (``log_likelihood(method="reciprocal")``, a stochastic
  upper bound), with 50 posterior draws to fit its density and 50 to judge by, as in the paper;
- and for some rows both are compared with the exact value, by quadrature on a grid of the three
  latent variables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from _aevb import (
    BATCH_SIZE,
    METHODS,
    RATES,
    STANDARD_ERRORS,
    Data,
    autoencoder,
    binarised,
    difference,
    race,
)
from _baselines import MonteCarloEM
from _cells import Cell, Key, run_cells
from _common import load_images, markdown_table, parse, parser, result_name, write_results
from _curves import Fit, follow, forget, points
from _judge import N_LATENT, Judge, unmoved
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from skvae.likelihoods import BernoulliLikelihood
from skvae.models import LatentVariableModel
from skvae.solvers import Adagrad

matplotlib.use("Agg")

N_HIDDEN = 100
ROWS_A_TURN = 1000
SIZES = (1000, 50_000)
NAMES = (*METHODS, "Monte Carlo EM")
COLORS = dict(zip(NAMES, ("tab:blue", "tab:orange", "tab:green"), strict=True))
N_JUDGED = 1000
# Rates of each model that go to the end.
N_FINALISTS = 2


# -- training ------------------------------------------------------------------------------------


class MonteCarloEMFit:
    """Monte Carlo EM, with the interface of `Fit`; a "pass" is a visit of `ROWS_A_TURN` rows."""

    def __init__(self, data: Data, rate: float, device: str) -> None:
        start = unmoved(data, "AEVB", data.train, device=device)
        self.model = start.model_.float()
        where = next(self.model.parameters()).device
        self._em = MonteCarloEM(
            self.model,
            torch.from_numpy(data.train).to(where),
            Adagrad(),
            learning_rate=rate,
            alpha=1.0,
            batch_size=BATCH_SIZE,
            generator=torch.Generator(where).manual_seed(0),
        )
        self.n_evaluations = self._em.n_evaluations
        self.acceptance = float("nan")

    def train(self, n_passes: int) -> float:
        log_joint = self._em.train(n_passes * ROWS_A_TURN // BATCH_SIZE)
        self.acceptance = self._em.acceptance
        return log_joint

    def keep(self, path: Path) -> None:
        torch.save(self._em.state(), path)

    def resume(self, path: Path) -> None:
        self._em.resume(torch.load(path, weights_only=True))


def race_of_em(data: Data, n_samples: int, device: str) -> tuple[dict[float, float], int]:
    """Mean log p(x, z) of the last pass at each rate, after about so many evaluations.

    And how many evaluations a visit takes.
    """
    few = data._replace(train=data.train[:ROWS_A_TURN])
    bounds = {}
    for rate in RATES:
        fit = MonteCarloEMFit(few, rate, device)
        for _ in range(max(1, round(n_samples / fit.n_evaluations / ROWS_A_TURN))):
            value = fit.train(1)
        bounds[rate] = value if np.isfinite(value) else -np.inf
    return bounds, fit.n_evaluations


def contestant(data: Data, method: str, rate: float, device: str) -> Fit | MonteCarloEMFit:
    """What is to be trained."""
    if method not in METHODS:
        return MonteCarloEMFit(data, rate, device)
    parameters = {"device": device, "learning_rate_init": rate}
    return Fit(autoencoder(data, N_LATENT, method, 0, **parameters), data.train)


def model_of(fit: Fit | MonteCarloEMFit) -> LatentVariableModel:
    return fit.estimator.model_ if isinstance(fit, Fit) else fit.model


def cell(data: Data, method: str, args: argparse.Namespace) -> Cell:
    """Curves at the two best rates, and verdict on the better of them."""
    if method in METHODS:
        model = autoencoder(data, N_LATENT, method, 0, device=args.device)
        raced, n_evaluations = race(model, data.train), len(data.train)
    else:
        raced, n_evaluations = race_of_em(data, args.race_samples, args.device)
        n_evaluations *= ROWS_A_TURN
    n_passes = max(1, round(args.samples / n_evaluations))
    finalists = {}
    for rate in sorted(raced, key=lambda rate: -raced[rate])[:N_FINALISTS]:
        fit = contestant(data, method, rate, args.device)
        judge, first = Judge(data, args), [True]

        def judged(fit=fit, judge=judge, first=first) -> dict[str, float]:
            point = judge.curve_point(model_of(fit), is_first=first[0])
            first[0] = False
            return point

        name = f"{args.name}-{len(data.train)}-{method}-{100 * rate:.0f}".replace(" ", "_")
        checkpoint = args.output / "unfinished" / name
        curve = follow(fit, points(n_passes, args.n_points), judged, checkpoint)
        finalists[rate] = (fit, curve, checkpoint)
    rate = max(finalists, key=lambda rate: finalists[rate][1]["seen"][-1])
    fit, curve, _ = finalists[rate]
    verdict = Judge(data, args).verdict(model_of(fit))
    ends = {str(rate): curve["seen"][-1] for rate, (_, curve, _) in finalists.items()}
    for _, _, checkpoint in finalists.values():
        forget(checkpoint)
    return {
        "race": list(raced.items()),
        "rates": ends,
        "rate": rate,
        "acceptance": None if isinstance(fit, Fit) else fit.acceptance,
        "samples": [n * n_evaluations for n in curve["passes"]],
        **curve,
        **verdict,
    }


# -- what the cells say --------------------------------------------------------------------------


def visits(one: Cell, n_rows: int, method: str) -> float:
    """How often each row was visited."""
    passes = float(one["passes"][-1])
    return passes if method in METHODS else passes * ROWS_A_TURN / n_rows


def table(cells: dict[Key, Cell]) -> str:
    """Log-likelihoods at the end."""
    rows = []
    for (n_rows, method), one in cells.items():
        row = {
            "rows, method": f"{n_rows:,}, {method}",
            "rate": f"{one['rate']:g}",
            "passes": f"{visits(one, n_rows, method):,.4g}",
            "minutes": f"{one['seconds'][-1] / 60:.1f}",
        }
        for name, title in (("seen", "train"), ("test", "test")):
            values = one[f"{name}_importance"]
            row[f"{title}, importance"] = f"{np.mean(values):.2f}"
        for name, title in (("seen", "train"), ("test", "test")):
            some = one[f"{name}_reciprocal"]
            row[f"first {len(some)} {title}, importance"] = (
                f"{np.mean(one[f'{name}_importance'][: len(some)]):.2f}"
            )
            row[f"and appendix D, {title}"] = f"{np.mean(some):.2f}"
        rows.append(row)
    return markdown_table(rows)


def errors(cells: dict[Key, Cell]) -> str:
    """How far both estimators are from quadrature, on the rows that it was taken of.

    Medians beside means: where the posterior has a mode that the encoder does not know, neither
    estimator finds it, and the value of that row is off by many nats.
    """
    rows = []
    for (n_rows, method), one in cells.items():
        row = {"estimate minus exact": f"{n_rows:,}, {method}"}
        for name, title in (("seen", "train"), ("test", "test")):
            for how, short in (("importance", "importance"), ("reciprocal", "appendix D")):
                mean, error = one[f"{name}_{how}_error"]
                exact = np.array(one[f"{name}_exact"])
                median = np.median(np.array(one[f"{name}_{how}"])[: len(exact)] - exact)
                row[f"{title}, {short}"] = f"{mean:+.2f} ± {error:.2f} ({median:+.3f})"
        rows.append(row)
    return markdown_table(rows)


def answers(cells: dict[Key, Cell]) -> list[str]:
    """The orderings, with paired standard errors over test rows."""
    lines = []
    for n_rows in dict.fromkeys(n for n, _ in cells):
        for other in NAMES[1:]:
            one = cells[n_rows, NAMES[0]]["test_importance"]
            apart, error = difference(one, cells[n_rows, other]["test_importance"])
            word = "not told apart from"
            if abs(apart) > STANDARD_ERRORS * error:
                word = "above" if apart > 0 else "below"
            lines.append(
                f"{n_rows:,} rows: AEVB ends {word} {other} ({apart:+.2f} ± {error:.2f} nats on "
                "test rows, paired)."
            )
    return lines


def of_em(cells: dict[Key, Cell]) -> str:
    """What Monte Carlo EM got to."""
    lines = []
    for (n_rows, method), one in cells.items():
        if method in METHODS:
            continue
        lines.append(
            f"Monte Carlo EM of {n_rows:,} rows visits each of them "
            f"{visits(one, n_rows, method):.3g} times with as many evaluations, and accepts "
            f"{one['acceptance']:.0%} of the moves at the end."
        )
    return " ".join(lines)


def plot(cells: dict[Key, Cell], args: argparse.Namespace) -> None:
    """Log-likelihood over samples evaluated, and over processor time."""
    sizes = list(dict.fromkeys(n for n, _ in cells))
    figure, axes = plt.subplots(
        2, len(sizes), figsize=(9.5, 7.2), layout="constrained", squeeze=False
    )
    for column, n_rows in zip(axes.T, sizes, strict=True):
        lowest = []
        for method in NAMES:
            one = cells[n_rows, method]
            color = COLORS[method]
            for axis, over in zip(column, (one["samples"], one["seconds"]), strict=True):
                axis.plot(over, one["test"], ".-", color=color, label=f"{method}, test")
                axis.plot(over, one["seen"], ":", color=color, label=f"{method}, train")
            lowest.append(one["test"][-1])
        highest = max(max(cells[n_rows, m]["seen"] + cells[n_rows, m]["test"]) for m in NAMES)
        for axis in column:
            axis.set_ylim(min(lowest) - 0.6 * (highest - min(lowest)) - 5, highest + 2)
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3)
        column[0].set_title(f"{n_rows:,} training rows", fontsize=11)
        column[0].set_xlabel("training samples evaluated")
        column[1].set_xlabel("seconds of processor time")
    for axis in axes[:, 0]:
        axis.set_ylabel("log-likelihood, nats per row")
    axes[0, 0].legend(fontsize=8, loc="upper left")
    figure.savefig(args.output / f"{args.name}.png", dpi=110)


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--quick",
        action="store_true",
        help="1 million samples a curve: 20 minutes of a core; the default",
    )
    options.add_argument(
        "--full", action="store_true", help="as many samples as the paper; for a GPU"
    )
    options.add_argument(
        "--samples", type=float, default=6e7, help="samples evaluated for each curve (6e7)"
    )
    args = parse(options)
    vars(args).update(
        n_points=16,
        judge_passes=10,
        curve_draws=100,
        final_draws=500,
        reciprocal_rows=1000,
        exact_rows=100,
        grid=141,
        race_samples=30_000,
        name=result_name(args, "aevb_likelihood"),
    )
    n_judged, n_hidden, sizes = N_JUDGED, N_HIDDEN, SIZES
    if not args.full:
        vars(args).update(samples=1e6, n_points=8, reciprocal_rows=200, exact_rows=50)
    if args.smoke:
        vars(args).update(
            samples=6000, n_points=3, judge_passes=2, curve_draws=10, final_draws=10,
            reciprocal_rows=10, exact_rows=5, grid=11, race_samples=500,
        )  # fmt: skip
        n_judged, n_hidden, sizes = 40, 16, (100, 300)
    images = load_images(args)
    train, test = binarised(images.train, 1), binarised(images.test[:n_judged], 0)

    def one(n_rows: int, method: str) -> Cell:
        data = Data(
            images.name, train[:n_rows], train[:n_judged], test, (0, 0), BernoulliLikelihood(),
            n_hidden,
        )  # fmt: skip
        found = cell(data, method, args)
        print(f"{n_rows:,} {method}: {np.mean(found['test_importance']):.2f}", flush=True)
        return found

    keys: list[Key] = [(n, method) for n in sizes for method in NAMES]
    cells = run_cells(args.output / f"{args.name}.cells.jsonl", keys, one, n_jobs=1)
    plot(cells, args)
    lines = answers(cells)
    text = "\n\n".join(
        [
            "# Marginal likelihood by AEVB, wake-sleep and Monte Carlo EM",
            __doc__.strip(),
            f"Samples evaluated for each curve: {args.samples:,.0f}. Judged: the first "
            f"{n_judged:,} training and test rows; by appendix D and by quadrature, the first "
            f"{min(args.reciprocal_rows, n_judged):,} and {args.exact_rows} of each. Seed 0.",
            f"![Log-likelihood over samples and time]({args.name}.png)",
            "## Answers",
            "\n".join(f"- {line}" for line in lines),
            of_em(cells),
            "## At the end",
            table(cells),
            "The paper's picture ends at 60 million samples; read off it from memory (low "
            "certainty): with 1,000 rows AEVB at about -110 in training and in the -140s in test, "
            "with 50,000 AEVB at -128 to -131 and wake-sleep at -135 to -140.",
            "## Are the estimates right?",
            f"Mean difference from quadrature, its standard error over {args.exact_rows} rows, and "
            "the median in brackets. Where a posterior has a mode that the encoder does not know, "
            "neither estimator finds it, and a single row may be off by many nats.",
            errors(cells),
        ]
    )
    arrays = [
        f"{n}_{how}" for n in ("seen", "test") for how in ("importance", "reciprocal", "exact")
    ]
    results = {
        "samples": args.samples,
        "answers": lines,
        "cells": [
            {"n_rows": n_rows, "method": method}
            | {k: v for k, v in one.items() if k not in arrays}
            | {f"{k}_mean": float(np.mean(one[k])) for k in arrays}
            for (n_rows, method), one in cells.items()
        ],
    }
    write_results(args, "aevb_likelihood", text=text, results=results)


if __name__ == "__main__":
    main()
