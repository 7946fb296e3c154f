"""Hamiltonian Monte Carlo: draws of z from a density that is known up to a constant.

All rows and chains move at once; each row, and each chain of it, is accepted or not by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

# Log-density of points z (n_chains, n_rows, *latent_shape), up to a constant: (n_chains, n_rows).
LogTarget = Callable[[Tensor], Tensor]

# Step sizes, in standard deviations of the metric.
MIN_STEP_SIZE, MAX_STEP_SIZE = 1e-6, 1e3
# By how much, up and down, the step size of a move differs from the one that is given: a length
# that resonates with the target (half a turn, a whole one) would bring chains back to where they
# came from.
JITTER = 0.3
# At which a gradient moves furthest in many dimensions (Beskos et al., 2013, Bernoulli 19).
TARGET_ACCEPTANCE = 0.65
# Changes of the log step size, for an acceptance that is off by 1, at the first move of a pilot
# and where it has settled; and what a move counts for, there, in their average.
FIRST_RATE, LAST_RATE = 1.0, 0.15
LAST_SHARE = 0.05


class Point(NamedTuple):
    """Where chains are, with what the next trajectory begins with.

    Attributes
    ----------
    z : Tensor of shape (n_chains, n_rows, *latent_shape)
    log_prob : Tensor of shape (n_chains, n_rows)
        Log-density of the target, in nats, up to a constant.
    gradient : Tensor of shape (n_chains, n_rows, *latent_shape)
        Of `log_prob` in z.
    """

    z: Tensor
    log_prob: Tensor
    gradient: Tensor


# A point that carries more: named tuples whose first three fields are those of `Point`, and whose
# further ones are tensors (n_chains, n_rows, ...).
AnyPoint = TypeVar("AnyPoint", bound=tuple)
Evaluate = Callable[[Tensor], AnyPoint]


def differentiated(log_target: LogTarget) -> Callable[[Tensor], Point]:
    """Map from z to the target and its gradient there, by automatic differentiation."""

    def evaluate(z: Tensor) -> Point:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_prob = log_target(z)
            (gradient,) = torch.autograd.grad(log_prob.sum(), z)
        return Point(z.detach(), log_prob.detach(), gradient)

    return evaluate


def leapfrog(
    evaluate: Evaluate[AnyPoint],
    point: AnyPoint,
    momentum: Tensor,
    step_size: Tensor,
    scale: Tensor,
    n_leapfrog: int,
) -> tuple[AnyPoint, Tensor]:
    """Follow a trajectory of the Hamiltonian ``momentum**2 / 2 - log_prob``.

    Volume is preserved, and from where it ends, with the momentum turned round, the trajectory
    leads back.

    Parameters
    ----------
    evaluate : callable
        As `differentiated` makes it.
    point : Point
    momentum : Tensor of shape (n_chains, n_rows, *latent_shape)
        In units in which z has been divided by `scale`.
    step_size : Tensor, broadcast against z
    scale : Tensor, broadcast against z
    n_leapfrog : int

    Returns
    -------
    point : Point
    momentum : Tensor of shape (n_chains, n_rows, *latent_shape)
    """
    kick = step_size * scale
    momentum = momentum + 0.5 * kick * point[2]
    for i in range(n_leapfrog):
        point = evaluate(point[0] + kick * momentum)
        momentum = momentum + (1.0 if i < n_leapfrog - 1 else 0.5) * kick * point[2]
    return point, momentum


def hmc_move(
    evaluate: Evaluate[AnyPoint],
    point: AnyPoint,
    step_size: Tensor,
    scale: Tensor,
    n_leapfrog: int,
    generator: torch.Generator,
) -> tuple[AnyPoint, Tensor]:
    """Move chains by a trajectory each, which is accepted or not; the target stays invariant.

    Parameters
    ----------
    evaluate : callable
        Map from z to a `Point`, such as `differentiated` makes of a log-density.
    point : Point
        Where the chains are, as `evaluate` says.
    step_size : Tensor of shape (n_rows,) or (n_chains, n_rows)
        In units of `scale`. For the target to be invariant it must not depend on where the chains
        have been: see `StepSizePilot`.
    scale : Tensor of shape (n_rows, *latent_shape), or broadcast against it
        Standard deviations of the target, about.
    n_leapfrog : int
        Steps of a trajectory, each with one gradient.
    generator : torch.Generator
        Where z is.

    Returns
    -------
    point : Point
        As before where the trajectory was not accepted, which one is that comes to where the target
        is not finite.
    acceptance : Tensor of shape (n_chains, n_rows)
        Probability with which each trajectory was accepted.

    References
    ----------
    Neal, R. M. (2011). MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo.
    """
    z, before = point[0], point[1]
    latent_axes = tuple(range(2, z.ndim))
    momentum = torch.empty_like(z).normal_(generator=generator)
    # Drawn regardless of where the chain is, so that the target stays invariant.
    length = torch.empty_like(before).uniform_(generator=generator)
    step_size = step_size * (1.0 + JITTER * (2.0 * length - 1.0))
    step_size = step_size.reshape(*step_size.shape, *[1] * len(latent_axes))
    end, at_end = leapfrog(evaluate, point, momentum, step_size, scale, n_leapfrog)
    kinetic = 0.5 * (momentum.square() - at_end.square()).sum(latent_axes)
    # Chains that begin where there is no density, or none that is a number, leave at once.
    before = torch.where(torch.isfinite(before), before, torch.full_like(before, -torch.inf))
    log_ratio = end[1] - before + kinetic
    possible = torch.isfinite(end[1]) & ~torch.isnan(log_ratio)
    log_ratio = torch.where(possible, log_ratio, torch.full_like(log_ratio, -torch.inf))
    uniform = torch.empty_like(log_ratio).uniform_(generator=generator)
    accepted = torch.log(uniform) < log_ratio
    moved = [
        torch.where(accepted.view(*accepted.shape, *[1] * (new.ndim - 2)), new, old)
        for new, old in zip(end, point, strict=True)
    ]
    return type(point)(*moved), torch.exp(log_ratio.clamp(max=0.0))


class StepSizePilot:
    """Step size of each row, adapted until moves are accepted as often as they should be.

    Adaptation breaks the invariance of the target: adapt with chains of their own (a pilot), and
    move with the step sizes that they end with.

    Parameters
    ----------
    like : Tensor of shape (n_rows,)
        Where step sizes are and what; values of no account.
    target : float, default=0.65
        Acceptance that is sought, between 0 and 1.

    Attributes
    ----------
    step_size : Tensor of shape (n_rows,)
        For the next move of the pilot.
    settled : Tensor of shape (n_rows,)
        For moves of other chains: an average of the recent ones, which scatter.
    """

    def __init__(self, like: Tensor, target: float = TARGET_ACCEPTANCE) -> None:
        self.step_size = torch.full_like(like, 0.5)
        self.settled = self.step_size
        self.target = target
        self._n_moves = 0

    def adapt(self, acceptance: Tensor) -> None:
        """Take note of the acceptance (n_chains, n_rows) of a move with the present step sizes."""
        self._n_moves += 1
        rate = max(FIRST_RATE / self._n_moves**0.5, LAST_RATE)
        grown = self.step_size * torch.exp(rate * (acceptance.mean(0) - self.target))
        self.step_size = grown.clamp(MIN_STEP_SIZE, MAX_STEP_SIZE)
        share = max(self._n_moves**-0.75, LAST_SHARE)
        self.settled = self.settled.pow(1.0 - share) * self.step_size.pow(share)


def hmc_chains(
    evaluate: Evaluate[AnyPoint],
    point: AnyPoint,
    scale: Tensor,
    *,
    n_pilot: int,
    n_leapfrog: int,
    generator: torch.Generator,
    target: float = TARGET_ACCEPTANCE,
) -> tuple[AnyPoint, Tensor]:
    """Bring chains to a target: moves that adapt their step sizes while they go there.

    Parameters
    ----------
    evaluate, point, scale, n_leapfrog, generator
        As for `hmc_move`.
    n_pilot : int
        Number of moves.
    target : float, default=0.65
        Acceptance that is sought; Kingma and Welling (2014) have about 0.9.

    Returns
    -------
    point : Point
        Where the chains have come to.
    step_size : Tensor of shape (n_rows,)
        For the moves from there on.
    """
    pilot = StepSizePilot(point[1][0], target)
    for _ in range(n_pilot):
        point, acceptance = hmc_move(evaluate, point, pilot.step_size, scale, n_leapfrog, generator)
        pilot.adapt(acceptance)
    return point, pilot.settled
