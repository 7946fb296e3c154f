"""The conditional autoencoder whose context is a class, which a classifier tells where it can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skvae._core._batch import Batch, NoiseSpec
from skvae.models._conditional import ConditionalAutoencoder
from skvae.networks._base import NetworkHead


class SemiSupervisedAutoencoder(ConditionalAutoencoder):
    """p(y) p(z) p(x | y, z) with q(y | x) q(z | x, y), of which y is known of some rows.

    The model M2 of Kingma et al. (2014). The context of a row is the indicator of its class, or 0
    where that is not known.

    Parameters
    ----------
    classifier : NetworkHead
        From what is read of a row, with 0 for what is missing, to the logits of q(y | x).
    class_log_prior : Tensor of shape (n_classes,)
        Logits of p(y).
    learns_prior : bool
        Whether they are parameters.
    spreads : bool
        Whether rows are known by a mean and a standard deviation of each entry, of which each step
        draws anew.
    **parts
        As of `ConditionalAutoencoder`.

    References
    ----------
    Kingma, D. P., Rezende, D. J., Mohamed, S. and Welling, M. (2014). Semi-supervised learning with
    deep generative models. NeurIPS.
    """

    def __init__(
        self,
        *,
        classifier: NetworkHead,
        class_log_prior: Tensor,
        learns_prior: bool,
        spreads: bool,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.classifier = classifier
        self.spreads = spreads
        logits = nn.Parameter(class_log_prior.clone())
        if learns_prior:
            self.class_logits = logits
        else:
            self.register_buffer("class_logits", logits.detach())

    def noise_spec(self, n_draws: int) -> dict[str, NoiseSpec]:
        specs = super().noise_spec(n_draws)
        if self.spreads:
            specs["rows"] = NoiseSpec((self.observation_head.n_columns,), per="row")
        if self.training:
            for name, width in self.classifier.noise_widths.items():
                specs[f"classifier.{name}"] = NoiseSpec((width,), "uniform", "row")
        return specs

    def readers(self) -> dict[str, NetworkHead]:
        return super().readers() | {"classifier": self.classifier}

    def recognition_weights(self) -> list[str]:
        own = [name for name, _ in self.named_parameters() if name.startswith("classifier.")]
        return super().recognition_weights() + own

    def observe(self, batch: Batch, noise: Mapping[str, Tensor]) -> Batch:
        if batch.spread is not None:
            batch = batch._replace(x=batch.x + batch.spread * noise["rows"], spread=None)
        return super().observe(batch, noise)

    def class_log_prior(self) -> Tensor:
        """log p(y), (n_classes,), in nats."""
        return torch.log_softmax(self.class_logits, dim=0)

    def class_log_prob(self, batch: Batch) -> Tensor:
        """log q(y | x), (n_rows, n_classes), in nats."""
        noise = None
        if batch.noise is not None and self.training:
            noise = {n: batch.noise[f"classifier.{n}"] for n in self.classifier.noise_widths}
        logits = self.classifier(self.row_features(batch), noise or None)
        return torch.log_softmax(logits, dim=-1)

    def complete(self, batch: Batch) -> Batch:
        context = self.context_of(batch)
        unknown = 1.0 - context.sum(-1, keepdim=True)
        return batch._replace(context=context + unknown * self.class_log_prob(batch).exp())
