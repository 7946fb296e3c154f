"""The training loop, the only one.

It knows no likelihood, prior or posterior by name: it draws the noise that a model declares,
takes steps, reads one tally for each epoch, keeps the best state on held-out rows, lowers the
rate when progress stops, and steps back when a value is not finite.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from skvae._core._batch import Batch, Clock, draw_noise
from skvae._core._random import Streams
from skvae.engine._rows import Rows
from skvae.engine._step import TrainingStep
from skvae.models._base import LatentVariableModel
from skvae.objectives._base import Bound
from skvae.solvers._base import LearningRate, Solver

# Held-out bounds use about this many draws in all, so that few rows get more draws each.
VALIDATION_DRAWS = 2000
MAX_VALIDATION_DRAWS = 16
VALIDATION_BATCH = 1024
# How many standard errors of its held-out gain training must beat a rival start by. With one, the
# best of several hundred states beat factor analysis on iris by luck, and lost 0.2 nats on test.
STANDARD_ERRORS = 2.0
# Where a few rows with heavy tails make that error large, a gain of all rows counts too if the mean
# without the share TRIMMED at either end is beyond this many of its own standard errors.
TRIMMED, TRIMMED_STANDARD_ERRORS = 0.1, 5.0
# Halvings of the learning rate after non-finite values before training gives up.
MAX_HALVINGS = 10


class Status(Enum):
    """Why training ended; the value is a sentence for the user."""

    CONVERGED = "the bound stopped improving"
    MAX_EPOCHS = "max_iter was reached"
    STOPPED = "a callback asked to stop"
    INTERRUPTED = "it was interrupted"
    DIVERGED = "the bound was not finite at any learning rate tried"


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes
    ----------
    batch_size : int
    max_epochs : int
    patience : int or None
        Epochs without improvement after which the cool-down begins; None never stops early.
    tolerance : float
        Smallest gain that counts as an improvement, in nats per row.
    learning_rate : float
    prior_precision : float
        Precision of the normal prior on weight matrices (whole data set, not per row).
    start_is_rival : bool
        Whether the state before training is a model in its own right, which training has to beat
        on the held-out rows by more than sampling error.
    open_ended : bool
        Whether more calls are to follow, so that nothing is fitted to the length of this one.
    """

    batch_size: int
    max_epochs: int
    patience: int | None
    tolerance: float
    learning_rate: float
    prior_precision: float = 0.0
    start_is_rival: bool = False
    open_ended: bool = False

    def steps_per_epoch(self, n_rows: int) -> int:
        """Steps of one pass over `n_rows` rows."""
        return -(-n_rows // self.batch_size)

    def with_patience(self, patience: int) -> Plan:
        """The same plan with another patience."""
        return replace(self, patience=patience)

    def n_steps(self, n_rows: int) -> int:
        """Most steps that a run over `n_rows` rows can take."""
        return sys.maxsize if self.open_ended else self.max_epochs * self.steps_per_epoch(n_rows)


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch.

    Attributes
    ----------
    epoch : int
        Counted from 1 over the life of the model.
    bound : float
        Mean bound of the training rows during the epoch, in nats per row.
    validation : float or None
        Mean bound of the held-out rows after it.
    learning_rate : float
    seconds : float
        Since this run began.
    """

    epoch: int
    bound: float
    validation: float | None
    learning_rate: float
    seconds: float


class Observer(Protocol):
    """Someone who follows training."""

    def epoch_begins(self) -> None:
        """Called before each epoch."""

    def epoch_ends(self, report: EpochReport) -> bool:
        """Called after each epoch; True asks to stop."""


class TrainerState(NamedTuple):
    """What a trainer needs beside the weights in order to go on where another one stopped.

    Attributes
    ----------
    tensors : list of Tensor
        State of the update rule, then the clock.
    rate_factor : float
        By how much non-finite values have lowered the learning rate.
    rows, noise : Tensor
        States of the random generators.
    n_epochs : int
    """

    tensors: list[Tensor]
    rate_factor: float
    rows: Tensor
    noise: Tensor
    n_epochs: int


@dataclass
class TrainingResult:
    """What training leaves behind beside the weights.

    Attributes
    ----------
    status : Status
    bounds, validation_scores : list of float
        One for each epoch, in nats per row.
    n_halvings : int
        How often the learning rate was halved after values that were not finite.
    kept_start : bool
        Whether the state before training was kept, training having brought no gain beyond
        sampling error.
    still_rising : bool
        Whether the last tenth of the epochs still brought an improvement when they ran out.
    """

    status: Status
    bounds: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    n_halvings: int = 0
    still_rising: bool = False
    kept_start: bool = False


class TrainingLoop(ABC):
    """The loop over epochs, for whatever takes the steps.

    Attributes
    ----------
    learning_rate : LearningRate
    clock : Clock
    n_cooldown_epochs, n_warmup_epochs : int
        Epochs of the cool-down of the rate, and epochs in which an idle bound says nothing.
    n_epochs : int
        Over the life of the model.
    """

    learning_rate: LearningRate
    clock: Clock
    n_cooldown_epochs: int
    n_warmup_epochs: int
    n_epochs: int = 0

    @abstractmethod
    def _epoch(self) -> float:
        """One pass over the rows; mean bound of a row, NaN if anything was not finite."""

    @abstractmethod
    def _held_out(self) -> Tensor | None:
        """Bounds of held-out rows, in nats, always with the same noise; None if there are none."""

    @abstractmethod
    def _training_bound(self) -> float:
        """Mean bound of the training rows, in nats per row."""

    @abstractmethod
    def _tensors(self) -> list[Tensor]:
        """All that training carries from step to step, the weights first."""

    def _depart(self) -> bool:
        """Move from the start, a rival, to where training begins; False if that is the start."""
        return False

    @property
    def _n_weight_tensors(self) -> int:
        """How many of the tensors are weights."""
        return 1

    def _loop(self, plan: Plan, observer: Observer | None) -> TrainingResult:
        """Train for at most ``plan.max_epochs`` epochs.

        With held-out rows their bound decides which state is kept and when to stop; without, the
        training bound decides when to stop, and the last state is kept.

        Raises
        ------
        FloatingPointError
            If no epoch had a finite bound.
        KeyboardInterrupt
            If interrupted before the first epoch was finished.
        """
        result = TrainingResult(Status.MAX_EPOCHS)
        began = time.perf_counter()
        self.clock.cooldown_start.fill_(math.inf)
        # `finite` is the state after the last epoch, `proven` the one before it: the former may
        # already be where the next step leaves all bounds, the latter had an epoch ahead of it.
        start = proven = finite = self._snapshot()
        best, reference, idle = -math.inf, -math.inf, 0
        best_state: list[Tensor] | None = None
        # The state before training competes too.
        start_bounds = self._held_out()
        start_is_finite = start_bounds is not None and bool(torch.isfinite(start_bounds).all())
        if start_is_finite:
            best = reference = float(start_bounds.mean())
            best_state = finite
        best_bounds = start_bounds
        if self._depart():
            # Progress is measured from where training begins.
            start = proven = finite = self._snapshot()
            departed = self._held_out()
            if departed is not None:
                reference = float(departed.mean())
        cooldown_left: int | None = None
        repeating = False
        try:
            while len(result.bounds) < plan.max_epochs:
                if observer is not None and not repeating:
                    observer.epoch_begins()
                bound = self._epoch()
                repeating = not math.isfinite(bound)
                if repeating:
                    finite = proven
                    self._restore(finite)
                    if result.n_halvings == MAX_HALVINGS:
                        result.status = Status.DIVERGED
                        break
                    result.n_halvings += 1
                    self.learning_rate.plateau.mul_(0.5)
                    continue
                self.n_epochs += 1
                proven, finite = finite, self._snapshot()
                result.bounds.append(bound)
                score = bound
                bounds = self._held_out()
                if bounds is not None:
                    score = float(bounds.mean())
                    result.validation_scores.append(score)
                    if score > best:
                        best, best_state, best_bounds = score, finite, bounds
                report = EpochReport(
                    epoch=self.n_epochs,
                    bound=bound,
                    validation=score if bounds is not None else None,
                    learning_rate=float(self.learning_rate(self.clock)),
                    seconds=time.perf_counter() - began,
                )
                if observer is not None and observer.epoch_ends(report):
                    result.status = Status.STOPPED
                    break
                if cooldown_left is not None:
                    cooldown_left -= 1
                    if cooldown_left <= 0:
                        result.status = Status.CONVERGED
                        break
                    continue
                if score > reference + plan.tolerance:
                    reference, idle = score, 0
                elif len(result.bounds) > self.n_warmup_epochs:
                    idle += 1
                if plan.patience is not None and idle >= plan.patience:
                    if self.n_cooldown_epochs == 0:
                        result.status = Status.CONVERGED
                        break
                    cooldown_left = self.n_cooldown_epochs
                    self.clock.cooldown_start.copy_(self.clock.step)
        except KeyboardInterrupt:
            if not result.bounds:
                raise
            # In the midst of an epoch the weights may be anything: take the last whole one.
            self._restore(finite)
            result.status = Status.INTERRUPTED
        result.still_rising = (
            result.status is Status.MAX_EPOCHS
            and plan.patience is not None
            and cooldown_left is None
            and idle < max(1, len(result.bounds) // 10)
        )
        if best_state is None and result.n_halvings:
            # With rows as wild as these an epoch may end anywhere: look where, and choose.
            best_state = max((start, proven, finite), key=self._training_bound_at)
        if best_state is not None:
            self._restore(best_state, weights_only=True)
            # A start whose bounds are not finite is no rival.
            if plan.start_is_rival and start_bounds is not None and start_is_finite:
                result.kept_start = not _beats(best_bounds, start_bounds)
        if result.status is Status.DIVERGED and not result.bounds:
            raise FloatingPointError(Status.DIVERGED.value)
        return result

    def _training_bound_at(self, state: list[Tensor]) -> float:
        self._restore(state)
        bound = self._training_bound()
        return bound if math.isfinite(bound) else -math.inf

    def _snapshot(self) -> list[Tensor]:
        return [t.clone() for t in self._tensors()]

    def _restore(self, state: list[Tensor], *, weights_only: bool = False) -> None:
        n_restored = self._n_weight_tensors if weights_only else len(state)
        with torch.no_grad():
            for target, value in zip(self._tensors()[:n_restored], state, strict=False):
                target.copy_(value)


class Trainer(TrainingLoop):
    """Model, bound, solver and random streams, ready to take epochs.

    `train` may be called again and continues where the last call ended; `state` and `resume` do
    the same across trainers.

    Parameters
    ----------
    model : LatentVariableModel
        Trained in place.
    bound : Bound
    solver : Solver
    plan : Plan
    streams : Streams
    n_rows : int
        Rows of the training set, for the weight of the prior on weights and the warm-up.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        bound: Bound,
        solver: Solver,
        plan: Plan,
        streams: Streams,
        n_rows: int,
    ) -> None:
        device = next(model.parameters()).device
        steps_per_epoch = plan.steps_per_epoch(n_rows)
        self.n_cooldown_epochs = -(-solver.cooldown_steps // steps_per_epoch)
        self.n_warmup_epochs = -(-bound.n_warmup_steps // steps_per_epoch)
        self.learning_rate = LearningRate(
            plan.learning_rate,
            min(solver.warmup_steps, plan.n_steps(n_rows) // 10),
            self.n_cooldown_epochs * steps_per_epoch,
            device,
        )
        self.step = TrainingStep(
            model,
            bound,
            solver,
            self.learning_rate,
            prior_precision=plan.prior_precision / n_rows,
        )
        self.model = model
        self.bound = bound
        self.streams = streams
        self.clock = self.step.clock
        self._rate = plan.learning_rate
        self._batch_size = plan.batch_size
        self._rows: Rows | None = None
        self._validation: Rows | None = None
        self._departure: nn.Module | None = None
        self._rows_generator = streams.generator("rows")
        self._noise_generator = streams.generator("noise", device)

    def train(
        self,
        rows: Rows,
        plan: Plan,
        *,
        validation: Rows | None = None,
        departure: nn.Module | None = None,
        observer: Observer | None = None,
    ) -> TrainingResult:
        """Train for at most ``plan.max_epochs`` epochs.

        Parameters
        ----------
        rows : Rows
        plan : Plan
        validation : Rows or None
            Held-out rows that decide which state is kept and when to stop; None means that the
            training bound decides when to stop, and that the last state is kept.
        departure : Module or None
            The model standing where training begins, if the state that it is in at this call is
            only to be compared with.
        observer : Observer or None

        Raises
        ------
        FloatingPointError
            If no epoch had a finite bound.
        KeyboardInterrupt
            If interrupted before the first epoch was finished.
        """
        self._rows, self._validation, self._batch_size = rows, validation, plan.batch_size
        self._departure = departure
        return self._loop(plan, observer)

    def state(self) -> TrainerState:
        """What another trainer of the same model needs in order to go on."""
        return TrainerState(
            [t.detach().cpu().clone() for t in self.step.state()[1:]],
            float(self.learning_rate.plateau) / self._rate,
            self._rows_generator.get_state(),
            self._noise_generator.get_state(),
            self.n_epochs,
        )

    def resume(self, state: TrainerState) -> None:
        """Go on from the state of another trainer of the same model."""
        for target, value in zip(self.step.state()[1:], state.tensors, strict=True):
            target.copy_(value)
        self.learning_rate.plateau.fill_(self._rate * state.rate_factor)
        self._rows_generator.set_state(state.rows)
        self._noise_generator.set_state(state.noise)
        self.n_epochs = state.n_epochs

    def validate(self, rows: Rows) -> Tensor:
        """Bounds (n_rows,) of held-out rows, in nats, with the same noise at every call."""
        n_draws = evaluation_draws(len(rows))
        first = next(self.model.parameters())
        generator = self.streams.generator("validation", first.device)
        parts = []
        with torch.no_grad():
            for start in range(0, len(rows), VALIDATION_BATCH):
                x = rows.slice(start, start + VALIDATION_BATCH)
                noise = draw_noise(
                    self.model.noise_spec(n_draws),
                    len(x),
                    generator=generator,
                    dtype=first.dtype,
                    device=first.device,
                )
                parts.append(self.bound(self.model, Batch(x), noise).double())
        return torch.cat(parts)

    def _held_out(self) -> Tensor | None:
        return None if self._validation is None else self.validate(self._validation)

    def _depart(self) -> bool:
        if self._departure is None:
            return False
        with torch.no_grad():
            own = dict(self.model.named_parameters())
            for name, parameter in self._departure.named_parameters():
                own[name].copy_(parameter)
        return True

    def _training_bound(self) -> float:
        assert self._rows is not None
        return float(self.validate(self._rows).mean())

    def _tensors(self) -> list[Tensor]:
        return self.step.state()

    def _epoch(self) -> float:
        assert self._rows is not None
        flat = self.step.flat
        self.step.tally.zero_()
        specs = self.model.noise_spec(self.bound.n_draws)
        for batch in self._rows.batches(self._batch_size, self._rows_generator):
            noise = draw_noise(
                specs,
                self._batch_size,
                generator=self._noise_generator,
                dtype=flat.data.dtype,
                device=flat.data.device,
            )
            self.step(batch, noise)
        # The only values that reach the host: one tally and one flag for each epoch.
        total, n_rows = self.step.tally.tolist()
        return total / n_rows if bool(torch.isfinite(flat.data).all()) else math.nan


def evaluation_draws(n_rows: int) -> int:
    """Draws of z for each of `n_rows` rows when their bound is evaluated, not trained on."""
    return min(MAX_VALIDATION_DRAWS, max(1, -(-VALIDATION_DRAWS // n_rows)))


def _beats(bounds: Tensor, rival: Tensor) -> bool:
    """Whether the mean of the rows' gains over a rival exceeds sampling error."""
    gain = (bounds - rival).double().sort().values
    n_rows, mean = len(gain), gain.mean()
    if n_rows < 2 or not mean > 0.0:
        return False
    if mean > STANDARD_ERRORS * gain.std() / math.sqrt(n_rows):
        return True
    # The error of a trimmed mean is that of the winsorised rows, stretched (Tukey and McLaughlin,
    # 1963).
    n_cut = int(TRIMMED * n_rows)
    core = gain[n_cut : n_rows - n_cut]
    winsorised = gain.clamp(core[0], core[-1])
    error = winsorised.std() / ((1.0 - 2.0 * TRIMMED) * math.sqrt(n_rows))
    return bool(core.mean() > TRIMMED_STANDARD_ERRORS * error)
