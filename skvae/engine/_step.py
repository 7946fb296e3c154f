"""One training step: a fixed-shape function of tensors.

It may not bring a value to the host (``.item()``, ``float(t)``, ``if t``), use shapes that depend
on data, keep something that changes between steps as a Python number, or allocate state after it
was built. The meta-device tests hold every combination of ingredients to that.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skvae._core._batch import Batch, Clock
from skvae._core._flat import FlatParameters
from skvae.models._base import LatentVariableModel
from skvae.objectives._base import Bound
from skvae.solvers._base import LearningRate, Solver


class TrainingStep:
    """Gradient of the bound by automatic differentiation, and the solver's update.

    Parameters
    ----------
    model : LatentVariableModel
    bound : Bound
    solver : Solver
    learning_rate : LearningRate
    prior_precision : float
        Precision of the normal prior on the weight matrices, divided by the number of rows.

    Attributes
    ----------
    flat : FlatParameters
    clock : Clock
    tally : Tensor of shape (2,), float64
        Sum of the bounds of the rows seen since it was last zeroed, and their number.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        bound: Bound,
        solver: Solver,
        learning_rate: LearningRate,
        *,
        prior_precision: float = 0.0,
    ) -> None:
        self.model = model
        self.bound = bound
        self.flat = FlatParameters(model)
        self.rules = [
            (part, factor, solver.build(self.flat.data[part], self.flat.is_weight[part]))
            for part, factor in self.flat.groups
        ]
        self.clip_norm = solver.clip_norm
        self.learning_rate = learning_rate
        self.prior_precision = prior_precision
        device = self.flat.data.device
        self.clock = Clock.start(device)
        self.tally = torch.zeros(2, dtype=torch.float64, device=device)

    def __call__(self, batch: Batch, noise: Mapping[str, Tensor]) -> None:
        """Take one step."""
        weight = batch.weight
        assert weight is not None
        flat = self.flat
        flat.grad.zero_()
        bounds = self.bound(self.model, batch, noise, self.clock)
        total = (weight * bounds).sum()
        # The one place where a bound becomes a loss.
        (-total).backward()
        with torch.no_grad():
            n_rows = weight.sum()
            self.tally[0] += total.detach().double()
            self.tally[1] += n_rows.double()
            gradient = flat.grad.div_(n_rows)
            if self.prior_precision:
                gradient.add_(self.prior_precision * flat.is_weight * flat.data)
            if self.clip_norm is not None:
                norm = torch.linalg.vector_norm(gradient)
                gradient.mul_((self.clip_norm / (norm + 1e-12)).clamp(max=1.0))
            rate = self.learning_rate(self.clock)
            for part, factor, rule in self.rules:
                rule.update_(flat.data[part], gradient[part], factor * rate, self.clock.step)
            self.clock.tick()

    def state(self) -> list[Tensor]:
        """Everything that training carries from step to step, as tensors."""
        rules = [tensor for _, _, rule in self.rules for tensor in rule.state]
        return [self.flat.data, *rules, *self.clock]
