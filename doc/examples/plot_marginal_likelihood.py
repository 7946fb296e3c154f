"""
How likely are the rows? Closing in on an exact value
=====================================================

The likelihood of a row is an integral over the latent variables, and in general there are only
estimates of it. With two latent variables it can be had on a grid. On this page the bound,
importance sampling, and annealed importance sampling from below and from above run against that
exact value.
"""

# %%
# A model that is known
# ---------------------
# Two detectors count what a source of radiation sends out, and its place in the plane is not known
# (:ref:`sphx_glr_auto_examples_plot_posteriors.py` tells more of it). The decoder is physics and
# not learned. Both detectors stand on the same side, so that the posterior of the place leans and
# is bent; an encoder with independent coordinates and little training is a poor match.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from sklearn.exceptions import ConvergenceWarning

from skvae import VariationalAutoencoder
from skvae.networks import Network
from skvae.networks._base import NetworkHead

DETECTORS = torch.tensor([[-2.6, -1.4], [-1.4, -2.6]])


def log_rate(place):
    """Logarithm of the expected counts of both detectors, for places (..., 2)."""
    distance = place.unsqueeze(-2) - DETECTORS.to(place)
    return np.log(400.0) - torch.log(1.0 + distance.square().sum(-1))


class InverseSquare(Network):
    """The decoder."""

    def build(self, n_inputs, n_outputs, *, n_location_outputs, dtype, generator):
        return InverseSquareHead()


class InverseSquareHead(NetworkHead):
    def forward(self, inputs, noise=None):
        return log_rate(inputs)

    def start_at(self, outputs):
        """Nothing can be set."""


rng = np.random.default_rng(0)
counts = rng.poisson(log_rate(torch.from_numpy(rng.normal(size=(1000, 2)))).exp().numpy())
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)  # on purpose: a poor encoder
    vae = VariationalAutoencoder(
        2, likelihood="poisson", decoder=InverseSquare(), max_iter=20, random_state=0
    ).fit(counts.astype(float))

# %%
# Brackets
# --------
# The rows are simulated from the model, so that annealed importance sampling can be run backwards
# too. They are the same for any number of steps.

STEPS = [1, 2, 4, 8, 16, 32, 64, 128]
brackets = [vae.bracket_log_likelihood(100, n_steps=n, random_state=0) for n in STEPS]
X = brackets[0][0]
print(brackets[-1][1])
print(brackets[-1][2])

# %%
# Importance sampling, and the exact value
# ----------------------------------------
# Few draws are asked for on purpose, and what is said about them is true: the values are lower than
# their error bars say.

DRAWS = [2, 8, 32, 128, 512, 2048, 8192]
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "In .* rows the effective sample size")
    samplings = [vae.log_likelihood(X, n_draws=n, random_state=0) for n in DRAWS]

side = np.linspace(-6.0, 6.0, 601)
grid = torch.from_numpy(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
log_rates = log_rate(grid).numpy()
log_prior = -0.5 * grid.square().sum(1).numpy() - np.log(2 * np.pi)
fixed = log_prior - np.exp(log_rates).sum(1) + 2 * np.log(side[1] - side[0])
exact = np.array([logsumexp(fixed + log_rates @ row) - gammaln(row + 1).sum() for row in X])
print(f"exact {exact.mean():.3f}, bound {vae.lower_bound(X).mean():.3f} nats")

# %%
# The picture
# -----------
# Against the number of evaluations of the decoder for each row (of annealed chains on their path,
# without what finds their step sizes). Bars are two standard errors of the
# mean over the rows; where draws are few they are too short, since what is missing is the weight
# that no draw has met. The bracket closes on the exact value from both sides.

figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
axis.axhline(0.0, color="black", linewidth=1.2, label="exact")
bound = vae.lower_bound(X).mean() - exact.mean()
axis.axhline(bound, color="0.5", linestyle="--", label="evidence lower bound")


def show(cost, answers, colour, marker, label):
    """One method: distance of its means from the exact one."""
    mean = [answer.mean - exact.mean() for answer in answers]
    error = [2 * answer.mean_standard_error for answer in answers]
    axis.errorbar(cost, mean, error, color=colour, marker=marker, capsize=3, label=label)


show(DRAWS, samplings, "tab:orange", "o", "importance sampling")
cost = [16 * 3 * n for n in STEPS]
show(cost, [b[1] for b in brackets], "tab:blue", "^", "annealed, forward: from below")
show(cost, [b[2] for b in brackets], "tab:red", "v", "annealed, backward: from above")
axis.fill_between(
    cost,
    [b[1].mean - exact.mean() for b in brackets],
    [b[2].mean - exact.mean() for b in brackets],
    color="tab:blue",
    alpha=0.12,
)
axis.set_xscale("log")
axis.set_yscale("symlog", linthresh=0.1)
axis.set(
    xlabel="evaluations of the decoder for each row", ylabel="mean minus the exact mean (nats)"
)
axis.legend(loc="upper left")
plt.show()
