"""The mixture prior, against torch's, and where it starts."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from skvae._core._normal import standard_normal_log_prob
from skvae.priors import MixturePrior
from tests.helpers import assert_mean, draw, prior_head

TYPES = ["diag", "full"]


def learned(
    n_components=3,
    n_latent=2,
    *,
    covariance_type="diag",
    scale=1.0,
    distance=1.0,
    dtype=torch.float64,
):
    """Head with weights, means and covariances of its own, and the same mixture of torch's."""
    prior = MixturePrior(n_components=n_components, covariance_type=covariance_type)
    head = prior_head(prior, n_latent, dtype)
    head.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for p in head.parameters():
        p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    head.mean.mul_(distance)
    head.log_scale.mul_(0.3).add_(np.log(scale))
    parts = MultivariateNormal(head.mean.double(), head.covariance)
    return head, MixtureSameFamily(Categorical(logits=head.logits.double()), parts)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("n_latent", [1, 2, 5])
def test_log_prob_is_that_of_the_mixture(n_components, n_latent, covariance_type):
    head, expected = learned(n_components, n_latent, covariance_type=covariance_type)
    generator = torch.Generator().manual_seed(0)
    z = 2.0 * torch.randn(4, 5, n_latent, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(head(None).log_prob(z), expected.log_prob(z))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_narrow_parts_far_from_the_origin_keep_their_digits_in_float32(covariance_type):
    head, expected = learned(
        covariance_type=covariance_type, scale=1e-3, distance=30.0, dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(50, 3, 2, generator=generator)
    z = head.mean + 1e-3 * noise
    torch.testing.assert_close(
        head(None).log_prob(z).double(), expected.log_prob(z.double()), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_draws_have_the_mean_and_the_second_moments_of_the_mixture(covariance_type):
    head, expected = learned(covariance_type=covariance_type)
    z = head(None).sample(draw(head.noise_spec(20_000), 1))[:, 0]
    assert_mean(z, expected.mean)
    weight, mean = torch.softmax(head.logits, 0), head.mean
    parts = head.covariance + mean[:, :, None] * mean[:, None, :]
    assert_mean(z[:, :, None] * z[:, None, :], (weight[:, None, None] * parts).sum(0))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_it_starts_at_the_mixture_that_it_is_given(covariance_type):
    head, _ = learned(3, 4, covariance_type=covariance_type)
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
    weight, mean, covariance = torch.tensor([0.2, 0.3, 0.5]), root[:, 0], root @ root.mT
    head.start_from_(weight, mean, covariance)
    torch.testing.assert_close(torch.softmax(head.logits, 0), weight.double())
    torch.testing.assert_close(head.mean, mean)
    if covariance_type == "diag":
        covariance = torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(head.covariance, covariance)
    z = torch.randn(1, 6, 4, generator=generator, dtype=torch.float64)
    before = head(None).log_prob_of_parts(z)
    order = torch.tensor([2, 0, 1])
    head.rearrange_(order)
    torch.testing.assert_close(head(None).log_prob_of_parts(z), before[..., order])


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
        second = head.mean.square() + head.covariance.diagonal(dim1=1, dim2=2)
    assert_mean(second, 1.0)


@pytest.mark.parametrize("n_components", [0, 1.5, "3"])
def test_impossible_number_is_refused(n_components):
    with pytest.raises(ValueError, match="n_components"):
        prior_head(MixturePrior(n_components=n_components), 2)


def test_unknown_covariance_is_refused():
    with pytest.raises(ValueError, match="covariance_type"):
        prior_head(MixturePrior(covariance_type="tied"), 2)
