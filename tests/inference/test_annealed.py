"""Annealed importance sampling, against linear-Gaussian models and without an autoencoder."""

import itertools

import numpy as np
import pytest
import torch

from skvae._core._batch import Batch, NoiseSpec
from skvae._core._normal import normal_log_prob
from skvae.inference import (
    AnnealedImportanceSampling,
    log_mean_weight,
    log_weights,
    reciprocal_log_likelihood,
    sigmoid_schedule,
)
from skvae.likelihoods._base import Observation
from skvae.models._base import Generative, LatentVariableModel
from skvae.posteriors._base import PosteriorDistribution
from skvae.priors._base import PriorDistribution
from tests.helpers import (
    LinearGaussian,
    assert_mean,
    batch_of,
    build_model,
    draw,
    linear_gaussian_of,
    noise_for,
    normal_log_density,
    perturbed_,
    tight_linear_model,
)

STARTS = ["posterior", "prior"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def simulated(model, n_rows, seed=0):
    """Rows that a model simulates, the z of each, and their exact log-likelihoods."""
    with torch.no_grad():
        z = model.sample_prior(None, draw(model.prior_noise_spec(1), n_rows, seed=seed))
        x = model.generative(Batch(z), z).observation.sample(generator(seed))[0]
    X = model.observation_head.unstandardize(x).numpy()
    return Batch(x), z, torch.from_numpy(linear_gaussian_of(model).log_prob(X))


def annealed(model, batch, n_steps, start="posterior", seed=1):
    return AnnealedImportanceSampling(
        model, batch, generator(seed), sigmoid_schedule(n_steps), start=start
    )


@pytest.mark.parametrize("n_steps", [1, 2, 5, 100])
def test_schedule_rises_from_0_to_1_by_steps_that_are_smallest_at_the_ends(n_steps):
    temperatures = sigmoid_schedule(n_steps)
    assert len(temperatures) == n_steps + 1
    assert temperatures[0] == 0.0 and temperatures[-1] == 1.0
    steps = np.diff(temperatures)
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, steps[::-1])
    assert steps[0] == pytest.approx(steps.min())


@pytest.mark.parametrize("n_steps", [1, 7])
def test_every_weight_is_the_likelihood_at_the_true_posterior(n_steps):
    model = tight_linear_model()
    batch, z, exact = simulated(model, 6)
    path = annealed(model, batch, n_steps)
    for log_weight in (path.forward(5), path.reverse(z, 5)):
        assert log_weight.shape == (5, 6) and log_weight.dtype == torch.float64
        torch.testing.assert_close(log_weight, exact.expand(5, 6), rtol=1e-10, atol=1e-10)


# From the prior the weights of the way back have tails that 8 temperatures leave too heavy to test.
@pytest.mark.parametrize(("start", "n_steps"), [("posterior", 8), ("prior", 64)])
def test_weights_are_unbiased_in_both_directions(start, n_steps):
    # Few temperatures, so that it is not many moves that make it true; one chain for each row.
    model = perturbed_(tight_linear_model(), 0.05)
    batch, z, exact = simulated(model, 3000)
    path = annealed(model, batch, n_steps, start)
    forward, reverse = path.forward(1)[0] - exact, exact - path.reverse(z, 1)[0]
    assert forward.std() > 0.1 and reverse.std() > 0.1
    assert_mean(forward.exp(), 1.0, name="forward")
    assert_mean(reverse.exp(), 1.0, name="reverse")
    # And each is a bound.
    for bound in (forward, reverse):
        assert bound.mean() + 3.0 * bound.std() / np.sqrt(len(bound)) < 0.0


@pytest.mark.parametrize("start", STARTS)
def test_bounds_close_in_on_the_exact_value_with_the_number_of_steps(start):
    model = perturbed_(tight_linear_model(5, 3), 0.2)
    batch, z, exact = simulated(model, 150)
    gaps = []
    for n_steps in (4, 16, 64):
        path = annealed(model, batch, n_steps, start)
        lower = log_mean_weight([path.forward(16)])
        upper = log_mean_weight([-path.reverse(z, 16)]).negated()
        below, above = exact - lower.value, upper.value - exact
        for distance in (below, above):
            assert distance.mean() > -3.0 * distance.std() / np.sqrt(len(distance))
        gaps.append((float(below.mean()), float(above.mean())))
    for wide, narrow in itertools.pairwise(gaps):
        assert narrow[0] < 0.6 * wide[0] and narrow[1] < 0.6 * wide[1]
    assert max(gaps[-1]) < 0.15


@pytest.mark.parametrize("end", [0.1, 0.5, 0.9])
def test_integrals_on_the_way_are_those_in_closed_form(end):
    # From the prior, p(z) p(x | z)**b is normal in z, and so is its integral in x but a constant.
    model = tight_linear_model()
    exact = linear_gaussian_of(model)
    X = exact.sample(3)
    temperatures = [end * t for t in sigmoid_schedule(12)]
    path = AnnealedImportanceSampling(
        model, batch_of(model, X), generator(), temperatures, start="prior"
    )
    covariance = exact.loadings @ exact.loadings.T + np.diag(exact.noise / end)
    constant = 0.5 * np.sum((1.0 - end) * np.log(2 * np.pi * exact.noise) - np.log(end))
    # log p(x) of a standardised row differs from that of a row by the Jacobian, of which the
    # integral has the power b, as the closed form has.
    expected = normal_log_density(X, exact.mean, covariance) + constant
    assert_mean((path.forward(4000) - torch.from_numpy(expected)).exp(), 1.0)


@pytest.mark.parametrize("start", STARTS)
def test_missing_entries_leave_the_likelihood_of_what_is_observed(start):
    model = perturbed_(tight_linear_model(), 0.05)
    exact = linear_gaussian_of(model)
    X = exact.sample(6)
    mask = np.ones_like(X)
    mask[0, 1] = mask[1, :3] = mask[2, 2:] = mask[3] = 0.0
    expected = np.zeros(6)
    covariance = exact.loadings @ exact.loadings.T + np.diag(exact.noise)
    for i, seen in enumerate(mask > 0):
        if seen.any():
            part = covariance[np.ix_(seen, seen)]
            expected[i] = normal_log_density(X[i : i + 1, seen], exact.mean[seen], part)[0]
    garbage = batch_of(model, np.where(mask > 0, X, 1e3))
    batch = garbage._replace(mask=torch.from_numpy(mask))
    answer = log_mean_weight([annealed(model, batch, 60, start).forward(200)])
    np.testing.assert_allclose(answer.value, expected, atol=0.1)


def test_the_path_does_not_need_to_know_what_the_rows_are():
    # Nothing is taken from rows to rows but the spread of the prior: far rows are as good.
    model = tight_linear_model()
    exact = linear_gaussian_of(model)
    X = exact.sample(4)
    X[2] += 100.0
    answer = log_mean_weight([annealed(model, batch_of(model, X), 20).forward(8)])
    np.testing.assert_allclose(answer.value, exact.log_prob(X), rtol=1e-9)


def test_float32_models_are_sampled_in_float32_and_pooled_in_float64():
    X = np.random.default_rng(0).normal(size=(20, 3))
    model = build_model(X, n_latent=2, dtype=torch.float32)
    path = annealed(model, batch_of(model, X), 10)
    assert path.step_sizes.dtype == torch.float32
    assert path.forward(3).dtype == torch.float64


def test_densities_without_a_gradient_are_refused_with_what_to_do(monkeypatch):
    model = tight_linear_model()
    batch, _, _ = simulated(model, 3)
    decode, prior = type(model).generative, type(model.prior())
    rises = prior.log_prob
    monkeypatch.setattr(type(model), "generative", lambda m, b, z: decode(m, b, z.detach()))
    monkeypatch.setattr(prior, "log_prob", lambda own, z: rises(own, z.detach()))
    with pytest.raises(ValueError, match=r"log p\(x, z\) in z, and there is none.*'importance'"):
        annealed(model, batch, 3)
    monkeypatch.undo()
    q = type(model.posterior(batch))
    density = q.log_prob
    monkeypatch.setattr(q, "log_prob", lambda own, z: density(own, z.detach()))
    with pytest.raises(ValueError, match=r"start='posterior' needs .*start='prior'"):
        annealed(model, batch, 3)
    annealed(model, batch, 3, "prior")


# ------------------------------------------------------------------------- only the protocol


class Normals(PosteriorDistribution, PriorDistribution):
    """Independent normals, over latent variables of any shape."""

    def __init__(self, mean, log_scale):
        self.mean, self.log_scale = mean, log_scale
        self.variance = torch.exp(2.0 * log_scale).expand_as(mean)

    def rsample(self, noise):
        return self.mean + torch.exp(self.log_scale) * noise["layers"]

    sample = rsample

    def log_prob(self, z):
        return normal_log_prob(z, self.mean, self.log_scale).flatten(2).sum(-1)

    def detach(self):
        return Normals(self.mean.detach(), self.log_scale.detach())


class TwoLayers(LatentVariableModel):
    """Linear model whose latent variables are the noises of two layers, (2, 2)."""

    latent_shape = (2, 2)
    missingness = None

    def __init__(self):
        super().__init__()
        self.observation_head = tight_linear_model(5).observation_head
        rng = generator(3)
        shapes = {"top": (2, 2), "own": (2, 2), "out": (2, 5), "recognise": (5, 4)}
        for name, shape in shapes.items():
            value = 0.7 * torch.randn(shape, generator=rng, dtype=torch.float64)
            self.register_parameter(name, torch.nn.Parameter(value))

    def noise_spec(self, n_draws):
        return {"layers": NoiseSpec((n_draws, 2, 2))}

    prior_noise_spec = noise_spec

    def code(self, batch):
        x = batch.x if batch.mask is None else batch.x * batch.mask
        return 0.2 * x @ self.recognise

    def posterior_of(self, code):
        return Normals(code.view(-1, 2, 2), code.new_tensor(-1.2))

    def prior(self):
        like = self.top
        return Normals(like.new_zeros(1, 2, 2), like.new_zeros(()))

    def generative(self, batch, z):
        hidden = z[..., 0, :] @ self.top + z[..., 1, :] @ self.own
        head = self.observation_head
        observation = Observation(head, head.params_from(hidden @ self.out))
        return Generative(self.prior(), observation)

    def sample_prior(self, batch, noise):
        return self.prior().sample(noise)

    def exact(self):
        """The marginal of its rows, from what it answers."""
        probe = torch.cat([torch.zeros(1, 4), torch.eye(4)]).double().view(5, 1, 2, 2)
        with torch.no_grad():
            head, params, _ = self.generative(Batch(probe), probe).observation
            means = head.from_expectation(head.expectation(params))[:, 0].numpy()
            noise = head.noise_variance(params).reshape(-1, 5)[0].numpy()
        return LinearGaussian((means[1:] - means[0]).T, noise, means[0])


@pytest.mark.parametrize("start", STARTS)
def test_a_model_of_two_layers_is_bracketed(start):
    model = TwoLayers()
    with torch.no_grad():
        z = model.sample_prior(None, draw(model.prior_noise_spec(1), 100))
        x = model.generative(Batch(z), z).observation.sample(generator())[0]
    exact = model.exact().log_prob(model.observation_head.unstandardize(x).numpy())
    path = annealed(model, Batch(x), 60, start)
    lower = log_mean_weight([path.forward(16)])
    upper = log_mean_weight([-path.reverse(z, 16)]).negated()
    below, above = exact - lower.value.numpy(), upper.value.numpy() - exact
    assert -0.05 < below.mean() < 0.3 and -0.05 < above.mean() < 0.3
    # The encoder alone is worth nothing.
    (log_w,) = log_weights(model, Batch(x), noise_for(model, 16, 100))
    assert (exact - log_mean_weight([log_w.detach()]).value.numpy()).mean() > 1.0


def test_a_model_of_two_layers_by_posterior_draws():
    model = TwoLayers()
    X = model.exact().sample(40)
    answer = reciprocal_log_likelihood(model, batch_of(model, X), generator())
    standard = (answer.value.numpy() - model.exact().log_prob(X)) / answer.standard_error.numpy()
    assert np.abs(standard).max() < 6.0 and np.mean(np.abs(standard) < 2.0) > 0.8
