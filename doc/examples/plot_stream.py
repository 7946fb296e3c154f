"""
A stream whose columns drift
============================

Rows come in portions, and are gone when the next portion comes: a sensor, a log, a queue. On the
way the sensor is replaced by one that counts in other units, and its zero wanders. ``partial_fit``
trains for one pass over each portion. It keeps a running location and scale of the columns, and the
model moves with them.
"""

# %%
# Six columns that depend on two hidden variables in a curved way. Between portions 30 and 60 the
# units of all columns grow by a factor of 50 and the level rises with them; the shape stays.

import matplotlib.pyplot as plt
import numpy as np

from skvae import VariationalAutoencoder

N_PORTIONS, N_ROWS = 90, 500
FIRST, LAST = 30, 60


def units(i):
    return 50.0 ** np.clip((i - FIRST) / (LAST - FIRST), 0, 1)


def portion(i, seed=0):
    rng = np.random.default_rng((seed, i))
    z = rng.normal(size=(N_ROWS, 2))
    shape = np.column_stack([z, z.prod(axis=1), z**2, np.sin(2 * z[:, 0])])
    rows = shape + 0.2 * rng.normal(size=shape.shape)
    return units(i) * (rows + 3.0)


# %%
# A model that goes on learning, and one that is fitted to the first portions and stays as it is.
# Both are judged on each portion before they see it, in nats per row. The units have a share in the
# density of a row, the same for all models; it is taken out, so that what remains is how well a
# model knows the shape.

parameters = {
    "n_components": 2,
    "hidden_layer_sizes": (64,),
    "n_score_draws": 20,
    "random_state": 0,
}
online, stopped = [], []
stream = VariationalAutoencoder(batch_size=25, learning_rate_init=2e-3, **parameters)
early = VariationalAutoencoder(**parameters).fit(np.concatenate(list(map(portion, range(10)))))
for i in range(N_PORTIONS):
    rows = portion(i)
    share = rows.shape[1] * np.log(units(i))
    if i:
        online.append(stream.score(rows) + share)
    if i >= 10:
        stopped.append(early.score(rows) + share)
    stream.partial_fit(rows)

# %%
# What could be had at the end: a model fitted to the last portions at once, had they been kept.

recent = VariationalAutoencoder(**parameters)
recent.fit(np.concatenate(list(map(portion, range(N_PORTIONS - 10, N_PORTIONS)))))
best = recent.score(portion(N_PORTIONS, seed=1)) + 6 * np.log(50.0)

fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
ax.axvspan(FIRST, LAST, color="0.93", label="units and level change")
ax.plot(range(1, N_PORTIONS), online, label="partial_fit")
ax.plot(range(10, N_PORTIONS), stopped, "--", label="fitted to the first ten portions")
ax.axhline(best, color="0.3", lw=1, ls=":", label="fit of the last ten portions")
ax.set(
    xlabel="portion",
    ylabel="log-likelihood of the next portion,\nnats per row, in the first units",
    ylim=(min(online) - 4, best + 1),
)
ax.legend(loc="lower right")
plt.show()

# %%
# The model that stayed knows nothing of the new units: its scores leave the picture at once. The
# one that went on loses some nats while the units change, and gains them back.
