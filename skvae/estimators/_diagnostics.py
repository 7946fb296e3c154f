"""What training has come to: the bound, and what each latent variable tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from skvae._core._batch import Batch, draw_noise
from skvae._core._random import Streams
from skvae.engine import Rows, evaluation_draws, in_pieces
from skvae.models import LatentVariableModel
from skvae.objectives._base import Bound

# A component is active where its posterior tells more than this about a row.
ACTIVE_NATS = 0.01
# No more rows than this are looked at, evenly spaced, some at a time.
MOST_ROWS = 20_000
ROWS_AT_ONCE = 1024


def diagnose(model: LatentVariableModel, rows: Rows, bound: Bound, seed: int) -> dict[str, Any]:
    """Mean bound, divergence of each component and noise variance, by name of fitted attribute.

    Parameters
    ----------
    model : LatentVariableModel
        At rest.
    rows : Rows
        That the model was trained on.
    bound : Bound
    seed : int
        Of the fit.
    """
    source = rows.evenly_spaced(MOST_ROWS)
    first = next(model.parameters())
    n_draws = evaluation_draws(bound, len(source))
    generator = Streams(seed).generator("validation", first.device)
    totals: dict[str, Any] = {"bound": 0.0, "kl": 0.0, "variance": 0.0, "noise": None}
    means: list[torch.Tensor] = []

    def add(batch: Batch, noise: Mapping[str, torch.Tensor]) -> None:
        bounds = bound(model, batch, noise).double()
        batch = model.complete(batch)
        q = model.posterior(batch)
        prior, observation = model.generative(batch, q.mean.unsqueeze(0))
        kl = prior.kl_per_component(q)
        variance = observation.head.noise_variance(observation.params)
        if variance is not None:
            variance = variance.double().expand(1, len(batch.x), -1).sum((0, 1))
            totals["noise"] = variance if totals["noise"] is None else totals["noise"] + variance
        totals["bound"] += float(bounds.sum())
        totals["variance"] = totals["variance"] + q.variance.double().sum(0)
        totals["kl"] = None if kl is None else totals["kl"] + kl.double().sum(0)
        totals["kl_may_vanish"] = kl is not None and prior.kl_may_vanish
        means.append(q.mean.double())

    with torch.no_grad():
        for start in range(0, len(source), ROWS_AT_ONCE):
            stretch = slice(start, min(start + ROWS_AT_ONCE, len(source)))
            noise = draw_noise(
                model.noise_spec(n_draws),
                stretch.stop - start,
                generator=generator,
                dtype=first.dtype,
                device=first.device,
            )
            in_pieces(add, model, source, stretch, noise, n_draws)
    kl_per_component = np.full(model.latent_shape, np.nan)
    if totals["kl"] is not None:
        kl_per_component = np.asarray(totals["kl"].cpu().numpy() / len(source), dtype=np.float64)
    if not totals["kl_may_vanish"]:
        # What a normal signal of the spread of the means tells beside noise of the variance,
        # whatever the scale that a learned prior has brought z to.
        spread = torch.cat(means).cpu().numpy().var(axis=0)
        noise_variance = totals["variance"].cpu().numpy() / len(source)
        active = 0.5 * np.log1p(spread / noise_variance) > ACTIVE_NATS
    else:
        active = kl_per_component > ACTIVE_NATS
    result = {
        "lower_bound_": totals["bound"] / len(source),
        "kl_per_component_": kl_per_component,
        "active_components_": active,
    }
    if totals["noise"] is not None:
        result["noise_variance_"] = totals["noise"].cpu().numpy() / len(source)
    return result
