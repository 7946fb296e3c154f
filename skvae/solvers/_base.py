"""What a solver is: a component, the update rule it builds, and the schedule of its rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from skvae._core._batch import Clock
from skvae._core._component import Component
from skvae._core._sklearn import Interval

NON_NEGATIVE: list[Any] = [Interval(Real, 0, None, closed="left")]
POSITIVE: list[Any] = [Interval(Real, 0, None, closed="neither")]
FRACTION: list[Any] = [Interval(Real, 0, 1, closed="left")]


class Solver(Component, ABC, kind="solver"):
    """Component that names how parameters follow the gradient.

    Every solver has these three parameters beside its own.

    Attributes
    ----------
    warmup_steps : int
        Steps over which the learning rate rises linearly from near 0; at most a tenth of the run.
    cooldown_steps : int
        Steps over which the rate falls linearly to 0 once training has stopped improving.
    clip_norm : float or None
        Largest norm of the mean gradient of a row; longer gradients are shortened to it.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "warmup_steps": [Interval(Integral, 0, None, closed="left")],
        "cooldown_steps": [Interval(Integral, 0, None, closed="left")],
        "clip_norm": [None, *POSITIVE],
    }

    warmup_steps: int
    cooldown_steps: int
    clip_norm: float | None

    @abstractmethod
    def build(self, parameters: Tensor, is_weight: Tensor) -> UpdateRule:
        """Update rule for a flat vector of parameters.

        Parameters
        ----------
        parameters : Tensor of shape (n_parameters,)
        is_weight : Tensor of shape (n_parameters,)
            1 for the entries of weight matrices, 0 elsewhere.
        """


class UpdateRule(ABC):
    """State of a solver beside the parameters, and one step of it.

    Attributes
    ----------
    state : list of Tensor
        All that the rule carries from step to step.
    slope_powers : sequence of int
        For each of them, the power of gradients that it is measured in; 0 for what is not.
    """

    state: list[Tensor]
    slope_powers: Sequence[int]

    @abstractmethod
    def update_(
        self, parameters: Tensor, gradient: Tensor, learning_rate: Tensor | float, step: Tensor
    ) -> None:
        """Move `parameters` against `gradient`, in place.

        Parameters
        ----------
        parameters, gradient : Tensor of shape (n_parameters,)
            `gradient` is that of the mean loss of a row; it may be overwritten.
        learning_rate : Tensor of shape () or float
        step : Tensor of shape ()
            Steps taken so far, this one not counted.
        """


def in_dtype_of(parameters: Tensor, learning_rate: Tensor | float) -> Tensor | float:
    """The rate as a factor that leaves the dtype of `parameters` as it is."""
    if isinstance(learning_rate, Tensor):
        return learning_rate.to(parameters.dtype)
    return learning_rate


class LearningRate:
    """Rate at each step: a warm-up, a plateau, and a cool-down once it has been begun.

    Parameters
    ----------
    rate : float
        Rate of the plateau.
    n_warmup, n_cooldown : int
        Lengths in steps.
    device : torch.device

    Attributes
    ----------
    plateau : Tensor of shape (), float64
        On the device, so that the engine may lower it between steps.
    is_number : bool
        Whether rates are numbers, as they are on the CPU, rather than tensors.
    """

    def __init__(self, rate: float, n_warmup: int, n_cooldown: int, device: torch.device) -> None:
        self.plateau = torch.full((), rate, dtype=torch.float64, device=device)
        self.n_warmup = n_warmup
        self.n_cooldown = n_cooldown
        # In plain numbers it is quicker, but a recorded step would go on with the first of them.
        self.is_number = device.type == "cpu"

    def __call__(self, clock: Clock) -> Tensor | float:
        """Rate of the step about to be taken, a number or a tensor without axes."""
        if self.is_number:
            step = float(clock.step)
            factor = min((step + 1.0) / (self.n_warmup + 1.0), 1.0)
            elapsed = step - float(clock.cooldown_start)
            factor *= min(max(1.0 - (elapsed + 1.0) / (self.n_cooldown + 1.0), 0.0), 1.0)
            return float(self.plateau) * factor
        warmup = ((clock.step + 1.0) / (self.n_warmup + 1.0)).clamp(max=1.0)
        # Before the cool-down its start is infinite, which clamps to a factor of 1.
        elapsed = clock.step - clock.cooldown_start
        cooldown = (1.0 - (elapsed + 1.0) / (self.n_cooldown + 1.0)).clamp(0.0, 1.0)
        return self.plateau * warmup * cooldown
