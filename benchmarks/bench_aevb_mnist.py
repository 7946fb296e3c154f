"""Do superfluous latent variables overfit, and how fast does the test bound rise?

The experiment of figure 2 of Kingma and Welling (2014) through the public estimator:
784-500-Nz-500-784, tanh, Bernoulli pixels, batches of 100, one draw, all parameters drawn from
N(0, 0.01²) (the paper's "N(0, 0.01)", read as a standard deviation), a standard normal prior on
the weights, Adagrad at the rate of 0.01, 0.02, 0.1 with the best training bound in the second
pass; beside it Adam at 1e-3. One departure: the biases of the outputs start at the frequencies of
the pixels. The paper does not say what it does with grey pixels: here they are the probabilities
of ones that are drawn anew at each visit (--targets grey takes the grey values as targets instead,
as contemporary code did; that is not a log-likelihood).

A few passes over 60,000 rows can hardly overfit, so the question is also put where it has teeth: a
third part goes over 1,000 rows until the test bound falls.

The test rows are binarised once, the same for all. Bounds are computed from posterior moments and
decoder means with noise of its own for each row, by lines that are not skvae's (_bounds.py): on
2,000 rows for the curves, on all for what is concluded. ``lower_bound`` is compared at the end.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from _bounds import lower_bounds
from _common import (
    Images,
    load_images,
    markdown_table,
    parse,
    parser,
    result_name,
    write_results,
)
from sklearn.exceptions import ConvergenceWarning

from skvae import VariationalAutoencoder
from skvae.exceptions import PosteriorCollapseWarning
from skvae.likelihoods import BernoulliLikelihood
from skvae.networks import MLP

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

SIZES = (3, 5, 10, 20, 200)
RATES = (0.01, 0.02, 0.1)
RACE_PASSES = 2
CURVE_ROWS = 2000
FINAL_ROWS = 10_000
# A difference counts if it exceeds this many standard errors.
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Part:
    """One panel: a solver, and how much of the training rows it sees how often."""

    name: str
    solver: str
    n_rows: int
    n_passes: int
    passes_between_points: int = 1


class Rows(NamedTuple):
    """Rows as models are trained on them, and training and test rows as they are judged."""

    training: np.ndarray
    seen: np.ndarray
    test: np.ndarray


# -- training ------------------------------------------------------------------------------------


class Run:
    """One model on its way: its curve and, at the end, the bound of each row."""

    def __init__(
        self,
        part: Part,
        rows: Rows,
        n_latent: int,
        learning_rate: float,
        seed: int,
        args: argparse.Namespace,
    ) -> None:
        self.rows = rows
        self.n_latent = n_latent
        self.seed = seed
        self.learning_rate = learning_rate
        self.n_passes = 0
        self.samples: list[int] = []
        self.training: list[float] = []  # mean bound during the pass
        self.test: list[float] = []  # mean bound after it
        self.seconds = 0.0
        network = MLP(
            hidden_layer_sizes=(64 if args.smoke else 500,),
            activation="tanh",
            linear_path=False,
            initial_scale=0.01,
        )
        grey = args.targets == "grey"
        self.model = VariationalAutoencoder(
            n_latent,
            encoder=network,
            decoder=network,
            likelihood=BernoulliLikelihood(binarize=None if grey else "dynamic", soft=grey),
            init="random",
            solver=part.solver,
            learning_rate_init=learning_rate,
            alpha=1.0,
            batch_size=100,
            early_stopping=False,
            max_iter=part.passes_between_points,
            warm_start=True,
            device=args.device,
            random_state=seed,
        )

    def advance(self, n_passes: int) -> None:
        """Train up to `n_passes` passes in all, a point of the curve at a time."""
        while self.n_passes < n_passes:
            begin = time.perf_counter()
            with warnings.catch_warnings():
                # The bound still rises, and nothing may be active yet: it is to go on.
                warnings.simplefilter("ignore", ConvergenceWarning)
                warnings.simplefilter("ignore", PosteriorCollapseWarning)
                self.model.fit(self.rows.training)
            self.seconds += time.perf_counter() - begin
            self.n_passes += self.model.max_iter
            self.samples.append(self.n_passes * len(self.rows.training))
            self.training.append(self.model.lower_bounds_[-1])
            self.test.append(float(self._bounds(self.rows.test[:CURVE_ROWS]).mean()))

    def finish(self) -> None:
        """Judge the model, and let it go."""
        self.final_test = self._bounds(self.rows.test)
        self.final_train = self._bounds(self.rows.seen)
        self.own_figure = float(self.model.lower_bound(self.rows.test[:CURVE_ROWS]).mean())
        self.n_active = int(self.model.active_components_.sum())
        del self.model, self.rows

    def _bounds(self, X: np.ndarray) -> np.ndarray:
        model = self.model
        return lower_bounds(
            X, model.posterior_moments(X), model.inverse_transform, likelihood="bernoulli"
        )

    def summary(self) -> dict[str, Any]:
        """What goes into the json file."""
        arrays = ("final_test", "final_train")
        means = {f"{name}_mean": float(getattr(self, name).mean()) for name in arrays}
        return {k: v for k, v in vars(self).items() if k not in arrays} | means


def race(
    part: Part, rows: Rows, n_latent: int, seed: int, args: argparse.Namespace
) -> tuple[Run, dict[float, float]]:
    """Adagrad's run with the best training bound after a few passes, and all those bounds."""
    runs = [Run(part, rows, n_latent, rate, seed, args) for rate in RATES]
    for run in runs:
        run.advance(RACE_PASSES)
    return max(runs, key=lambda run: run.training[-1]), {
        run.learning_rate: run.training[-1] for run in runs
    }


# -- what the runs say ---------------------------------------------------------------------------


class Outcome:
    """All runs of one part, and comparisons of two latent sizes with their standard errors."""

    def __init__(self, part: Part, runs: Sequence[Run]) -> None:
        self.part = part
        self.runs = runs
        self.sizes = sorted({run.n_latent for run in runs})

    def of(self, n_latent: int) -> list[Run]:
        return [run for run in self.runs if run.n_latent == n_latent]

    def mean(self, n_latent: int, what: str) -> float:
        """Mean over seeds and rows; `what` is "test", "train" or "gap" (train minus test)."""
        return float(np.mean([_value(run, what) for run in self.of(n_latent)]))

    def difference(self, a: int, b: int, what: str) -> tuple[float, float]:
        """Size `a` minus size `b`, and its standard error.

        The error has two sources: rows (differences are paired, since both sizes are judged on
        the same rows with the same seeds) and seeds (pooled over sizes; none with one seed).
        """
        rows = 0.0
        for field in {"test": ["test"], "train": ["train"], "gap": ["test", "train"]}[what]:
            first, second = (
                np.mean([getattr(run, f"final_{field}") for run in self.of(size)], axis=0)
                for size in (a, b)
            )
            rows += np.var(first - second) / len(first)
        n_seeds = len(self.of(a))
        seeds = 0.0
        if n_seeds > 1:
            spread = [
                np.var([_value(run, what) for run in self.of(size)], ddof=1) for size in self.sizes
            ]
            seeds = 2.0 * float(np.mean(spread)) / n_seeds
        return self.mean(a, what) - self.mean(b, what), float(np.sqrt(rows + seeds))

    def verdict(self) -> tuple[bool, str]:
        """Whether the largest size overfits in comparison with the best smaller one, and why."""
        *smaller, largest = self.sizes
        best = max(smaller, key=lambda size: self.mean(size, "test"))
        test, test_error = self.difference(largest, best, "test")
        gap, gap_error = self.difference(largest, best, "gap")
        worse = test < -STANDARD_ERRORS * test_error
        wider = gap > STANDARD_ERRORS * gap_error
        figures = (
            f"test bound {test:+.2f} ± {test_error:.2f} and train-test gap {gap:+.2f} ± "
            f"{gap_error:.2f} nats from those of Nz={best}, the best smaller size"
        )
        if worse and wider:
            judgement = "overfits: a lower test bound with a wider gap"
        elif worse:
            judgement = "is behind, but not by overfitting: the gap is not wider"
        elif wider:
            judgement = "does not overfit: the gap is wider, the test bound no lower"
        else:
            judgement = "does not overfit: neither a lower test bound nor a wider gap"
        return worse and wider, f"- {self.part.name}: Nz={largest} {judgement} ({figures})."


def _value(run: Run, what: str) -> float:
    train_bound, test_bound = float(run.final_train.mean()), float(run.final_test.mean())
    return {"train": train_bound, "test": test_bound, "gap": train_bound - test_bound}[what]


def table(outcome: Outcome) -> str:
    """Bounds at the end of one part."""
    part = outcome.part
    head = f"{part.name}, {part.n_rows * part.n_passes:,} samples seen"
    rows = []
    for size in outcome.sizes:
        runs = outcome.of(size)
        peak = max(max(run.test) for run in runs)
        rows.append(
            {
                head: f"Nz={size}",
                "rate": f"{runs[0].learning_rate:g}",
                "test bound": f"{outcome.mean(size, 'test'):.2f}",
                "train bound": f"{outcome.mean(size, 'train'):.2f}",
                "gap": f"{outcome.mean(size, 'gap'):.2f}",
                "highest point of a test curve": f"{peak:.2f}",
                "active components": ", ".join(str(run.n_active) for run in runs),
                "s per pass": f"{np.median([run.seconds / run.n_passes for run in runs]):.2f}",
            }
        )
    return markdown_table(rows)


def check(outcome: Outcome) -> list[str]:
    """Does the order of the sizes hold, and does skvae's own figure agree with it?"""
    sizes = outcome.sizes
    independent = {size: outcome.mean(size, "test") for size in sizes}
    own = {size: float(np.mean([run.own_figure for run in outcome.of(size)])) for size in sizes}
    apart = [run.own_figure - run.test[-1] for run in outcome.runs]
    lines = [
        f"- {outcome.part.name}: from the lowest test bound to the highest, "
        f"{_order(independent)} independently on {len(outcome.runs[0].final_test):,} rows, "
        f"{_order(own)} by `lower_bound` on {CURVE_ROWS:,} of them at most; on the same rows "
        f"`lower_bound` is {np.mean(apart):+.2f} nats from the independent figure, "
        f"{min(apart):+.2f} to {max(apart):+.2f} in single runs (its draws are shared by all rows)."
    ]
    signs = []
    for a, b in itertools.pairwise(sizes):
        difference, error = outcome.difference(b, a, "test")
        signs.append("undecided")
        if abs(difference) > STANDARD_ERRORS * error:
            signs[-1] = "higher" if difference > 0 else "lower"
        lines.append(
            f"  - Nz={b} against Nz={a}: {difference:+.2f} ± {error:.2f} nats, {signs[-1]}"
        )
    if len(sizes) > 2:
        holds = "holds" if set(signs[:-1]) == {"higher"} else "does NOT hold"
        lines.append(f"  - That more latent variables are better up to Nz={sizes[-2]} {holds}.")
    return lines


def _order(values: dict[int, float]) -> str:
    """Sizes from the lowest value to the highest."""
    return " < ".join(str(size) for size in sorted(values, key=lambda size: values[size]))


def plot(outcomes: Sequence[Outcome], images: Images, name: str, args: argparse.Namespace) -> None:
    """Bounds over samples seen, one panel for each part."""
    figure, axes = plt.subplots(
        1, len(outcomes), figsize=(4.2 * len(outcomes), 4), sharey=True, layout="constrained"
    )
    for axis, outcome in zip(axes, outcomes, strict=True):
        colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.9, len(outcome.sizes)))
        ends = []
        for size, color in zip(outcome.sizes, colors, strict=True):
            runs = outcome.of(size)
            test = np.mean([run.test for run in runs], axis=0)
            training = np.mean([run.training for run in runs], axis=0)
            axis.plot(runs[0].samples, test, color=color, marker=".", label=f"{size}")
            axis.plot(runs[0].samples, training, color=color, linestyle=":", linewidth=1)
            ends += [*test, *training]
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n / 1000:,.0f}k"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(outcome.part.name, fontsize=10)
        axis.set_xlabel("training samples seen")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("bound, nats per row")
    if not args.smoke:
        axes[0].set_ylim(-170, -85)  # about the range of the paper's figure
    axes[-1].legend(title="Nz", fontsize=8)
    figure.suptitle(f"{images.name}: test (solid) and training (dotted) bound", fontsize=11)
    figure.savefig(args.output / f"{result_name(args, name)}.png", dpi=110)


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--full",
        action="store_true",
        help="60 passes and 3 seeds (hours); the default takes 20 minutes",
    )
    options.add_argument("--targets", choices=["binary", "grey"], default="binary")
    args = parse(options)
    images = load_images(args)
    n_rows = len(images.train)
    sizes, seeds, passes, small_passes = SIZES, (0, 1), 6, 500
    if args.full:
        seeds, passes, small_passes = (0, 1, 2), 60, 2000
    if args.smoke:
        sizes, seeds, passes, small_passes = (2, 20), (0,), 2, 40
    n_small = min(1000, n_rows // 4)
    parts = [
        Part(f"Adagrad, {n_rows:,} rows", "adagrad", n_rows, passes),
        Part(f"Adam, {n_rows:,} rows", "adam", n_rows, passes),
        Part(f"Adam, {n_small:,} rows", "adam", n_small, small_passes, small_passes // 20),
    ]

    def judged(X: np.ndarray, seed: int) -> np.ndarray:
        """Rows as bounds are taken of them: binarised once, unless grey values are the targets."""
        if args.targets == "grey":
            return X
        return (np.random.default_rng(seed).random(X.shape) < X).astype(X.dtype)

    test_rows = judged(images.test[:FINAL_ROWS], 0)
    outcomes, races = [], {}
    for part in parts:
        training = images.train[: part.n_rows]
        rows = Rows(training, judged(training[:FINAL_ROWS], 1), test_rows)
        runs = []
        for size, seed in itertools.product(sizes, seeds):
            if part.solver == "adagrad" and size not in races:
                run, races[size] = race(part, rows, size, seed, args)
            else:
                # Other seeds take the rate that won with the first one.
                rate = runs[-1].learning_rate if part.solver == "adagrad" else 1e-3
                run = Run(part, rows, size, rate, seed, args)
            run.advance(part.n_passes)
            run.finish()
            runs.append(run)
            print(
                f"{part.name}: Nz={size} seed {seed} rate {run.learning_rate:g} "
                f"test {run.test[-1]:.2f} ({run.seconds:.0f} s)",
                flush=True,
            )
        outcomes.append(Outcome(part, runs))

    verdicts = [outcome.verdict() for outcome in outcomes]
    answer = "Superfluous latent variables do not overfit here."
    if any(overfits for overfits, _ in verdicts):
        answer = "Superfluous latent variables overfit in at least one part."
    rates = markdown_table(
        [
            {f"training bound in pass {RACE_PASSES}": f"Nz={size}"}
            | {f"rate {rate:g}": f"{bound:.2f}" for rate, bound in bounds.items()}
            for size, bounds in races.items()
        ]
    )
    name = "aevb_mnist" if args.targets == "binary" else f"aevb_mnist_{args.targets}"
    text = "\n\n".join(
        [
            f"# Latent sizes of a variational autoencoder on {images.name}",
            __doc__.strip(),
            f"Pixels: {args.targets}. Seeds for each figure: {len(seeds)}. Bounds in nats per "
            "row; ± is one standard error, of rows (paired) and seeds together, and a difference "
            f"counts from {STANDARD_ERRORS:g} of them on.",
            f"![Bounds over samples seen]({result_name(args, name)}.png)",
            *[table(outcome) for outcome in outcomes],
            "Adagrad's rate:",
            rates,
            "## Do they overfit?",
            "\n".join([answer, "", *[line for _, line in verdicts]]),
            "## Does the order hold?",
            "\n".join(itertools.chain.from_iterable(check(outcome) for outcome in outcomes)),
        ]
    )
    plot(outcomes, images, name, args)
    results = {
        "data": images.name,
        "targets": args.targets,
        "answer": answer,
        "adagrad_rates": races,
        "parts": [vars(o.part) | {"runs": [run.summary() for run in o.runs]} for o in outcomes],
    }
    write_results(args, name, text=text, results=results)


if __name__ == "__main__":
    main()
