"""What the scripts on Kingma and Welling (2014) share: data, networks, solver, judgement.

The paper's settings: one hidden layer of tanh units in encoder and decoder, all weights drawn from
N(0, 0.01²) (its "N(0, 0.01)", read as a standard deviation, as contemporary code has it), batches
of 100 rows with one draw each, a standard normal prior on the weights, Adagrad at a rate of 0.01,
0.02 or 0.1, of which the training bound decides.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from _baselines import WakeSleep
from _bounds import lower_bounds
from _common import load_faces, load_images
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skvae import VariationalAutoencoder
from skvae._core._batch import Batch
from skvae.exceptions import PosteriorCollapseWarning
from skvae.likelihoods import BernoulliLikelihood, Likelihood, SigmoidGaussianLikelihood
from skvae.networks import MLP
from skvae.objectives import SGVB, Objective

RATES = (0.01, 0.02, 0.1)
# Samples seen by each contestant of the race of rates.
RACE_SAMPLES = 30_000
BATCH_SIZE = 100
FACES_SHAPE, N_FACES_TRAINED = (28, 20), 1600
# A difference counts if it exceeds this many standard errors.
STANDARD_ERRORS = 2.0

METHODS: dict[str, Callable[[], Objective]] = {"AEVB": SGVB, "wake-sleep": WakeSleep}

HOW_TO_GET_FACES = """\
This benchmark needs the Frey faces: a file frey_faces.npz in the folder given by --data, with one
uint8 array (1965, 560): 28 × 20 pixels, row after row. It is scipy.io.loadmat(...)["ff"].T of the
file frey_rawface.mat on Sam Roweis's data page."""


class Data(NamedTuple):
    """Rows to train on, and rows as they are judged.

    Attributes
    ----------
    train : ndarray of shape (n_train, n_pixels)
        Grey values in [0, 1].
    seen, test : ndarray of shape (n_rows, n_pixels)
        Training rows and test rows, binarised once where pixels are binary.
    """

    name: str
    train: np.ndarray
    seen: np.ndarray
    test: np.ndarray
    shape: tuple[int, int]
    likelihood: Likelihood
    n_hidden: int


def binarised(X: np.ndarray, seed: int) -> np.ndarray:
    """Ones with the grey values as probabilities, drawn once."""
    return (np.random.default_rng(seed).random(X.shape) < X).astype(X.dtype)


def mnist(args: argparse.Namespace, *, n_hidden: int, n_judged: int, targets: str) -> Data:
    """MNIST with binary pixels drawn anew at each visit, or with grey values as targets."""
    images = load_images(args)
    grey = targets == "grey"
    seen, test = images.train[:n_judged], images.test[:n_judged]
    if not grey:
        seen, test = binarised(seen, 1), binarised(test, 0)
    side = round(images.train.shape[1] ** 0.5)
    likelihood = BernoulliLikelihood(binarize=None if grey else "dynamic", soft=grey)
    return Data(images.name, images.train, seen, test, (side, side), likelihood, n_hidden)


def faces(args: argparse.Namespace, *, n_hidden: int) -> Data:
    """Frey faces, 1,600 at random to train on; with --smoke the digits take their place."""
    X = None if args.smoke else load_faces(args)
    if X is None and not args.smoke:
        sys.exit(HOW_TO_GET_FACES)
    name, shape, n_train = "Frey faces", FACES_SHAPE, N_FACES_TRAINED
    if X is None:
        images = load_images(argparse.Namespace(data=None, smoke=True))
        # Pixels that never vary would have no noise, and others no likelihood.
        jitter = np.random.default_rng(1).random((600, 64), dtype=np.float32)
        X = (16.0 * images.train[:600] + jitter) / 17.0
        name, shape, n_train = "grey digits", (8, 8), 400
    X = X[np.random.default_rng(0).permutation(len(X))]
    likelihood = SigmoidGaussianLikelihood(noise="predicted")
    train, test = X[:n_train], X[n_train:]
    return Data(name, train, train, test, shape, likelihood, n_hidden)


def autoencoder(
    data: Data, n_latent: int, method: str, seed: int, *, device: str = "cpu", **parameters: Any
) -> VariationalAutoencoder:
    """The paper's network, to be trained a number of passes at a time."""
    network = MLP(
        hidden_layer_sizes=(data.n_hidden,),
        activation="tanh",
        linear_path=False,
        initial_scale=0.01,
    )
    defaults: dict[str, Any] = {
        "encoder": network,
        "decoder": network,
        "likelihood": data.likelihood,
        "objective": METHODS[method](),
        "init": "random",
        "solver": "adagrad",
        "alpha": 1.0,
        "batch_size": BATCH_SIZE,
        "early_stopping": False,
        "n_iter_no_change": 10**9,
        "warm_start": True,
        "device": device,
        "random_state": seed,
    }
    return VariationalAutoencoder(n_latent, **defaults | parameters)


def race(estimator: VariationalAutoencoder, X: np.ndarray) -> dict[float, float]:
    """Training bound at each rate after `RACE_SAMPLES` samples, in nats per row."""
    X = X[:RACE_SAMPLES]
    bounds = {}
    for rate in RATES:
        contestant = clone(estimator)
        contestant.set_params(learning_rate_init=rate, max_iter=-(-RACE_SAMPLES // len(X)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", PosteriorCollapseWarning)
            try:
                bounds[rate] = contestant.fit(X).lower_bound_
            except ValueError:  # no step had a finite bound
                bounds[rate] = -np.inf
    return bounds


def bounds_of(estimator: VariationalAutoencoder, data: Data, X: np.ndarray) -> np.ndarray:
    """Evidence lower bound of each row by one draw of its own, by lines that are not skvae's."""
    is_normal = isinstance(data.likelihood, SigmoidGaussianLikelihood)
    return lower_bounds(
        X,
        estimator.posterior_moments(X),
        (lambda z: _normal(estimator, z)) if is_normal else estimator.inverse_transform,
        likelihood="normal" if is_normal else "bernoulli",
    )


@torch.no_grad()
def _normal(estimator: VariationalAutoencoder, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of pixels."""
    model = estimator.model_
    given = torch.from_numpy(z).to(next(model.parameters()))
    head, params, _ = model.generative(Batch(given), given.unsqueeze(0)).observation
    variance = head.noise_variance(params)
    mean = head.from_expectation(head.expectation(params))
    return mean[0].cpu().numpy(), variance.expand_as(mean)[0].cpu().numpy()


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean of a - b over the rows that both were judged on, and its standard error."""
    apart = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))
