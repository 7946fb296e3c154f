"""Does a variational autoencoder of grey images reach the bound of the tutorial?

The tutorial of Yang (2022) trains a variational autoencoder on MNIST, its grey levels dequantised:
(pixel + U(0, 1)) / 256, a density on [0, 1)^784, with the continuous Bernoulli likelihood of
Loaiza-Ganem and Cunningham (2019). 784-500-500-20 and back, ReLU, a tenth of hidden units dropped,
Adam at 3e-4, batches (32 in its notebook, 100 in its text). Its bound of the 10,000 test rows is
1788.4 nats after 46 epochs [seen].

PyTorch's distribution, with which that figure was computed, keeps logits within ±15.94, and so the
density of a black pixel below 16, where the family has no such limit. The bounds with the limit
are comparable with the tutorial's; those without it are of the same data in the same units, and
say what the limit costs. Each is trained with

- the tutorial's networks, started at random weights, and
- networks with a linear path, started at the linear model (``init="linear"``), without dropout.

Test bounds are means over all test rows of the evidence lower bound, in nats of the density of the
dequantised pixels, 50 draws of z for each; test rows are dequantised once.

--quick (the default): 50 epochs, the last fifth of them at three tenths and a tenth of the rate of
1e-3, batches of 100. --full: 200 epochs. Runs that are cut go on where they were when started
again.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import numpy as np
from _common import load_images, markdown_table, parse, parser, write_results
from _schedule import BOUND_DRAWS, check_names, short_schedule, train
from _tutorial import BoundedContinuousBernoulli, dequantized, network

from skvae import VariationalAutoencoder
from skvae.likelihoods import ContinuousBernoulliLikelihood

# Of the stored log of the tutorial's notebook [seen].
TUTORIAL_BOUND = 1788.4
N_LATENT, BATCH_SIZE, RATE = 20, 100, 1e-3


class Cell(NamedTuple):
    """A likelihood, and where training starts."""

    is_bounded: bool
    is_linear: bool

    @property
    def title(self) -> str:
        logits = "logits within ±15.94" if self.is_bounded else "any logit"
        return f"{logits}, {'linear start' if self.is_linear else 'random start'}"

    def make(self) -> VariationalAutoencoder:
        """The estimator, not yet trained."""
        likelihood = (
            BoundedContinuousBernoulli if self.is_bounded else ContinuousBernoulliLikelihood
        )()
        net = network(0.0, linear_path=True) if self.is_linear else network()
        return VariationalAutoencoder(
            N_LATENT,
            encoder=net,
            decoder=net,
            likelihood=likelihood,
            init="linear" if self.is_linear else "random",
            early_stopping=False,
            batch_size=BATCH_SIZE,
            random_state=0,
        )


CELLS = [Cell(bounded, linear) for bounded in (True, False) for linear in (False, True)]


def run_cell(cell: Cell, images: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one cell."""
    name = f"{images.name}, {args.epochs} epochs, {cell.title}.skvae"
    model, minutes = train(
        cell.make,
        images.train,
        short_schedule(args.epochs, RATE),
        args.output / "continuous_bernoulli_checkpoints" / name,
        device=args.device,
    )
    model.set_params(n_score_draws=BOUND_DRAWS if not args.smoke else 2)
    bound = model.lower_bound(images.test).astype(np.float64)
    return {
        "data": images.name,
        "epochs": model.n_iter_,
        "name": cell.title,
        "comparable": cell.is_bounded,
        "minutes": minutes,
        "test_rows": len(images.test),
        "test_bound": float(bound.mean()),
        "training_bound": model.lower_bound_,
        "active": int(model.active_components_.sum()),
    }


def table(cells: list[dict[str, Any]]) -> str:
    """All cells beside the tutorial's figure."""
    return markdown_table(
        [
            {
                f"{cell['data']}, {cell['test_rows']:,} test rows": cell["name"],
                "epochs": cell["epochs"],
                "minutes": f"{cell['minutes']:.1f}",
                "test bound": f"{cell['test_bound']:.1f}",
                "training bound": f"{cell['training_bound']:.1f}",
                "active of 20": cell["active"],
                "tutorial": f"{TUTORIAL_BOUND} [seen]"
                if cell["comparable"] and cell["data"] == "MNIST"
                else "",
            }
            for cell in cells
        ]
    )


def conclusion(cells: list[dict[str, Any]]) -> str:
    """What was reached, in words."""
    lines = []
    for cell in cells:
        if cell["comparable"]:
            above = cell["test_bound"] - TUTORIAL_BOUND
            lines.append(
                f"- {cell['name']}: {cell['test_bound']:.1f} nats, {above:+.1f} of the tutorial's."
            )
    for cell in cells:
        if not cell["comparable"]:
            lines.append(
                f"- {cell['name']}: {cell['test_bound']:.1f} nats: the limit of the logits hides "
                "how dark black is."
            )
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="the short form, which is default")
    options.add_argument("--full", action="store_true", help="200 epochs; an hour of a core")
    options.add_argument("--epochs", type=int, help="epochs (50; 200 with --full)")
    options.add_argument("--only", nargs="*", help="cells of these names; none: tables only")
    args = parse(options)
    check_names(options, args.only, {cell.title for cell in CELLS})
    args.epochs = args.epochs or (200 if args.full else 50)
    if args.smoke:
        args.epochs = 2
    images = dequantized(load_images(args))
    path = args.output / "continuous_bernoulli.cells.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(c["data"], c["epochs"], c["name"]): c for c in map(json.loads, lines)}
    for cell in CELLS:
        key = (images.name, args.epochs, cell.title)
        if key in done or (args.only is not None and cell.title not in args.only):
            continue
        done[key] = run_cell(cell, images, args)
        with path.open("a") as file:
            file.write(json.dumps(done[key]) + "\n")
    keys = [(images.name, args.epochs, cell.title) for cell in CELLS]
    cells = [done[key] for key in keys if key in done]
    if not cells:
        return
    form = "full" if args.full else "quick"
    missing = [cell.title for cell in CELLS if (images.name, args.epochs, cell.title) not in done]
    run = f"The {form} form was run" + (f", without: {'; '.join(missing)}." if missing else ".")
    text = ["# Continuous Bernoulli on dequantised images", __doc__.strip(), run, table(cells)]
    if images.name == "MNIST":
        text.append(conclusion(cells))
    write_results(args, "continuous_bernoulli", text="\n\n".join(text), results={"cells": cells})


if __name__ == "__main__":
    main()
