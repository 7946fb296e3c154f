"""The VampPrior: the mean of the posteriors of its pseudo-inputs."""

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae._core._flat import FlatParameters
from skvae.networks import MLP
from skvae.priors import MixturePrior, VampPrior
from skvae.priors import _vamp as vamp
from tests.helpers import assert_follows, build_model, draw, encode_with, prior_head
from tests.registry import POSTERIORS, each

every_posterior = pytest.mark.parametrize("posterior", each(POSTERIORS))

N_PSEUDO_INPUTS = 4
PRIOR = VampPrior(n_pseudo_inputs=N_PSEUDO_INPUTS)


def rows(n_rows=40, n_columns=3):
    return np.random.default_rng(0).normal(size=(n_rows, n_columns))


def some_model(posterior, n_latent=2):
    network = MLP(hidden_layer_sizes=(5,))
    model = build_model(
        rows(), n_latent=n_latent, prior=PRIOR, posterior=posterior, encoder=network
    )
    return model.requires_grad_(False)


@every_posterior
def test_density_is_the_mean_of_the_posteriors_of_the_pseudo_inputs(posterior):
    model = some_model(posterior)
    z = torch.randn(5, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = model.encode(model.prior_head.pseudo_inputs)
    densities = [q.log_prob(point.view(1, 1, 2)).exp().mean() for point in z.view(-1, 2)]
    torch.testing.assert_close(model.prior().log_prob(z).exp(), torch.stack(densities).view(5, 6))


@every_posterior
def test_draws_follow_the_density(posterior):
    model = some_model(posterior, n_latent=1)
    for n_draws, n_rows in ((20_000, 1), (1, 20_000), (100, 200)):
        z = model.sample_prior(None, draw(model.prior_noise_spec(n_draws), n_rows))
        assert z.shape == (n_draws, n_rows, 1)
        grid = torch.linspace(-40.0, 40.0, 80_001, dtype=torch.float64).view(-1, 1, 1)
        cumulative = model.prior().log_prob(grid).exp().flatten().cumsum(0) * 1e-3
        assert_follows(z.flatten().numpy(), grid.flatten().numpy(), cumulative.numpy())


def test_the_ends_of_the_uniform_choose_the_first_and_the_last():
    head = prior_head(PRIOR, 2).requires_grad_(False)
    encode = encode_with(2)
    uniform = torch.tensor([[0.0, 0.24, 0.26, 0.99, 1.0]], dtype=torch.float64)
    noise = {"pseudo_input": uniform, "z": torch.zeros(1, 5, 2, dtype=torch.float64)}
    expected = encode(head.pseudo_inputs[[0, 0, 1, 3, 3]]).mean
    torch.testing.assert_close(head(encode).sample(noise)[0], expected)


def test_density_and_gradient_do_not_depend_on_how_many_points_are_in_memory(monkeypatch):
    head, encode = prior_head(PRIOR, 2), encode_with(2)
    z = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers = []
    for most in (vamp.MAX_ENTRIES, 1, 5 * N_PSEUDO_INPUTS * 2):
        monkeypatch.setattr(vamp, "MAX_ENTRIES", most)
        log_prob = head(encode).log_prob(z)
        answers.append((log_prob, *torch.autograd.grad(log_prob.sum(), head.pseudo_inputs)))
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0])


@pytest.mark.parametrize("n_rows", [1, 2, 4, 5, 40])
def test_pseudo_inputs_start_beside_rows_each_taken_as_seldom_as_can_be(n_rows):
    head = prior_head(PRIOR, 2)
    features = torch.from_numpy(10.0 * rows(n_rows))
    head.start_at_(features, torch.Generator().manual_seed(0))
    distance, nearest = torch.cdist(head.pseudo_inputs.detach(), features).min(1)
    assert (distance < 10.0 * vamp.JITTER).all()
    times = torch.bincount(nearest, minlength=n_rows)
    assert times.max() <= -(-N_PSEUDO_INPUTS // n_rows)
    assert (torch.pdist(head.pseudo_inputs.detach()) > 0).all()


def test_the_start_comes_from_the_generator_alone():
    features, before = torch.from_numpy(rows()), torch.get_rng_state()
    places = []
    for seed in (0, 0, 1):
        head = prior_head(PRIOR, 2)
        head.start_at_(features, torch.Generator().manual_seed(seed))
        places.append(head.pseudo_inputs.detach())
    assert torch.equal(places[0], places[1]) and not torch.equal(places[0], places[2])
    assert torch.equal(before, torch.get_rng_state())


def test_an_estimator_starts_at_its_training_rows():
    X = 5.0 + 3.0 * rows(60)
    vae = VariationalAutoencoder(2, prior=VampPrior(n_pseudo_inputs=10), random_state=0)
    vae.set_params(max_iter=1, learning_rate_init=1e-12, early_stopping=False, warm_start=True)
    with pytest.warns(UserWarning, match="still rising"):
        vae.fit(X)
    started = vae.model_.prior_head.pseudo_inputs.double()
    features = torch.from_numpy((X - X.mean(0)) / X.std(0))
    assert (torch.cdist(started, features).min(1).values < 10.0 * vamp.JITTER).all()
    # What goes on with a fitted model does not start again.
    with pytest.warns(UserWarning, match="still rising"):
        vae.set_params(random_state=1).fit(X)
    torch.testing.assert_close(vae.model_.prior_head.pseudo_inputs.double(), started)


@pytest.mark.parametrize("prior", each([PRIOR, MixturePrior()]))
def test_places_are_not_pulled_to_zero_as_weights_are(prior):
    model = build_model(rows(), prior=prior)
    flat = FlatParameters([model])
    for group in flat.groups:
        group.data.copy_(group.is_weight)
    assert not any(p.any() for p in model.prior_head.parameters())
    assert all(p.all() for p in model.decoder.parameters() if p.ndim == 2)


@pytest.mark.parametrize("n_pseudo_inputs", [0, 2.5, "10"])
def test_impossible_number_is_refused(n_pseudo_inputs):
    with pytest.raises(ValueError, match="n_pseudo_inputs"):
        prior_head(VampPrior(n_pseudo_inputs=n_pseudo_inputs), 2)
