"""The gradient derived by hand is that of automatic differentiation, for all that takes it."""

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae._core._batch import Batch, Clock
from skvae.engine import TrainingStep, can_stack
from skvae.engine._stacked import StackedAutoencoders
from skvae.likelihoods._gaussian import GaussianHead
from skvae.models import build_autoencoder
from skvae.networks import MLP
from skvae.networks._mlp import MLPHead
from skvae.objectives import SGVB
from skvae.objectives._sgvb import SGVBBound
from skvae.posteriors import DiagonalPosterior
from skvae.posteriors._diagonal import DiagonalHead
from skvae.priors import StandardNormalPrior
from skvae.solvers import Adam
from skvae.solvers._base import LearningRate
from tests.registry import LIKELIHOODS, NETWORKS, SOLVERS, each

N_MODELS, N_ROWS, N_COLUMNS, N_LATENT = 3, 12, 4, 2
CPU = torch.device("cpu")


def build(case, network, X, seed, dtype=torch.float64):
    return build_autoencoder(
        n_latent=N_LATENT,
        summary=case.component.summarize(X),
        likelihood=case.component,
        prior=StandardNormalPrior(),
        posterior=DiagonalPosterior(),
        encoder=network,
        decoder=network,
        dtype=dtype,
        generator=torch.Generator().manual_seed(seed),
    )


def setting(case, network, *, n_draws=1, beta=1.0, rate=0.0, prior_precision=0.0, dtype=None):
    """Models with their rows, and the same models stacked."""
    dtype = dtype or torch.float64
    rng = np.random.default_rng(0)
    X = [case.rows.from_real(rng.normal(size=(N_ROWS, N_COLUMNS))) for _ in range(N_MODELS)]
    models = [build(case, network, x, seed, dtype) for seed, x in enumerate(X)]
    bound = SGVB(n_draws=n_draws, beta=beta).build(100)
    stack = StackedAutoencoders(
        models,
        bound,
        Adam(),
        LearningRate(rate, 0, 0, CPU),
        torch.full((N_MODELS, 1), prior_precision, dtype=dtype),
    )
    heads = [model.observation_head for model in models]
    x = [h.standardize(torch.tensor(rows)).to(dtype) for h, rows in zip(heads, X, strict=True)]
    features = [h.features(rows, None) for h, rows in zip(heads, x, strict=True)]
    noise = torch.randn(
        N_MODELS, n_draws, N_ROWS, N_LATENT, dtype=dtype, generator=torch.Generator().manual_seed(5)
    )
    weight = torch.ones(N_MODELS, N_ROWS, dtype=dtype)
    weight[:, -3:] = 0.0
    return models, stack, bound, torch.stack(x), torch.stack(features), noise, weight


HAND_DERIVED = [
    case
    for case in LIKELIHOODS
    if build(case, MLP(hidden_layer_sizes=(3,)), np.eye(4), 0).observation_head.hand_derived
]


@pytest.mark.parametrize("n_draws", [1, 3])
@pytest.mark.parametrize("network", each(NETWORKS))
@pytest.mark.parametrize("case", each(HAND_DERIVED))
def test_gradient_and_bound_are_those_of_autograd(case, network, n_draws):
    models, stack, bound, x, features, noise, weight = setting(
        case, network, n_draws=n_draws, beta=0.7
    )
    assert can_stack(models[0], bound)
    bounds = stack.step(x, features, noise.flatten(1, 2), weight)
    for i, model in enumerate(models):
        model.zero_grad()
        expected = bound(model, Batch(x[i]), {"z": noise[i]}, Clock.start(CPU))
        torch.testing.assert_close(bounds[i], expected, rtol=1e-10, atol=1e-10)
        (-(weight[i] * expected).sum() / weight[i].sum()).backward()
        for name, parameter in model.named_parameters():
            gradient = stack.gradients[name][i]
            size = float(parameter.grad.abs().max()) if parameter.numel() else 0.0
            torch.testing.assert_close(
                gradient, parameter.grad, rtol=1e-10, atol=1e-10 * max(size, 1.0), msg=name
            )


@pytest.mark.parametrize("activation", ["elu", "logistic", "relu", "softplus", "tanh"])
def test_derivative_of_each_activation(activation):
    network = MLP(hidden_layer_sizes=(6, 5), activation=activation)
    models, stack, bound, x, features, noise, weight = setting(LIKELIHOODS[0], network)
    stack.step(x, features, noise.flatten(1, 2), weight)
    expected = bound(models[0], Batch(x[0]), {"z": noise[0]}, Clock.start(CPU))
    (-(weight[0] * expected).sum() / weight[0].sum()).backward()
    for name, parameter in models[0].named_parameters():
        torch.testing.assert_close(stack.gradients[name][0], parameter.grad, rtol=1e-9, atol=1e-9)


def test_models_do_not_know_each_other():
    """What one model sees does not move another."""
    network = MLP(hidden_layer_sizes=(5,))
    runs = []
    for disturbed in (False, True):
        _, stack, _, x, features, noise, weight = setting(LIKELIHOODS[0], network, rate=1e-2)
        if disturbed:
            x, features = x.clone(), features.clone()
            x[1] += 3.0
            features[1] += 3.0
        for _ in range(5):
            stack.step(x, features, noise.flatten(1, 2), weight)
        runs.append({name: value.clone() for name, value in stack.values.items()})
    for name, value in runs[0].items():
        torch.testing.assert_close(value[[0, 2]], runs[1][name][[0, 2]], rtol=0, atol=0)
        assert not torch.equal(value[1], runs[1][name][1])


def test_prior_on_the_weights_pulls_at_weights_alone():
    network = MLP(hidden_layer_sizes=(5,))
    gradients = []
    for precision in (0.0, 2.0):
        _, stack, _, x, features, noise, weight = setting(
            LIKELIHOODS[0], network, prior_precision=precision
        )
        before = {name: value.clone() for name, value in stack.values.items()}
        stack.step(x, features, noise.flatten(1, 2), weight)
        gradients.append({name: g.clone() for name, g in stack.gradients.items()})
    for name, gradient in gradients[1].items():
        pull = 2.0 * before[name] if before[name].ndim >= 3 else torch.zeros_like(gradient)
        torch.testing.assert_close(gradient - gradients[0][name], pull)


@pytest.mark.parametrize("solver", each(SOLVERS))
def test_steps_are_those_of_a_training_step(solver):
    """Solver, clipping, prior on weights, rates of groups and warm-ups together."""
    case, network = LIKELIHOODS[0], MLP(hidden_layer_sizes=(5,))
    models, _, _, x, features, noise, weight = setting(case, network, n_draws=2)
    bound = SGVB(n_draws=2, beta=0.5, warmup_steps=6).build(100)
    rate = LearningRate(1e-2, 4, 3, CPU)
    precision = torch.full((N_MODELS, 1), 0.3, dtype=torch.float64)
    stack = StackedAutoencoders(models, bound, solver, rate, precision)
    stack.clock.cooldown_start.fill_(5.0)
    steps = [TrainingStep(model, bound, solver, rate, prior_precision=0.3) for model in models]
    for step in steps:
        step.clock.cooldown_start.fill_(5.0)
    for _ in range(7):
        stack.step(x, features, noise.flatten(1, 2), weight)
        for i, step in enumerate(steps):
            step(Batch(x[i], weight=weight[i]), {"z": noise[i]})
    for i, model in enumerate(models):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                stack.values[name][i], parameter.detach(), rtol=1e-6, atol=1e-8, msg=name
            )


def test_model_without_rows_in_a_step_stays_finite():
    """With batches of one row the models of the folds have fewer rows than there are steps."""
    network = MLP(hidden_layer_sizes=(5,))
    _, stack, _, x, features, noise, weight = setting(LIKELIHOODS[0], network, rate=1e-2)
    before = {name: value.clone() for name, value in stack.values.items()}
    weight[1] = 0.0
    stack.step(x, features, noise.flatten(1, 2), weight)
    for name, value in stack.values.items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value[1], before[name][1]), name


@pytest.mark.filterwarnings("ignore:The lower bound was still rising")
def test_batches_of_one_row():
    X = np.random.default_rng(0).normal(size=(30, 3))
    vae = VariationalAutoencoder(
        1, hidden_layer_sizes=(3,), batch_size=1, max_iter=2, random_state=0
    ).fit(X)
    assert np.isfinite(vae.score(X))


class LaplaceHead(GaussianHead):
    """Another density, by the one method that says what it is."""

    def log_prob_columns(self, params, x):
        log_jacobian = torch.log(self.scale).to(x.dtype)
        scaled = (x - params.mean).abs() * torch.exp(-params.log_scale)
        return -scaled - params.log_scale - np.log(2.0) - log_jacobian


def test_subclass_with_another_density_does_not_inherit_the_gradient():
    case, network = LIKELIHOODS[0], MLP(hidden_layer_sizes=(5,))
    model = build(case, network, np.eye(4), 0)
    bound = SGVB().build(10)
    assert can_stack(model, bound)
    model.observation_head.__class__ = LaplaceHead
    assert not can_stack(model, bound)


class HalfScale(DiagonalHead):
    """Posterior of another shape."""

    def forward(self, outputs):
        q = super().forward(outputs)
        return type(q)(q.mean, q.log_scale - 1.0)


class Negated(MLPHead):
    """Network that computes something else."""

    def forward(self, inputs):
        return -super().forward(inputs)


@pytest.mark.parametrize(
    ("part", "changed"),
    [("posterior_head", HalfScale), ("encoder", Negated), ("decoder", Negated)],
)
def test_subclass_of_another_part_does_not_inherit_the_gradient(part, changed):
    model = build(LIKELIHOODS[0], MLP(hidden_layer_sizes=(5,)), np.eye(4), 0)
    getattr(model, part).__class__ = changed
    assert not can_stack(model, SGVB().build(10))


def test_subclass_of_the_bound_does_not_inherit_the_gradient():
    class Shifted(SGVBBound):
        def __call__(self, *args):
            return super().__call__(*args) - 1.0

    model = build(LIKELIHOODS[0], MLP(hidden_layer_sizes=(5,)), np.eye(4), 0)
    bound = Shifted(n_draws=1, analytic=True, beta=1.0, n_warmup_steps=0)
    assert not can_stack(model, bound)


@pytest.mark.filterwarnings("ignore:The lower bound was still rising")
def test_what_cannot_be_stacked_is_trained_all_the_same():
    """Dynamic binarisation and a divergence by draws take automatic differentiation."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(60, 1)) + 0.5 * rng.normal(size=(60, 4))).astype(np.float64)
    vae = VariationalAutoencoder(1, objective=SGVB(kl="monte_carlo"), max_iter=3, random_state=0)
    assert not can_stack(
        vae._build_model(
            vae._resolve_components(),
            1,
            vae._resolve_components()["likelihood_"].summarize(X),
            torch.Generator(),
        ),
        vae.objective.build(1),
    )
    assert vae.fit(X).n_iter_ == 3
