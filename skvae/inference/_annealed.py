"""Annealed importance sampling: many small steps from a density that is known to the posterior.

Forward it bounds the log-likelihood from below; backward, from a draw of the true posterior, which
there is for rows that the model itself has simulated, from above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skvae._core._batch import Batch, NoiseSpec, draw_noise
from skvae.inference._hmc import Evaluate, StepSizePilot, hmc_move
from skvae.inference._importance import Infer
from skvae.models._base import LatentVariableModel
from skvae.posteriors._base import PosteriorDistribution

# Steepness of the schedule: densities are closest together at both ends.
STEEPNESS = 4.0
# Chains of the pilot that finds step sizes, moves before it sets out, temperatures that it goes
# through at most, and moves that it makes at least.
PILOT_CHAINS, PILOT_START, MAX_PILOT_TEMPERATURES, MIN_PILOT_MOVES = 4, 20, 100, 60
# Moves by which chains that start at the same draw of the posterior part, before they go back.
PARTING_MOVES = 20
# For the same number of gradients more temperatures do better than longer trajectories.
N_LEAPFROG = 3


def sigmoid_schedule(n_steps: int) -> list[float]:
    """Inverse temperatures from 0 to 1, ``n_steps + 1`` of them, densest at both ends.

    References
    ----------
    Wu, Y., Burda, Y., Salakhutdinov, R. and Grosse, R. (2017). On the quantitative analysis of
    decoder-based generative models. ICLR.
    """
    ends = 1.0 / (1.0 + math.exp(STEEPNESS)), 1.0 / (1.0 + math.exp(-STEEPNESS))
    raw = [
        1.0 / (1.0 + math.exp(STEEPNESS * (1.0 - 2.0 * t / n_steps))) for t in range(n_steps + 1)
    ]
    inner = [(value - ends[0]) / (ends[1] - ends[0]) for value in raw[1:-1]]
    return [0.0, *inner, 1.0]


class PathPoint(NamedTuple):
    """A `Point` on the path, with both of its ends, of which every density of it is made.

    Attributes
    ----------
    z, log_prob, gradient : Tensor
        As of `Point`.
    start, end : Tensor of shape (n_chains, n_rows)
        Log-densities of z at the beginning of the path and, log p(x, z), at its end.
    start_gradient, end_gradient : Tensor of shape (n_chains, n_rows, *latent_shape)
    """

    z: Tensor
    log_prob: Tensor
    gradient: Tensor
    start: Tensor
    end: Tensor
    start_gradient: Tensor
    end_gradient: Tensor

    def at(self, temperature: float) -> PathPoint:
        """The same z, with the density at another inverse temperature."""
        if temperature == 1.0:  # where the start may be -inf, 0 times it is not 0
            return self._replace(log_prob=self.end, gradient=self.end_gradient)
        return self._replace(
            log_prob=(1.0 - temperature) * self.start + temperature * self.end,
            gradient=(1.0 - temperature) * self.start_gradient + temperature * self.end_gradient,
        )

    @property
    def log_ratio(self) -> Tensor:
        """By how much the log-density grows with the inverse temperature, in float64."""
        return self.end.double() - self.start.double()


class AnnealedImportanceSampling:
    r"""The path from an initial density to p(x, z) of some rows, and the moves along it.

    The densities are :math:`\pi_\beta \propto q_0^{1 - \beta}\, p(x, z)^\beta`. At each inverse
    temperature every chain makes one move of Hamiltonian Monte Carlo. Its step sizes are found by
    chains of a pilot, at construction, and held; its metric has the standard deviations that are
    expected on the way, of which those at the end are the posterior's as the encoder says.

    Parameters
    ----------
    model : LatentVariableModel
    batch : Batch
        Rows as given.
    generator : torch.Generator
        Where the model is. Source of all draws.
    temperatures : sequence of float
        Inverse temperatures, rising from 0 to 1. If the last is below 1 the path ends there, and
        `forward` estimates the integral of the density there.
    n_leapfrog : int, default=3
        Steps of each trajectory.
    start : {"posterior", "prior"}, default="posterior"
        Whether the path begins at q(z | x) or at p(z).
    infer : callable or None, default=None
        The posterior of a batch, in place of the model's own.

    Raises
    ------
    ValueError
        If the log-density of the posterior, or the joint one, has no gradient in z.

    References
    ----------
    Neal, R. M. (2001). Annealed importance sampling. Statistics and Computing 11.

    Grosse, R. B., Ghahramani, Z. and Adams, R. P. (2015). Sandwiching the marginal likelihood using
    bidirectional Monte Carlo. arXiv:1511.02543.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        batch: Batch,
        generator: torch.Generator,
        temperatures: Sequence[float],
        *,
        n_leapfrog: int = N_LEAPFROG,
        start: str = "posterior",
        infer: Infer | None = None,
    ) -> None:
        self.model = model
        self.generator = generator
        self.temperatures = list(temperatures)
        self.n_leapfrog = n_leapfrog
        self.n_rows = len(batch.x)
        with torch.no_grad():
            self.batch = model.observe(batch, self._noise(model.noise_spec(1)))
            q = model.posterior(self.batch) if infer is None else infer(self.batch)
            self.q: PosteriorDistribution | None = q if start == "posterior" else None
            pilot = self._draw_start(PILOT_CHAINS)
            at_end = _positive(q.variance)
            at_start = at_end if self.q is not None else _positive(_pooled_variance(pilot))
        self._precisions = at_start.reciprocal(), at_end.reciprocal()
        self._check_gradients(pilot)
        # Of the move at each of the temperatures between the ends.
        self.step_sizes = self._find_step_sizes(pilot)

    def forward(self, n_chains: int) -> Tensor:
        """Log weights of chains from the start to the end, (n_chains, n_rows), in nats.

        Independent; their exponentials are unbiased for p(x).
        """
        point = self._evaluate(0.0)(self._draw_start(n_chains))
        log_weight = torch.zeros_like(point.log_ratio)
        for i, gain in enumerate(self._gains()):
            if i:
                point = self._move(point, i)
            log_weight = log_weight + gain * point.log_ratio
        return log_weight

    def reverse(self, z: Tensor, n_chains: int) -> Tensor:
        """Log weights of chains from the end to the start, (n_chains, n_rows), in nats.

        The exponentials of *minus* these are unbiased for 1 / p(x).

        Parameters
        ----------
        z : Tensor of shape (1, n_rows, *latent_shape)
            A draw of the exact posterior of each row, at which all of its chains start. Some moves
            at the end of the path, which keep them draws of the posterior, make them less alike.
        n_chains : int
        """
        point = self._evaluate(1.0)(z.expand(n_chains, *z.shape[1:]))
        for _ in range(PARTING_MOVES if len(self.step_sizes) else 0):
            point, _ = self._trial(point, 1.0, self.step_sizes[-1])
        log_weight = torch.zeros_like(point.log_ratio)
        for i, gain in reversed(list(enumerate(self._gains()))):
            log_weight = log_weight + gain * point.log_ratio
            if i:
                point = self._move(point, i)
        return log_weight

    # -- the path -----------------------------------------------------------------------------

    def _gains(self) -> list[float]:
        """Steps of the inverse temperature; all but the first follow a move where they begin."""
        pairs = zip(self.temperatures[:-1], self.temperatures[1:], strict=True)
        return [after - before for before, after in pairs]

    def _ends(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities of z at both ends of the path."""
        prior, observation = self.model.generative(self.batch, z)
        log_prior = prior.log_prob(z)
        end = log_prior + observation.log_prob(self.batch.x, self.batch.mask)
        return (log_prior if self.q is None else self.q.log_prob(z)), end

    def _evaluate(self, temperature: float) -> Evaluate[PathPoint]:
        """Map from z to a point at an inverse temperature."""

        def evaluate(z: Tensor) -> PathPoint:
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                start, end = self._ends(z)
                (start_gradient,) = torch.autograd.grad(start.sum(), z, retain_graph=True)
                (end_gradient,) = torch.autograd.grad(end.sum(), z)
            start, end = start.detach(), end.detach()
            point = PathPoint(
                z.detach(), end, end_gradient, start, end, start_gradient, end_gradient
            )
            return point.at(temperature)

        return evaluate

    def _scale(self, temperature: float) -> Tensor:
        """Standard deviations that are expected at an inverse temperature."""
        at_start, at_end = self._precisions
        return torch.rsqrt((1.0 - temperature) * at_start + temperature * at_end)

    def _move(self, point: PathPoint, i: int) -> PathPoint:
        """Points after a move that leaves the density at the i-th inverse temperature invariant."""
        return self._trial(point, self.temperatures[i], self.step_sizes[i - 1])[0]

    def _trial(
        self, point: PathPoint, temperature: float, step_size: Tensor
    ) -> tuple[PathPoint, Tensor]:
        return hmc_move(
            self._evaluate(temperature),
            point.at(temperature),
            step_size,
            self._scale(temperature),
            self.n_leapfrog,
            self.generator,
        )

    def _noise(self, specs: Mapping[str, NoiseSpec]) -> dict[str, Tensor]:
        """Noise of the rows, drawn where the model is."""
        like = next(self.model.parameters())
        return draw_noise(
            specs,
            self.n_rows,
            generator=self.generator,
            dtype=like.dtype,
            device=like.device,
        )

    def _draw_start(self, n_chains: int) -> Tensor:
        """Draws (n_chains, n_rows, *latent_shape) of the density at which the path begins."""
        if self.q is None:
            noise = self._noise(self.model.prior_noise_spec(n_chains))
            z = self.model.sample_prior(self.batch, noise)
        else:
            z = self.q.rsample(self._noise(self.model.noise_spec(n_chains)))
        return z.expand(n_chains, self.n_rows, *z.shape[2:])

    def _check_gradients(self, z: Tensor) -> None:
        """Refuse log-densities that do not tell where they rise."""
        with torch.enable_grad():
            z = z[:1].detach().requires_grad_()
            ends = self._ends(z)
            at_start, at_end = (
                density.requires_grad
                and torch.autograd.grad(density.sum(), z, retain_graph=True, allow_unused=True)[0]
                is not None
                for density in ends
            )
        if not at_end:
            raise ValueError(
                "method='annealed' follows the gradient of log p(x, z) in z, and there is none: "
                "the decoder, the likelihood or the prior cuts it off. Use method='importance'."
            )
        if not at_start:
            what = "p(z)" if self.q is None else "q(z | x)"
            other = "method='importance'" if self.q is None else "start='prior'"
            raise ValueError(
                f"start={'prior' if self.q is None else 'posterior'!r} needs the gradient of "
                f"log {what} in z, which its log_prob cuts off. Use {other}."
            )

    def _find_step_sizes(self, z: Tensor) -> Tensor:
        """Step size of each row at each inverse temperature between the ends, by a pilot."""
        inner = self.temperatures[1:-1]
        if not inner:
            return z.new_zeros(0, self.n_rows)
        point = self._evaluate(inner[0])(z)
        pilot = StepSizePilot(point.log_prob[0])
        for _ in range(PILOT_START):
            point, acceptance = self._trial(point, inner[0], pilot.step_size)
            pilot.adapt(acceptance)
        n_visited = min(len(inner), MAX_PILOT_TEMPERATURES)
        n_moves = math.ceil(MIN_PILOT_MOVES / n_visited)
        places = torch.linspace(0, len(inner) - 1, n_visited).round().long().tolist()
        found = []
        for place in places:
            for _ in range(n_moves):
                point, acceptance = self._trial(point, inner[place], pilot.step_size)
                pilot.adapt(acceptance)
            found.append(pilot.settled.log())
        return torch.exp(_interpolated(torch.stack(found), places, len(inner)))


def _interpolated(values: Tensor, places: Sequence[int], n: int) -> Tensor:
    """Values (n, ...) at 0 ... n - 1, linear between those (len(places), ...) at rising places."""
    at = torch.tensor(places, device=values.device)
    index = torch.arange(n, device=values.device)
    right = torch.searchsorted(at, index).clamp(max=len(places) - 1)
    left = (right - 1).clamp(min=0)
    width = (at[right] - at[left]).clamp(min=1)
    share = ((index - at[left]) / width).to(values).view(n, *[1] * (values.ndim - 1)).clamp(max=1.0)
    return torch.lerp(values[left], values[right], share)


def _pooled_variance(z: Tensor) -> Tensor:
    """Variance of each latent variable over draws and rows."""
    return z.flatten(0, 1).var(0) if z.shape[0] * z.shape[1] > 1 else torch.ones_like(z[0, 0])


def _positive(variance: Tensor) -> Tensor:
    """Variances that a metric can be made of."""
    finite = torch.nan_to_num(variance.detach(), nan=1.0, posinf=1.0)
    return finite.clamp(min=torch.finfo(variance.dtype).tiny ** 0.5)
