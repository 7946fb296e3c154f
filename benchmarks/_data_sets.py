"""Tables of many kinds, real and generated, on which defaults are chosen and judged."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
    make_moons,
    make_s_curve,
    make_swiss_roll,
)


@cache
def tables() -> dict[str, np.ndarray]:
    """Data sets by name, each of shape (n_rows, n_columns)."""
    rng = np.random.RandomState(0)
    digits = load_digits().data
    sets = {
        "breast cancer": load_breast_cancer().data,
        "wine": load_wine().data,
        "diabetes": load_diabetes().data,
        "iris": load_iris().data,
        # Constant columns have no likelihood.
        "digits": digits + rng.uniform(size=digits.shape),
    }
    loadings = rng.normal(size=(3, 12))
    for noise in (1.0, 1e-2, 1e-6):
        factors = rng.normal(size=(600, 3))
        sets[f"linear, noise {noise:g}"] = factors @ loadings + np.sqrt(noise) * rng.normal(
            size=(600, 12)
        )
    t = rng.uniform(-3, 3, (1500, 2))
    surface = np.tanh(t @ rng.normal(size=(2, 20))) @ rng.normal(size=(20, 20))
    sets["surface"] = surface + 0.1 * rng.normal(size=surface.shape)
    centres = rng.normal(scale=3.0, size=(5, 10))
    sets["mixture"] = centres[rng.randint(5, size=1000)] + rng.normal(size=(1000, 10))
    common = rng.standard_t(3, size=(1000, 2)) @ rng.normal(size=(2, 8))
    sets["heavy tails"] = common + rng.standard_t(3, size=common.shape)
    sets["s-curve"] = make_s_curve(1000, noise=0.1, random_state=0)[0]
    angle = rng.uniform(0.5, 3 * np.pi, 1000)
    spiral = np.column_stack([angle * np.cos(angle), angle * np.sin(angle), angle])
    sets["spiral"] = spiral + 0.3 * rng.normal(size=spiral.shape)
    sets["150 × 200"] = rng.normal(size=(150, 5)) @ rng.normal(size=(5, 200)) + rng.normal(
        size=(150, 200)
    )
    sets["20 rows"] = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 6)) + rng.normal(size=(20, 6))
    return sets


@cache
def more_tables() -> dict[str, np.ndarray]:
    """Further generated data sets, which no target was set for."""
    rng = np.random.RandomState(1)
    sets = {"swiss roll": make_swiss_roll(3000, noise=0.3, random_state=0)[0]}
    moons = make_moons(2000, noise=0.1, random_state=0)[0]
    sets["moons in 10-d"] = moons @ rng.normal(size=(2, 10)) + 0.1 * rng.normal(size=(2000, 10))
    sphere = rng.normal(size=(4000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    sets["sphere in 15-d"] = sphere @ rng.normal(size=(3, 15)) + 0.05 * rng.normal(size=(4000, 15))
    # Sums of effects that multiply, as of prices and concentrations.
    effects = rng.normal(size=(800, 3)) @ rng.normal(size=(3, 8))
    sets["log-normal"] = np.exp(0.5 * effects + 0.2 * rng.normal(size=effects.shape))
    t = np.linspace(0, 1, 30)
    phase, rate = rng.uniform(0, 2 * np.pi, (2000, 1)), rng.uniform(1, 3, (2000, 1))
    waves = np.sin(2 * np.pi * rate * t + phase)
    sets["waves"] = waves + 0.2 * rng.normal(size=waves.shape)
    main = rng.normal(size=(700, 4))
    products = np.column_stack([main, main[:, :2] * main[:, 2:], main**2])
    sets["interactions"] = products @ rng.normal(size=(10, 14)) + rng.normal(size=(700, 14))
    levels = np.exp(rng.normal(size=(1200, 2)) @ rng.normal(size=(2, 9)) * 0.4 + 1.0)
    sets["roots of counts"] = np.sqrt(rng.poisson(levels) + 3 / 8)
    regimes = rng.randint(2, size=(10_000, 1)) * rng.normal(size=(1, 20))
    sets["10,000 × 20"] = (
        regimes
        + np.sin(rng.normal(size=(10_000, 4)) @ rng.normal(size=(4, 20)))
        + 0.3 * rng.normal(size=(10_000, 20))
    )
    return sets


@cache
def images(folder: Path) -> dict[str, np.ndarray]:
    """Frey Face (jittered) and a part of MNIST (ones and zeros), from files in `folder`."""
    rng = np.random.RandomState(2)
    with np.load(folder / "frey_faces.npz") as file:
        frey = file[file.files[0]].reshape(-1, 560)
    with np.load(folder / "mnist.npz") as file:
        mnist = file["X_train"].reshape(-1, 784)[:6000]
    return {
        "Frey Face": frey + rng.uniform(size=frey.shape),
        "MNIST": (rng.uniform(size=mnist.shape) < mnist / 255).astype(np.uint8),
    }
