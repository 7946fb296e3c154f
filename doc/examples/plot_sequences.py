"""
A swinging pendulum, filtered, continued and watched over
=========================================================

A pendulum swings with friction; what is recorded of it is where its end is, with noise. That it
moves on a circle, and by which law, a recurrent model with latent variables learns from recordings.
It then fills in what is missing in a recording, says how it goes on, and notices when someone
pushes.
"""

# %%
# Recordings
# ----------
# The law is not linear: the further the pendulum swings, the slower its period. Wind pushes it a
# little all the time, so that what comes is never certain.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import Ridge

from skvae import VariationalRNN

NOISE = 0.1


def swing(n, n_steps, seed, push_at=None):
    """Positions (n, n_steps, 2) of pendulums that start anywhere, with noise and without."""
    rng = np.random.default_rng(seed)
    angle, speed = rng.uniform(-2.5, 2.5, size=n), rng.normal(size=n)
    positions = []
    for step in range(n_steps):
        positions.append(np.stack([np.sin(angle), -np.cos(angle)], axis=1))
        if step == push_at:
            speed = speed + 3.0
        for _ in range(10):
            speed = speed + 0.03 * (-4.0 * np.sin(angle) - 0.1 * speed)
            speed = speed + 0.02 * rng.normal(size=n)
            angle = angle + 0.03 * speed
    truth = np.stack(positions, axis=1)
    return truth + NOISE * rng.normal(size=truth.shape), truth


X, _ = swing(400, 40, seed=0)
model = VariationalRNN(
    state_size=32, hidden_layer_sizes=(32,), learning_rate_init=1e-2, max_iter=60, random_state=0
).fit(X)

# %%
# What follows
# ------------
# Beside the model, a linear regression on the last ten positions of each recording. Both are asked
# for the next ten positions; the regression goes on with what it has said itself.

X_test, truth = swing(200, 40, seed=1)
n_given = 30
ahead = model.predict_next(X_test[:, :n_given], n_steps=10, random_state=0)

lagged = np.stack([X[:, i : i + 10] for i in range(30)], axis=1).reshape(-1, 20)
regression = Ridge().fit(lagged, X[:, 10:].reshape(-1, 2))
known = X_test[:, n_given - 10 : n_given].reshape(200, -1)
linear = []
for _ in range(10):
    linear.append(regression.predict(known))
    known = np.hstack([known[:, 2:], linear[-1]])
linear = np.stack(linear, axis=1)

for steps in (1, 5, 10):
    ours, other = (
        np.sqrt(np.mean((guess[:, steps - 1] - truth[:, n_given + steps - 1]) ** 2))
        for guess in (ahead, linear)
    )
    print(f"{steps:>2} steps ahead: off by {ours:.3f}, the regression by {other:.3f}")

# %%
# What is missing, and what is out of the ordinary
# ------------------------------------------------
# A recording with ten steps missing is filled in. Another pendulum is pushed after step 20:
# ``score_steps`` is the log-likelihood of each step given those before, and drops.

gap = X_test[2].copy()
gap[12:22] = np.nan
filled = model.impute([gap])[0]

pushed, _ = swing(1, 40, seed=3, push_at=20)
usual = model.score_steps(X_test)

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
steps = np.arange(40)
axes[0].plot(steps, truth[2, :, 0], color="0.7", lw=4, label="truth")
axes[0].plot(steps, gap[:, 0], "k.", label="recorded")
axes[0].plot(steps[11:23], filled[11:23, 0], color="tab:red", label="filled in")
axes[0].set(title="Ten steps are missing", xlabel="step", ylim=(-1.9, 1.3))
axes[0].set_ylabel("horizontal position")
axes[0].legend(loc="lower left", fontsize=8)

axes[1].plot(steps, truth[5, :, 0], color="0.7", lw=4, label="truth")
axes[1].plot(steps[:n_given], X_test[5, :n_given, 0], "k.", label="recorded")
axes[1].plot(steps[n_given:], ahead[5, :, 0], color="tab:red", label="expected")
axes[1].plot(steps[n_given:], linear[5, :, 0], color="tab:blue", ls="--", label="regression")
axes[1].set(title="What follows", xlabel="step", ylim=(-1.9, 1.3))
axes[1].legend(loc="lower left", fontsize=8)

low, high = np.quantile(usual, [0.01, 0.99], axis=0)
axes[2].fill_between(steps, low, high, color="0.85", label="98 % of recordings")
axes[2].plot(steps, model.score_steps(pushed)[0], "k.-", label="one that is pushed")
axes[2].axvline(20.5, color="tab:red", ls=":")
axes[2].set(title="Log-likelihood of each step", xlabel="step", ylabel="nats")
axes[2].legend(loc="lower left", fontsize=8)
plt.show()
