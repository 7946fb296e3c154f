"""Does a conditional autoencoder of grey images reach the tutorial's bound, given their classes?

The tutorial of Yang (2022) tells its autoencoder of dequantised MNIST which of the ten digits an
image shows: z is normal with a mean and standard deviation that depend on the class y, x is
continuous Bernoulli given z and y, and q(z | x, y) reads both. 794-500-500-20, 30-500-500-784,
ReLU, a tenth of hidden units dropped, Adam at 3e-4, batches of 100. Its bound on log p(x | y) of
the 10,000 test rows is 1820.1 nats after 69 epochs [seen], that of the autoencoder without classes
1788.4 [seen].

Here `conditioning` says where y comes in: "both" is the tutorial's model, "decoder" leaves the
prior of z alone, and with "prior" x depends on z only, the two other factorisations that it names.
Each is trained with

- the tutorial's networks, started at random weights, and
- networks with a linear path, started at the linear model (``init="linear"``), without dropout.

Logits are kept within ±15.94, as PyTorch's distribution keeps them, with which the tutorial's
figures were computed: only then are bounds comparable. Test bounds are means over all test rows of
the evidence lower bound given y, in nats of the density of the dequantised pixels, 50 draws of z
for each; test rows are dequantised once. "Without y" is a bound on log p(x), which sums over the
ten classes: that given y less what 1,000 test rows drawn at random lose without it, 10 draws of z
for each. "Accuracy" is the share of these of which the most probable class is the true one.

--quick (the default): 60 epochs of the tutorial's model, the last fifth of them at three tenths and
a tenth of the rate of 1e-3, and 3 epochs of all. --full: 200 epochs of all. Runs that are cut go on
where they were when started again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from _common import (
    load_images,
    load_test_labels,
    load_train_labels,
    markdown_table,
    parse,
    parser,
    write_results,
)
from _schedule import BOUND_DRAWS, check_names, short_schedule, some_rows, train
from _tutorial import BoundedContinuousBernoulli, dequantized, network

import skvae
from skvae import ConditionalVariationalAutoencoder

# Of the stored log of the tutorial's notebook [seen].
TUTORIAL_BOUND = 1820.1
N_LATENT, BATCH_SIZE, RATE = 20, 100, 1e-3
SHORT_EPOCHS = 3
CLASSIFIED_ROWS, CLASSIFYING_DRAWS = 1000, 10
N_STYLES = 15


class Cell(NamedTuple):
    """Where y comes in, and where training starts."""

    conditioning: str
    is_linear: bool

    @property
    def title(self) -> str:
        return f"{self.conditioning}, {'linear start' if self.is_linear else 'random start'}"

    def make(self) -> ConditionalVariationalAutoencoder:
        """The estimator, not yet trained."""
        net = network(0.0, linear_path=True) if self.is_linear else network()
        return ConditionalVariationalAutoencoder(
            N_LATENT,
            conditioning=self.conditioning,
            encoder=net,
            decoder=net,
            likelihood=BoundedContinuousBernoulli(),
            init="linear" if self.is_linear else "random",
            early_stopping=False,
            batch_size=BATCH_SIZE,
            random_state=0,
        )


CELLS = [Cell(c, linear) for linear in (False, True) for c in ("both", "decoder", "prior")]


def checkpoint(cell: Cell, data: str, n_epochs: int, args: argparse.Namespace) -> Path:
    """Where the model of a cell is saved."""
    folder = args.output / "conditional_checkpoints"
    return folder / f"{data}, {n_epochs} epochs, {cell.title}.skvae"


def run_cell(cell: Cell, n_epochs: int, images: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one cell."""
    y, y_test = load_train_labels(args), load_test_labels(args)
    model, minutes = train(
        cell.make,
        images.train,
        short_schedule(n_epochs, RATE),
        checkpoint(cell, images.name, n_epochs, args),
        y=y,
        device=args.device,
    )
    model.set_params(n_score_draws=BOUND_DRAWS if not args.smoke else 2)
    bound = model.lower_bound(images.test, y_test).astype(np.float64)
    model.set_params(n_score_draws=CLASSIFYING_DRAWS if not args.smoke else 2)
    chosen = some_rows(len(images.test), CLASSIFIED_ROWS)
    some, some_y = images.test[chosen], y_test[chosen]
    by_class = np.stack([model.lower_bound(some, digit) for digit in range(10)], axis=1)
    by_class = by_class.astype(np.float64)
    joint = by_class + np.log(np.bincount(y, minlength=10) / len(y))
    own = by_class[np.arange(len(some)), some_y]
    loss = float((own - np.logaddexp.reduce(joint, axis=1)).mean())
    return {
        "data": images.name,
        "epochs": model.n_iter_,
        "name": cell.title,
        "minutes": minutes,
        "test_rows": len(images.test),
        "test_bound": float(bound.mean()),
        "training_bound": model.lower_bound_,
        "bound_without_y": float(bound.mean()) - loss,
        "accuracy": float((joint.argmax(axis=1) == some_y).mean()),
        "active": int(model.active_components_.sum()),
    }


def table(cells: list[dict[str, Any]]) -> str:
    """Cells of one length beside the tutorial's figure."""
    return markdown_table(
        [
            {
                f"{cell['data']}, {cell['test_rows']:,} test rows": cell["name"],
                "epochs": cell["epochs"],
                "minutes": f"{cell['minutes']:.1f}",
                "test bound given y": f"{cell['test_bound']:.1f}",
                "training bound": f"{cell['training_bound']:.1f}",
                "without y": f"{cell['bound_without_y']:.1f}",
                "accuracy": f"{cell['accuracy']:.3f}",
                "active of 20": cell["active"],
                "tutorial": f"{TUTORIAL_BOUND} [seen]" if cell["name"].startswith("both") else "",
            }
            for cell in cells
        ]
    )


def conclusion(cells: list[dict[str, Any]]) -> str:
    """What was reached, in words."""
    reference = next((c for c in cells if c["name"] == "both, random start"), None)
    lines = []
    for cell in cells:
        above = cell["test_bound"] - TUTORIAL_BOUND
        line = f"- {cell['name']}: {cell['test_bound']:.1f} nats, {above:+.1f} of the tutorial's"
        if reference is not None and cell is not reference:
            line += f", {cell['test_bound'] - reference['test_bound']:+.1f} of its model here"
        lines.append(line + ".")
    return "\n".join(lines)


def draw_styles(
    model: ConditionalVariationalAutoencoder, X: np.ndarray, y: np.ndarray, path: Path
) -> None:
    """Rows on top, and below what they would be as each class, one row for each."""
    X, y, n = X[:N_STYLES], y[:N_STYLES], min(N_STYLES, len(X))
    others = model.reconstruct(np.tile(X, (10, 1)), np.repeat(np.arange(10), n), np.tile(y, 10))
    side = round(X.shape[1] ** 0.5)
    tiles = np.concatenate([X, others]).reshape(11, n, side, side).swapaxes(1, 2)
    figure, axis = plt.subplots(figsize=(7.5, 5.7), layout="constrained")
    axis.imshow(tiles.reshape(11 * side, n * side), cmap="gray_r", vmin=0, vmax=1)
    axis.axhline(side - 0.5, color="tab:orange")
    axis.set_yticks((np.arange(11) + 0.5) * side, ["test image", *range(10)])
    axis.set(xticks=[], ylabel="as another class")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="the short form, which is default")
    options.add_argument("--full", action="store_true", help="200 epochs of all; hours of a core")
    options.add_argument("--epochs", type=int, help="epochs (60; 200 with --full)")
    options.add_argument("--only", nargs="*", help="cells of these names; none: tables only")
    args = parse(options)
    check_names(options, args.only, {cell.title for cell in CELLS})
    args.epochs = args.epochs or (200 if args.full else 60)
    if args.smoke:
        args.epochs = 2
    images = dequantized(load_images(args))
    path = args.output / "conditional.cells.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(c["data"], c["epochs"], c["name"]): c for c in map(json.loads, lines)}
    short = args.epochs if args.full or args.smoke else SHORT_EPOCHS
    wanted = [(cell, short) for cell in CELLS]
    if short != args.epochs:
        wanted = [(c, args.epochs) for c in CELLS if c.conditioning == "both"] + wanted
    for cell, n_epochs in wanted:
        key = (images.name, n_epochs, cell.title)
        if key in done or (args.only is not None and cell.title not in args.only):
            continue
        done[key] = run_cell(cell, n_epochs, images, args)
        with path.open("a") as file:
            file.write(json.dumps(done[key]) + "\n")
    text, results = ["# Autoencoder of images given their class", __doc__.strip()], []
    for n_epochs in sorted({n for _, n in wanted}, reverse=True):
        keys = [(images.name, n_epochs, cell.title) for cell in CELLS]
        cells = [done[key] for key in keys if key in done]
        if cells:
            results += cells
            text.append(table(cells))
            if images.name == "MNIST":
                text.append(conclusion(cells))
    if not results:
        return
    best = max((c for c in results if c["epochs"] == args.epochs), key=lambda c: c["test_bound"])
    cell = next(cell for cell in CELLS if cell.title == best["name"])
    saved = checkpoint(cell, images.name, args.epochs, args)
    if saved.exists():
        y_test = load_test_labels(args)
        draw_styles(skvae.load(saved), images.test, y_test, args.output / "conditional.png")
        text.append(
            f"Test images, and what they would be as other classes, by {best['name']}, "
            f"{best['epochs']} epochs.\n\n![Images as each class](conditional.png)"
        )
    write_results(args, "conditional", text="\n\n".join(text), results={"cells": results})


if __name__ == "__main__":
    main()
