"""What do latent spaces learned by auto-encoding variational Bayes look like?

Figures 4 and 5 of Kingma and Welling (2014). Manifolds: two latent variables of MNIST and of the
Frey faces, at the points of a regular grid on the unit square that the inverse of the normal
distribution function carries to the plane, so that all cells are equally probable; shown is the
mean of p(x | z). Samples: z drawn from the prior, and the mean of p(x | z), by models of MNIST with
2, 5, 10 and 20 latent variables.

Networks of the paper (500 hidden tanh units for MNIST, 200 for the faces; Bernoulli pixels, and a
normal density around a sigmoid mean whose variance is a function of z), but with the initial
weights of skvae and trained by Adam, which make much more of a few passes: with weights of 0.01 one
of two latent variables takes several passes to be found. The rate is 2e-3, and a tenth of it for
the last fifth of the passes; models of two latent variables have three times as many of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from _aevb import Data, autoencoder, faces, mnist
from _common import markdown_table, parse, parser, write_results
from _curves import Fit, follow, forget
from matplotlib import pyplot as plt
from scipy.special import ndtri

from skvae import VariationalAutoencoder, load, save
from skvae.networks import MLP

matplotlib.use("Agg")

RATE = 2e-3
N_ON_A_SIDE = 15
SAMPLED_SIZES, N_SAMPLED = (2, 5, 10, 20), 10


def trained(
    data: Data, n_latent: int, n_passes: int, args: argparse.Namespace
) -> tuple[VariationalAutoencoder, float]:
    """The model after so many passes, and the processor time that it took, in minutes.

    A finished model is kept, as is an unfinished one.
    """
    name = f"aevb_pictures-{data.name}-{n_latent}-{n_passes}".replace(" ", "_")
    place = args.output / "unfinished" / name
    finished = place.with_suffix(".skvae")
    taken = finished.with_suffix(".minutes")
    if finished.exists():
        return load(finished).set_params(device=args.device), float(taken.read_text())
    network = MLP(hidden_layer_sizes=(data.n_hidden,), activation="tanh", linear_path=False)
    model = autoencoder(
        data,
        n_latent,
        "AEVB",
        0,
        device=args.device,
        encoder=network,
        decoder=network,
        solver="adam",
        learning_rate_init=RATE,
    )
    fit, begin = Fit(model, data.train), time.process_time()
    n_first = max(1, round(0.8 * n_passes))
    follow(fit, [n_first], dict, place)
    # The state of the solver goes on.
    fit.estimator.set_params(learning_rate_init=0.1 * RATE)
    if n_passes > n_first:
        fit.train(n_passes - n_first)
    minutes = (time.process_time() - begin) / 60
    taken.write_text(str(minutes))
    save(fit.estimator, finished)
    forget(place)
    return fit.estimator, minutes


def mosaic(images: np.ndarray, shape: tuple[int, int], n_columns: int) -> np.ndarray:
    """Images (n, n_pixels) side by side, row after row."""
    n_rows = len(images) // n_columns
    blocks = images[: n_rows * n_columns].reshape(n_rows, n_columns, *shape)
    return blocks.transpose(0, 2, 1, 3).reshape(n_rows * shape[0], n_columns * shape[1])


def equally_probable(n: int) -> np.ndarray:
    """Points (n * n, 2) of the plane: the middles of n × n cells of equal normal probability.

    Row after row, the second coordinate falling from row to row, as in a picture.
    """
    nodes = ndtri((np.arange(n) + 0.5) / n)
    first, second = np.meshgrid(nodes, nodes[::-1])
    return np.column_stack([first.ravel(), second.ravel()])


def show(axis: Any, picture: np.ndarray, title: str, *, inverted: bool) -> None:
    axis.imshow(picture, cmap="gray_r" if inverted else "gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=11)
    axis.set_axis_off()


def manifolds(models: Sequence[tuple[Data, VariationalAutoencoder]], path: Any) -> None:
    """Figure 4: a manifold of each data set."""
    n = N_ON_A_SIDE
    heights = [data.shape[0] / data.shape[1] for data, _ in models]
    figure, axes = plt.subplots(
        1,
        len(models),
        figsize=(15.5, 8.6),
        width_ratios=[1.0 / h for h in heights],
        layout="constrained",
    )
    for axis, (data, model) in zip(np.atleast_1d(axes), models, strict=True):
        images = model.inverse_transform(equally_probable(n)).clip(0.0, 1.0)
        is_binary = "MNIST" in data.name or "digits" in data.name
        show(axis, mosaic(images, data.shape, n), data.name, inverted=is_binary)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def samples(models: Sequence[tuple[Data, VariationalAutoencoder]], path: Any) -> None:
    """Figure 5: samples of models of one data set."""
    figure, axes = plt.subplots(1, len(models), figsize=(15.5, 4.2), layout="constrained")
    figure.get_layout_engine().set(wspace=0.05)
    for axis, (data, model) in zip(np.atleast_1d(axes), models, strict=True):
        k = model.n_components_
        z = np.random.default_rng(0).standard_normal((N_SAMPLED**2, k))
        picture = mosaic(model.inverse_transform(z), data.shape, N_SAMPLED)
        show(axis, picture, f"{k} latent variables", inverted=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--quick", action="store_true", help="8 passes over MNIST: 5 minutes of a core; the default"
    )
    options.add_argument("--full", action="store_true", help="trained to the end; for a GPU")
    options.add_argument("--passes", type=int, default=200, help="passes over MNIST (200)")
    args = parse(options)
    n_hidden, sizes = (500, 200), SAMPLED_SIZES
    if not args.full:
        args.passes = 8
    if args.smoke:
        args.passes, n_hidden, sizes = 3, (32, 32), (2, 5)
    digits = mnist(args, n_hidden=n_hidden[0], n_judged=1000, targets="binary")
    frey = faces(args, n_hidden=n_hidden[1])

    rows, fitted = [], {}
    # The faces are few, and their passes short.
    jobs = [(frey, 2, 60 * args.passes)]
    jobs += [(digits, k, args.passes * (3 if k == 2 else 1)) for k in sizes]
    for data, k, n_passes in jobs:
        model, minutes = trained(data, k, n_passes, args)
        fitted[data.name, k] = model
        row = {
            "model": f"{data.name}, {k} latent variables",
            "passes": model.n_iter_,
            "minutes": f"{minutes:.1f}",
            "test bound": f"{model.lower_bound(data.test).mean():.1f}",
        }
        rows.append(row)
        print(row, flush=True)
    both = [(data, fitted[data.name, 2]) for data in (digits, frey)]
    manifolds(both, args.output / "aevb_pictures.png")
    samples([(digits, fitted[digits.name, k]) for k in sizes], args.output / "aevb_samples.png")
    text = "\n\n".join(
        [
            "# Manifolds and samples of auto-encoding variational Bayes",
            __doc__.strip(),
            "![Manifolds](aevb_pictures.png)",
            "![Samples](aevb_samples.png)",
            markdown_table(rows),
            "Bounds are `lower_bound` of the test rows, in nats; of MNIST, binarised once.",
        ]
    )
    write_results(args, "aevb_pictures", text=text, results={"models": rows})


if __name__ == "__main__":
    main()
