"""
Digits: PCA, factor analysis and a variational autoencoder by held-out likelihood
==================================================================================

Which model describes handwritten digits best, given the same number of latent variables? All
three assign a density to an image, so all three can be asked for the same number: the mean
log-likelihood of images that they have not seen, in nats per image.

The images are those of :func:`sklearn.datasets.load_digits`, 8 × 8 pixels with values from 0 to 16.
"""

# %%
# The data
# --------
# Pixels are integers, and a *density* of integers is a trap: a model can put a narrow peak on each
# whole number, or an infinitely narrow one on a pixel that is 0 in every training image, and its
# log-likelihood then grows without bound and says nothing about the model. The remedy is to spread
# each integer over its unit interval by adding noise from U[0, 1). The expected log-density of the
# jittered image is then a lower bound on the log-probability of the integers, so the figures below
# mean something.

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.model_selection import train_test_split

from skvae import VariationalAutoencoder

X, digit = load_digits(return_X_y=True)
X = X + np.random.default_rng(0).uniform(size=X.shape)
X_train, X_test, _, digit_test = train_test_split(
    X, digit, test_size=0.25, stratify=digit, random_state=0
)

# %%
# Three models
# ------------
# PCA assumes the same noise variance in all pixels. Factor analysis has a noise variance for each
# pixel, and so has the variational autoencoder, whose mean is moreover a nonlinear function of the
# latent variables.
#
# To be a fair opponent factor analysis must have converged, and scikit-learn's defaults stop
# early on columns of unequal scale. It is therefore fitted to standardised columns with a small
# tolerance, and the logarithm of the scales (the Jacobian) is subtracted to return to the density
# of the original pixels. The other two need no such care.


def pca(n_components):
    """Log-likelihood of each test image under probabilistic PCA."""
    return PCA(n_components).fit(X_train).score_samples(X_test)


def factor_analysis(n_components):
    """Log-likelihood of each test image under a converged factor analysis."""
    scale = X_train.std(axis=0)
    model = FactorAnalysis(n_components, svd_method="lapack", tol=1e-6, max_iter=10_000)
    return model.fit(X_train / scale).score_samples(X_test / scale) - np.log(scale).sum()


vae = {}


def autoencoder(n_components):
    """Log-likelihood of each test image under a variational autoencoder with the defaults."""
    vae[n_components] = VariationalAutoencoder(n_components, random_state=0).fit(X_train)
    return vae[n_components].score_samples(X_test)


sizes = (2, 10)
methods = {
    "PCA": pca,
    "FactorAnalysis": factor_analysis,
    "VariationalAutoencoder": autoencoder,
}
scores, seconds = {}, {}
for name, method in methods.items():
    start = time.perf_counter()
    scores[name] = {k: method(k) for k in sizes}
    seconds[name] = time.perf_counter() - start

# %%
# The table
# ---------
# Higher is better, and a difference of 1 means that an image is on average e times as probable. The
# score of the autoencoder is an estimate that is a little too low rather than too high, so the
# comparison does not flatter it. The last line is the mean of the differences image by image, with
# its standard error over the test images.

print(f"Held-out log-likelihood of {len(X_test)} jittered digits, nats per image")
print()
print(f"{'':24}" + "".join(f"{f'{k} components':>16}" for k in sizes) + f"{'time':>10}")
for name, score in scores.items():
    print(
        f"{name:24}"
        + "".join(f"{score[k].mean():16.1f}" for k in sizes)
        + f"{seconds[name]:8.1f} s"
    )
gains = {k: scores["VariationalAutoencoder"][k] - scores["FactorAnalysis"][k] for k in sizes}
print(
    f"{'gain over FA':24}"
    + "".join(
        f"{f'{gain.mean():+.1f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.1f}':>16}"
        for gain in gains.values()
    )
)

# %%
# The picture
# -----------
# Left: ``transform`` of the test images, two numbers for each. Right: test images, what
# ``inverse_transform`` makes of their two or ten numbers, and new images from ``sample`` (their
# observation noise included, because it is a part of the model).

colors = [
    "#3f90da", "#ffa90e", "#94a4a2", "#bd1f01", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
]  # fmt: skip  # distinguishable under colour blindness (Petroff, 2021)


def show(ax, title, images):
    """Images side by side, ten to a row."""
    tiles = np.pad(images.reshape(-1, 10, 8, 8), ((0, 0), (0, 0), (0, 1), (0, 1)))
    ax.imshow(np.vstack([np.hstack(row) for row in tiles]), cmap="gray_r", vmin=0, vmax=17)
    ax.set_title(title, loc="left", fontsize=10)
    ax.set_axis_off()


fig = plt.figure(figsize=(10, 4.8), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=(1, 1))

ax = left.add_subplot()
Z = vae[2].transform(X_test)
for value in range(10):
    z = Z[digit_test == value]
    ax.scatter(*z.T, s=40, marker=f"${value}$", color=colors[value], linewidth=0.3)
ax.set_title("Test digits by two latent variables", loc="left", fontsize=10)
ax.set_axis_off()

one_of_each = X_test[[np.flatnonzero(digit_test == value)[0] for value in range(10)]]
axes = right.subplots(4, 1, height_ratios=(1, 1, 1, 3))
show(axes[0], "One test image of each digit", one_of_each)
for ax, k in zip(axes[1:3], sizes, strict=True):
    images = vae[k].inverse_transform(vae[k].transform(one_of_each))
    show(ax, f"The same, reconstructed from {k} numbers", images)
show(axes[3], "New images, drawn from 10 latent variables", vae[10].sample(30, random_state=0))

fig.savefig("skvae_digits.png", dpi=150)
print("\nThe picture is in skvae_digits.png.")
