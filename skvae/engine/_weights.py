"""Normal posteriors over weights, learned beside all else by the same draws.

Appendix F of Kingma and Welling (2014): the weights of the decoder are drawn anew at each step from
independent normals, whose means and scales follow the gradient of the bound on the marginal
likelihood of all rows, KL(q(weights) || p(weights)) included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from skvae._core._batch import NoiseSpec
from skvae._core._flat import FlatParameters
from skvae.engine._plan import Plan
from skvae.models._base import LatentVariableModel
from skvae.solvers._base import Solver

# Log standard deviation at first: small beside the weights, so that training can begin.
FIRST_LOG_SCALE = -4.0


class UncertainWeights:
    """Scales of some weights of models side by side; the weights themselves are the means.

    Parameters
    ----------
    flat : FlatParameters
        Whose data are the means between steps.
    names : sequence of str
        Parameters that have a posterior.
    solver : Solver
    prior_precision : float
        Of the normal prior on each weight, positive.
    n_rows : sequence of int
        Rows that each model is trained on.
    scales : mapping of str to Tensor or None
        Standard deviations to begin with, by name, for a single model.
    """

    def __init__(
        self,
        flat: FlatParameters,
        names: Sequence[str],
        solver: Solver,
        *,
        prior_precision: float,
        n_rows: Sequence[int],
        scales: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._flat, self._names = flat, tuple(names)
        data = [group.data for group in flat.groups]
        self._chosen = [torch.zeros_like(t) for t in data]
        views = flat.named(self._chosen)
        for name in self._names:
            views[name].fill_(1.0)
        self.log_scales = [torch.full_like(t, FIRST_LOG_SCALE) for t in data]
        if scales is not None:
            views = flat.named(self.log_scales)
            for name in self._names:
                views[name].copy_(torch.log(scales[name]))
        self._means = [torch.empty_like(t) for t in data]
        self._scales = [torch.empty_like(t) for t in data]
        self.rules = [solver.build(t, torch.zeros_like(t)) for t in self.log_scales]
        self._per_row = data[0].new_tensor([[1.0 / n] for n in n_rows])
        self._precision = prior_precision * self._per_row

    def noise_spec(self) -> dict[str, NoiseSpec]:
        """Randomness that a step needs."""
        return {
            f"weights.{i}": NoiseSpec((group.data.shape[1],), per="batch")
            for i, group in enumerate(self._flat.groups)
        }

    def draw_(self, noise: Mapping[str, Tensor]) -> None:
        """Put drawn weights in the place of the means."""
        for i, group in enumerate(self._flat.groups):
            self._means[i].copy_(group.data)
            torch.exp(self.log_scales[i], out=self._scales[i]).mul_(self._chosen[i])
            group.data.addcmul_(self._scales[i], noise[f"weights.{i}"])

    def return_(self) -> None:
        """Put the means back in their place."""
        for mean, group in zip(self._means, self._flat.groups, strict=True):
            group.data.copy_(mean)

    def update_(self, noise: Mapping[str, Tensor], rates: Sequence[Tensor], step: Tensor) -> None:
        """Move the scales, by the gradient at the drawn weights."""
        for i, group in enumerate(self._flat.groups):
            scale = self._scales[i]
            slope = group.grad * noise[f"weights.{i}"] * scale
            # Of the divergence from the prior, divided by the number of rows.
            slope += self._chosen[i] * (self._precision * scale.square() - self._per_row)
            self.rules[i].update_(self.log_scales[i], slope, rates[i], step)

    def scales_of(self, place: int) -> dict[str, Tensor]:
        """Standard deviations of the weights of one of the models, by name."""
        views = self._flat.named(self.log_scales)
        return {name: torch.exp(views[name][place]) for name in self._names}


def uncertain_weights(
    model: LatentVariableModel,
    solver: Solver,
    plan: Plan,
    n_rows: Sequence[int],
    scales: Mapping[str, Tensor] | None = None,
) -> Callable[[FlatParameters], UncertainWeights] | None:
    """What makes the uncertain weights of models like `model`; None where the plan has none."""
    if not plan.weight_posterior:
        return None
    return lambda flat: UncertainWeights(
        flat,
        model.generative_weights(),
        solver,
        prior_precision=plan.prior_precision,
        n_rows=n_rows,
        scales=scales,
    )
