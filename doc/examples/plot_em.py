"""
From expectation maximisation to auto-encoding variational Bayes
================================================================

Expectation maximisation fits models with latent variables by two steps in turn: find what is to be
believed of the latent variables (E), then fit the model as if that was known (M). Auto-encoding
variational Bayes takes a little of both steps at once. This page takes them apart again, on data
and a model for which everything can be computed exactly: a factor analysis of three columns with
two factors, as in the tutorial of Yang (2022).
"""

# %%
# What both maximise
# ------------------
# For any density q of the latent variables of a row,
#
# .. math::
#
#    \log p(x) = \underbrace{\mathbb{E}_q[\log p(x, z) - \log q(z)]}_{\text{bound}}
#    + \mathrm{KL}(q(z) \,\|\, p(z \mid x)),
#
# so the bound is below the log-likelihood by a divergence. The E-step of expectation maximisation
# sets q to the posterior p(z | x), and the divergence to zero: the log-likelihood stays, the bound
# rises to it. The M-step holds q and raises the bound in the parameters of the model; the
# log-likelihood rises by more, since the divergence, zero before, cannot but grow.
#
# Where the posterior has no closed form, an encoder gives q, and steps along the gradient of the
# bound take the place of both. ``fit_order="em"`` takes them in turn, ``fit_order="joint"`` at
# once.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import multivariate_normal

from skvae import VariationalAutoencoder
from skvae.solvers import Adam

rng = np.random.RandomState(42)
loadings = np.array([[-0.5, -1.0], [-1.0, -1.0], [2.0, 0.5]])
noise = np.array([0.4, 0.2, 0.3])
z = rng.normal(size=(2, 1000, 2))
X, X_test = (z[i] @ loadings.T + noise * rng.normal(size=(1000, 3)) for i in range(2))

# %%
# The model that is not deep
# --------------------------
# Without hidden layers the decoder is a matrix and the model is factor analysis. The encoder's mean
# is linear in the row, and its covariance, with ``posterior="full"``, is one matrix for all rows.
# The exact posterior is of this kind, so the divergence can vanish.


def model(fit_order, n_phase_epochs=1):
    return VariationalAutoencoder(
        2,
        hidden_layer_sizes=(),
        posterior="full",
        init="random",
        fit_order=fit_order,
        n_phase_epochs=n_phase_epochs,
        solver=Adam(warmup_steps=0),
        learning_rate_init=0.01,
        batch_size=32,
        random_state=0,
    )


def log_likelihood(model, X):
    """Exact mean log-likelihood of rows under a model whose decoder is linear."""
    centre, *ends = model.inverse_transform([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    W = np.transpose(ends - centre)
    covariance = W @ W.T + np.diag(model.noise_variance_)
    return multivariate_normal(centre, covariance).logpdf(X).mean()


def follow(fitted, n_epochs):
    """Log-likelihood and bound of the training rows after each epoch."""
    history = []
    for _ in range(n_epochs):
        fitted.partial_fit(X)
        history.append((log_likelihood(fitted, X), fitted.lower_bound(X).mean()))
    return np.array(history)


truth = multivariate_normal(np.zeros(3), loadings @ loadings.T + np.diag(noise**2))
best = multivariate_normal(X.mean(axis=0), np.cov(X.T, bias=True))
print(f"true model {truth.logpdf(X).mean():.4f}, best model {best.logpdf(X).mean():.4f}")
results = {}
for title, fitted, n_epochs in (
    ("in turn, 15 epochs each", model("em", 15), 60),
    ("in turn, 2 epochs each", model("em", 2), 80),
    ("at once", model("joint"), 60),
):
    results[title] = history = follow(fitted, n_epochs)
    evidence, bound = history[-1]
    print(f"{title}: log-likelihood {evidence:.4f}, bound {bound:.4f}")

# %%
# In turn, and at once
# --------------------
# E-phases are white, M-phases grey. In an E-phase the log-likelihood does not move and the bound
# rises to it; in an M-phase both rise, the log-likelihood by more, and a gap opens. Long phases
# show it best and waste most: what an M-phase can do with a posterior that it holds is soon done.
# With phases of two passes over the rows there are many small steps up, and at once, on the right,
# the gap stays small all the way and the maximum is reached first.

figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
for axis, (title, history) in zip(axes, results.items(), strict=True):
    epochs = np.arange(1, len(history) + 1)
    axis.axhline(best.logpdf(X).mean(), color="grey", linestyle="--", linewidth=1, label="maximum")
    axis.fill_between(epochs, history[:, 1], history[:, 0], color="tab:orange", alpha=0.2)
    axis.plot(epochs, history[:, 0], color="tab:blue", label="log-likelihood, exact")
    axis.plot(epochs, history[:, 1], color="tab:orange", label="bound")
    axis.set(title=title, xlabel="epoch", ylim=(-5.7, -3.8))
for axis, length in ((axes[0], 15), (axes[1], 2)):
    for begin in range(length, int(axis.get_xlim()[1]), 2 * length):
        axis.axvspan(begin + 0.5, begin + length + 0.5, color="grey", alpha=0.12, linewidth=0)
axes[0].set_ylabel("nats per row")
axes[2].legend(loc="lower right")
plt.show()

# %%
# References
# ----------
# Yang, Z.-H. (2022). Training latent variable models with auto-encoding variational Bayes: a
# tutorial. arXiv:2208.07818.
#
# Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental,
# sparse, and other variants. Learning in Graphical Models.
