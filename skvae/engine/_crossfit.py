"""Training judged by cross-fitting: every row is held out once, and every row is trained on.

A tenth of two hundred rows says little about a model. Here one model is trained on all rows, and
beside it, in lock-step, one for each fold that has not seen that fold. The mean bound of the rows
under the models that have not seen them decides when to stop, which state of the model on all
rows is kept, and whether it beats the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skvae._core._random import Streams
from skvae.engine._loop import TrainingLoop, evaluation_draws
from skvae.engine._plan import Observer, Plan, TrainingResult
from skvae.engine._rows import Rows
from skvae.engine._stacked import StackedAutoencoders
from skvae.models import Autoencoder
from skvae.objectives._base import Bound
from skvae.solvers._base import LearningRate, Solver


class CrossFit(TrainingLoop):
    """A model on all rows, and a model for each fold.

    Parameters
    ----------
    models : sequence of Autoencoder
        The first for all rows, the others for the complements of the folds, in their order. Each
        has its own buffers (location, scale) and stands at its own start, a rival of what training
        finds.
    departures : sequence of sequences of Autoencoder
        The same models standing where training begins, and where it begins anew should it not
        beat the start.
    data : sequence of Rows
        All rows, as each of the models standardises them.
    folds : ndarray of shape (n_rows,)
        Fold of each row, from 0.
    bound : Bound
    solver : Solver
    plan : Plan
    streams : Streams
    """

    def __init__(
        self,
        models: Sequence[Autoencoder],
        departures: Sequence[Sequence[Autoencoder]],
        data: Sequence[Rows],
        folds: np.ndarray,
        bound: Bound,
        solver: Solver,
        plan: Plan,
        streams: Streams,
    ) -> None:
        first = next(models[0].parameters())
        device, dtype = first.device, first.dtype
        n_rows, n_models = len(folds), len(models)
        self._model = models[0]
        self._departures, self.n_departures = departures, len(departures)
        members = [np.arange(n_rows)] + [np.flatnonzero(folds != i) for i in range(n_models - 1)]
        self._members = [torch.from_numpy(rows) for rows in members]
        self._n_steps = plan.steps_per_epoch(n_rows)
        size = self._n_rows_at_once = -(-n_rows // self._n_steps)
        # The rows are dealt out evenly; every model takes the same number of steps, and what a
        # batch lacks is filled up with rows that do not count.
        parts = [np.array_split(np.arange(len(rows)), self._n_steps) for rows in members]
        self._slots = [
            torch.from_numpy(np.stack([np.resize(p, size) for p in model])) for model in parts
        ]
        counts = np.array([[np.arange(size) < len(p) for p in model] for model in parts])
        self._weights = torch.from_numpy(counts).to(device=device, dtype=dtype)
        self.n_cooldown_epochs = -(-solver.cooldown_steps // self._n_steps)
        self.n_warmup_epochs = -(-bound.n_warmup_steps // self._n_steps)
        self.learning_rate = LearningRate(
            plan.learning_rate,
            min(solver.warmup_steps, plan.n_steps(n_rows) // 10),
            self.n_cooldown_epochs * self._n_steps,
            device,
        )
        precision = [[plan.prior_precision / len(rows)] for rows in self._members]
        self._stack = StackedAutoencoders(
            models,
            bound,
            solver,
            self.learning_rate,
            torch.tensor(precision, dtype=dtype, device=device),
        )
        self.clock = self._stack.clock
        self._plan = plan
        x = [rows.slice(0, n_rows) for rows in data]
        features = [
            m.observation_head.features(part, None) for m, part in zip(models, x, strict=True)
        ]
        self._x = torch.stack(x)
        # Most heads read the rows themselves: one copy serves both.
        self._same = all(a is b for a, b in zip(x, features, strict=True))
        self._features = self._x if self._same else torch.stack(features)
        self._n_draws = bound.n_draws
        (self._n_latent,) = models[0].latent_shape
        self._rows_generator = streams.generator("rows")
        self._noise_generator = streams.generator("noise", device)
        # Held-out rows of each fold, filled up to the same number with rows that do not count.
        outside = [np.flatnonzero(folds == i) for i in range(n_models - 1)]
        width = max(len(rows) for rows in outside)
        index = torch.from_numpy(np.stack([np.resize(rows, width) for rows in outside])).to(device)
        self._counts = torch.tensor(
            np.stack([np.arange(width) < len(rows) for rows in outside]), device=device
        )
        self._held_out_x = self._pick(self._x[1:], index)
        self._held_out_features = self._pick(self._features[1:], index)
        shape = (n_models - 1, evaluation_draws(n_rows) * width, self._n_latent)
        self._held_out_noise = torch.empty(shape, dtype=dtype, device=device).normal_(
            generator=streams.generator("validation", device)
        )

    def train(self, observer: Observer | None = None) -> TrainingResult:
        """Train, and leave in the first model the state that is kept."""
        with torch.no_grad():
            result = self._loop(self._plan, observer)
        self.write()
        return result

    def write(self) -> None:
        """Copy the present weights to the model on all rows."""
        self._stack.write_to(0, self._model)

    @staticmethod
    def _pick(values: Tensor, index: Tensor) -> Tensor:
        """Rows `index` (n_models, m) of `values` (n_models, n_rows, ...)."""
        return torch.stack([v[i] for v, i in zip(values, index, strict=True)])

    def _epoch(self) -> float:
        size, n_steps, device = self._n_rows_at_once, self._n_steps, self._x.device
        index = [
            members[torch.randperm(len(members), generator=self._rows_generator)][slots]
            for members, slots in zip(self._members, self._slots, strict=True)
        ]
        # Gathered for the whole epoch at once: these rows are few, and calls are what costs.
        indices = torch.stack(index).flatten(1).to(device)
        x = self._pick(self._x, indices).unflatten(1, (n_steps, size))
        features = x
        if not self._same:
            features = self._pick(self._features, indices).unflatten(1, (n_steps, size))
        weights = self._weights
        n_models = len(self._x)
        noise = x.new_empty(n_steps, n_models, self._n_draws * size, self._n_latent)
        noise.normal_(generator=self._noise_generator)
        bounds = [
            self._stack.step(x[:, i], features[:, i], noise[i], weights[:, i])[0]
            for i in range(n_steps)
        ]
        total = (weights[0] * torch.stack(bounds)).sum(dtype=torch.float64)
        finite = all(
            bool(torch.isfinite(t).all()) for t in self._tensors()[: self._n_weight_tensors]
        )
        return float(total) / len(self._members[0]) if finite else math.nan

    def _held_out(self) -> Tensor:
        bounds = self._stack.bounds(
            self._held_out_x, self._held_out_features, self._held_out_noise, slice(1, None)
        )
        return bounds[self._counts].double()

    def _depart(self, place: int) -> None:
        self._stack.read_from(self._departures[place])

    def _training_bound(self) -> float:
        noise = self._x.new_empty(1, self._x.shape[1], self._n_latent)
        noise.normal_(generator=self._noise_generator)
        bounds = self._stack.bounds(self._x[:1], self._features[:1], noise, slice(0, 1))
        return float(bounds.mean())

    def _tensors(self) -> list[Tensor]:
        return self._stack.tensors()

    @property
    def _n_weight_tensors(self) -> int:
        return len(self._stack.groups)


def deal_folds(n_rows: int, n_folds: int, generator: torch.Generator) -> np.ndarray:
    """Fold of each row, at random, in numbers as equal as can be."""
    order = torch.randperm(n_rows, generator=generator).numpy()
    folds = np.empty(n_rows, dtype=np.int64)
    folds[order] = np.arange(n_rows) % n_folds
    return folds
