"""Pictures of images completed: MNIST and Frey faces with 60 and 80 % hidden, and with a square.

The experiment of Rezende et al. (2014), appendix F. For each image stand what is given, what is to
be expected (`impute`), and draws of what might have been there: by importance resampling, and by a
Markov chain of 100 steps, corrected (Mattei and Frellsen, 2018). Trained for a few minutes of one
core (``--epochs``) on complete images; the images shown are test images. With the picture comes the
root mean squared error of the hidden pixels, beside that of the mean training image, over 200 test
images.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from _common import load_faces, load_images, markdown_table, parse, parser, write_results
from sklearn.exceptions import ConvergenceWarning

from skvae import VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood, GaussianLikelihood

N_IMAGES, N_JUDGED, N_DRAWS = 6, 200, 2


def hidden_pixels(shape: tuple[int, int], n_images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Masks (n_images, n_pixels) of what is hidden, by name."""
    rng = np.random.default_rng(seed)
    height, width = shape
    square = np.zeros(shape, dtype=bool)
    square[height // 4 : -(height // 4), width // 4 : -(width // 4)] = True
    n_pixels = height * width
    return {
        "60 %": rng.random((n_images, n_pixels)) < 0.6,
        "80 %": rng.random((n_images, n_pixels)) < 0.8,
        "a square": np.broadcast_to(square.ravel(), (n_images, n_pixels)),
    }


def complete(
    name: str,
    model: VariationalAutoencoder,
    train: np.ndarray,
    test: np.ndarray,
    shape: tuple[int, int],
    path: Path,
) -> list[dict[str, str]]:
    """Train, complete and draw; one row of the table for each way of hiding."""
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train)
    test = test[:N_JUDGED]
    rows = []
    hidden = hidden_pixels(shape, len(test))
    figure, axes = plt.subplots(
        N_IMAGES, 1 + len(hidden) * (2 + 2 * N_DRAWS), figsize=(15.0, 5.5), layout="constrained"
    )

    def show(column: int, images: np.ndarray, title: str) -> None:
        for axis, image in zip(axes[:, column], images, strict=True):
            shown = np.ma.masked_invalid(image.reshape(shape))
            axis.imshow(shown, cmap="gray", vmin=0, vmax=1).cmap.set_bad("lightsteelblue")
            axis.axis("off")
        axes[0, column].set_title(title, fontsize=7)

    show(0, test[:N_IMAGES], "image")
    for i, (how, missing) in enumerate(hidden.items()):
        given = np.where(missing, np.nan, test)
        expected, ess = model.impute(given, return_ess=True)
        errors = [
            float(np.sqrt(np.mean((filled - test)[missing] ** 2)))
            for filled in (expected, np.broadcast_to(train.mean(axis=0), test.shape))
        ]
        rows.append(
            {
                "images": name,
                "hidden": how,
                "error of impute": f"{errors[0]:.3f}",
                "of the mean image": f"{errors[1]:.3f}",
                "median effective draws": f"{np.median(ess):.0f} of {model.n_score_draws}",
            }
        )
        begin = 1 + i * (2 + 2 * N_DRAWS)
        show(begin, given[:N_IMAGES], f"{how}\nhidden")
        show(begin + 1, expected[:N_IMAGES], "impute")
        for m, method in enumerate(("importance", "metropolis_within_gibbs")):
            draws = model.sample_imputations(
                given[:N_IMAGES], N_DRAWS, method=method, n_steps=100, random_state=0
            )
            for j, draw in enumerate(draws):
                show(begin + 2 + m * N_DRAWS + j, draw, ("draw", "chain")[m])
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=40, help="epochs on MNIST (40)")
    args = parse(options)
    images = load_images(args)
    side = int(np.sqrt(images.train.shape[1]))
    n_epochs = 1 if args.smoke else args.epochs
    shared = {"n_score_draws": 1000, "early_stopping": False, "random_state": 0}
    model = VariationalAutoencoder(
        20,
        hidden_layer_sizes=(400,),
        likelihood=BernoulliLikelihood(soft=True),
        max_iter=n_epochs,
        learning_rate_init=1e-3,
        batch_size=200,
        **shared,
    )
    file = args.output / "imputation_images.png"
    rng = np.random.default_rng(0)
    test = images.test[rng.permutation(len(images.test))]
    rows = complete(images.name, model, images.train, test, (side, side), file)
    X = None if args.smoke else load_faces(args)
    if X is not None:
        X = rng.permutation(X)
        model = VariationalAutoencoder(
            10,
            hidden_layer_sizes=(200,),
            likelihood=GaussianLikelihood(noise="shared"),
            max_iter=5 * n_epochs,
            **shared,
        )
        n_train = len(X) - N_JUDGED
        file = args.output / "imputation_faces.png"
        rows += complete("Frey faces", model, X[:n_train], X[n_train:], (28, 20), file)
    text = "\n\n".join(["# Completed images", __doc__.strip(), markdown_table(rows)])
    write_results(args, "imputation_images", text=text, results={"rows": rows})


if __name__ == "__main__":
    main()
