"""
How many components? Ask rows that were not seen
================================================

Two tables: one is linear in three factors, the other a curved surface with two dimensions. The
held-out log-likelihood rises steeply up to the right number, and hardly moves beyond it. The number
of components that a model *uses* says less.
"""

# %%
# Two tables
# ----------

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, delayed

from skvae import VariationalAutoencoder

rng = np.random.default_rng(0)
n_rows = 1200

factors = rng.normal(size=(n_rows, 3))
linear = factors @ rng.normal(size=(3, 12)) + rng.normal(size=(n_rows, 12))

position = rng.uniform(-1, 1, size=(n_rows, 2))
curved = np.tanh(position @ rng.normal(size=(2, 12))) @ rng.normal(size=(12, 12))
curved += 0.3 * rng.normal(size=curved.shape)

tables = {"linear in 3 factors": linear, "curved, 2 dimensions": curved}

# %%
# One fit for each number
# -----------------------
# Half of the rows are for training. With no components each column is modelled by itself, which is
# what any structure has to beat. A model needs no standardisation, and no other parameter is set.

numbers = [0, 1, 2, 3, 4, 6]
half = n_rows // 2


def fit(X, k):
    """Held-out score of each row, and what each component tells, in nats."""
    vae = VariationalAutoencoder(k, random_state=0).fit(X[:half])
    return vae.score_samples(X[half:]), np.sort(vae.kl_per_component_)[::-1]


jobs = [(name, k) for name in tables for k in numbers]
results = dict(zip(jobs, Parallel(2)(delayed(fit)(tables[n], k) for n, k in jobs), strict=True))

for name in tables:
    best = max(numbers, key=lambda k: results[name, k][0].mean())
    print(f"\n{name}")
    for k in numbers:
        scores, told = results[name, k]
        lost = results[name, best][0] - scores
        error = lost.std() / np.sqrt(len(lost))
        print(
            f"  {k} components: {scores.mean():7.2f} nats, {lost.mean():6.2f} ± {error:.2f} behind "
            f"the best, {np.sum(told > 0.01)} in use"
        )

# %%
# What the pictures say
# ---------------------
# On the left, scores rise up to the right number and are flat beyond it: there the differences are
# hundredths of a nat, so take the smallest number from which on they are. On the right, what each
# component of the largest model tells about a row. The surplus ones tell little, but more than
# nothing, so a count of the components in use would mislead.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, marker in zip(tables, "os", strict=True):
    means = np.array([results[name, k][0].mean() for k in numbers])
    left.plot(numbers, means - means.max(), marker=marker, label=name)
left.set(xlabel="components", ylabel="nats per row below the best", ylim=(-12, 1))
left.set_title("Held-out log-likelihood")
left.legend(loc="lower right")
width = 0.4
for i, name in enumerate(tables):
    told = results[name, numbers[-1]][1]
    right.bar(np.arange(1, len(told) + 1) + (i - 0.5) * width, told, width, label=name)
right.set(xlabel="component", ylabel="nats that it tells about a row")
right.set_title(f"A model with {numbers[-1]} components")
right.legend()
plt.show()
