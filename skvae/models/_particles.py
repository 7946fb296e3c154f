"""Draws of a recurrent model's latent variables that go through sequences one step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skvae._core._batch import Batch
from skvae.likelihoods._base import Observation

if TYPE_CHECKING:
    from skvae.models._recurrent import RecurrentModel


class Particles:
    """Some draws for each sequence, and what the recurrence has kept along each.

    Parameters
    ----------
    model : RecurrentModel
    batch : Batch
        Sequences; beyond `ends` nothing may be observed.
    n_draws : int
    ends : Tensor of shape (n_rows,) or None
        Number of steps of each sequence; None means that all end with the batch.
    generator : torch.Generator or None
        On the device, for what comes beyond the ends, which is drawn and read before the next step;
        and where the networks are not told what is missing, for that too. Without one nothing is
        drawn, and what is missing is read as in training.

    Attributes
    ----------
    x : Tensor of shape (n_draws, n_rows, n_columns)
        The last step in the units of the head, drawn in part; only with a `generator`.
    expectation : Tensor of shape (n_draws, n_rows, n_expectation)
        Of the last step given its z and the steps before, as the head reads it.
    """

    x: Tensor
    expectation: Tensor

    def __init__(
        self,
        model: RecurrentModel,
        batch: Batch,
        n_draws: int,
        ends: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self._model = model
        self._head = model.observation_head.head
        self._shape = (n_draws, len(batch.x))
        self._steps = model.steps(batch, 1)
        steps_of = model.observation_head.steps
        self._x = steps_of(batch.x).transpose(0, 1)
        self._mask = None if batch.mask is None else steps_of(batch.mask).transpose(0, 1)
        self._ends = None if ends is None else ends.repeat(n_draws).unsqueeze(1)
        self._generator = generator
        self._state = model.recurrence.start(n_draws * len(batch.x))
        self._t = 0

    @property
    def observed(self) -> Tensor | None:
        """Whether anything of the next step is observed, (n_rows,); None if of all steps."""
        return None if self._mask is None else self._mask[self._t].any(-1)

    def advance(self, noise: Tensor) -> Tensor:
        """Draw z of the next step, and weigh it.

        Parameters
        ----------
        noise : Tensor of shape (n_draws, n_rows or 1, n_latent)

        Returns
        -------
        log_weight : Tensor of shape (n_draws, n_rows)
            log p(x_t, z_t | steps before) - log q(z_t | ...), in nats; 0 where nothing is observed.
        """
        t, model = self._t, self._model
        flat = noise.expand(*self._shape, noise.shape[-1]).flatten(0, 1)
        now = self._steps.at(t).repeated(self._shape[0])
        told = model.recurrence.top(self._state)
        prior = model.prior_of(told)
        posterior = model.posterior_at(now, told, prior=prior)
        z = posterior.rsample(flat)
        outputs = model.outputs_of(told, z).unflatten(0, self._shape)
        params = self._head.params_from(outputs)
        mask = None if self._mask is None else self._mask[t]
        log_weight = Observation(self._head, params).log_prob(self._x[t], mask)
        gain = (prior.log_prob(z) - posterior.log_prob(z)).sum(-1).view(self._shape)
        if mask is not None:
            gain = torch.where(mask.any(-1), gain, torch.zeros_like(gain))
        self.expectation = self._head.expectation(params)
        reads = now.reads if self._generator is None else self._drawn(now.reads, params)
        self._state = model.step(reads, z, self._state)
        self._t += 1
        return log_weight + gain

    def _drawn(self, reads: Tensor, params: Any) -> Tensor:
        """What is read of the step in `x`, which is drawn here, in place of what is given."""
        t, head, n_draws = self._t, self._head, self._shape[0]
        assert self._generator is not None
        given = self._x[t].repeat(n_draws, 1)
        beyond = reads.new_zeros(len(reads), 1, dtype=torch.bool)
        if self._ends is not None:
            beyond = self._ends <= t
        is_drawn = beyond.expand_as(given)
        if not self._model.reads_mask and self._mask is not None:
            is_drawn = (self._mask[t] == 0).repeat(n_draws, 1)
        x = torch.where(is_drawn, head.sample(params, self._generator).flatten(0, 1), given)
        self.x = x.unflatten(0, self._shape)
        features = head.features(x, None)
        if not self._model.reads_mask:
            return features
        return torch.where(beyond, torch.cat([features, torch.ones_like(x)], dim=-1), reads)

    def choose(self, index: Tensor) -> None:
        """Replace the draws of each sequence by copies of some of them.

        Parameters
        ----------
        index : Tensor of shape (n_draws, n_rows), integer
        """
        n_rows = self._shape[1]
        flat = (index * n_rows + torch.arange(n_rows, device=index.device)).flatten()
        self._state = [tuple(part[flat] for part in layer) for layer in self._state]
