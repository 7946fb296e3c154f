"""
Pixels that are missing
=======================

Images of digits of which most pixels are hidden, at random or a whole block of them, and what a
variational autoencoder says of the rest: what is to be expected (``impute``), and what might have
been there (``sample_imputations``). The first does not commit itself where it cannot know; the
second does, each time in another way.
"""

# %%
# Training on complete images
# ---------------------------
# Nothing has to be said about missing values beforehand: the model is trained on complete images,
# in intensities between 0 and 1, and asked about images of which only a part is given. (It may as
# well be trained on images with holes; every method accepts NaN.)

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from skvae import VariationalAutoencoder
from skvae.likelihoods import GaussianLikelihood

X, y = load_digits(return_X_y=True)
X_train, X_test, _, y_test = train_test_split(X / 16.0, y, random_state=0)
vae = VariationalAutoencoder(
    8,
    hidden_layer_sizes=(128,),
    likelihood=GaussianLikelihood(noise="shared"),
    max_iter=60,
    n_score_draws=1000,
    random_state=0,
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)  # sixty epochs will do for a picture
    vae.fit(X_train)

# %%
# Three ways to hide
# ------------------
# 60 and 80 per cent of the pixels at random, and a square of 5 by 5 pixels in the middle. One image
# of each of six digits.

rng = np.random.default_rng(0)
images = X_test[[int(np.flatnonzero(y_test == digit)[0]) for digit in (0, 2, 3, 5, 7, 8)]]
square = np.zeros((8, 8), dtype=bool)
square[2:7, 2:7] = True
hidden = {
    "60 %": rng.random(images.shape) < 0.6,
    "80 %": rng.random(images.shape) < 0.8,
    "a square": np.broadcast_to(square.ravel(), images.shape),
}

n_draws = 3
figure, axes = plt.subplots(
    len(images), len(hidden) * (n_draws + 2) + 1, figsize=(12.0, 5.0), layout="constrained"
)
for axis in axes.flat:
    axis.axis("off")


def show(column, rows, title):
    """Images, one below the other; what is missing is left out."""
    for axis, row in zip(axes[:, column], rows, strict=True):
        axis.imshow(
            np.ma.masked_invalid(row.reshape(8, 8)), cmap="gray_r", vmin=0, vmax=1
        ).cmap.set_bad("lightsteelblue")
    axes[0, column].set_title(title, fontsize=8)


show(0, images, "image")
for i, (name, missing) in enumerate(hidden.items()):
    given = np.where(missing, np.nan, images)
    expected = vae.impute(given)
    begin = 1 + i * (n_draws + 2)
    show(begin, given, f"{name}\nhidden")
    show(begin + 1, expected, "impute")
    draws = vae.sample_imputations(given, n_draws, random_state=0)
    for j, draw in enumerate(draws):
        show(begin + 2 + j, draw, f"draw {j + 1}")
    error = np.sqrt(np.mean((expected - images)[missing] ** 2))
    mean = np.sqrt(np.mean((X_train.mean(0) - images)[missing] ** 2))
    print(f"{name}: error of impute {error:.3f}, of the mean image {mean:.3f}")
plt.show()
