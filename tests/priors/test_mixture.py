"""The mixture prior, against torch's, and where it starts."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skvae._core._normal import standard_normal_log_prob
from skvae.priors import MixturePrior
from tests.helpers import assert_mean, draw, prior_head


def learned(n_components=3, n_latent=2, *, scale=1.0, distance=1.0, dtype=torch.float64):
    """Head with weights, means and scales of its own, and the same mixture of torch's."""
    head = prior_head(MixturePrior(n_components=n_components), n_latent, dtype)
    head.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for p in head.parameters():
        p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    head.mean.mul_(distance)
    head.log_scale.mul_(0.3).add_(np.log(scale))
    parts = Normal(head.mean.double(), head.log_scale.double().exp())
    weights = Categorical(logits=head.logits.double())
    return head, MixtureSameFamily(weights, Independent(parts, 1))


@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("n_latent", [1, 2, 5])
def test_log_prob_is_that_of_the_mixture(n_components, n_latent):
    head, expected = learned(n_components, n_latent)
    generator = torch.Generator().manual_seed(0)
    z = 2.0 * torch.randn(4, 5, n_latent, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(head(None).log_prob(z), expected.log_prob(z))


def test_narrow_parts_far_from_the_origin_keep_their_digits_in_float32():
    head, expected = learned(scale=1e-3, distance=30.0, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(50, 3, 2, generator=generator)
    z = head.mean + 1e-3 * noise
    torch.testing.assert_close(
        head(None).log_prob(z).double(), expected.log_prob(z.double()), rtol=1e-5, atol=1e-4
    )


def test_draws_have_the_mean_and_the_second_moments_of_the_mixture():
    head, expected = learned()
    z = head(None).sample(draw(head.noise_spec(20_000), 1))[:, 0]
    assert_mean(z, expected.mean)
    weight, mean = torch.softmax(head.logits, 0), head.mean
    parts = torch.diag_embed((2.0 * head.log_scale).exp()) + mean[:, :, None] * mean[:, None, :]
    assert_mean(z[:, :, None] * z[:, None, :], (weight[:, None, None] * parts).sum(0))


def test_parts_are_drawn_by_their_weights_alone_up_to_the_ends_of_the_uniform():
    head, _ = learned(4, 1, scale=1e-6)
    head.logits.copy_(torch.tensor([-torch.inf, 0.0, -torch.inf, np.log(3.0)]))
    uniform = torch.tensor([[0.0, 0.2, 0.2499, 0.2501, 0.9, 1.0 - 1e-16, 1.0]]).double()
    z = head(None).sample({"component": uniform, "z": torch.zeros(1, 7, 1).double()})
    expected = head.mean[[1, 1, 1, 3, 3, 3, 3]]
    torch.testing.assert_close(z[0], expected)


@pytest.mark.parametrize("n_latent", [1, 2, 10, 50])
@pytest.mark.parametrize("n_components", [1, 10, 100])
def test_it_starts_near_the_standard_normal(n_components, n_latent):
    head = prior_head(MixturePrior(n_components=n_components), n_latent)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20_000, 1, n_latent, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        divergence = float((standard_normal_log_prob(z) - head(None).log_prob(z)).mean())
    assert -0.02 < divergence < 0.15
    if n_components > 1:
        # Parts are apart, or none would ever differ from the others.
        assert (torch.pdist(head.mean) > 0).all()


def test_covariance_at_the_start_is_the_identity_on_average():
    with torch.no_grad():
        head = prior_head(MixturePrior(n_components=10_000), 3)
        second = head.mean.square() + (2.0 * head.log_scale).exp()
    assert_mean(second, 1.0)


@pytest.mark.parametrize("n_components", [0, 1.5, "3"])
def test_impossible_number_is_refused(n_components):
    with pytest.raises(ValueError, match="n_components"):
        prior_head(MixturePrior(n_components=n_components), 2)
