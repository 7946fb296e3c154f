"""How few labels do digits need, if the rows without a label are modelled, too?

The experiment of Kingma, Rezende, Mohamed and Welling (2014) on MNIST: a variational autoencoder of
all training rows without labels (M1: 784-500-500, 50 latent variables, dynamic Bernoulli), and a
semi-supervised model of its latent variables, drawn anew in each step (M2), with as many labels of
each class. M1 is fitted once and used by all as it is. Beside it, on the same labels, are from
scikit-learn `LabelSpreading` (10 nearest neighbours) and `SelfTrainingClassifier` of a logistic
regression, and support vector machines of the labels alone. Errors are of the 10,000 test rows.

M1+M2 is trained in two ways: by the paper's objective, and by the default one, where labels count
ten times as much for the classifier and it learns from what neighbours say, too
(`classification_weight` and `propagation_weight`).

--quick (the default): M1 for --features-epochs passes, M2 with 10 latent variables and 100 hidden
units for --epochs passes, one draw of labels. --full: the paper's sizes (50 latent variables, 300
hidden units, 500 from 600 labels on; 3,000 passes), five draws. Runs that are cut go on where they
were when started again. --only 'NAME' runs contestants of these names only; the table holds what is
finished.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _common import HOW_TO_GET_MNIST, load_images, markdown_table, parse, parser, write_results
from _schedule import check_names, short_schedule, train
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC

from skvae import SemiSupervisedVariationalAutoencoder, VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood

LABELS = (100, 600, 1000, 3000)
# Test error in percent, by labels, of the paper (its text was not at hand; the figure for 1000
# labels was seen in tables that quote it, the others are from memory).
PAPER = {"M1+M2": (3.33, 2.59, 2.40, 2.18), "M1+TSVM": (11.82, 5.72, 4.24, 3.49)}
# Training rows among which pixels are compared, at most: with all of them a graph takes minutes.
PIXEL_ROWS = 20_000


class Digits(NamedTuple):
    """Images, their classes, and what M1 makes of them."""

    name: str
    train: np.ndarray
    y_train: np.ndarray
    test: np.ndarray
    y_test: np.ndarray
    m1: Any = None
    train_features: np.ndarray | None = None
    test_features: np.ndarray | None = None


def load(args: argparse.Namespace) -> Digits:
    """Images and classes, of scikit-learn's digits where MNIST is not at hand."""
    images = load_images(args)
    n_train, n_test = len(images.train), len(images.test)
    if images.name == "MNIST":
        with np.load(Path(args.data) / "mnist.npz") as file:
            if "y_train" not in file:
                raise SystemExit(
                    HOW_TO_GET_MNIST + "\n\nHere the file needs y_train and y_test, too."
                )
            y = [file[name].astype(int) for name in ("y_train", "y_test")]
    else:
        target = load_digits().target
        y = [target[:n_train], target[-n_test:]]
    return Digits(images.name, images.train, y[0][:n_train], images.test, y[1][:n_test])


def few_labels(y: np.ndarray, n_labels: int, seed: int) -> np.ndarray:
    """As many labels of each class, and -1 for the rest."""
    rng, few = np.random.default_rng(seed), np.full(len(y), -1)
    classes = np.unique(y)
    for label in classes:
        few[rng.choice(np.flatnonzero(y == label), n_labels // len(classes), replace=False)] = label
    return few


# -- contestants ---------------------------------------------------------------------------------


def with_features(digits: Digits, args: argparse.Namespace) -> Digits:
    """Train M1, or read it, and see what it makes of rows."""
    network = {"hidden_layer_sizes": (500, 500)} if not args.smoke else {}

    def make() -> VariationalAutoencoder:
        return VariationalAutoencoder(
            50 if not args.smoke else 10,
            likelihood=BernoulliLikelihood(binarize="dynamic"),
            early_stopping=False,
            batch_size=200,
            precision=args.precision,
            random_state=0,
            **network,
        )

    checkpoint = args.output / "semi_supervised_checkpoints"
    checkpoint /= f"{digits.name}, {args.features_epochs} epochs.skvae"
    m1, minutes = train(
        make,
        digits.train,
        short_schedule(args.features_epochs, 2e-3),
        checkpoint,
        device=args.device,
    )
    print(f"M1: bound {m1.lower_bound_:.2f}, {minutes:.1f} minutes", flush=True)
    features = [m1.transform(X) for X in (digits.train, digits.test)]
    return digits._replace(m1=m1, train_features=features[0], test_features=features[1])


def stack(digits: Digits, n_labels: int, args: argparse.Namespace, **weights: float) -> Any:
    """M2 on the features of M1."""
    sizes: dict[str, Any] = {"n_components": 10, "hidden_layer_sizes": (100,)}
    if args.full:
        hidden = (300,) if n_labels == 100 else (500,)
        sizes = {"n_components": 50, "hidden_layer_sizes": hidden, "activation": "softplus"}
    return SemiSupervisedVariationalAutoencoder(
        **sizes,
        features=FrozenEstimator(digits.m1),
        **weights,
        priors=np.full(10, 0.1),
        learning_rate_init=3e-4 if args.full else 3e-3,
        max_iter=args.epochs,
        early_stopping=False,
        n_iter_no_change=args.epochs + 1,
        precision=args.precision,
        device=args.device,
        random_state=0,
    )


def scikit_learn(model: Any, *, on_pixels: bool, alone: bool = False) -> Callable[..., float]:
    """Test error of a classifier of scikit-learn on pixels or features, or on the labels alone."""

    def run(digits: Digits, few: np.ndarray, args: argparse.Namespace) -> float:
        train, test = digits.train_features, digits.test_features
        if on_pixels:
            train, test = digits.train, digits.test
        rows = few >= 0
        if not alone:
            most = PIXEL_ROWS if on_pixels else len(train)
            rows = rows | (np.arange(len(train)) < most)
        return 1.0 - model.fit(train[rows], few[rows]).score(test, digits.y_test)

    return run


def ours(**weights: float) -> Callable[..., float]:
    """Test error of M1+M2."""

    def run(digits: Digits, few: np.ndarray, args: argparse.Namespace) -> float:
        model = stack(digits, int((few >= 0).sum()), args, **weights)
        return 1.0 - model.fit(digits.train, few).score(digits.test, digits.y_test)

    return run


CONTESTANTS = {
    "M1+M2, default": ours(),
    "M1+M2, the paper's objective": ours(classification_weight=0.1, propagation_weight=0.0),
    "LabelSpreading, pixels": scikit_learn(
        LabelSpreading(kernel="knn", n_neighbors=10), on_pixels=True
    ),
    "LabelSpreading, M1": scikit_learn(
        LabelSpreading(kernel="knn", n_neighbors=10), on_pixels=False
    ),
    "SelfTrainingClassifier, M1": scikit_learn(
        SelfTrainingClassifier(LogisticRegression(max_iter=200)), on_pixels=False
    ),
    "SVC, pixels, labels alone": scikit_learn(SVC(C=10.0), on_pixels=True, alone=True),
    "SVC, M1, labels alone": scikit_learn(SVC(C=10.0), on_pixels=False, alone=True),
}


# -- table ---------------------------------------------------------------------------------------


def table(cells: list[dict[str, Any]]) -> str:
    """Test errors in percent by contestant and labels."""
    rows = []
    for name in CONTESTANTS:
        own = [cell for cell in cells if cell["name"] == name]
        row: dict[str, Any] = {"test error, %": name}
        for n_labels in LABELS:
            errors = [100 * cell["error"] for cell in own if cell["labels"] == n_labels]
            spread = f" ({np.std(errors, ddof=1):.2f})" if len(errors) > 1 else ""
            row[f"{n_labels} labels"] = f"{np.mean(errors):.2f}{spread}" if errors else ""
        minutes = [cell["minutes"] for cell in own]
        rows.append(row | {"minutes for one": f"{np.mean(minutes):.1f}" if minutes else ""})
    for name, errors in PAPER.items():
        row = {"test error, %": f"{name} (Kingma et al., 2014)"}
        marks = ("memory", "memory", "seen", "memory")
        for n_labels, error, mark in zip(LABELS, errors, marks, strict=True):
            row[f"{n_labels} labels"] = f"{error:.2f} [{mark}]"
        rows.append(row | {"minutes for one": ""})
    return markdown_table(rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="the short form, which is default")
    options.add_argument("--full", action="store_true", help="the paper's sizes; hours on a GPU")
    options.add_argument("--epochs", type=int, help="epochs of M2 (30; 3000 with --full)")
    options.add_argument("--features-epochs", type=int, help="of M1 (30; 500 with --full)")
    options.add_argument("--draws", type=int, help="draws of labels (1; 5 with --full)")
    options.add_argument("--precision", default="medium", help="of training (medium)")
    options.add_argument("--only", nargs="*", help="contestants of these names; none: table only")
    args = parse(options)
    check_names(options, args.only, set(CONTESTANTS))
    args.epochs = args.epochs or (3000 if args.full else 30)
    args.features_epochs = args.features_epochs or (500 if args.full else 30)
    args.draws = args.draws or (5 if args.full else 1)
    labels = LABELS
    if args.smoke:
        args.epochs, args.features_epochs, labels = 2, 2, (100,)
    digits = load(args)
    path = args.output / "semi_supervised.cells.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    setting = {"data": digits.name, "epochs": args.epochs, "features_epochs": args.features_epochs}
    setting["form"] = "full" if args.full else "quick"
    cells = [cell for cell in map(json.loads, lines) if setting.items() <= cell.items()]
    done = {(cell["draw"], cell["labels"], cell["name"]) for cell in cells}
    wanted = list(CONTESTANTS) if args.only is None else args.only
    digits = with_features(digits, args)
    for draw in range(args.draws):
        for n_labels in labels:
            few = few_labels(digits.y_train, n_labels, draw)
            for name in wanted:
                if (draw, n_labels, name) in done:
                    continue
                begin = time.process_time()
                error = CONTESTANTS[name](digits, few, args)
                minutes = (time.process_time() - begin) / 60
                cell = setting | {"draw": draw, "labels": n_labels, "name": name}
                cell |= {"error": error, "minutes": minutes}
                cells.append(cell)
                print(f"{name}, {n_labels} labels: {error:.4f}, {minutes:.1f} minutes", flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(cell) + "\n")
    m1 = digits.m1
    about = (
        f"The {setting['form']} form on {digits.name}: M1 for {args.features_epochs} epochs "
        f"(training bound {m1.lower_bound_:.2f} nats), M2 for {args.epochs}. "
        "In parentheses standard deviations over draws of labels, where there are several. Marks "
        "of the paper's figures: seen in a table that quotes it, or from memory."
    )
    text = "\n\n".join(["# Semi-supervised digits", __doc__.strip(), about, table(cells)])
    results = {"settings": setting, "m1_bound": m1.lower_bound_, "cells": cells}
    write_results(args, "semi_supervised", text=text, results=results)


if __name__ == "__main__":
    main()
