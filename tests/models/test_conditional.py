"""The conditional model: gradients, steps without values, and the law of a shifted prior."""

import numpy as np
import pytest
import torch

from skvae._core._batch import Batch
from skvae.engine import TrainingStep
from skvae.engine._chunk import Chunk
from skvae.models import can_derive
from skvae.objectives import SGVB
from skvae.objectives._base import AutomaticGradient
from skvae.solvers import Adam
from skvae.solvers._base import LearningRate
from tests.helpers import build_conditional

N_ROWS, N_CONTEXT = 8, 3
WIRINGS = [(False, True), (True, False), (True, True)]


def step_on(device, wiring, *, missing, automatic=False, dtype=torch.float64, n_draws=2):
    """A training step, and its inputs, for rows with a context."""
    in_prior, in_decoder = wiring
    X = np.random.default_rng(0).normal(size=(N_ROWS, 4))
    if missing:
        X[::2, 0] = np.nan
    model = build_conditional(
        X, N_CONTEXT, in_prior=in_prior, in_decoder=in_decoder, dtype=dtype
    ).to(device)
    bound = SGVB(n_draws=n_draws).build(100)
    rate = LearningRate(1e-3, 10, 10, torch.device(device))
    step = TrainingStep([model], bound, Adam(), rate)
    if automatic:
        step.gradient = AutomaticGradient(bound, step.flat.stack)
    like = Batch(torch.empty(1, 4), context=torch.empty(1, N_CONTEXT))
    if missing:
        like = like._replace(mask=like.x, factors=torch.empty(1, 2))
    chunk = Chunk(
        [model],
        like,
        n_draws=n_draws,
        n_steps=1,
        n_rows=N_ROWS,
        with_features=step.gradient.needs_features,
    )
    if device == "cpu":
        x = model.observation_head.standardize(torch.from_numpy(X))
        observed = (x == x).to(dtype)
        chunk.rows.x.copy_(torch.nan_to_num(x))
        chunk.rows.context.normal_(generator=torch.Generator().manual_seed(1))
        if missing:
            chunk.rows.mask.copy_(observed)
            known = Batch(chunk.rows.x[0, 0], observed, chunk.rows.context[0, 0])
            chunk.rows.factors.copy_(model.knowable(known, n_rows=1)["factors"])
    chunk.prepare(1, None if device == "meta" else torch.Generator().manual_seed(2))
    return model, step, chunk


@pytest.mark.parametrize("missing", [False, True])
def test_gradient_derived_by_hand_is_that_of_automatic_differentiation(missing):
    gradients = []
    for automatic in (False, True):
        model, step, chunk = step_on("cpu", (False, True), missing=missing, automatic=automatic)
        assert can_derive(model)
        assert type(step.gradient) is AutomaticGradient if automatic else True
        step.gradient(chunk.steps[0], step.clock)
        gradients.append([group.grad.clone() for group in step.flat.groups])
    for own, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(own, reference)
        assert reference.abs().max() > 0


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("wiring", WIRINGS)
def test_step_runs_without_values(wiring, missing):
    _, step, chunk = step_on("meta", wiring, missing=missing, dtype=torch.float32)
    step(chunk.steps[0])
    assert all(t.device.type == "meta" for t in (*step.state(), chunk.total(1)))


@pytest.mark.parametrize("wiring", WIRINGS[1:])
def test_divergence_from_a_shifted_prior_is_the_mean_log_ratio(wiring):
    model, _, chunk = step_on("cpu", wiring, missing=False)
    batch = chunk.rows_of(0, 0)
    q, prior = model.posterior(batch), model.prior(batch)
    noise = torch.randn(
        20_000, N_ROWS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    z = q.rsample({"z": noise})
    ratio = q.log_prob(z) - prior.log_prob(z)
    error = ratio.std(0) / 20_000**0.5
    assert ((ratio.mean(0) - prior.kl(q)).abs() < 4.5 * error).all()
    torch.testing.assert_close(prior.kl_per_component(q).sum(1), prior.kl(q))


@pytest.mark.parametrize("wiring", WIRINGS[1:])
def test_draws_of_a_shifted_prior_have_its_density(wiring):
    model, _, chunk = step_on("cpu", wiring, missing=False)
    batch = chunk.rows_of(0, 0)
    noise = torch.randn(
        20_000, N_ROWS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    prior, z = model.prior(batch), model.sample_prior(batch, {"z": noise})
    back = model.apart_from_context(z, batch)
    torch.testing.assert_close(back, noise)
    torch.testing.assert_close(model.under_context(back, batch), z)
    # The mean of the log-density of its own draws is minus the entropy of the normals.
    _, log_scale = model._shift_and_scale(batch)
    entropy = 2 * 0.5 * np.log(2 * np.pi * np.e) + log_scale.sum(1)
    error = prior.log_prob(z).std(0) / 20_000**0.5
    assert ((prior.log_prob(z).mean(0) + entropy).abs() < 4.5 * error).all()
