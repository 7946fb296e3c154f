"""Independent layers of latent variables, each with a posterior of one family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from skvae._core._batch import NoiseSpec
from skvae.posteriors._base import PosteriorDistribution, PosteriorHead


class ProductHead(PosteriorHead):
    """Heads side by side: the locations of all of them first, then what else each is told.

    Parameters
    ----------
    heads : sequence of PosteriorHead
        One for each layer, in the order of the latent variables.
    """

    order: Tensor
    inverse_order: Tensor

    def __init__(self, heads: Sequence[PosteriorHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.sizes = [head.n_outputs for head in heads]
        self.n_outputs = sum(self.sizes)
        self.n_location_outputs = sum(head.n_location_outputs for head in heads)
        self.mean_is_location = all(head.mean_is_location for head in heads)
        # Where the outputs of each head, one head after the other, are found among all.
        n_placed, n_told = 0, self.n_location_outputs
        order: list[int] = []
        for head in heads:
            n_others = head.n_outputs - head.n_location_outputs
            order += range(n_placed, n_placed + head.n_location_outputs)
            order += range(n_told, n_told + n_others)
            n_placed, n_told = n_placed + head.n_location_outputs, n_told + n_others
        index = torch.tensor(order, dtype=torch.long)
        self.register_buffer("order", index, persistent=False)
        self.register_buffer("inverse_order", torch.argsort(index), persistent=False)

    @property
    def _heads(self) -> list[PosteriorHead]:
        return list(self.heads)  # type: ignore[arg-type]

    def forward(self, outputs: Tensor) -> ProductDistribution:
        parts = outputs.index_select(-1, self.order).split(self.sizes, dim=-1)
        return ProductDistribution(
            [head(part) for head, part in zip(self._heads, parts, strict=True)]
        )

    def outputs_at(self, log_scale: Tensor) -> Tensor:
        return self._gathered(log_scale, lambda head, part: head.outputs_at(part))

    def change_of_outputs(self, change: Tensor) -> Tensor:
        return self._gathered(change, lambda head, part: head.change_of_outputs(part))

    def _gathered(
        self, given: Tensor, function: Callable[[PosteriorHead, Tensor], Tensor]
    ) -> Tensor:
        """Outputs for all heads from those that `function` makes for each, given its part."""
        sizes = [head.n_location_outputs for head in self._heads]
        parts = given.split(sizes, dim=-1)
        own = [function(head, part) for head, part in zip(self._heads, parts, strict=True)]
        joined = torch.cat(own, dim=-1)
        return joined.index_select(-1, self.inverse_order.to(joined.device))

    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        return {
            f"{i}.{name}": spec
            for i, head in enumerate(self._heads)
            for name, spec in head.noise_spec(n_draws).items()
        }


class ProductDistribution(PosteriorDistribution):
    """Independent parts, one after the other among the latent variables.

    Parameters
    ----------
    parts : sequence of PosteriorDistribution
    """

    def __init__(self, parts: Sequence[PosteriorDistribution]) -> None:
        self.parts = parts
        self.mean = torch.cat([q.mean for q in parts], dim=-1)
        self.variance = torch.cat([q.variance for q in parts], dim=-1)
        self.has_normal_marginals = all(q.has_normal_marginals for q in parts)
        self.moments_are_exact = all(q.moments_are_exact for q in parts)

    def _noise_of(self, noise: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
        return {k.removeprefix(f"{i}."): t for k, t in noise.items() if k.startswith(f"{i}.")}

    def rsample(self, noise: Mapping[str, Tensor]) -> Tensor:
        draws = [q.rsample(self._noise_of(noise, i)) for i, q in enumerate(self.parts)]
        return torch.cat(draws, dim=-1)

    def rsample_and_log_prob(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        both = [q.rsample_and_log_prob(self._noise_of(noise, i)) for i, q in enumerate(self.parts)]
        log_prob = torch.stack([log_q for _, log_q in both]).sum(0)
        return torch.cat([z for z, _ in both], dim=-1), log_prob

    def log_prob(self, z: Tensor) -> Tensor:
        parts = z.split([q.mean.shape[-1] for q in self.parts], dim=-1)
        each = [q.log_prob(part) for q, part in zip(self.parts, parts, strict=True)]
        return torch.stack(each).sum(0)

    def entropy(self) -> Tensor | None:
        each = [q.entropy() for q in self.parts]
        known = [entropy for entropy in each if entropy is not None]
        return torch.stack(known).sum(0) if len(known) == len(each) else None

    def detach(self) -> ProductDistribution:
        return ProductDistribution([q.detach() for q in self.parts])
