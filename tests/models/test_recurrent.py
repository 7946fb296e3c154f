"""The recurrent model: exact answers of linear state spaces, and what its steps promise."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from skvae._core._batch import Batch, Clock
from skvae.engine import TrainingStep
from skvae.engine._chunk import Chunk
from skvae.inference import (
    evidence_lower_bound,
    expected_continuation,
    expected_steps,
    filtered_log_likelihood,
    importance_log_likelihood,
)
from skvae.likelihoods import BernoulliLikelihood, CategoricalLikelihood, GaussianLikelihood
from skvae.models import build_recurrent
from skvae.networks import MLP
from skvae.networks._recurrent import RecurrentLayers
from skvae.objectives import IWAE, SGVB
from skvae.solvers import Adam
from skvae.solvers._base import LearningRate
from tests.helpers import StateSpace, assert_mean, draw, moved, noise_for

META = torch.device("meta")


def build(
    X, *, n_latent=2, likelihood=None, cell="lstm", hidden=(6,), dtype=torch.float64, **sizes
):
    """Model with random weights for sequences (n_rows, n_steps, n_columns), NaN where missing."""
    likelihood = GaussianLikelihood() if likelihood is None else likelihood
    summary = likelihood.summarize(X.reshape(-1, X.shape[2]))
    return build_recurrent(
        n_latent=n_latent,
        n_steps=X.shape[1],
        summary=summary._replace(has_missing=bool(np.isnan(X).any())),
        likelihood=likelihood,
        recurrence=RecurrentLayers(cell=cell, **{"state_size": 5, **sizes}),
        network=MLP(hidden_layer_sizes=hidden, activation="tanh"),
        dtype=dtype,
        generator=torch.Generator().manual_seed(0),
    )


def batch_of(model, X):
    """Sequences as the model reads them, with a mask if any entry is missing."""
    rows = torch.from_numpy(X.reshape(len(X), -1))
    x = model.observation_head.standardize(rows).to(next(model.parameters()).dtype)
    mask = (~torch.isnan(rows)).to(x) if np.isnan(X).any() else None
    return Batch(x, mask)


def uniforms(*shape):
    generator = torch.Generator().manual_seed(3)
    return {"resampling": torch.rand(*shape, generator=generator, dtype=torch.float64)}


def walks(n_rows=8, n_steps=5, n_columns=3, *, seed=0):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(size=(n_rows, n_steps, n_columns)), axis=1)


def with_holes(X, *, seed=0):
    """Some entries missing, some steps, and of some sequences all steps from some time on."""
    rng = np.random.default_rng(seed)
    holes = rng.random(X.shape) < 0.15
    holes |= (rng.random(X.shape[:2]) < 0.15)[..., None]
    for i, end in enumerate(rng.integers(1, X.shape[1] + 1, len(X))):
        holes[i, end:] = True
    return np.where(holes, np.nan, X)


# -- linear models, and the Kalman filter ---------------------------------------------------------


class LinearMemory(nn.Module):
    """Recurrence that is linear in what it reads and in itself, with h_1 = 0."""

    def __init__(self, reads, own):
        super().__init__()
        self.reads, self.own = nn.Parameter(reads), nn.Parameter(own)
        self.n_outputs = len(own)

    def start(self, n_rows):
        return [(self.own.new_zeros(n_rows, self.n_outputs),)]

    def forward(self, inputs, state):
        return [(inputs @ self.reads + state[0][0] @ self.own,)]

    def top(self, state):
        return state[0][0]


def set_linear(network, weight, offset):
    network.start_linear_(torch.as_tensor(weight), torch.as_tensor(offset))


def linear_model(n_steps, n_columns, n_latent):
    """Linear networks around a linear memory as wide as z, still to be set."""
    X = np.random.default_rng(0).normal(2.0, 3.0, size=(50, n_steps, n_columns))
    model = build(X, n_latent=n_latent, hidden=(), state_size=n_latent)
    return model


def state_space_of(model, A, Q, C, R, first=None):
    """What a linear model is in the units of the user, given what it is in those of the head."""
    head = model.observation_head.head
    scale, location = head.scale.numpy(), head.location.numpy()
    with torch.no_grad():
        head.log_variance.copy_(torch.from_numpy(np.log(R)))
    return StateSpace(A, Q, scale[:, None] * C, scale**2 * R, location, first)


def state_space_model(n_steps=6):
    """A model whose memory is the last z, with a posterior that is not the best there is."""
    rng = np.random.default_rng(1)
    A = np.array([[0.8, 0.3], [-0.2, 0.7]])
    Q = np.diag([0.6, 0.3])
    C, R = rng.normal(size=(3, 2)), np.array([0.4, 0.5, 0.3])
    model = linear_model(n_steps, 3, 2)
    model.recurrence = LinearMemory(
        torch.cat([torch.zeros(3, 2), torch.eye(2)]).double(), torch.zeros(2, 2).double()
    )
    exact = state_space_of(model, A, Q, C, R)
    set_linear(model.prior_network, A.T, np.concatenate([np.zeros(2), 0.5 * np.log(np.diag(Q))]))
    set_linear(model.emission_network, np.vstack([C.T, np.zeros((2, 3))]), np.zeros(3))
    gain = Q @ C.T @ np.linalg.inv(C @ Q @ C.T + np.diag(R))
    # As wide as the prior, so that weights are bounded whatever is missing.
    set_linear(
        model.recognition_network,
        np.vstack([gain.T, (A - gain @ C @ A).T]),
        np.concatenate([np.zeros(2), 0.5 * np.log(np.diag(Q))]),
    )
    return model, exact


def innovations_model(n_steps=6):
    """A model whose memory is what a Kalman filter in its steady state expects of z.

    Its density is that of a state space model, and its posterior is exact.
    """
    a, q, c, r = 0.9, 0.5, np.array([[1.0], [-0.6]]), np.array([0.7, 0.4])
    p = q
    for _ in range(500):
        p = a**2 / (1.0 / p + float(np.sum(c[:, 0] ** 2 / r))) + q
    gain = p * c.T @ np.linalg.inv(p * c @ c.T + np.diag(r))
    left = float(1.0 - (gain @ c)[0, 0]) * p
    model = linear_model(n_steps, 2, 1)
    model.recurrence = LinearMemory(
        torch.from_numpy(np.vstack([a * gain.T, np.zeros((1, 1))])),
        torch.from_numpy(a * (1.0 - gain @ c)),
    )
    A, Q = np.array([[a]]), np.array([[q]])
    exact = state_space_of(model, A, Q, c, r, first=np.array([[p]]))
    set_linear(model.prior_network, np.ones((1, 1)), [0.0, 0.5 * math.log(p)])
    set_linear(model.emission_network, np.vstack([c.T, np.zeros((1, 2))]), np.zeros(2))
    set_linear(
        model.recognition_network, np.vstack([gain.T, 1.0 - gain @ c]), [0.0, 0.5 * math.log(left)]
    )
    return model, exact


def kalman(exact, X):
    """Log-likelihoods (n_rows, n_steps), filtered and predicted means, of all sequences."""
    return (np.stack(part) for part in zip(*(exact.kalman(x) for x in X), strict=True))


@torch.no_grad()
def test_innovations_form_is_the_kalman_filter():
    model, exact = innovations_model()
    X = exact.sample(5, 6)
    batch, noise = batch_of(model, X), noise_for(model, 7, 5)
    steps, means, _ = kalman(exact, X)
    # Every draw weighs the same.
    seen = model.observe(batch, noise)
    z, log_q = model.posterior(seen).rsample_and_log_prob(noise)
    log_prior, log_likelihood = model.log_joint(seen, z)
    expected = np.broadcast_to(steps.sum(1), (7, 5))
    np.testing.assert_allclose(log_prior + log_likelihood - log_q, expected, atol=1e-5)
    np.testing.assert_allclose(model.posterior(batch).mean, means, atol=1e-6)
    by_step = filtered_log_likelihood(model, batch, noise | uniforms(6))
    np.testing.assert_allclose(by_step, steps, atol=1e-5)


@torch.no_grad()
def test_ragged_sequences_are_those_of_the_kalman_filter():
    model, exact = innovations_model()
    X = exact.sample(6, 6)
    for i in range(6):
        X[i, i + 1 :] = np.nan
    batch, noise = batch_of(model, X), noise_for(model, 3, 6)
    steps, means, _ = kalman(exact, X)
    for objective in (SGVB(n_draws=3, kl="monte_carlo"), IWAE(n_draws=3)):
        value = objective.build(1)(model, batch, noise)
        np.testing.assert_allclose(value, steps.sum(1), atol=1e-5)
    seen = ~np.isnan(X[:, :, 0])
    np.testing.assert_allclose(model.posterior(batch).mean[seen], means[seen], atol=1e-6)


@pytest.mark.parametrize("holes", [False, True])
@torch.no_grad()
def test_importance_sampling_against_the_kalman_filter(holes):
    model, exact = state_space_model()
    X = exact.sample(6, 6)
    X = with_holes(X) if holes else X
    batch = batch_of(model, X)
    steps = next(iter(kalman(exact, X))).sum(1)
    n_draws = 20_000
    noise = noise_for(model, n_draws, 6)
    estimate = importance_log_likelihood(model, batch, noise, n_at_once=2000)
    np.testing.assert_allclose(estimate, steps, atol=0.15)
    seen = model.observe(batch, noise)
    z, log_q = model.posterior(seen).rsample_and_log_prob(noise)
    log_prior, log_likelihood = model.log_joint(seen, z)
    ratio = torch.exp(log_prior + log_likelihood - log_q - torch.from_numpy(steps))
    assert_mean(ratio, 1.0, name="weights over the exact likelihood")
    bound = SGVB(n_draws=n_draws).build(1)(model, batch, noise)
    np.testing.assert_allclose(
        bound, evidence_lower_bound(model, batch, noise, n_at_once=2000), atol=0.05
    )
    has_any = ~np.isnan(X).all((1, 2))
    assert (bound.numpy() < steps)[has_any].all()


@pytest.mark.parametrize("holes", [False, True])
@torch.no_grad()
def test_particle_filter_is_unbiased(holes):
    model, exact = state_space_model(12)
    X = exact.sample(4, 12)
    X = with_holes(X) if holes else X
    n_times, n_draws = 2000, 8
    # Repetitions among the rows.
    batch = batch_of(model, np.repeat(X, n_times, axis=0))
    noise = noise_for(model, n_draws, len(batch.x))
    # Each repetition is to draw its own: with one uniform number for all they would not.
    steps = filtered_log_likelihood(model, batch, noise | uniforms(12, len(batch.x), 1))
    exact_steps = next(iter(kalman(exact, X)))
    ratio = torch.exp(steps.sum(1).view(4, n_times) - torch.from_numpy(exact_steps.sum(1))[:, None])
    assert_mean(ratio.mT, 1.0, name="estimates over the exact likelihood")
    if holes:
        is_empty = ~model.observed(batch)
        assert is_empty.any() and bool((steps[is_empty] == 0).all())
    # With many more draws each step is right by itself.
    many = noise_for(model, 20_000, 4) | uniforms(12)
    answer = filtered_log_likelihood(model, batch_of(model, X), many)
    np.testing.assert_allclose(answer, exact_steps, atol=0.05)


@torch.no_grad()
def test_continuation_is_that_of_the_kalman_filter():
    model, exact = state_space_model(8)
    X = exact.sample(3, 8, seed=2)
    ends = torch.tensor([6, 3, 5])
    for i, end in enumerate(ends):
        X[i, end:] = np.nan
    n_draws = 20_000
    noise = noise_for(model, n_draws, 3) | uniforms(8)
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(model, X)
    expectation = expected_continuation(model, batch, ends, noise, 2, generator)
    got = model.observation_head.from_expectation(expectation).view(3, 2, 3).numpy()
    for i, end in enumerate(ends):
        mean = exact.kalman(X[i])[2][end - 1]
        for step in range(2):
            expected = exact.loadings @ mean + exact.mean
            np.testing.assert_allclose(got[i, step], expected, atol=0.15)
            mean = exact.transition @ mean


@torch.no_grad()
def test_missing_steps_are_expected_as_given_all_others():
    model, exact = state_space_model(8)
    X = with_holes(exact.sample(4, 8, seed=2))
    X[:, 3:5] = np.nan
    batch = batch_of(model, X)
    noise = noise_for(model, 20_000, 4) | uniforms(8)
    generator = torch.Generator().manual_seed(0)
    expectation = expected_steps(model, batch, noise, generator, lambda draws: draws.expectation)
    got = model.observation_head.from_expectation(expectation).view(4, 8, 3).numpy()
    for i in range(4):
        holes = np.isnan(X[i])
        np.testing.assert_allclose(got[i][holes], exact.complete(X[i])[holes], atol=0.25)


@torch.no_grad()
def test_what_is_drawn_for_a_missing_step_is_read():
    """In innovations form the state reads x alone, and what is missing has to be integrated out."""
    model, exact = innovations_model(6)
    X = exact.sample(3, 6, seed=1)
    X[:, 2:4] = np.nan
    noise = noise_for(model, 20_000, 3) | uniforms(6)
    generator = torch.Generator().manual_seed(0)
    head = model.observation_head
    got = expected_steps(
        model, batch_of(model, X), noise, generator, lambda draws: head.unstandardize(draws.x)
    )
    got = got.view(3, 6, 2).numpy()
    for i in range(3):
        np.testing.assert_allclose(got[i, 2:4], exact.complete(X[i])[2:4], atol=0.1)


@torch.no_grad()
def test_simulated_sequences_have_the_moments_of_the_model():
    model, exact = state_space_model(3)
    n_rows = 20_000
    nothing = torch.zeros(n_rows, 9, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    ends = torch.zeros(n_rows, dtype=torch.int64)
    particles = model.particles(Batch(nothing, nothing), 1, ends, generator)
    noise = noise_for(model, 1, n_rows)["z"]
    steps = []
    for t in range(3):
        particles.advance(noise[:, :, t])
        steps.append(particles.x[0])
    X = model.observation_head.unstandardize(torch.cat(steps, 1)).view(n_rows, 3, 3).numpy()
    reference = exact.sample(200_000, 3)
    assert_mean(X, exact.mean, name="mean")
    products = np.einsum("nti,nsj->ntsij", X - exact.mean, X - exact.mean)
    expected = np.einsum("nti,nsj->tsij", reference - exact.mean, reference - exact.mean) / 200_000
    assert_mean(products, expected, n_errors=6, name="covariance")


# -- laws of any such model -----------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("holes", [False, True])
def test_padding_changes_nothing(cell, holes):
    X = with_holes(walks()) if holes else walks()
    model = moved(build(X, cell=cell, n_layers=2))
    noise = noise_for(model, 3, len(X))
    padded = np.concatenate([X, np.full((len(X), 4, 3), np.nan)], axis=1)
    longer = model.for_steps(9)
    further = noise_for(longer, 3, len(X), seed=5)["z"]
    further[:, :, :5] = noise["z"]
    for objective in (SGVB(n_draws=3), IWAE(n_draws=3)):
        answers = []
        for one, rows, z in ((model, X, noise["z"]), (longer, padded, further)):
            bound = objective.build(1)(one, batch_of(one, rows), {"z": z})
            gradients = torch.autograd.grad(bound.sum(), list(one.parameters()))
            answers.append([bound.detach(), *gradients])
        for plain, with_padding in zip(*answers, strict=True):
            torch.testing.assert_close(plain, with_padding, rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        plain = model.posterior(batch_of(model, X)).mean
        other = longer.posterior(batch_of(longer, padded)).mean[:, :5]
        torch.testing.assert_close(plain, other, rtol=1e-9, atol=1e-11)


def test_what_is_under_the_mask_does_not_matter():
    X = with_holes(walks())
    model = moved(build(X))
    batch, noise = batch_of(model, X), noise_for(model, 2, len(X))
    junk = torch.where(batch.mask > 0, batch.x, torch.full_like(batch.x, 1e3))
    bound = SGVB(n_draws=2).build(1)
    torch.testing.assert_close(
        bound(model, batch, noise), bound(model, Batch(junk, batch.mask), noise)
    )


def test_unobserved_step_has_its_prior_for_a_posterior():
    X = walks()
    X[:, 2] = np.nan
    X[:, 4] = np.nan
    model = moved(build(X))
    batch, noise = batch_of(model, X), noise_for(model, 2, len(X))
    q = model.posterior(batch)
    z = q.rsample(noise)
    prior = model.prior_of(model(batch, z=z).states)
    own = q.along(z)
    for t in range(5):
        same = torch.equal(own.mean[0, :, t], prior.mean[t, : len(X)])
        assert same == (t in (2, 4))
    # Nothing observed: nothing learned, whatever is drawn.
    nothing = Batch(batch.x, torch.zeros_like(batch.x))
    for objective in (SGVB(n_draws=2), SGVB(n_draws=2, kl="monte_carlo"), IWAE(n_draws=2)):
        bound = objective.build(1)(model, nothing, noise)
        np.testing.assert_allclose(bound.detach(), 0.0, atol=1e-12)


def test_posterior_is_a_filter():
    """What comes later in a sequence does not change what is said of a step."""
    X = walks()
    model = moved(build(X))
    before = model.posterior(batch_of(model, X)).mean
    X[:, 3:] += 5.0
    after = model.posterior(batch_of(model, X)).mean
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().min() > 1e-4


def test_gradient_of_the_reconstruction_reaches_the_recognition_through_time():
    X = walks(4)
    model = moved(build(X))
    batch, noise = batch_of(model, X), noise_for(model, 1, 4)
    weight = model.recognition_network.output.weight

    def reconstruction_of_last_step():
        z = model.posterior(batch).rsample(noise)
        observation = model.generative(batch, z).observation
        columns = observation.head.log_prob_columns(observation.params, batch.x)
        return columns[..., -3:].sum()

    def without_last_draw():
        """The last step's own z held: what is left comes through the recurrence alone."""
        z = model.posterior(batch).rsample(noise)
        z = torch.cat([z[:, :, :-1], z[:, :, -1:].detach()], dim=2)
        observation = model.generative(batch, z).observation
        return observation.head.log_prob_columns(observation.params, batch.x)[..., -3:].sum()

    (gradient,) = torch.autograd.grad(reconstruction_of_last_step(), weight)
    place = np.unravel_index(int(gradient.abs().argmax()), gradient.shape)
    step, values = 1e-5, []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            weight[place] += sign * step
            values.append(float(reconstruction_of_last_step()))
            weight[place] -= sign * step
    np.testing.assert_allclose(gradient[place], (values[0] - values[1]) / (2 * step), rtol=1e-5)
    (through_time,) = torch.autograd.grad(without_last_draw(), weight)
    assert through_time.abs().max() > 1e-3


def test_densities_of_draws_are_the_same_along_given_z():
    X = with_holes(walks())
    model = moved(build(X, n_layers=2))
    batch, noise = batch_of(model, X), noise_for(model, 3, len(X))
    seen = model.observe(batch, noise)
    q = model.posterior(seen)
    z, log_q = q.rsample_and_log_prob(noise)
    again = z.clone()
    torch.testing.assert_close(log_q, model.posterior(batch).log_prob(again))
    for fresh in (model.generative(batch, again), model.generative(seen, again)):
        prior, observation = model.generative(seen, z)
        torch.testing.assert_close(prior.log_prob(z), fresh.prior.log_prob(again))
        torch.testing.assert_close(
            observation.log_prob(seen.x, seen.mask), fresh.observation.log_prob(seen.x, seen.mask)
        )
        torch.testing.assert_close(prior.kl(q), fresh.prior.kl(model.posterior(batch)))


def test_divergence_in_closed_form_is_that_of_draws():
    X = with_holes(walks(3, 4))
    model = moved(build(X))
    batch, noise = batch_of(model, X), noise_for(model, 20_000, 3)
    with torch.no_grad():
        q = model.posterior(batch)
        z = q.rsample(noise)
        prior = model.generative(batch, z).prior
        closed, drawn = prior.kl(q), q.log_prob(z) - prior.log_prob(z)
        by_component = prior.kl_per_component(q)
    assert_mean(drawn - closed, 0.0, name="divergence")
    torch.testing.assert_close(by_component.sum(1), closed)
    assert bool((closed >= 0).all())


def test_detached_posterior_keeps_the_path_through_z():
    X = walks(3)
    model = moved(build(X))
    batch = batch_of(model, X)
    z = model.posterior(batch).rsample(noise_for(model, 2, 3)).detach().requires_grad_()
    held, free = model.posterior(batch).detach().log_prob(z), model.posterior(batch).log_prob(z)
    torch.testing.assert_close(held, free)
    (of_held,) = torch.autograd.grad(held.sum(), z)
    (of_free,) = torch.autograd.grad(free.sum(), z, retain_graph=True)
    torch.testing.assert_close(of_held, of_free)
    # Nothing else: the parameters have no gradient.
    held = model.posterior(batch).detach().log_prob(z)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(held.sum(), parameters, allow_unused=True)
    assert all(g is None for g in gradients)


def test_gradient_of_draws_passes_through_z_alone():
    """Else DReG, which weighs it there, would miss what the recurrence carries on."""
    X = walks(3)
    model = moved(build(X))
    batch, noise = batch_of(model, X), noise_for(model, 2, 3)
    seen = model.observe(batch, noise)
    z = model.posterior(seen).rsample(noise)
    total = sum(part.sum() for part in model.log_joint(seen, z))
    weight = model.recognition_network.output.weight
    (in_z,) = torch.autograd.grad(total, z, retain_graph=True)
    (through_z,) = torch.autograd.grad(z, weight, in_z, retain_graph=True)
    (all_of_it,) = torch.autograd.grad(total, weight)
    torch.testing.assert_close(through_z, all_of_it)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (SGVB(), SGVB(kl="monte_carlo")),
        (SGVB(), SGVB(gradient="stl")),
        (IWAE(n_draws=3), IWAE(n_draws=3, gradient="dreg")),
    ],
)
def test_gradient_estimators_have_the_same_mean(one, other):
    X = walks(1, 3, 2)
    model = moved(build(X, hidden=(3,), state_size=3))
    n_times = 3000
    batch = batch_of(model, np.repeat(X, n_times, axis=0))
    clock = Clock.start(torch.device("cpu"))
    weight = model.recognition_network.output.weight
    recurrent = model.recurrence.layers[0].weight_input
    parts = []
    for seed, objective in enumerate((one, other)):
        bound = objective.build(1)
        noise = noise_for(model, bound.n_draws, n_times, seed=seed)
        values = bound(model, batch, noise, clock).view(30, -1).mean(1)
        gradients = [
            torch.autograd.grad(value, [weight, recurrent], retain_graph=True) for value in values
        ]
        parts.append([torch.stack(part).numpy() for part in zip(*gradients, strict=True)])
    for a, b in zip(*parts, strict=True):
        # Thirty means each; the difference of paired ones has both their errors.
        assert_mean(a - b, 0.0, n_errors=6)


def test_without_latent_variables_the_bound_is_the_likelihood():
    X = walks()
    model = moved(build(X, n_latent=0))
    batch, noise = batch_of(model, X), noise_for(model, 1, len(X))
    bound = SGVB().build(1)(model, batch, noise)
    z = torch.zeros(1, len(X), 5, 0, dtype=torch.float64)
    torch.testing.assert_close(bound, model.log_joint(batch, z)[1][0])
    steps = filtered_log_likelihood(model, batch, noise | uniforms(5))
    torch.testing.assert_close(bound, steps.sum(1))


@pytest.mark.parametrize(
    "likelihood", [BernoulliLikelihood(binarize="dynamic"), CategoricalLikelihood(n_categories=3)]
)
def test_other_likelihoods(likelihood):
    rng = np.random.default_rng(0)
    X = rng.random((6, 5, 3))
    if not isinstance(likelihood, BernoulliLikelihood):
        X = np.floor(3 * X)
    X[2, 3:] = np.nan
    model = moved(build(X, likelihood=likelihood))
    batch, noise = batch_of(model, X), noise_for(model, 2, 6)
    bound = SGVB(n_draws=2).build(1)(model, batch, noise)
    assert bool(torch.isfinite(bound).all())
    shared = noise_for(model, 2, 1)
    assert bool((evidence_lower_bound(model, batch, shared) < 0).all())


# -- the recurrence -------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "module"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_recurrence_is_that_of_torch(cell, module):
    generator = torch.Generator().manual_seed(0)
    layers = RecurrentLayers(cell=cell, state_size=4, n_layers=2)
    network = moved(layers.build(3, dtype=torch.float64, generator=generator))
    with torch.random.fork_rng():
        reference = module(3, 4, num_layers=2, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for i, layer in enumerate(network.layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            for name, p in zip(names, layer.parameters(), strict=True):
                getattr(reference, f"{name}_l{i}").copy_(p)
        x = torch.randn(5, 6, 3, generator=generator, dtype=torch.float64)
        state, told = network.start(5), []
        for step in x.unbind(1):
            state = network(step, state)
            told.append(network.top(state))
        torch.testing.assert_close(torch.stack(told, 1), reference(x)[0])


# -- a step of training ---------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [SGVB(), SGVB(gradient="stl"), IWAE(gradient="dreg")])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("holes", [False, True])
def test_step_runs_without_values(objective, cell, holes):
    X = with_holes(walks()) if holes else walks()
    model = build(X, cell=cell, n_layers=2, dtype=torch.float32).to(META)
    bound = objective.build(100)
    step = TrainingStep([model], bound, Adam(clip_norm=1.0), LearningRate(1e-3, 10, 10, META))
    like = Batch(torch.empty(1, 15), torch.empty(1, 15) if holes else None)
    chunk = Chunk([model], like, n_draws=bound.n_draws, n_steps=2, n_rows=8, with_features=False)
    chunk.prepare(2, None)
    for inputs in chunk.steps:
        step(inputs)
    gradients = [group.grad for group in step.flat.groups]
    assert all(t.device == META for t in (*step.state(), *gradients, chunk.total(2)))


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    X = with_holes(walks())
    model = build(X)
    noise = draw(model.noise_spec(2), len(X))
    SGVB(n_draws=2).build(1)(model, batch_of(model, X), noise).sum().backward()
    assert torch.equal(before, torch.get_rng_state())


def test_copies_for_other_lengths_share_weights():
    model = build(walks())
    longer = model.for_steps(9)
    assert model.latent_shape == (5, 2) and longer.latent_shape == (9, 2)
    assert all(a is b for a, b in zip(model.parameters(), longer.parameters(), strict=True))
    assert copy.deepcopy(longer).latent_shape == (9, 2)
