"""Do more draws in the importance-weighted bound bring a higher likelihood, and more active units?

Table 1 of Burda et al. (2016) on MNIST. One stochastic layer: 784-200-200-50, tanh; two: 100
units above 200-200, and 50 above 100-100, the posterior from the data upwards. Bernoulli pixels
drawn anew at each visit, Adam; "VAE" is the evidence lower bound with k draws, "IWAE" the
importance-weighted bound of k draws; with k = 1 they are one. Weights start at random, the biases
of the outputs at the frequencies of the pixels. With two layers each map has a linear path beside
it, which the paper's have not.

The test rows are binarised once, and their log-likelihood is estimated with 5,000 draws each. The
short form scores 2,000 of them, drawn at random, the same for all; differences between models are
paired, with the standard error over rows. To be near the paper's figures it adds to the mean bound
of all 10,000 rows what the scores of the 2,000 are above theirs ("all test rows"; the error is for
not having scored them all). A unit is active if the variance over rows of its posterior mean is
above 0.01 (the paper's definition), in the test rows; with two layers that of the noise of a unit
given the layer above, since units of the lower layer may just follow the upper one.

--quick (the default): equal numbers of epochs (--epochs) at a rate of 2e-3, the last fifth of them
at three tenths and then a tenth of it, batches of 50. --full: the paper's schedule, 3^i passes at
1e-3 · 10^(-i/7), i = 0 … 7, batches of 20, Adam's epsilon 1e-4; on a GPU. Runs that are cut go on
where they were when started again. --only 'IWAE 5, one layer' runs cells of these names; the table
holds what is finished.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from _common import Images, load_images, markdown_table, parse, parser, write_results
from _schedule import (
    Judgement,
    Phase,
    binarized_once,
    burda_schedule,
    check_names,
    judge,
    paired,
    short_schedule,
    some_rows,
    train,
)

from skvae import DeepLatentGaussianModel, VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood
from skvae.networks import MLP
from skvae.objectives import IWAE, SGVB
from skvae.solvers import Adam

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Differences count if they exceed this many standard errors.
STANDARD_ERRORS = 2.0
ACTIVE_VARIANCE = 0.01


class Cell(NamedTuple):
    """One entry of the table."""

    n_layers: int
    bound: str
    k: int

    @property
    def name(self) -> str:
        bound = "VAE = IWAE" if self.k == 1 else self.bound
        return f"{bound} {self.k}, {'one layer' if self.n_layers == 1 else 'two layers'}"


# In the order in which they are trained: what says most for its time comes first.
CELLS = [
    *(Cell(n, bound, k) for n in (1, 2) for bound, k in (("VAE", 1), ("IWAE", 5), ("IWAE", 50))),
    *(Cell(n, "VAE", k) for k in (5, 50) for n in (1, 2)),
]
# Table 1 of Burda et al. (2016), read in the paper: test NLL and active units of each layer.
PAPER = {
    Cell(1, "VAE", 1): (86.76, "19"),
    Cell(1, "VAE", 5): (86.47, "20"),
    Cell(1, "VAE", 50): (86.35, "20"),
    Cell(1, "IWAE", 5): (85.54, "22"),
    Cell(1, "IWAE", 50): (84.78, "25"),
    Cell(2, "VAE", 1): (85.33, "16+5"),
    Cell(2, "VAE", 5): (85.01, "17+5"),
    Cell(2, "VAE", 50): (84.78, "17+5"),
    Cell(2, "IWAE", 5): (83.89, "21+5"),
    Cell(2, "IWAE", 50): (82.90, "26+7"),
}


class Protocol(NamedTuple):
    """How all cells of a table are trained."""

    title: str
    phases: list[Phase]
    batch_size: int
    epsilon: float


def protocol(args: argparse.Namespace) -> Protocol:
    """What the options ask for."""
    if args.full:
        phases = burda_schedule()
        title = f"the paper's schedule, {sum(phase.n_epochs for phase in phases)} epochs"
        return Protocol(title, phases, 20, 1e-4)
    # On the way to a few dozen epochs this is 3 nats ahead of batches of 100 at a rate of 1e-3.
    return Protocol(f"{args.epochs} epochs", short_schedule(args.epochs, 2e-3), 50, 1e-8)


def make(cell: Cell, how: Protocol, args: argparse.Namespace) -> Any:
    """The estimator of a cell, not yet fitted."""
    shared: dict[str, Any] = {
        "likelihood": BernoulliLikelihood(binarize="dynamic"),
        "objective": (IWAE if cell.bound == "IWAE" else SGVB)(n_draws=cell.k),
        "init": "random",
        "solver": Adam(epsilon=how.epsilon),
        "batch_size": how.batch_size,
        "early_stopping": False,
        "precision": args.precision,
        "random_state": 0,
    }
    if cell.n_layers == 2:
        return DeepLatentGaussianModel(
            layer_sizes=(50, 100),
            hidden_layer_sizes=((100, 100), (200, 200)),
            activation="tanh",
            recognition="bottom_up",
            layer_noise="predicted",
            **shared,
        )
    network = MLP(hidden_layer_sizes=(200, 200), activation="tanh", linear_path=False)
    return VariationalAutoencoder(50, encoder=network, decoder=network, **shared)


def active_units(model: Any, cell: Cell, X: np.ndarray) -> str:
    """Active units of each layer, that next to the data first."""
    active = model.transform(X).var(axis=0) > ACTIVE_VARIANCE
    n_top = model.layer_sizes[0] if cell.n_layers == 2 else 0
    parts = [active[n_top:], active[:n_top]][: cell.n_layers]
    return "+".join(str(int(part.sum())) for part in parts)


# -- cells ---------------------------------------------------------------------------------------


def run_cell(cell: Cell, how: Protocol, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Train and judge one cell."""
    name = f"{images.name}, {how.title}, {cell.name}"
    checkpoint = args.output / "iwae_checkpoints" / f"{name}.skvae"
    model, minutes = train(
        lambda: make(cell, how, args), images.train, how.phases, checkpoint, device=args.device
    )
    test = binarized_once(images.test, 0)
    scored = some_rows(len(test), args.test_rows)
    judgement: Judgement = judge(model, test, scored, args.draws)
    return {
        "cell": cell,
        "data": images.name,
        "schedule": how.title,
        "epochs": model.n_iter_,
        "minutes": minutes,
        "active": active_units(model, cell, test),
        "draws": args.draws,
        **judgement._asdict() | {"scores": np.round(judgement.scores, 4).tolist()},
    }


def read(path: Any) -> dict[tuple[str, Cell], dict[str, Any]]:
    """Finished cells by title of their table and name."""
    if not path.exists():
        return {}
    cells = [json.loads(line) for line in path.read_text().splitlines()]
    for cell in cells:
        cell["cell"] = Cell(*cell["cell"])
    return {(f"{cell['data']}, {cell['schedule']}", cell["cell"]): cell for cell in cells}


# -- what they say -------------------------------------------------------------------------------


def table(title: str, cells: dict[Cell, dict[str, Any]]) -> str:
    """One table, beside the paper's figures."""
    rows = []
    for cell, result in sorted(cells.items(), key=lambda item: list(PAPER).index(item[0])):
        scores = np.array(result["scores"])
        error = scores.std(ddof=1) / np.sqrt(len(scores))
        nll, active = PAPER[cell]
        rows.append(
            {
                title: cell.name,
                "minutes": f"{result['minutes']:.1f}",
                f"test NLL, {len(scores):,} rows": f"{-scores.mean():.2f} ± {error:.2f}",
                "all test rows": f"{result['nll']:.2f} ± {result['error']:.2f}",
                "test bound": f"{result['bound']:.2f}",
                "active units": result["active"],
                "paper [seen]": f"{nll:.2f} ({active})",
            }
        )
    return markdown_table(rows)


def comparisons(cells: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of cells that the paper puts in an order, the better first, and what is found."""
    pairs = []
    for n in (1, 2):
        vae, *iwae = Cell(n, "VAE", 1), Cell(n, "IWAE", 5), Cell(n, "IWAE", 50)
        pairs += [(iwae[0], vae), (iwae[1], iwae[0]), (iwae[1], vae)]
        pairs += [(Cell(n, "IWAE", k), Cell(n, "VAE", k)) for k in (5, 50)]
    pairs += [(cell._replace(n_layers=2), cell) for cell in CELLS if cell.n_layers == 1]
    found = []
    for better, worse in pairs:
        if better in cells and worse in cells:
            gain, error = paired(cells[better]["scores"], cells[worse]["scores"])
            found.append({"better": better, "worse": worse, "gain": gain, "error": error})
    return found


def conclusion(title: str, cells: dict[Cell, dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """What was reached, and the order of the models, in words."""
    best = min(cells, key=lambda cell: cells[cell]["nll"])
    missing = [cell.name for cell in CELLS if cell not in cells]
    lines = [
        f"- Best: {best.name}, {cells[best]['nll']:.2f} nats after {cells[best]['epochs']} epochs "
        f"and {cells[best]['minutes']:.0f} minutes, {cells[best]['nll'] - PAPER[best][0]:+.2f} of "
        f"the paper's figure after 3280 epochs.",
        f"- Not run: {'; '.join(missing) if missing else 'none'}.",
    ]
    for pair in found:
        gain, error = pair["gain"], pair["error"]
        verdict = "undecided"
        if abs(gain) > STANDARD_ERRORS * error:
            verdict = "holds" if gain > 0 else "does NOT hold"
        paper = PAPER[pair["worse"]][0] - PAPER[pair["better"]][0]
        lines.append(
            f"- {pair['better'].name} above {pair['worse'].name}: {verdict} "
            f"({gain:+.2f} ± {error:.2f} nats; {paper:+.2f} in the paper)."
        )
    return "\n".join([f"**{title}:**", "", *lines])


def plot(title: str, cells: dict[Cell, dict[str, Any]], path: Any) -> None:
    """Likelihood and active units by the number of draws, ours and the paper's."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for n, color in ((1, "tab:blue"), (2, "tab:red")):
        for bound, style in (("VAE", "--"), ("IWAE", "-")):
            mine = sorted(c for c in cells if (c.n_layers, c.bound) == (n, bound))
            if bound == "IWAE":  # of one draw the two are one
                mine = [*(c for c in [Cell(n, "VAE", 1)] if c in cells), *mine]
            if not mine or (bound, [c.k for c in mine]) == ("VAE", [1]):
                continue
            label = f"{bound}, {'one layer' if n == 1 else 'two layers'}"
            ks = [c.k for c in mine]
            mark = {"color": color, "linestyle": style, "marker": "o", "label": label}
            axes[0].plot(ks, [cells[c]["nll"] for c in mine], **mark)
            axes[1].plot(ks, [int(cells[c]["active"].split("+")[0]) for c in mine], **mark)
            theirs = {"color": color, "linestyle": style, "marker": "o", "mfc": "white"}
            theirs |= {"alpha": 0.45, "linewidth": 1}
            axes[0].plot(ks, [PAPER[c][0] for c in mine], **theirs)
            axes[1].plot(ks, [int(PAPER[c][1].split("+")[0]) for c in mine], **theirs)
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks([1, 5, 50], ["1", "5", "50"])
        axis.minorticks_off()
        axis.set_xlim(0.8, 62.0)
        axis.set_xlabel("draws in the bound, k")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test NLL, nats (lower is better)")
    axes[1].set_ylabel("active units of the layer next to the data")
    axes[1].set_yscale("log")
    axes[1].set_yticks([10, 20, 50, 100], ["10", "20", "50", "100"])
    axes[1].minorticks_off()
    axes[0].plot([], [], color="grey", marker="o", mfc="white", alpha=0.6, label="the paper's")
    axes[0].legend(fontsize=8, handlelength=3)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="the short form, which is default")
    options.add_argument("--full", action="store_true", help="the paper's schedule; days on a CPU")
    options.add_argument("--epochs", type=int, default=24, help="epochs of the short form (24)")
    options.add_argument("--draws", type=int, default=5000, help="draws of z for each test row")
    options.add_argument("--test-rows", type=int, help="rows to score (2000; all with --full)")
    options.add_argument("--precision", default="medium", help="of training (medium)")
    options.add_argument("--only", nargs="*", help="cells of these names; none: tables only")
    args = parse(options)
    check_names(options, args.only, {cell.name for cell in CELLS})
    if args.test_rows is None:
        args.test_rows = 10_000 if args.full else 2000
    if args.smoke:
        args.epochs, args.draws, args.test_rows, args.full = 2, 20, 50, False
    images, how = load_images(args), protocol(args)
    path = args.output / "iwae.cells.jsonl"
    done = read(path)
    title = f"{images.name}, {how.title}"
    for cell in CELLS:
        if (title, cell) in done or (args.only is not None and cell.name not in args.only):
            continue
        done[title, cell] = run_cell(cell, how, images, args)
        with path.open("a") as file:
            file.write(json.dumps(done[title, cell]) + "\n")

    tables: dict[str, dict[Cell, dict[str, Any]]] = {}
    for (where, cell), result in done.items():
        tables.setdefault(where, {})[cell] = result
    parts, results = [], []
    for where, cells in tables.items():
        found = comparisons(cells)
        parts += [table(where, cells), conclusion(where, cells, found)]
        kept = [{k: v for k, v in cell.items() if k != "scores"} for cell in cells.values()]
        results.append({"table": where, "cells": kept, "comparisons": found})
    largest = max(tables, key=lambda where: len(tables[where]))
    plot(largest, tables[largest], args.output / "iwae.png")
    text = "\n\n".join(["# Importance-weighted autoencoders", __doc__.strip(), *parts])
    write_results(args, "iwae", text=text, results={"tables": results})


if __name__ == "__main__":
    main()
