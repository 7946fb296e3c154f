"""Deep latent Gaussian models: layers, their recognition, and a linear model that is exact."""

import numpy as np
import pytest
import torch

from skvae._core._batch import Batch
from skvae.inference import (
    AnnealedImportanceSampling,
    evidence_lower_bound,
    importance_log_likelihood,
    log_mean_weight,
    sigmoid_schedule,
)
from skvae.likelihoods import BernoulliLikelihood
from skvae.networks import MLP
from skvae.networks._gaussian_layers import GaussianLayers
from skvae.objectives import SGVB
from skvae.posteriors import (
    FlowPosterior,
    FullCovariancePosterior,
    LocationScalePosterior,
    LowRankPrecisionPosterior,
)
from tests.helpers import (
    assert_mean,
    batch_of,
    build_layered,
    linear_gaussian_of,
    moved,
    noise_for,
    normal_log_density,
)
from tests.registry import LAYERS, each

N_COLUMNS, N_ROWS, N_LATENT = 5, 6, 4

every_hierarchy = pytest.mark.parametrize("layers", each(LAYERS))

# Recognition of several layers: each family of posteriors with heads side by side, and bottom-up.
RECOGNITIONS = [
    pytest.param(LAYERS[0], posterior, id=type(posterior).__name__)
    for posterior in (
        LowRankPrecisionPosterior(),
        FullCovariancePosterior(),
        LocationScalePosterior(),
        FlowPosterior(hidden_layer_sizes=(3,), n_context=2),
    )
] + [pytest.param(layers, None, id=f"bottom_up {layers.noise}") for layers in LAYERS[4:]]
every_recognition = pytest.mark.parametrize(("layers", "posterior"), RECOGNITIONS)


def rows(n_rows=N_ROWS, *, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, N_COLUMNS)) @ rng.normal(size=(N_COLUMNS, N_COLUMNS)) + 2.0


def model_with(layers, *, size=0.3, n_rows=N_ROWS, **parameters):
    """Model away from where it begins, as it is after training, and its rows as a batch."""
    X = rows(n_rows)
    model = moved(build_layered(X, layers, **parameters), size).eval().requires_grad_(False)
    return model, batch_of(model, X)


# -- layers --------------------------------------------------------------------------------------


@every_hierarchy
def test_noises_and_layers_are_the_same_thing(layers):
    model, _ = model_with(layers)
    z = torch.randn(3, 2, N_LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = model.decoder.layers(z)
    assert [layer.shape[-1] for layer in found] == list(layers.sizes)
    again, log_det = model.decoder.noises(found)
    torch.testing.assert_close(again, z)

    def joined(noises):
        return torch.cat(model.decoder.layers(noises.unsqueeze(0)), dim=-1)[0]

    for one, expected in zip(z.view(-1, N_LATENT), log_det.view(-1), strict=True):
        derivative = torch.autograd.functional.jacobian(joined, one)
        torch.testing.assert_close(torch.linalg.slogdet(derivative).logabsdet, expected)


@every_hierarchy
def test_each_layer_is_normal_around_what_the_one_above_says(layers):
    model, _ = model_with(layers)
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    z = torch.randn(n, N_LATENT, dtype=torch.float64, generator=generator)
    top = layers.sizes[0]
    z[:, :top] = z[:1, :top]  # one value of the top layer
    found = model.decoder.layers(z)
    if len(found) == 1:
        return
    second = found[1]
    centre = z.clone()
    centre[:, top:] = 0.0
    assert_mean(second, model.decoder.layers(centre[:1])[1][0])
    below = layers.sizes[1]
    covariance = np.cov(second.numpy().T).reshape(below, below)
    columns = torch.cat([torch.zeros(1, N_LATENT), torch.eye(N_LATENT)[top : top + below]]).double()
    columns[:, :top] = z[:1, :top]
    images = model.decoder.layers(columns)[1]
    factor = (images[1:] - images[0]).numpy()
    np.testing.assert_allclose(covariance, factor.T @ factor, atol=0.06 * covariance.max())


@every_hierarchy
def test_rows_do_not_mix(layers):
    model, batch = model_with(layers)
    noise = noise_for(model, 3, N_ROWS)
    z, log_q = model.posterior(batch).rsample_and_log_prob(noise)
    part = Batch(batch.x[2:4])
    some = {name: t[:, 2:4] for name, t in noise.items()}
    own, own_log_q = model.posterior(part).rsample_and_log_prob(some)
    torch.testing.assert_close(own, z[:, 2:4])
    torch.testing.assert_close(own_log_q, log_q[:, 2:4])
    torch.testing.assert_close(
        torch.stack(model.log_joint(part, own)),
        torch.stack(model.log_joint(batch, z))[:, :, 2:4],
    )


# -- recognition ---------------------------------------------------------------------------------


@every_recognition
def test_density_of_draws_is_that_of_their_values(layers, posterior):
    model, batch = model_with(layers, posterior=posterior)
    q = model.posterior(batch)
    noise = noise_for(model, 5, N_ROWS)
    z, log_q = q.rsample_and_log_prob(noise)
    torch.testing.assert_close(q.rsample(noise), z)
    torch.testing.assert_close(q.log_prob(z), log_q)


@every_recognition
def test_expected_inverse_density_ratio_is_one(layers, posterior):
    """Over draws from q, another density over q has a mean of one: q is normalised."""
    model, batch = model_with(layers, posterior=posterior, size=0.1, n_rows=2)
    q = model.posterior(batch)
    z, log_q = q.rsample_and_log_prob(noise_for(model, 40_000, 2))
    centre, scale = z.mean(0), 0.5 * z.std(0)
    other = torch.distributions.Normal(centre, scale).log_prob(z).sum(-1)
    assert_mean((other - log_q).exp(), 1.0)


@every_recognition
def test_moments_match_draws(layers, posterior):
    model, batch = model_with(layers, posterior=posterior, size=0.1, n_rows=2)
    q = model.posterior(batch)
    z = q.rsample(noise_for(model, 40_000, 2)).numpy()
    rough = not q.moments_are_exact
    np.testing.assert_allclose(q.mean, z.mean(0), atol=(0.15 if rough else 0.03) * z.std(0).max())
    np.testing.assert_allclose(q.variance, z.var(0), rtol=0.5 if rough else 0.06)


@every_recognition
def test_detach_holds_what_recognises_and_keeps_the_path_through_z(layers, posterior):
    model, batch = model_with(layers, posterior=posterior)
    own = [*model.encoder.parameters(), *model.posterior_head.parameters()]
    for p in own:
        p.requires_grad_(True)
    noise = noise_for(model, 3, N_ROWS)
    q = model.posterior(batch)
    held = q.detach()
    z = q.rsample(noise)
    torch.testing.assert_close(held.log_prob(z), q.log_prob(z), rtol=0, atol=0)
    free = z.detach().requires_grad_()
    through_z, *through_own = torch.autograd.grad(
        held.log_prob(free).sum(), (free, *own), allow_unused=True
    )
    assert through_z.abs().max() > 0.1
    assert all(g is None for g in through_own)


def test_bottom_up_layers_follow_the_maps_upwards():
    """In the space of layers it is q(h_L | x) q(h_{L-1} | h_L) ..., each of independent normals."""
    model, batch = model_with(LAYERS[4], n_rows=1)
    z = model.posterior(batch).rsample(noise_for(model, 50_000, 1))
    top, middle, bottom = (layer[:, 0] for layer in model.decoder.layers(z))
    code = model.code(batch)[0]
    assert_mean(bottom, code[: bottom.shape[1]])
    np.testing.assert_allclose(bottom.std(0), code[bottom.shape[1] :].exp(), rtol=0.02)
    for above, below, network in zip(
        (middle, top), (bottom, middle), model.posterior_head.upwards, strict=True
    ):
        mean, log_scale = network(below).chunk(2, dim=-1)
        standard = (above - mean) / log_scale.exp()
        assert_mean(standard, 0.0)
        assert_mean(standard.square(), 1.0)
        # Nothing of what is below is left in it.
        assert_mean(standard * (below[:, :1] - below[:, :1].mean()), 0.0)


def test_gradient_of_the_bound_does_not_depend_on_the_space_of_the_latent_variables():
    """Bottom-up: log p(x, h) - log q(h | x) in the layers is the same as in their noises."""
    layers = LAYERS[5]
    model, batch = model_with(layers)
    model.requires_grad_(True)
    noise = noise_for(model, 4, N_ROWS)
    bound = SGVB(n_draws=4, kl="monte_carlo").build(1)(model, batch, noise)
    # By hand, in the layers.
    standard = noise["z"]
    size = layers.sizes[-1]
    mean, log_scale = model.code(batch).chunk(2, dim=-1)
    normal = torch.distributions.Normal
    bottom = mean + log_scale.exp() * standard[..., -size:]
    log_q = normal(mean, log_scale.exp()).log_prob(bottom).sum(-1)
    mean, log_scale = model.posterior_head.upwards[0](bottom).chunk(2, dim=-1)
    top = mean + log_scale.exp() * standard[..., :-size]
    log_q = log_q + normal(mean, log_scale.exp()).log_prob(top).sum(-1)
    mean, log_scale = model.decoder.maps[0](top).chunk(2, dim=-1)
    log_p = normal(mean, log_scale.exp()).log_prob(bottom).sum(-1)
    log_p = log_p + normal(0.0, 1.0).log_prob(top).sum(-1)
    head = model.observation_head
    params = head.params_from(model.decoder.maps[1](bottom))
    by_hand = (head.log_prob_columns(params, batch.x).sum(-1) + log_p - log_q).mean(0)
    torch.testing.assert_close(bound, by_hand)
    parameters = [p for p in model.parameters() if p.numel()]
    gradients = [
        torch.autograd.grad(value.sum(), parameters, allow_unused=True)
        for value in (bound, by_hand)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


# -- the linear model ----------------------------------------------------------------------------


@pytest.mark.parametrize("recognition", ["factorized", "bottom_up"])
def test_linear_layers_have_the_likelihood_of_their_covariance(recognition):
    layers = GaussianLayers(layer_sizes=(1, 2), hidden_layer_sizes=(), recognition=recognition)
    model, batch = model_with(layers, size=0.5, encoder=MLP(hidden_layer_sizes=()))
    # The covariance by the layers: of the second, then of the rows, in their units.
    upper, lower = model.decoder.maps
    factor = model.decoder.factors[0].matrix().numpy()
    path = upper.linear_path.weight.numpy()
    second = path.T @ path + factor.T @ factor
    weight, head = lower.linear_path.weight.numpy(), model.observation_head
    scale = head.scale.numpy()
    noise = linear_gaussian_of(model).noise
    covariance = (weight.T @ second @ weight) * np.outer(scale, scale) + np.diag(noise)
    centre = torch.zeros(1, 1, 3, dtype=torch.float64)
    observation = model.generative(Batch(centre), centre).observation
    mean = head.from_expectation(observation.expectation)[0, 0].numpy()
    exact = normal_log_density(rows(), mean, covariance)
    np.testing.assert_allclose(linear_gaussian_of(model).log_prob(rows()), exact)

    recognise_well_(model, path, factor)
    noise = noise_for(model, 20_000, N_ROWS)
    estimate = importance_log_likelihood(model, batch, noise).numpy()
    bound = evidence_lower_bound(model, batch, noise).numpy()
    np.testing.assert_allclose(estimate, exact, atol=0.05)
    assert np.all(bound < exact - 0.02)
    few = {name: t[:3000].view(300, 10, *t.shape[1:]) for name, t in noise.items()}
    middle = [
        importance_log_likelihood(model, batch, {n: t[i] for n, t in few.items()}).mean()
        for i in range(300)
    ]
    assert bound.mean() < float(torch.stack(middle).mean()) < exact.mean()


@pytest.mark.parametrize("layers", each(LAYERS[3:5]))
def test_simulated_rows_are_bracketed(layers):
    """From below and above, by walks that begin far from the posterior; exactly if it is linear."""
    model, _ = model_with(layers, size=0.5)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 40, N_LATENT, generator=generator, dtype=torch.float64)
    x = model.generative(Batch(z), z).observation.sample(generator)[0]
    brackets = []
    for n_steps in (10, 150):
        walk = AnnealedImportanceSampling(
            model, Batch(x), generator, sigmoid_schedule(n_steps), start="prior"
        )
        lower, upper = (
            log_mean_weight([sign * w])
            for sign, w in ((1.0, walk.forward(8)), (-1.0, walk.reverse(z, 8)))
        )
        brackets.append((lower.value, -upper.value))
        errors = torch.stack([lower.standard_error, upper.standard_error])
        spread = float(errors.square().sum().sqrt()) / 40
    (low, high), (closer_low, closer_high) = brackets
    assert low.mean() < closer_low.mean() < closer_high.mean() + 3 * spread
    assert closer_high.mean() - closer_low.mean() < 0.3 * (high.mean() - low.mean())
    if layers.hidden_layer_sizes == ():
        X = model.observation_head.unstandardize(x).numpy()
        exact = linear_gaussian_of(model).log_prob(X)
        assert closer_low.mean() - 3 * spread < exact.mean() < closer_high.mean() + 3 * spread
        np.testing.assert_allclose(closer_low.mean(), exact.mean(), atol=0.2)


def recognise_well_(model, path, factor):
    """Give a linear model's recognition the moments of the posterior, with more spread."""
    exact, head = linear_gaussian_of(model), model.observation_head
    corners = np.concatenate([np.zeros((1, N_COLUMNS)), np.eye(N_COLUMNS)])
    means, covariance = exact.posterior(corners * head.scale.numpy() + head.location.numpy())
    if layers_are_recognised := hasattr(model.posterior_head, "upwards"):
        down = np.concatenate([path, factor])  # from noises to the second layer
        means, covariance = means @ down, down.T @ covariance @ down
        # The first layer given the second: a regression of a standard normal.
        own = factor.T @ factor
        gain = np.linalg.solve(path.T @ path + own, path.T)
        upwards = model.posterior_head.upwards[0]
        log_scale = 0.5 * np.log(1.0 - path @ gain) + 0.2
        upwards.start_linear_(
            torch.from_numpy(gain), torch.from_numpy(np.append(0.0, log_scale.ravel()))
        )
    log_scale = torch.from_numpy(0.5 * np.log(np.diag(covariance)) + 0.2)
    if layers_are_recognised:
        outputs = torch.cat([torch.zeros_like(log_scale), log_scale])
    else:
        outputs = model.posterior_head.outputs_at(log_scale)
    outputs[: means.shape[1]] = torch.from_numpy(means[0])
    model.encoder.start_linear_(torch.from_numpy(means[1:] - means[0]), outputs)


def test_training_leaves_the_linear_start_with_layers_above_that_have_an_effect():
    """Silenced, they would be found late or never."""
    head = build_layered(rows(), LAYERS[0]).decoder
    fresh = build_layered(rows(), LAYERS[0], seed=1).decoder
    z = torch.randn(50, N_LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = z.clone()
    other[:, 0] += 1.0
    head.start_linear_(torch.ones(N_LATENT, N_COLUMNS).double(), torch.zeros(N_COLUMNS).double())
    torch.testing.assert_close(head(other), head(z))
    torch.testing.assert_close(head(z), z[:, 1:].sum(1, keepdim=True).expand(-1, N_COLUMNS))
    head.depart_(fresh)
    assert (head(other) - head(z)).abs().mean() > 0.01
    torch.testing.assert_close(head.maps[0](z[:, :1]), fresh.maps[0](z[:, :1]))


# -- noise in training ---------------------------------------------------------------------------


def training_model(**noises):
    layers = GaussianLayers(layer_sizes=(1, 3), hidden_layer_sizes=(5,), **noises)
    X = (rows(400) > 2.0).astype(np.float64)
    return build_layered(X, layers, likelihood=BernoulliLikelihood()).train(), X


@pytest.mark.parametrize("name", ["input_dropout", "input_flips", "latent_noise"])
def test_noise_is_there_in_training_only(name):
    model, X = training_model(**{name: 0.25})
    plain, _ = training_model()
    plain.load_state_dict(model.state_dict())
    assert len(model.noise_spec(2)) == len(plain.noise_spec(2)) + 1
    noise = noise_for(model, 2, len(X))
    bound = SGVB(n_draws=2).build(1)
    batch = batch_of(model, X)
    assert not torch.allclose(bound(model, batch, noise), bound(plain, batch, noise))
    model.eval()
    assert model.noise_spec(2).keys() == plain.noise_spec(2).keys()
    torch.testing.assert_close(bound(model, batch, noise), bound(plain, batch, noise))


def test_share_of_what_is_read_is_dropped_or_flipped():
    for name, changed in (("input_dropout", 0.0), ("input_flips", None)):
        model, X = training_model(**{name: 0.25})
        batch = model.observe(batch_of(model, X), noise_for(model, 1, len(X)))
        assert torch.equal(batch.x, batch_of(model, X).x)  # what is to be explained stays
        read, _ = model.read(batch)
        whole = model.observation_head.features(batch.x, None)
        differs = read != whole
        assert_mean(differs.double().flatten().numpy(), 0.25)
        expected = model.observation_head.features(1.0 - batch.x, None)
        if changed is not None:
            expected = torch.full_like(expected, changed)
        assert torch.equal(read[differs], expected[differs])


def test_latent_noise_moves_what_is_decoded_and_not_what_it_costs():
    model, X = training_model(latent_noise=0.5)
    noise = noise_for(model, 2, len(X))
    batch = model.observe(batch_of(model, X), noise)
    z = model.posterior(batch).rsample(noise)
    moved_z = z + 0.5 * noise["latent"]
    plain, _ = training_model()
    plain.load_state_dict(model.state_dict())
    log_prior, log_likelihood = model.log_joint(batch, z)
    torch.testing.assert_close(log_prior, plain.log_joint(batch, z)[0])
    torch.testing.assert_close(log_likelihood, plain.log_joint(batch, moved_z)[1])


def test_flips_are_for_zeros_and_ones():
    layers = GaussianLayers(input_flips=0.1)
    with pytest.raises(ValueError, match=r"input_flips=0\.1 needs columns of zeros and ones"):
        build_layered(rows(), layers)
