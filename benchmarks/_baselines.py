"""What auto-encoding variational Bayes was measured by: baselines of its paper, and of its time.

Wake-sleep and the score-function gradient are objectives, so that an estimator trains by them with
the same networks, solver, order of rows and prior on the weights::

    VariationalAutoencoder(objective=WakeSleep())

The value of their bounds is the evidence lower bound, their gradient is their own. Monte Carlo
expectation maximisation has no encoder and trains a model by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from skvae._core._batch import Batch, Clock, StepInputs, draw_noise
from skvae._core._sklearn import Interval
from skvae.engine import TrainingStep
from skvae.inference import differentiated, hmc_move
from skvae.inference._hmc import StepSizePilot
from skvae.models import LatentVariableModel
from skvae.objectives import SGVB, Objective
from skvae.objectives._base import Bound
from skvae.solvers import Solver
from skvae.solvers._base import LearningRate

POSITIVE_INTEGER = [Interval(Integral, 1, None, closed="left")]


class _OtherGradient(Bound):
    """Evidence lower bound of each row, with the gradient of something else in training."""

    def __init__(self, n_draws: int) -> None:
        self.n_draws = n_draws
        self._value = SGVB(n_draws=n_draws, kl="monte_carlo").build(1)

    def __call__(
        self,
        model: LatentVariableModel,
        batch: Batch,
        noise: Mapping[str, Tensor],
        clock: Clock | None = None,
    ) -> Tensor:
        if clock is None:
            return self._value(model, batch, noise)
        bound, surrogate = self.value_and_surrogate(model, model.observe(batch, noise), noise)
        return bound.detach() + (surrogate - surrogate.detach())

    def value_and_surrogate(
        self, model: LatentVariableModel, batch: Batch, noise: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Bound of each row of an observed batch, and what is differentiated in its place."""
        raise NotImplementedError


# -- wake-sleep ----------------------------------------------------------------------------------


class WakeSleep(Objective, shorthand="wake_sleep"):
    r"""Wake-sleep: the decoder learns from the encoder's draws, the encoder from simulated rows.

    Awake, z is drawn from q(z | x) of the rows and held, and the gradient is that of
    :math:`\log p(x, z)` in the parameters of the prior and the decoder. Asleep, z and x are drawn
    from the model and held, and the gradient is that of :math:`\log q(z \mid x)` in the parameters
    of the encoder. Both steps are taken at once. They are those of two functions and of no bound,
    but cost the same whether z is continuous or discrete.

    Each row has one simulated row beside it, missing what it misses. Draws come from a generator
    that is seeded by the noise of the step, so that the same `random_state` gives the same fit, and
    a fit that goes on is not told from one that was not interrupted. On a GPU it is read by the
    host, and steps are not recorded as a graph.

    Parameters
    ----------
    n_draws : int, default=1
        Draws of z for each row awake.

    References
    ----------
    Hinton, G. E., Dayan, P., Frey, B. J. and Neal, R. M. (1995). The "wake-sleep" algorithm for
    unsupervised neural networks. Science 268.

    Kingma, D. P. and Welling, M. (2014). Auto-encoding variational Bayes. ICLR. Section 5.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {"n_draws": POSITIVE_INTEGER}

    def __init__(self, *, n_draws: int = 1) -> None:
        self.n_draws = n_draws

    def build(self, n_steps: int) -> WakeSleepBound:
        """Bound; the length of the run does not matter to it."""
        self.check_parameters()
        return WakeSleepBound(int(self.n_draws))


class WakeSleepBound(_OtherGradient):
    """Evidence lower bound with the gradient of both phases."""

    is_replayable = False

    def value_and_surrogate(
        self, model: LatentVariableModel, batch: Batch, noise: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            z, log_q = model.posterior(batch).rsample_and_log_prob(noise)
            dreamt_z, dreamt = simulated(model, batch, _generator_from(noise))
        log_prior, log_likelihood = model.log_joint(batch, z)
        awake = log_prior + log_likelihood
        asleep = model.posterior(dreamt).log_prob(dreamt_z)
        return (awake - log_q).mean(0), awake.mean(0) + asleep.mean(0)


def simulated(
    model: LatentVariableModel, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, Batch]:
    """Draw of z and x from the model for each row of a batch, which it stands in the place of.

    Returns
    -------
    z : Tensor of shape (1, n_rows, *latent_shape)
    batch : Batch
        Rows as observed, with the mask, the weights and the noise of the given ones.
    """
    like = next(model.parameters())
    noise = draw_noise(
        model.prior_noise_spec(1),
        len(batch.x),
        generator=generator,
        dtype=like.dtype,
        device=like.device,
    )
    z = model.sample_prior(batch, noise)
    x = model.generative(batch, z).observation.sample(generator)[0]
    # What a linear model expects of z was computed from other rows.
    return z, batch._replace(x=x, factors=None)


def _generator_from(noise: Mapping[str, Tensor]) -> torch.Generator:
    """Generator that depends on the noise of the step and on nothing else."""
    first = next(iter(noise.values()))
    seed = hash(tuple(first.reshape(-1)[[0, -1]].tolist()))
    return torch.Generator(first.device).manual_seed(seed)


# -- the score function --------------------------------------------------------------------------


class ScoreFunction(Objective, shorthand="score_function"):
    r"""Evidence lower bound whose gradient in the encoder needs no derivative of p(x | z) in z.

    .. math::

        \mathrm{E}_{q(z|x)}\big[(\log p(x, z) - \log q(z \mid x) - b)
            \nabla \log q(z \mid x)\big]

    Its mean is that of the reparameterised gradient, and its variance grows with the number of
    latent variables. The baseline b is a running mean over steps of what it is subtracted from; at
    the first step (and where a fit goes on), the mean of the other rows.

    Parameters
    ----------
    n_draws : int, default=1
        Draws of z for each row and step.
    decay : float, default=0.9
        Share of the running mean that is kept from one step to the next.

    References
    ----------
    Paisley, J., Blei, D. and Jordan, M. (2012). Variational Bayesian inference with stochastic
    search. ICML.

    Mnih, A. and Gregor, K. (2014). Neural variational inference and learning in belief networks.
    ICML.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_draws": POSITIVE_INTEGER,
        "decay": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, *, n_draws: int = 1, decay: float = 0.9) -> None:
        self.n_draws = n_draws
        self.decay = decay

    def build(self, n_steps: int) -> ScoreFunctionBound:
        """Bound; the length of the run does not matter to it."""
        self.check_parameters()
        return ScoreFunctionBound(int(self.n_draws), float(self.decay))


class ScoreFunctionBound(_OtherGradient):
    """Evidence lower bound with the score-function gradient."""

    def __init__(self, n_draws: int, decay: float) -> None:
        super().__init__(n_draws)
        self.decay = decay
        # Models that train side by side have a baseline each.
        self._running: WeakKeyDictionary[LatentVariableModel, Tensor] = WeakKeyDictionary()

    def value_and_surrogate(
        self, model: LatentVariableModel, batch: Batch, noise: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        q = model.posterior(batch)
        z = q.rsample(noise).detach()
        log_q = q.log_prob(z)
        log_prior, log_likelihood = model.log_joint(batch, z)
        log_joint = log_prior + log_likelihood
        signal = (log_joint - log_q).detach()
        centred = signal - self._baseline(model, signal.mean(0), batch.weight)
        return signal.mean(0), (log_joint + centred * log_q).mean(0)

    def _baseline(
        self, model: LatentVariableModel, signal: Tensor, weight: Tensor | None
    ) -> Tensor:
        """What of the signal (n_rows,) was to be expected without it; the mean is then updated."""
        share = torch.ones_like(signal) if weight is None else weight.to(signal.dtype)
        share = share / share.sum()
        mean = torch.dot(share, signal)
        running = self._running.get(model)
        if running is None:
            self._running[model] = mean.clone()
            rest = 1.0 - share
            return torch.where(rest > 0.0, (mean - share * signal) / rest, 0.0)
        before = running.clone()
        running.mul_(self.decay).add_(mean, alpha=1.0 - self.decay)
        return before


# -- Monte Carlo expectation maximisation --------------------------------------------------------


class MonteCarloEM:
    """Training of p(x, z) without an encoder: posterior draws by Hamiltonian Monte Carlo.

    Each row has a chain of its own, which goes on from where it was when the row comes up again. A
    visit moves the chains of a batch once, and with where they are takes a few steps of the solver
    in what p(x, z) depends on.

    Parameters
    ----------
    model : LatentVariableModel
        Trained in place; its encoder stays as it is.
    rows : Tensor of shape (n_rows, n_columns)
        Complete rows, in the units of the head, on the device of the model.
    solver : Solver
    learning_rate : float
    alpha : float, default=0.0
        Precision of the normal prior on weight matrices.
    batch_size : int, default=100
    n_leapfrog : int, default=10
        Steps of a trajectory.
    n_updates : int, default=5
        Steps of the solver at each visit.
    acceptance : float, default=0.9
        Share of moves to be accepted, for which one step size is tuned all the time.
    generator : torch.Generator
        On the device of the model.

    Attributes
    ----------
    z : Tensor of shape (1, n_rows, *latent_shape)
        Where the chains are.
    step_size : Tensor of shape (1,)
    acceptance : float
        Mean probability of acceptance during the last call of `train`.

    References
    ----------
    Kingma, D. P. and Welling, M. (2014). Auto-encoding variational Bayes. ICLR. Appendix E, which
    says 10, 5 and 90 %, and not whether chains go on.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        rows: Tensor,
        solver: Solver,
        *,
        learning_rate: float,
        alpha: float = 0.0,
        batch_size: int = 100,
        n_leapfrog: int = 10,
        n_updates: int = 5,
        acceptance: float = 0.9,
        generator: torch.Generator,
    ) -> None:
        self.model = model.eval()
        self.acceptance = float("nan")
        self._rows, self._generator = rows, generator
        self._batch_size = min(batch_size, len(rows))
        self._n_leapfrog, self._n_updates = n_leapfrog, n_updates
        noise = draw_noise(
            model.prior_noise_spec(1),
            len(rows),
            generator=generator,
            dtype=rows.dtype,
            device=rows.device,
        )
        with torch.no_grad():
            self.z = model.sample_prior(None, noise)
        self._left = torch.empty(0, dtype=torch.long, device=rows.device)
        self._pilot = StepSizePilot(rows.new_empty(1), acceptance)
        _train_only_what_generates_(model, rows[:1], self.z[:, :1])
        self._step = TrainingStep(
            [model],
            _CompleteLogLikelihood(),
            solver,
            LearningRate(learning_rate, 0, 0, rows.device),
            prior_precision=[alpha / len(rows)],
        )

    @property
    def step_size(self) -> Tensor:
        return self._pilot.step_size

    @property
    def n_evaluations(self) -> int:
        """Rows whose gradient of log p(x, z) a visit of a row takes."""
        return 1 + self._n_leapfrog + self._n_updates

    def train(self, n_batches: int) -> float:
        """Visit the next batches; mean log p(x, z) of their rows before the updates, in nats."""
        total, accepted, n_rows = self.z.new_zeros(()), self.z.new_zeros(()), 0
        for _ in range(n_batches):
            if not len(self._left):
                n = len(self._rows)
                self._left = torch.randperm(n, generator=self._generator, device=self.z.device)
            index, self._left = self._left[: self._batch_size], self._left[self._batch_size :]
            log_joint, acceptance = self._visit(index)
            total, accepted = total + log_joint, accepted + acceptance
            n_rows += len(index)
        self.acceptance = float(accepted) / n_rows
        return float(total) / n_rows

    def state(self) -> dict[str, Any]:
        """What another instance, of an equal model and the same rows, needs in order to go on."""
        return {
            "step": [t.clone() for t in self._step.state()],
            "z": self.z.clone(),
            "pilot": dict(vars(self._pilot)),
            "generator": self._generator.get_state(),
            "left": self._left,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from the state of another instance."""
        with torch.no_grad():
            for target, value in zip(self._step.state(), state["step"], strict=True):
                target.copy_(value)
        self.z.copy_(state["z"])
        vars(self._pilot).update(state["pilot"])
        self._generator.set_state(state["generator"].cpu())
        self._left = state["left"].to(self.z.device)

    def _visit(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of log p(x, z) after the move and of the probabilities of acceptance."""
        batch = Batch(self._rows[index])
        evaluate = differentiated(lambda z: sum(self.model.log_joint(batch, z)))
        point = evaluate(self.z[:, index])
        scale = torch.ones_like(point.z[0])
        step_size = self._pilot.step_size.expand(len(index))
        point, acceptance = hmc_move(
            evaluate, point, step_size, scale, self._n_leapfrog, self._generator
        )
        self._pilot.adapt(acceptance.mean(1, keepdim=True))
        self.z[:, index] = point.z
        share = batch.x.new_full((1, len(index), 1), -1.0 / len(index))
        inputs = StepInputs(
            batch.x.unsqueeze(0),
            None,
            None,
            share,
            {"z": point.z.unsqueeze(0)},
            share.new_empty(1, len(index)),
        )
        self._step.run([inputs] * self._n_updates)
        return point.log_prob.sum(), acceptance.sum()


class _CompleteLogLikelihood(Bound):
    """log p(x, z) of each row at draws that come as noise: what the solver raises."""

    n_draws = 1

    def __call__(
        self,
        model: LatentVariableModel,
        batch: Batch,
        noise: Mapping[str, Tensor],
        clock: Clock | None = None,
    ) -> Tensor:
        log_prior, log_likelihood = model.log_joint(batch, noise["z"])
        return (log_prior + log_likelihood).mean(0)


def _train_only_what_generates_(model: LatentVariableModel, x: Tensor, z: Tensor) -> None:
    """Let exactly those parameters be trained that p(x, z) depends on."""
    model.requires_grad_(True)
    parameters = list(model.parameters())
    with torch.enable_grad():
        total = sum(model.log_joint(Batch(x), z)).sum()
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.requires_grad_(gradient is not None)
