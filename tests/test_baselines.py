"""Wake-sleep and the score function: values, gradients against their definitions, fits."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from benchmarks._baselines import MonteCarloEM, ScoreFunction, WakeSleep
from skvae import VariationalAutoencoder, load, save
from skvae.engine._replay import FEWEST_STEPS, runner_for
from skvae.likelihoods import BernoulliLikelihood
from skvae.objectives import SGVB
from skvae.solvers import Adagrad
from tests.helpers import (
    assert_mean,
    batch_of,
    build_model,
    linear_gaussian_of,
    noise_for,
    tight_linear_model,
)
from tests.objectives.loose import N_ROWS, clock_at, loose_model

BOTH = pytest.mark.parametrize("objective", [WakeSleep(), ScoreFunction()], ids=["wake", "score"])


def gradients(bound, model, batch, noise):
    """Gradient of the mean bound in training, by name of parameter."""
    parameters = dict(model.named_parameters())
    value = bound(model, batch, noise, clock_at(0)).mean()
    found = torch.autograd.grad(value, parameters.values(), allow_unused=True)
    zeros = (torch.zeros_like(p) for p in parameters.values())
    return {
        name: zero if g is None else g
        for name, g, zero in zip(parameters, found, zeros, strict=True)
    }


def of_encoder(found):
    return torch.cat([g.ravel() for name, g in found.items() if name.startswith("encoder")])


@BOTH
@pytest.mark.parametrize("n_draws", [1, 3])
def test_value_is_the_evidence_lower_bound(objective, n_draws):
    model, _, X = loose_model()
    batch, noise = batch_of(model, X), noise_for(model, n_draws, N_ROWS)
    expected = SGVB(n_draws=n_draws, kl="monte_carlo").build(1)(model, batch, noise)
    bound = clone(objective).set_params(n_draws=n_draws).build(1)
    assert bound.n_draws == n_draws
    for clock in (None, clock_at(0)):
        torch.testing.assert_close(bound(model, batch, noise, clock), expected)


def test_awake_the_decoder_follows_the_joint_density_at_draws_that_are_held():
    model, _, X = loose_model()
    batch, noise = batch_of(model, X), noise_for(model, 1, N_ROWS)
    found = gradients(WakeSleep().build(1), model, batch, noise)
    z = model.posterior(batch).rsample(noise).detach()

    def log_joint():
        with torch.no_grad():
            return float(sum(model.log_joint(batch, z)).mean())

    step = 1e-6
    for name, p in model.named_parameters():
        if name.startswith("encoder"):
            continue
        for i in range(p.numel()):
            entry = p.data.view(-1)[i]
            before = float(entry)
            values = []
            for moved in (before + step, before - step):
                entry.fill_(moved)
                values.append(log_joint())
            entry.fill_(before)
            slope = (values[0] - values[1]) / (2.0 * step)
            assert float(found[name].view(-1)[i]) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def expected_log_q(model):
    """E[log q(z | x)] over z and x of a linear model, as a function of its encoder's parameters."""
    exact, head = linear_gaussian_of(model), model.observation_head
    scale = head.scale.numpy()
    loadings = torch.from_numpy(exact.loadings / scale[:, None])
    mean = torch.from_numpy((exact.mean - head.location.numpy()) / scale)
    variance = torch.from_numpy(exact.noise / scale**2)
    n_columns, n_latent = loadings.shape
    corners = torch.cat([torch.zeros(1, n_columns), torch.eye(n_columns)]).double()
    q = model.posterior(type(batch_of(model, exact.sample(1)))(corners))
    offset, slope = q.mean[0], (q.mean[1:] - q.mean[0]).T
    off = torch.eye(n_latent).double() - slope @ loadings
    square = off.square().sum(1) + (slope.square() * variance).sum(1)
    square = square + (slope @ mean + offset).square()
    spread = q.variance[0]
    return -0.5 * (torch.log(2.0 * torch.pi * spread) + square / spread).sum()


def test_asleep_the_encoder_follows_its_density_at_simulated_rows():
    model, exact, _ = loose_model()
    parameters = [p for name, p in model.named_parameters() if name.startswith("encoder")]
    found = torch.autograd.grad(expected_log_q(model), parameters)
    expected = torch.cat([g.ravel() for g in found])
    # Real rows do not matter to it.
    batch, draws = batch_of(model, exact.sample(300) + 7.0), []
    for seed in range(60):
        noise = noise_for(model, 1, 300, seed=seed)
        draws.append(of_encoder(gradients(WakeSleep().build(1), model, batch, noise)))
    assert expected.abs().max() > 0.1
    assert_mean(torch.stack(draws), expected)


def test_simulated_rows_miss_what_the_given_ones_miss():
    model, _, X = loose_model()
    mask = torch.ones(N_ROWS, X.shape[1], dtype=torch.float64)
    mask[:, 0] = 0.0
    batch, noise = batch_of(model, X)._replace(mask=mask), noise_for(model, 1, N_ROWS)
    found = gradients(WakeSleep().build(1), model, batch, noise)
    first_layer = next(g for g in found.values() if g.shape[0] == X.shape[1])
    assert (first_layer[0] == 0.0).all()
    assert (first_layer[1:] != 0.0).any()


def test_score_function_has_the_mean_of_the_pathwise_gradient():
    model, _, X = loose_model()
    batch, pathwise = batch_of(model, X), SGVB().build(1)
    running = ScoreFunction().build(1)
    for fresh in (True, False):
        apart = []
        for seed in range(600):
            noise = noise_for(model, 1, N_ROWS, seed=seed)
            bound = ScoreFunction().build(1) if fresh else running
            one, other = (gradients(b, model, batch, noise) for b in (bound, pathwise))
            apart.append(torch.cat([(one[name] - other[name]).ravel() for name in one]))
        apart = torch.stack(apart).numpy()
        assert np.abs(apart).max() > 0.1
        assert_mean(apart, 0.0)


def test_running_mean_takes_variance_from_the_score_function():
    model, _, X = loose_model()
    batch, bound = batch_of(model, X), ScoreFunction(decay=0.9).build(1)
    with_mean, without = [], []
    for seed in range(200):
        noise = noise_for(model, 1, N_ROWS, seed=seed)
        with_mean.append(of_encoder(gradients(bound, model, batch, noise)))
        q = model.posterior(batch)
        z = q.rsample(noise).detach()
        log_q = q.log_prob(z)
        signal = (sum(model.log_joint(batch, z)) - log_q).detach()
        parameters = [p for name, p in model.named_parameters() if name.startswith("encoder")]
        found = torch.autograd.grad((signal * log_q).mean(), parameters)
        without.append(torch.cat([g.ravel() for g in found]))
    variances = [torch.stack(draws[20:]).var(0).sum() for draws in (with_mean, without)]
    assert variances[0] < 0.7 * variances[1]


@BOTH
def test_padding_rows_do_not_matter(objective):
    model, _, X = loose_model()
    n, batch, noise = N_ROWS - 3, batch_of(model, X), noise_for(model, 1, N_ROWS)
    weight = torch.ones(N_ROWS, dtype=torch.float64)
    weight[n:] = 0.0
    found = []
    for shift in (0.0, 50.0):
        x = batch.x.clone()
        x[n:] += shift
        padded = batch._replace(x=x, weight=weight)
        bound = objective.build(1)
        values = [torch.dot(weight, bound(model, padded, noise, clock_at(0))) for _ in range(2)]
        found.append(torch.autograd.grad(sum(values), list(model.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_at_the_true_posterior_sleep_has_nothing_to_learn():
    model = tight_linear_model()
    X = linear_gaussian_of(model).sample(300)
    batch = batch_of(model, X)
    draws = [
        of_encoder(gradients(WakeSleep().build(1), model, batch, noise_for(model, 1, 300, seed=s)))
        for s in range(40)
    ]
    assert_mean(torch.stack(draws), 0.0)


# -- fits ----------------------------------------------------------------------------------------


def small(objective, **parameters):
    defaults = {
        "hidden_layer_sizes": (),
        "init": "random",
        "solver": "adagrad",
        "learning_rate_init": 0.1,
        "early_stopping": False,
        "n_iter_no_change": 10_000,
        "max_iter": 4,
        "random_state": 0,
    }
    return VariationalAutoencoder(2, objective=objective, **defaults | parameters)


@pytest.fixture(scope="module")
def rows():
    return linear_gaussian_of(tight_linear_model()).sample(300)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.slow
@BOTH
def test_linear_model_comes_near_the_exact_maximum(objective, rows):
    best = VariationalAutoencoder(2, hidden_layer_sizes=(), random_state=0).fit(rows).score(rows)
    first = small(objective, max_iter=1).fit(rows).lower_bound(rows).mean()
    reached = small(objective, max_iter=250).fit(rows).lower_bound(rows).mean()
    assert best - reached < 0.15
    assert best - first > 0.5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::skvae.exceptions.PosteriorCollapseWarning")
@BOTH
@pytest.mark.parametrize("likelihood", ["gaussian", "poisson"])
def test_same_seed_same_fit_with_missing_entries_and_few_rows(objective, likelihood):
    rng = np.random.default_rng(0)
    X = rng.poisson(3.0, size=(10, 3)).astype(float)
    X[rng.random(X.shape) < 0.2] = np.nan
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, other = (small(clone(objective), likelihood=likelihood).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    assert np.isfinite(one.score_samples(X)).all()
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fit_that_was_saved_goes_on_as_if_it_had_not_been_interrupted(rows, tmp_path):
    whole = small(WakeSleep()).fit(rows)
    part = small(WakeSleep(), max_iter=2, warm_start=True).fit(rows)
    save(part, tmp_path / "part.skvae")
    resumed = load(tmp_path / "part.skvae").fit(rows)
    np.testing.assert_allclose(resumed.lower_bounds_, whole.lower_bounds_, rtol=1e-6)


def test_steps_with_draws_of_their_own_are_not_recorded():
    class Step:
        def __init__(self, objective):
            self.bound = objective.build(1)
            device = type("device", (), {"type": "cuda"})
            self.clock = type("clock", (), {"step": type("t", (), {"device": device})})

        def run(self, steps):
            raise AssertionError

    eager, recorded = (Step(objective) for objective in (WakeSleep(), SGVB()))
    assert runner_for(eager, FEWEST_STEPS) == eager.run
    assert runner_for(recorded, FEWEST_STEPS) != recorded.run


# -- Monte Carlo expectation maximisation --------------------------------------------------------


def monte_carlo_em(X, *, likelihood=None, decoder=None, seed=0, **parameters):
    """Training of a new model by rows X, and the model."""
    model = build_model(X, likelihood=likelihood, decoder=decoder, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    defaults = {"learning_rate": 0.1, "generator": generator}
    return MonteCarloEM(model, batch_of(model, X).x, Adagrad(), **defaults | parameters), model


def test_monte_carlo_em_of_factor_analysis_rises_to_the_exact_maximum(rows):
    best = VariationalAutoencoder(2, hidden_layer_sizes=(), random_state=0).fit(rows).score(rows)
    em, model = monte_carlo_em(rows)
    encoder = [p.detach().clone() for p in model.encoder.parameters()]
    reached = []
    for n_batches in (3, 30, 120):
        em.train(n_batches)
        reached.append(linear_gaussian_of(model).log_prob(rows).mean())
    assert reached[0] < best - 0.3
    assert reached[0] < reached[1] < reached[2]
    assert best - 0.06 < reached[2] < best + 1e-3
    em.train(30)
    assert em.acceptance == pytest.approx(0.9, abs=0.04)
    for before, after in zip(encoder, model.encoder.parameters(), strict=True):
        assert torch.equal(before, after)


def test_chains_of_monte_carlo_em_draw_from_the_posterior(rows):
    model = tight_linear_model()
    generator = torch.Generator().manual_seed(0)
    em = MonteCarloEM(
        model,
        batch_of(model, rows).x,
        Adagrad(),
        learning_rate=1e-9,  # of a model that stays where it is
        acceptance=0.8,
        generator=generator,
    )
    mean, covariance = linear_gaussian_of(model).posterior(rows)
    em.train(30)
    deviations = []
    for _ in range(40):
        em.train(3)
        deviations.append(em.z[0].numpy() - mean)
    # The rows are independent, the draws of a chain are not.
    deviations = np.stack(deviations)
    assert_mean(deviations.mean(0), 0.0)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert_mean((deviations[..., i] * deviations[..., j]).mean(0), covariance[i, j])


def test_monte_carlo_em_goes_on_as_if_it_had_not_been_interrupted(rows, tmp_path):
    whole, _ = monte_carlo_em(rows)
    expected = [whole.train(4), whole.train(4)]
    part, _ = monte_carlo_em(rows)
    assert part.train(4) == expected[0]
    torch.save(part.state(), tmp_path / "em.state")
    resumed, _ = monte_carlo_em(rows)
    resumed.resume(torch.load(tmp_path / "em.state", weights_only=True))
    assert resumed.train(4) == expected[1]


def test_monte_carlo_em_of_few_rows_of_ones_and_zeros_with_a_prior_on_weights():
    X = (np.random.default_rng(0).random((10, 1)) < 0.3).astype(float)
    reached, sizes = [], []
    for alpha in (0.0, 1e4):
        em, model = monte_carlo_em(X, likelihood=BernoulliLikelihood(), alpha=alpha)
        reached.append(em.train(20))
        weights = [p.detach() for p in model.decoder.parameters() if p.ndim > 1]
        sizes.append(sum(float(p.norm()) for p in weights))
    assert np.isfinite(reached).all()
    assert sizes[1] < 0.3 * sizes[0]
