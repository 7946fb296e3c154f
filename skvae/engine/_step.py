"""One training step of models side by side: a fixed-shape function of tensors.

It may not bring a value to the host (``.item()``, ``float(t)``, ``if t``), use shapes that depend
on data, keep something that changes between steps as a Python number, or allocate state after it
was built. The meta-device tests hold every combination of ingredients to that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from skvae._core._batch import Clock, NoiseSpec, StepInputs
from skvae._core._flat import FlatParameters
from skvae._core._units import Move
from skvae.engine._group import ALONE, ProcessGroup
from skvae.engine._weights import UncertainWeights
from skvae.models._base import LatentVariableModel
from skvae.objectives._base import Bound
from skvae.solvers._base import LearningRate, Solver


class TrainingStep:
    """Gradient of the mean bound of each model, and the solver's update.

    Parameters
    ----------
    models : sequence of LatentVariableModel
        Of one architecture; they do not know each other.
    bound : Bound
    solver : Solver
    learning_rate : LearningRate
    prior_precision : sequence of float or None
        For each model, the precision of the normal prior on its weight matrices, divided by the
        number of its rows. None means no prior.
    uncertain : callable or None
        Makes the scales of weights that have a posterior, from the flat parameters; None if there
        are no such weights.
    n_phase_steps : int
        Steps for which the recognition model alone is trained, then the generative model alone, and
        so on in turn; 0 trains both at once.
    group : ProcessGroup, default=ALONE
        Processes of which each computes the gradient of a portion of the rows.

    Attributes
    ----------
    flat : FlatParameters
    gradient : GradientStep
    uncertain : UncertainWeights or None
    clock : Clock
    """

    def __init__(
        self,
        models: Sequence[LatentVariableModel],
        bound: Bound,
        solver: Solver,
        learning_rate: LearningRate,
        *,
        prior_precision: Sequence[float] | None = None,
        uncertain: Callable[[FlatParameters], UncertainWeights] | None = None,
        n_phase_steps: int = 0,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.bound = bound
        self._group = group
        self.n_phase_steps = n_phase_steps
        self.flat = FlatParameters(models, models[0].recognition_weights() if n_phase_steps else ())
        self.gradient = bound.gradient_step(self.flat.stack)
        groups = self.flat.groups
        self.rules = [solver.build(group.data, group.is_weight) for group in groups]
        self.clip_norm = solver.clip_norm
        self.learning_rate = learning_rate
        self._pull: list[Tensor] = []
        if prior_precision is not None and any(prior_precision):
            precision = groups[0].data.new_tensor(prior_precision).unsqueeze(1)
            self._pull = [precision * group.is_weight for group in groups]
        self.uncertain = None if uncertain is None else uncertain(self.flat)
        self.clock = Clock.start(groups[0].data.device)

    def run(self, steps: Sequence[StepInputs]) -> None:
        """Take some steps."""
        with self.gradient.context():
            for inputs in steps:
                self(inputs)

    def __call__(self, inputs: StepInputs) -> None:
        """Take one step."""
        groups, uncertain = self.flat.groups, self.uncertain
        if uncertain is None:
            self.gradient(inputs, self.clock)
        else:
            uncertain.draw_(inputs.noise)
            self.gradient(inputs, self.clock)
            uncertain.return_()
        self._group.sum_(self.flat.gradient)
        for group, pull in zip(groups, self._pull, strict=False):
            group.grad.addcmul_(pull, group.data)
        if self.clip_norm is not None:
            self._clip(self.clip_norm)
        rate = self.learning_rate(self.clock)
        rates = [rate if group.factor == 1.0 else group.factor * rate for group in groups]
        if self.n_phase_steps:
            turns = self._turns()
            rates = [own * turns[group.is_apart] for group, own in zip(groups, rates, strict=True)]
        if uncertain is not None:
            uncertain.update_(inputs.noise, rates, self.clock.step)
        for group, rule, own in zip(groups, self.rules, rates, strict=True):
            rule.update_(group.data, group.grad, own, self.clock.step)
        self.clock.tick()

    def _turns(self) -> Sequence[Tensor | float]:
        """Whether, as 0 or 1, it is the generative model's turn, and the recognition model's."""
        step = self.clock.step
        if self.learning_rate.is_number:
            generative = float(float(step) // self.n_phase_steps % 2)
        else:
            generative = torch.remainder(torch.floor(step / self.n_phase_steps), 2.0)
        return generative, 1.0 - generative

    def _clip(self, largest: float) -> None:
        """Shorten the gradient of each model to a norm of at most `largest`."""
        groups = self.flat.groups
        norms = [torch.linalg.vector_norm(g.grad, dim=1, keepdim=True) for g in groups]
        norm = torch.linalg.vector_norm(torch.cat(norms, dim=1), dim=1, keepdim=True)
        shortened = (largest / (norm + 1e-12)).clamp(max=1.0)
        for group in groups:
            group.grad.mul_(shortened)

    def n_operations(self, n_rows: int) -> float:
        """Multiplications and additions of the matrix products of a step of `n_rows` rows."""
        # One product forward and two backward for each matrix; a draw of z is one more row.
        n_weights = sum(float(group.is_weight.sum()) for group in self.flat.groups)
        return 6.0 * n_weights * n_rows * self.bound.n_draws

    def weights(self) -> list[Tensor]:
        """All weights of all models, with their scales where they are uncertain."""
        scales = [] if self.uncertain is None else self.uncertain.log_scales
        return [*(group.data for group in self.flat.groups), *scales]

    def is_finite(self) -> bool:
        """Whether all weights are."""
        return all(bool(torch.isfinite(t).all()) for t in self.weights())

    def state(self) -> list[Tensor]:
        """Everything that training carries from step to step, the weights first."""
        rules = self.rules if self.uncertain is None else [*self.rules, *self.uncertain.rules]
        return [*self.weights(), *(t for rule in rules for t in rule.state), *self.clock]

    def follow_(self, moves: Sequence[Move]) -> None:
        """Let what is measured as gradients are follow parameters that have changed their units."""
        for i, power in enumerate(self.rules[0].slope_powers):
            if power:
                slopes = self.flat.named([rule.state[i] for rule in self.rules])
                for move in moves:
                    move.move_slopes_(slopes, power)

    def noise_spec(self) -> dict[str, NoiseSpec]:
        """Randomness that a step needs beside that of the models."""
        return {} if self.uncertain is None else self.uncertain.noise_spec()
