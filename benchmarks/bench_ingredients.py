"""What do bounds, posteriors, priors and networks gain, each with the same processor time?

On images (784-200-200-50 and back, tanh, Bernoulli pixels drawn anew at each visit, batches of 100,
Adam; nothing held out, no linear path) one ingredient at a time is changed:

- the posterior: diagonal, or with a precision of diagonal plus rank one (Rezende et al., 2014);
- the prior: standard normal, or VampPrior with 500 pseudo-inputs (Tomczak and Welling, 2018);
- the bound: importance-weighted with 5 or 50 draws (Burda et al., 2016);
- the networks: convolutions, beside perceptrons of as many parameters.

Each trains for so many minutes of processor time on one thread (``--minutes``), the last fifth of
them at a third and then a tenth of the rate; one cell goes on with 50 draws after half of its time.
``--epochs`` compares at equal numbers of epochs instead, in a table of its own.
The test rows are binarised once. Their negative log-likelihood is estimated with 5,000 draws each;
its error is that of the mean over rows.

Frey faces (28 × 20, intensities in [0, 1] taken as Gaussian; a tenth at random is the test set)
serve a second comparison of convolutions with perceptrons, with a tenth of the rest held out to say
when to stop: there are few of them.

A finished cell is kept in the file of cells and not run again: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import load_faces, load_images, markdown_table, parse, parser, write_results
from sklearn.exceptions import ConvergenceWarning

from skvae import VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood
from skvae.networks import MLP, Convolutional
from skvae.objectives import IWAE, SGVB
from skvae.posteriors import LowRankPrecisionPosterior
from skvae.priors import VampPrior
from skvae.solvers import Adam

# Share of the time and learning rate of each phase of training.
PHASES = ((0.8, 1e-3), (0.1, 3e-4), (0.1, 1e-4))


class Budget:
    """Callback that ends a fit when its processor time, or its number of epochs, is used up."""

    def __init__(self, seconds: float, max_epochs: float) -> None:
        self.end = time.process_time() + seconds
        self.max_epochs = max_epochs
        self.n_epochs = 0

    def setup(self, estimator, context) -> None:
        """Nothing."""

    def teardown(self, estimator, context) -> None:
        """Nothing."""

    def on_fit_task_begin(self, estimator, context) -> None:
        """Nothing."""

    def on_fit_task_end(self, estimator, context) -> bool:
        """Whether to stop."""
        if context.task_name != "epoch":
            return False
        self.n_epochs += 1
        return self.n_epochs >= self.max_epochs or time.process_time() >= self.end


def train(
    model: VariationalAutoencoder,
    X: np.ndarray,
    minutes: float,
    max_epochs: float,
    then: dict[str, Any],
) -> dict[str, Any]:
    """Train for so many minutes of processor time or epochs; epochs and minutes taken.

    `then` are parameters to be set for the second half.
    """
    n_epochs, start = 0, time.process_time()
    phases = [(share, rate, {}) for share, rate in PHASES]
    if then:
        phases[0] = (0.5, PHASES[0][1], {})
        phases.insert(1, (PHASES[0][0] - 0.5, PHASES[0][1], then))
    for share, rate, parameters in phases:
        budget = Budget(60 * minutes * share, max(1.0, np.rint(max_epochs * share)))
        model.set_params(learning_rate_init=rate, warm_start=True, **parameters)
        model.set_callbacks(budget)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X)
        n_epochs += budget.n_epochs
    return {"epochs": n_epochs, "minutes": (time.process_time() - start) / 60}


def perceptrons(**parameters: Any) -> VariationalAutoencoder:
    """The network of Burda et al. (2016) for binary images, with ingredients of choice."""
    network = MLP(hidden_layer_sizes=(200, 200), activation="tanh", linear_path=False)
    defaults: dict[str, Any] = {
        "n_components": 50,
        "encoder": network,
        "decoder": network,
        "likelihood": BernoulliLikelihood(binarize="dynamic"),
        "objective": SGVB(),
        "init": "random",
        "solver": Adam(),
        "batch_size": 100,
        "early_stopping": False,
        "max_iter": 100_000,
        "n_iter_no_change": 100_000,
        "random_state": 0,
    }
    return VariationalAutoencoder(**defaults | parameters)


def n_parameters(model: VariationalAutoencoder) -> int:
    """Weights and biases of both networks of a fitted model."""
    parts = (model.model_.encoder, model.model_.decoder)
    return sum(p.numel() for part in parts for p in part.parameters())


def images_cells() -> dict[str, Callable[[], VariationalAutoencoder]]:
    """One entry for each row of the table of images."""
    convolutions = Convolutional(image_shape=(28, 28), linear_path=False)
    return {
        "diagonal, normal, 1 draw": perceptrons,
        "rank-1 precision": lambda: perceptrons(posterior=LowRankPrecisionPosterior()),
        "VampPrior": lambda: perceptrons(prior=VampPrior(n_pseudo_inputs=500)),
        "IWAE, 5 draws": lambda: perceptrons(objective=IWAE(n_draws=5)),
        "IWAE, 5 draws, later 50": lambda: perceptrons(objective=IWAE(n_draws=5)),
        "IWAE, 50 draws": lambda: perceptrons(objective=IWAE(n_draws=50)),
        "convolutions": lambda: perceptrons(encoder=convolutions, decoder=convolutions),
    }


# Parameters of the second half of the time, for cells that change.
LATER = {"IWAE, 5 draws, later 50": {"objective": IWAE(n_draws=50)}}


def faces_cells() -> dict[str, Callable[[], VariationalAutoencoder]]:
    """One entry for each row of the table of faces."""
    convolutions = Convolutional(image_shape=(28, 20), linear_path=False)
    wide = MLP(hidden_layer_sizes=(262,), activation="relu", linear_path=False)
    shared = {
        "n_components": 10,
        "likelihood": "gaussian",
        "early_stopping": True,
        "n_iter_no_change": 30,
    }
    return {
        "perceptrons": lambda: perceptrons(encoder=wide, decoder=wide, **shared),
        "convolutions": lambda: perceptrons(encoder=convolutions, decoder=convolutions, **shared),
    }


def measure(
    model: VariationalAutoencoder,
    X: np.ndarray,
    X_test: np.ndarray,
    args: argparse.Namespace,
    minutes: float,
    max_epochs: float,
    then: dict[str, Any],
) -> dict[str, Any]:
    """Train and score a cell."""
    result = train(model, X, minutes, max_epochs, then)
    bound = model.set_params(n_score_draws=100).lower_bound(X_test)
    begin = time.process_time()
    scores = model.set_params(n_score_draws=args.draws).score_samples(X_test)
    return result | {
        "parameters": n_parameters(model),
        "nll": -float(scores.mean()),
        "error": float(scores.std(ddof=1) / np.sqrt(len(scores))),
        "bound": float(bound.mean()),
        "active": int(model.active_components_.sum()),
        "scoring_minutes": (time.process_time() - begin) / 60,
        "n_test": len(X_test),
        "draws": args.draws,
    }


def rows_of_table(cells: dict[str, dict], table: str) -> str:
    """The cells of a table, in Markdown."""
    rows = [
        {
            cell["table"]: cell["name"],
            "parameters": cell["parameters"],
            "epochs": cell["epochs"],
            "minutes": f"{cell['minutes']:.1f}",
            "test NLL, nats": f"{cell['nll']:.2f} ± {cell['error']:.2f}",
            "test bound": f"{cell['bound']:.2f}",
            "active": cell["active"],
        }
        for cell in cells.values()
        if cell["table"] == table
    ]
    return markdown_table(rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--minutes", type=float, default=15.0, help="processor time of a cell (15)"
    )
    options.add_argument(
        "--epochs", type=int, help="train for so many epochs instead, in a table of its own"
    )
    options.add_argument("--draws", type=int, default=5000, help="draws of z for each test row")
    options.add_argument("--test-rows", type=int, default=5000, help="test rows of images")
    options.add_argument("--only", nargs="*", help="cells whose names contain one of these")
    args = parse(options)
    if args.smoke:
        args.minutes, args.draws, args.test_rows = 0.02, 20, 50

    suffix, max_epochs = "", float("inf")
    if args.epochs is not None:
        suffix, args.minutes, max_epochs = f", {args.epochs} epochs", float("inf"), args.epochs
    images = load_images(args)
    rng = np.random.default_rng(0)
    test = (rng.random(images.test.shape) < images.test).astype(np.float32)[: args.test_rows]
    path = args.output / "ingredients.cells.jsonl"
    cells: dict[str, dict] = {}
    if path.exists():
        cells = {c["key"]: c for c in map(json.loads, path.read_text().splitlines())}

    jobs = [
        (images.name, name, make, images.train, test, args.minutes)
        for name, make in images_cells().items()
        if images.train.shape[1] == 784 or "convolutions" not in name
    ]
    faces = None if args.smoke else load_faces(args)
    if faces is not None:
        faces, n_training = rng.permutation(faces), len(faces) * 9 // 10
        jobs += [
            ("Frey faces", name, make, faces[:n_training], faces[n_training:], args.minutes / 3)
            for name, make in faces_cells().items()
        ]
    for data, name, make, X, X_test, minutes in jobs:
        table = data + suffix
        key = f"{table}: {name}"
        if key in cells or (args.only and not any(part in key for part in args.only)):
            continue
        cell = measure(make(), X, X_test, args, minutes, max_epochs, LATER.get(name, {}))
        cells[key] = {"key": key, "table": table, "name": name} | cell
        with path.open("a") as file:
            file.write(json.dumps(cells[key]) + "\n")
        print(key, cells[key], flush=True)

    tables = [rows_of_table(cells, t) for t in dict.fromkeys(c["table"] for c in cells.values())]
    text = "\n\n".join(["# Ingredients", __doc__.strip(), *tables])
    write_results(args, "ingredients", text=text, results={"cells": list(cells.values())})


if __name__ == "__main__":
    main()
