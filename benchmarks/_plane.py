"""Posteriors of models with two latent variables: the true ones on a grid, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from scipy.special import logsumexp

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patheffects import withStroke

# Grid of latent values on which true posteriors are computed, and a finer one
# around the mass of those that are drawn.
EXTENT, GRID_POINTS, POINTS_AT_ONCE = 5.0, 401, 20_000
PANEL_POINTS = 121
DRAWS_FOR_MOMENTS = 2000
REFINE_STEPS = 100


class Normals(NamedTuple):
    """Normal posteriors q of rows in the plane, and how far they are from the true ones.

    Attributes
    ----------
    mean, covariance : ndarray of shape (n_rows, 2) and (n_rows, 2, 2)
    divergence : ndarray of shape (n_rows,)
        KL(q(z | x) || p(z | x)) in nats: how far the evidence lower bound is below log p(x), which
        is found by quadrature on the grid.
    """

    mean: np.ndarray
    covariance: np.ndarray
    divergence: np.ndarray


class Shapes(NamedTuple):
    """Posteriors of rows under one model.

    Attributes
    ----------
    log_evidence : ndarray of shape (n_rows,)
        log p(x) by quadrature.
    recognized, best : Normals
        What the recognition model says, and the best of its family that is found from there.
    windows : list of (center, half width)
        Where in the plane to look.
    """

    model: Any
    log_evidence: np.ndarray
    recognized: Normals
    best: Normals
    windows: list[tuple[np.ndarray, float]]


def log_joint(model: Any, X: np.ndarray, z: np.ndarray) -> np.ndarray:
    """log p(x, z) of rows of zeros and ones at points z (n_points, 2), (n_rows, n_points)."""
    parts = []
    for some in np.array_split(z.astype(np.float32), max(1, len(z) // POINTS_AT_ONCE)):
        p = np.clip(model.inverse_transform(some).astype(np.float64), 1e-12, 1.0 - 1e-7)
        log_likelihood = X @ np.log(p / (1.0 - p)).T + np.log1p(-p).sum(axis=1)
        log_prior = -0.5 * np.square(some.astype(np.float64)).sum(axis=1) - np.log(2.0 * np.pi)
        parts.append(log_likelihood + log_prior)
    return np.concatenate(parts, axis=1)


def square(center: np.ndarray, half: float, n_points: int) -> tuple[np.ndarray, float]:
    """Points (n_points², 2) of a square grid, and the area of one of its cells."""
    axis = np.linspace(-half, half, n_points)
    z = np.stack(np.meshgrid(axis + center[0], axis + center[1]), axis=-1).reshape(-1, 2)
    return z, float((axis[1] - axis[0]) ** 2)


def normals(model: Any, X: np.ndarray, log_evidence: np.ndarray) -> Normals:
    """Posteriors as the estimator gives them."""
    draws = model.sample_posterior(X, DRAWS_FOR_MOMENTS, random_state=0).astype(np.float64)
    mean = draws.mean(axis=0)
    apart = draws - mean
    covariance = np.einsum("nri,nrj->rij", apart, apart) / len(draws)
    bound = model.set_params(n_score_draws=500).lower_bound(X)
    return Normals(mean, covariance, log_evidence - bound)


def shapes(model: Any, X: np.ndarray) -> Shapes:
    """Posteriors of rows, the true ones by quadrature on the grid."""
    z, area = square(np.zeros(2), EXTENT, GRID_POINTS)
    log_p = log_joint(model, X, z)
    log_evidence = logsumexp(log_p, axis=1) + np.log(area)
    recognized = normals(model.set_params(refine_steps=0), X, log_evidence)
    best = normals(model.set_params(refine_steps=REFINE_STEPS), X, log_evidence)
    model.set_params(refine_steps=0)
    # The smallest square around most of the mass of all three.
    windows = []
    for row in range(len(X)):
        points = [z[log_p[row] >= highest_density(log_p[row], 0.99)]]
        for q in (recognized, best):
            reach = 2.5 * np.sqrt(q.covariance[row].diagonal())
            points += [[q.mean[row] - reach, q.mean[row] + reach]]
        inside = np.concatenate(points)
        low, high = inside.min(axis=0), inside.max(axis=0)
        windows.append((0.5 * (low + high), 0.55 * float((high - low).max())))
    return Shapes(model, log_evidence, recognized, best, windows)


def highest_density(log_p: np.ndarray, share: float) -> float:
    """Log-density above which lies this share of a mass that is given on a grid."""
    order = np.sort(log_p)[::-1]
    mass = np.cumsum(np.exp(order - order[0]))
    return float(order[np.searchsorted(mass, share * mass[-1])])


def plot_shapes(rows: dict[str, Shapes], X: np.ndarray, chosen: np.ndarray, path: Path) -> None:
    """True posteriors (shaded) and those of the family (ellipses) of some digits."""
    side = round(X.shape[1] ** 0.5)
    height = len(rows) + 1
    figure, axes = plt.subplots(
        height, len(chosen), figsize=(1.8 * len(chosen), 1.9 * height), layout="constrained"
    )
    for column, row in enumerate(chosen):
        axes[0, column].imshow(X[row].reshape(side, side), cmap="Greys")
        axes[0, column].set_axis_off()
        for line, (name, shape) in enumerate(rows.items(), start=1):
            draw_posterior(axes[line, column], shape, X, row)
            if column == 0:
                axes[line, column].set_ylabel(name, fontsize=10)
    figure.suptitle(
        "Two latent variables: the true posterior (shaded: 50, 90 and 99 % of its mass), the\n"
        "recognition model's (red: 50 and 90 %), the best of its family for the digit (black),\n"
        "and the divergences of the two from the truth",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_posterior(axis: Any, shape: Shapes, X: np.ndarray, row: int) -> None:
    """One panel: a row's posteriors."""
    center, half = shape.windows[row]
    z, _ = square(center, half, PANEL_POINTS)
    log_p = log_joint(shape.model, X[row : row + 1], z)[0]
    x, y = (z[:, i].reshape(PANEL_POINTS, PANEL_POINTS) for i in (0, 1))
    levels = [highest_density(log_p, share) for share in (0.99, 0.9, 0.5)]
    density = log_p.reshape(PANEL_POINTS, PANEL_POINTS)
    levels.append(float(log_p.max()) + 1.0)
    axis.contourf(x, y, density, levels=levels, colors=["#deebf7", "#9ecae1", "#4292c6"])
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for q, color in ((shape.recognized, "tab:red"), (shape.best, "black")):
        root = np.linalg.cholesky(q.covariance[row])
        for share, style in ((0.5, "-"), (0.9, "--")):
            # Radius that holds this share of a standard normal distribution in the plane.
            radius = np.sqrt(-2.0 * np.log1p(-share))
            ellipse = q.mean[row] + radius * circle @ root.T
            axis.plot(*ellipse.T, color=color, linestyle=style, linewidth=1.1)
    axis.set_xlim(center[0] - half, center[0] + half)
    axis.set_ylim(center[1] - half, center[1] + half)
    axis.set_aspect("equal")
    axis.locator_params(nbins=3)
    axis.tick_params(labelsize=7)
    given, best = shape.recognized.divergence[row], shape.best.divergence[row]
    axis.set_title(f"{given:.2f}, {max(best, 0.0):.2f} nats", fontsize=8, pad=2)


def plot_embedding(models: dict[str, Any], X: np.ndarray, labels: Any, path: Path) -> None:
    """Posterior means of test digits in the plane, by class."""
    figure, axes = plt.subplots(
        1, len(models), figsize=(4.4 * len(models), 5.0), layout="constrained", squeeze=False
    )
    for axis, (name, model) in zip(axes[0], models.items(), strict=True):
        z = model.transform(X)
        for digit in np.unique(labels):
            mine = labels == digit
            color = plt.get_cmap("tab10")(int(digit))
            size = 3 if len(z) > 2000 else 12
            axis.scatter(*z[mine].T, s=size, color=color, alpha=0.5, linewidths=0)
            center = np.median(z[mine], axis=0)
            text = axis.text(*center, str(digit), fontsize=15, weight="bold", color=color)
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        axis.set_title(f"{name} posterior", fontsize=10)
        axis.set_aspect("equal")
        axis.grid(alpha=0.3)
        axis.set_xlabel("first latent variable")
    axes[0, 0].set_ylabel("second latent variable")
    figure.suptitle("Posterior means of test digits, trained without their classes", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
