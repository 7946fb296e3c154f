"""What an objective is: a component, and the bound that it builds.

A bound returns one number for each row, in nats, higher is better, constants included. It does
not average, weight or negate: the engine does, in one place. Its *value* is always the bound on
the log-likelihood; its *gradient* may be that of another estimator (a weighted divergence during
warm-up, say).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from skvae._core._batch import Batch, Clock
from skvae._core._component import Component
from skvae.models._base import LatentVariableModel


class Objective(Component, ABC, kind="objective"):
    """Component that names the bound to be maximised."""

    @abstractmethod
    def build(self, n_steps: int) -> Bound:
        """Bound for a run of at most `n_steps` steps."""


class Bound(ABC):
    """Lower bound on the log-likelihood of each row.

    Attributes
    ----------
    n_draws : int
        Draws of z that it asks for at a training step.
    n_warmup_steps : int
        Steps after which its gradient is that of the bound itself.
    hand_derived : bool
        Whether it is the evidence lower bound with an analytic divergence, whose gradient the
        engine knows; it then has ``kl_weight``.
    """

    n_draws: int
    n_warmup_steps: int = 0
    hand_derived: bool = False

    @abstractmethod
    def __call__(
        self,
        model: LatentVariableModel,
        batch: Batch,
        noise: Mapping[str, Tensor],
        clock: Clock | None = None,
    ) -> Tensor:
        """Bound of each row, (n_rows,), in nats.

        Parameters
        ----------
        model : LatentVariableModel
        batch : Batch
        noise : mapping of str to Tensor
            As ``model.noise_spec`` declares, with any number of draws.
        clock : Clock or None
            None outside of training, where no warm-up applies.
        """
