"""Do wake-sleep, stochastic backpropagation and a richer posterior each raise the likelihood?

The experiments of Rezende, Mohamed and Wierstra (2014) on binarised MNIST: their figures 2 and 3b,
and table 1. (The paper's text was not at hand; what is known of its settings comes from notes on
it.) The rows are binarised once, training and test rows alike, so that they are not the very bits
that the paper's figures are for.

1. **One architecture, four ways to train it** (figure 2c): 100 latent variables, a deterministic
   layer of 300, Bernoulli pixels; the recognition model mirrors it. Wake-sleep; the evidence lower
   bound with a diagonal posterior; the same with a precision of diagonal plus rank one. "Factor
   analysis" has the same latent variables, recognition model and bound, and logits that are linear
   in the latent variables: it is a logistic one.
2. **The main model** (table 1): 200 latent variables, two deterministic layers of 200, diagonal or
   rank-one; with a little noise on what the recognition model reads and on draws of the latent
   variables, with linear paths beside the networks, and started at the linear model.
3. **Posterior shapes** (figure 2a, b): two latent variables, so that the true posterior of a digit
   can be computed on a grid in [-5, 5]², beside the recognition model's and the best of the same
   family that 100 steps of optimisation from there find for this very digit. Test digits at even
   quantiles of the recognition model's divergence.
4. **Embedding** (figure 3b): posterior means of test digits in the same model, by class.

The log-likelihood of test rows is estimated with 5,000 draws each; the short form scores 2,000 of
them, drawn at random, the same for all. Differences between models are paired, with the standard
error over rows. To be near the paper's figures it adds to the mean bound of all 10,000 rows what
the scores of the 2,000 are above theirs ("all test rows"; the error is for not having scored them
all).

--quick (the default): --epochs passes at a rate of 2e-3, the last fifth of them at three tenths and
then a tenth of it, batches of 100, Adam. --full: as many passes as a GPU makes in hours (2,000) at
a rate of 1e-3, the paper's batches of 200, and all test rows. Runs that are cut go on where they
were when started again. --only 'NAME' trains cells of these names only; the tables hold what is
finished.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _baselines import WakeSleep
from _common import (
    Images,
    load_images,
    load_test_labels,
    markdown_table,
    parse,
    parser,
    write_results,
)
from _plane import plot_embedding, plot_shapes, shapes
from _schedule import binarized_once, check_names, judge, paired, short_schedule, some_rows, train

import skvae
from skvae import DeepLatentGaussianModel, VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood
from skvae.networks import MLP
from skvae.posteriors import LowRankPrecisionPosterior

# Differences count if they exceed this many standard errors.
STANDARD_ERRORS = 2.0
# Noise of the main model in training, whose levels are not known. Of 784 pixels 8 are flipped; with
# five times as many the bound is 6 nats lower after 8 epochs.
INPUT_FLIPS, LATENT_NOISE = 0.01, 0.05
# Rows whose posteriors in the plane are computed, and how many of them are drawn.
SHAPE_ROWS = 100
N_DIGITS = 6


# -- models --------------------------------------------------------------------------------------


def shared(args: argparse.Namespace) -> dict[str, Any]:
    """Parameters that all models have."""
    return {
        "likelihood": BernoulliLikelihood(),
        "init": "random",
        "early_stopping": False,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "random_state": 0,
    }


def one_architecture(args: argparse.Namespace, n_latent: int = 100, **parameters: Any) -> Any:
    """A deterministic layer of 300 on both ways."""
    network = MLP(hidden_layer_sizes=(300,), linear_path=False)
    parameters = {"encoder": network, "decoder": network} | shared(args) | parameters
    return VariationalAutoencoder(n_latent, **parameters)


def main_model(args: argparse.Namespace, **parameters: Any) -> Any:
    """The model of the paper's table 1, started at the linear model as the default is."""
    parameters = shared(args) | {"init": "linear"} | parameters
    return DeepLatentGaussianModel(
        layer_sizes=(200,),
        hidden_layer_sizes=(200, 200),
        input_flips=INPUT_FLIPS,
        latent_noise=LATENT_NOISE,
        **parameters,
    )


class Cell(NamedTuple):
    """A model by its name, and the paper's figure for what is nearest to it.

    Attributes
    ----------
    slowness : float
        By what the learning rate is divided.
    """

    part: str
    name: str
    make: Callable[[argparse.Namespace], Any]
    paper: str = ""
    slowness: float = 1.0

    @property
    def title(self) -> str:
        return f"{self.part}: {self.name}"


RANK_ONE = LowRankPrecisionPosterior(rank=1)
ARCHITECTURE, MAIN, PLANE = "100 latents, 300", "200 latents, 200-200", "2 latents, 300"
CELLS = [
    Cell(
        ARCHITECTURE,
        "factor analysis",
        lambda args: one_architecture(args, decoder=MLP(hidden_layer_sizes=())),
        "106.00 [seen]",
    ),
    Cell(
        ARCHITECTURE,
        "wake-sleep",
        lambda args: one_architecture(args, objective=WakeSleep()),
        "91.3 [seen]",
        # At a rate of 1e-3 its bound falls from the second epoch on, at 2e-3 without end.
        slowness=20 / 3,
    ),
    Cell(ARCHITECTURE, "diagonal", one_architecture),
    Cell(ARCHITECTURE, "rank one", lambda args: one_architecture(args, posterior=RANK_ONE)),
    Cell(PLANE, "diagonal", lambda args: one_architecture(args, 2)),
    Cell(PLANE, "rank one", lambda args: one_architecture(args, 2, posterior=RANK_ONE)),
    Cell(MAIN, "diagonal", main_model, "87.30 [seen]"),
    Cell(MAIN, "rank one", lambda args: main_model(args, posterior=RANK_ONE), "86.60 [seen]"),
]


# -- tables --------------------------------------------------------------------------------------


def checkpoint(cell: Cell, images: Images, args: argparse.Namespace) -> Path:
    """Where the model of a cell is saved."""
    name = f"{images.name}, {args.epochs} epochs, {cell.part}, {cell.name}"
    return args.output / "dlgm_checkpoints" / f"{name}.skvae"


def run_cell(cell: Cell, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one cell."""
    rate = args.rate / cell.slowness
    model, minutes = train(
        lambda: cell.make(args),
        binarized_once(images.train, 1),
        short_schedule(args.epochs, rate),
        checkpoint(cell, images, args),
        device=args.device,
    )
    test = binarized_once(images.test, 0)
    judgement = judge(model, test, some_rows(len(test), args.test_rows), args.draws)
    return {
        "part": cell.part,
        "name": cell.name,
        "paper": cell.paper,
        "data": images.name,
        "epochs": model.n_iter_,
        "rate": rate,
        "minutes": minutes,
        "training_bound": model.lower_bound_,
        "active": int(model.active_components_.sum()),
        "draws": args.draws,
        **judgement._asdict() | {"scores": np.round(judgement.scores, 4).tolist()},
    }


def table(part: str, cells: list[dict[str, Any]]) -> str:
    """One part, beside the paper's figures."""
    rows = []
    for result in cells:
        scores = np.array(result["scores"])
        error = scores.std(ddof=1) / np.sqrt(len(scores))
        rows.append(
            {
                f"{result['data']}, {part}; {result['draws']:,} draws": result["name"],
                "epochs": result["epochs"],
                "rate": f"{result['rate']:.4g}",
                "minutes": f"{result['minutes']:.1f}",
                f"test NLL, {len(scores):,} rows": f"{-scores.mean():.2f} ± {error:.2f}",
                "all test rows": f"{result['nll']:.2f} ± {result['error']:.2f}",
                "test bound": f"{result['bound']:.2f}",
                "training bound": f"{result['training_bound']:.2f}",
                "active": result["active"],
                "paper, table 1": result["paper"],
            }
        )
    return markdown_table(rows)


def verdict(gain: float, error: float) -> str:
    """Whether what should be a gain is one."""
    if abs(gain) <= STANDARD_ERRORS * error:
        return "undecided"
    return "holds" if gain > 0 else "does NOT hold"


def comparisons(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each model of a part against the one before it, which the paper puts below it."""
    found = []
    for worse, better in itertools.pairwise(cells):
        gain, error = paired(better["scores"], worse["scores"])
        found.append(
            {
                "part": better["part"],
                "better": better["name"],
                "worse": worse["name"],
                "gain": gain,
                "error": error,
                "verdict": verdict(gain, error),
            }
        )
    return found


def conclusion(cells: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """What was reached, and the order of the models, in words."""
    best = min(cells, key=lambda cell: cell["nll"])
    away = ""
    if best["paper"] and best["data"] == "MNIST":
        away = f", {best['nll'] - float(best['paper'].split()[0]):+.2f} of the paper's figure"
    lines = [
        f"- Best: {best['name']}, {best['nll']:.2f} nats after {best['epochs']} epochs and "
        f"{best['minutes']:.0f} minutes{away}."
    ]
    lines += [
        f"- {pair['part']}: {pair['better']} above {pair['worse']}: {pair['verdict']} "
        f"({pair['gain']:+.2f} ± {pair['error']:.2f} nats)."
        for pair in found
    ]
    return "\n".join(lines)


# -- pictures ------------------------------------------------------------------------------------


def draw_pictures(
    models: dict[str, Any], images: Images, args: argparse.Namespace
) -> tuple[str, dict[str, Any]]:
    """Figures of the models in the plane, and what is to be said of their posteriors."""
    test = binarized_once(images.test, 0)
    some = test[some_rows(len(test), SHAPE_ROWS)]
    found = {name: shapes(model, some) for name, model in models.items()}
    first = next(iter(found.values()))
    order = np.argsort(first.recognized.divergence)
    # Not the last: what is furthest off says little of shapes.
    chosen = order[(np.linspace(0.05, 0.8, N_DIGITS) * (len(order) - 1)).astype(int)]
    plot_shapes(found, some, chosen, args.output / "dlgm.png")
    labels = load_test_labels(args)
    if labels is not None:
        plot_embedding(models, test, labels, args.output / "dlgm_embedding.png")
    rows = []
    for name, shape in found.items():
        best = shape.best.covariance
        correlation = best[:, 0, 1] / np.sqrt(best[:, 0, 0] * best[:, 1, 1])
        row = {f"{PLANE}, {len(some)} test rows": name}
        row["NLL by quadrature"] = f"{-shape.log_evidence.mean():.2f}"
        for title, q in (("recognition model", shape.recognized), ("best of family", shape.best)):
            error = q.divergence.std(ddof=1) / np.sqrt(len(some))
            row[f"KL of {title}"] = f"{q.divergence.mean():.2f} ± {error:.2f}"
            row[f"its median, {title}"] = f"{np.median(q.divergence):.2f}"
        rows.append(row | {"its mean absolute correlation": f"{np.abs(correlation).mean():.2f}"})
    lines = []
    for name, shape in found.items():
        given, best = (np.median(q.divergence) for q in (shape.recognized, shape.best))
        lines.append(
            f"- {PLANE}, {name}: of the median divergence of {given:.2f} nats {given - best:.2f} "
            "come from where the recognition model puts its normal, and how large, for this digit; "
            f"{max(best, 0.0):.2f} from the family."
        )
    if len(found) == 2:
        (first_name, a), (second_name, b) = found.items()
        gain, error = paired(b.log_evidence, a.log_evidence)
        lines.append(
            f"- {PLANE}: {second_name} above {first_name}: {verdict(gain, error)} "
            f"({gain:+.2f} ± {error:.2f} nats, by quadrature)."
        )
    text = markdown_table(rows) + "\n\n" + "\n".join(lines)
    return text, {"posteriors": rows}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="the short form, which is default")
    options.add_argument("--full", action="store_true", help="2,000 epochs; hours on a GPU")
    options.add_argument("--epochs", type=int, help="epochs (60; 2000 with --full)")
    options.add_argument("--rate", type=float, help="learning rate (0.002; 0.001 with --full)")
    options.add_argument("--batch-size", type=int, help="rows of a step (100; 200 with --full)")
    options.add_argument("--draws", type=int, default=5000, help="draws of z for each test row")
    options.add_argument("--test-rows", type=int, help="rows to score (2000; all with --full)")
    options.add_argument("--precision", default="medium", help="of training (medium)")
    options.add_argument("--only", nargs="*", help="cells of these names; none: tables only")
    args = parse(options)
    check_names(options, args.only, {cell.title for cell in CELLS})
    args.epochs = args.epochs or (2000 if args.full else 60)
    args.rate = args.rate or (1e-3 if args.full else 2e-3)
    args.batch_size = args.batch_size or (200 if args.full else 100)
    args.test_rows = args.test_rows or (10_000 if args.full else 2000)
    if args.smoke:
        args.epochs, args.draws, args.test_rows = 2, 20, 50
    images = load_images(args)
    path = args.output / "dlgm.cells.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {
        (c["data"], c["epochs"], c["part"], c["name"], c["draws"]): c
        for c in map(json.loads, lines)
    }
    for cell in CELLS:
        key = (images.name, args.epochs, cell.part, cell.name, args.draws)
        if key in done or (args.only is not None and cell.title not in args.only):
            continue
        done[key] = run_cell(cell, images, args)
        with path.open("a") as file:
            file.write(json.dumps(done[key]) + "\n")

    order = [cell.title for cell in CELLS]
    tables: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for cell in sorted(done.values(), key=lambda c: order.index(f"{c['part']}: {c['name']}")):
        # What importance sampling says in the plane quadrature says better.
        if cell["data"] == images.name and cell["part"] != PLANE:
            tables.setdefault((cell["part"], cell["epochs"], cell["draws"]), []).append(cell)
    parts, results = [], []
    for (part, epochs, draws), cells in tables.items():
        found = comparisons(cells)
        parts += [table(part, cells), conclusion(cells, found)]
        kept = [{k: v for k, v in cell.items() if k != "scores"} for cell in cells]
        results.append(
            {"part": part, "epochs": epochs, "draws": draws, "cells": kept, "comparisons": found}
        )
    models = {
        cell.name: skvae.load(saved)
        for cell in CELLS
        if (images.name, args.epochs, cell.part, cell.name, args.draws) in done
        and cell.part == PLANE
        and (saved := checkpoint(cell, images, args)).exists()
    }
    more: dict[str, Any] = {}
    if models:
        text, more = draw_pictures(models, images, args)
        parts.append(text)
    text = "\n\n".join(["# Deep latent Gaussian models", __doc__.strip(), *parts])
    write_results(args, "dlgm", text=text, results={"parts": results, **more})


if __name__ == "__main__":
    main()
