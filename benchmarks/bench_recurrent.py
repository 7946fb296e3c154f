"""Does a recurrent model with latent variables beat the tutorial's bound on MNIST row by row?

Section "variational recurrent neural network" of Yang (2022): a digit is a sequence of its 28 rows,
thresholded; two latent variables for each row, two recurrent layers of 256, networks of 500-500,
Adam at 1e-3, batches of 100. There the draws of the latent variables passed no gradient on (its
code calls ``sample`` where ``rsample`` is meant), so that the posterior learned from the divergence
alone; here they do. Its test bounds after epochs 1 to 7: -93.02, -85.47, -81.23, -79.89, -79.20,
-78.29, -78.47 [seen].

--epochs passes, the last fifth of them at three tenths and then a tenth of the rate; --full: 10, as
many as the tutorial's most. A run that is cut goes on where it was when started again. For
comparison (--only), the same network without latent variables ("no latents").
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from _common import Images, load_images, markdown_table, parse, parser, write_results
from _schedule import check_names, short_schedule, train

from skvae import VariationalRNN

TUTORIAL = -78.29
NAMES = {"two latents": 2, "no latents": 0}


def rows_of(images: np.ndarray) -> np.ndarray:
    """Thresholded images as sequences of their rows."""
    width = round(images.shape[1] ** 0.5)
    return (images >= 0.5).astype(np.uint8).reshape(-1, width, width)


def make(name: str, args: argparse.Namespace) -> VariationalRNN:
    """The tutorial's architecture."""
    return VariationalRNN(
        NAMES[name],
        hidden_layer_sizes=(args.width, args.width),
        state_size=args.state_size,
        n_recurrent_layers=2,
        likelihood="bernoulli",
        batch_size=100,
        early_stopping=False,
        random_state=0,
    )


def run(name: str, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Train one model and judge it on the test images."""
    folder = Path(args.output) / "recurrent_checkpoints"
    checkpoint = folder / f"{images.name}, {args.epochs} epochs, {name}.skvae"
    model, minutes = train(
        lambda: make(name, args),
        rows_of(images.train),
        short_schedule(args.epochs, 1e-3),
        checkpoint,
        device=args.device,
        seconds_between=args.seconds_between,
    )
    test = rows_of(images.test)
    bounds = model.set_params(n_score_draws=args.draws).lower_bound(test)
    some = test[: args.scored]
    scores = model.score_samples(some)
    return {
        "name": name,
        "data": images.name,
        "epochs": model.n_iter_,
        "minutes": round(minutes, 1),
        "training_bounds": [round(b, 2) for b in model.lower_bounds_],
        "test_bound": float(bounds.mean(dtype=np.float64)),
        "standard_error": float(bounds.std() / len(bounds) ** 0.5),
        "score": float(scores.mean(dtype=np.float64)),
        "bound_of_scored": float(bounds[: args.scored].mean(dtype=np.float64)),
        "draws": args.draws,
        "divergence": np.round(model.kl_per_component_, 2).tolist(),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=6)
    options.add_argument("--full", action="store_true", help="10 epochs")
    options.add_argument("--draws", type=int, default=10, help="draws of each test image (10)")
    options.add_argument("--scored", type=int, default=1000, help="test images to score (1000)")
    options.add_argument("--only", nargs="+", help=f"some of {list(NAMES)}")
    options.add_argument("--seconds-between", type=float, default=1200.0, help="between savings")
    args = parse(options)
    check_names(options, args.only, set(NAMES))
    args.width, args.state_size = 500, 256
    if args.full:
        args.epochs = 10
    if args.smoke:
        args.epochs, args.width, args.state_size, args.draws, args.scored = 2, 20, 16, 5, 50
    images = load_images(args)
    results = [run(name, images, args) for name in args.only or NAMES]
    table = markdown_table(
        [
            {
                f"{r['data']}, row by row": r["name"],
                "epochs": r["epochs"],
                "minutes": r["minutes"],
                "test bound": f"{r['test_bound']:.2f} ({r['standard_error']:.2f})",
                f"score of {args.scored}, {args.draws} draws": f"{r['score']:.2f}",
                "bound of these": f"{r['bound_of_scored']:.2f}",
                "nats in z": f"{sum(r['divergence']):.2f}",
            }
            for r in results
        ]
    )
    text = f"""# A recurrent model of MNIST, row by row

{__doc__.split("--epochs")[0].strip()}

{table}

The tutorial's best test bound is {TUTORIAL} [seen]. In parentheses the standard error over images.
"""
    write_results(args, "recurrent", text=text, results={"cells": results})


if __name__ == "__main__":
    main()
