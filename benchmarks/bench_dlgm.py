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
   rank-one.
3. **Posterior shapes** (figure 2a, b): two latent variables, so that the true posterior of a digit
   can be computed on a grid in [-5, 5]², beside the recognition model's.
4. **Embedding** (figure 3b): posterior means of test digits in the same model, by class.

The log-likelihood of test rows is estimated with 5,000 draws each; the short form scores 2,000 of
them, drawn at random, the same for all. Differences between models are paired, with the standard
error over rows. To be near the paper's figures it adds to the mean bound of all 10,000 rows what
the scores of the 2,000 are above theirs ("all test rows"; the error is for not having scored them
all).

--quick (the default): --epochs passes (the last fifth of them at a third and then a tenth of the
rate). --full: as many passes as a GPU makes in hours (2,000), and all test rows. Runs that are cut
go on where they were when started again. --only NAMES trains the cells of these names only; the
table holds what is finished.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from _baselines import WakeSleep
from _common import (
    Images,
    load_images,
    load_labels,
    markdown_table,
    parse,
    parser,
    write_results,
)
from _schedule import binarized_once, judge, paired, short_schedule, some_rows, train
from scipy.special import logsumexp

from skvae import DeepLatentGaussianModel, VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood
from skvae.networks import MLP
from skvae.posteriors import LowRankPrecisionPosterior

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Differences count if they exceed this many standard errors.
STANDARD_ERRORS = 2.0
# Grid of latent values on which the true posterior is computed, and a finer one around its mass.
EXTENT, GRID_POINTS = 5.0, 201
N_DIGITS = 6
DRAWS_FOR_MOMENTS = 20_000


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
    """The model of the paper's table 1."""
    return DeepLatentGaussianModel(
        layer_sizes=(200,), hidden_layer_sizes=(200, 200), **(shared(args) | parameters)
    )


class Cell(NamedTuple):
    """A model by its name, and the paper's figure for what is nearest to it."""

    part: str
    name: str
    make: Callable[[argparse.Namespace], Any]
    paper: str = ""


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
    ),
    Cell(ARCHITECTURE, "diagonal", one_architecture),
    Cell(ARCHITECTURE, "rank one", lambda args: one_architecture(args, posterior=RANK_ONE)),
    Cell(PLANE, "diagonal", lambda args: one_architecture(args, 2)),
    Cell(PLANE, "rank one", lambda args: one_architecture(args, 2, posterior=RANK_ONE)),
    Cell(MAIN, "diagonal", main_model, "87.30 [seen]"),
    Cell(MAIN, "rank one", lambda args: main_model(args, posterior=RANK_ONE), "86.60 [seen]"),
]


# -- tables --------------------------------------------------------------------------------------


def run_cell(
    cell: Cell, images: Images, args: argparse.Namespace
) -> tuple[Any, dict[str, Any]]:
    """Train and judge one cell; the model, and what is kept of it."""
    name = f"{images.name}, {args.epochs} epochs, {cell.part}, {cell.name}"
    model, minutes = train(
        lambda: cell.make(args),
        binarized_once(images.train, 1),
        short_schedule(args.epochs, args.rate),
        args.output / "dlgm_checkpoints" / f"{name}.skvae",
        device=args.device,
    )
    test = binarized_once(images.test, 0)
    judgement = judge(model, test, some_rows(len(test), args.test_rows), args.draws)
    return {
        "part": cell.part,
        "name": cell.name,
        "data": images.name,
        "epochs": model.n_iter_,
        "minutes": minutes,
        "training_bound": model.lower_bound_,
        "active": int(model.active_components_.sum()),
        "draws": args.draws,
        **judgement._asdict() | {"scores": np.round(judgement.scores, 4).tolist()},
    }
