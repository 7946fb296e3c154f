"""One training step of models side by side: a fixed-shape function of tensors.

It may not bring a value to the host (``.item()``, ``float(t)``, ``if t``), use shapes that depend
on data, keep something that changes between steps as a Python number, or allocate state after it
was built. The meta-device tests hold every combination of ingredients to that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skvae._core._batch import Clock, StepInputs
from skvae._core._flat import FlatParameters
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

    Attributes
    ----------
    flat : FlatParameters
    gradient : GradientStep
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
    ) -> None:
        self.bound = bound
        self.flat = FlatParameters(models)
        self.gradient = bound.gradient_step(self.flat.stack)
        groups = self.flat.groups
        self.rules = [solver.build(group.data, group.is_weight) for group in groups]
        self.clip_norm = solver.clip_norm
        self.learning_rate = learning_rate
        self._pull: list[Tensor] = []
        if prior_precision is not None and any(prior_precision):
            precision = groups[0].data.new_tensor(prior_precision).unsqueeze(1)
            self._pull = [precision * group.is_weight for group in groups]
        self.clock = Clock.start(groups[0].data.device)

    def run(self, steps: Sequence[StepInputs]) -> None:
        """Take some steps."""
        with self.gradient.context():
            for inputs in steps:
                self(inputs)

    def __call__(self, inputs: StepInputs) -> None:
        """Take one step."""
        self.gradient(inputs, self.clock)
        groups = self.flat.groups
        for group, pull in zip(groups, self._pull, strict=False):
            group.grad.addcmul_(pull, group.data)
        if self.clip_norm is not None:
            self._clip(self.clip_norm)
        rate = self.learning_rate(self.clock)
        for group, rule in zip(groups, self.rules, strict=True):
            own = rate if group.factor == 1.0 else group.factor * rate
            rule.update_(group.data, group.grad, own, self.clock.step)
        self.clock.tick()

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
        """All weights of all models."""
        return [group.data for group in self.flat.groups]

    def is_finite(self) -> bool:
        """Whether all weights are."""
        return all(bool(torch.isfinite(t).all()) for t in self.weights())

    def state(self) -> list[Tensor]:
        """Everything that training carries from step to step, the weights first."""
        return [*self.weights(), *(t for rule in self.rules for t in rule.state), *self.clock]
