"""The full-covariance posterior, against torch's multivariate normal."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from skvae.posteriors import FullCovariancePosterior
from tests.helpers import posterior_head


@pytest.mark.parametrize("n_latent", [1, 2, 5])
def test_it_is_a_multivariate_normal(n_latent):
    head = posterior_head(FullCovariancePosterior(), n_latent)
    assert head.n_outputs == n_latent + n_latent * (n_latent + 1) // 2
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, head.n_outputs, generator=generator, dtype=torch.float64)
    q = head(outputs)
    columns = torch.eye(n_latent, dtype=torch.float64).unsqueeze(1)
    factor = (q.rsample({"z": columns}) - q.mean).permute(1, 2, 0)
    torch.testing.assert_close(factor, factor.tril())
    assert (factor.diagonal(dim1=1, dim2=2) > 0).all()
    expected = MultivariateNormal(outputs[:, :n_latent], scale_tril=factor)
    z = expected.sample((5,))
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(q.entropy(), expected.entropy())
    torch.testing.assert_close(q.variance, expected.variance)


def test_any_correlation_can_be_had():
    """From its outputs, up to 0.9999."""
    head = posterior_head(FullCovariancePosterior(), 2)
    for slope in (-1e4, -1.0, 0.0, 1.0, 1e4):
        q = head(torch.tensor([[0.0, 0.0, 0.0, 0.0, slope]], dtype=torch.float64))
        columns = torch.eye(2, dtype=torch.float64).unsqueeze(1)
        factor = q.rsample({"z": columns})[:, 0].T
        covariance = factor @ factor.T
        correlation = covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()
        if abs(slope) > 1.0:
            assert float(correlation * slope) > 0.9999 * abs(slope)
        else:
            assert float(correlation) == pytest.approx(slope / (1 + slope**2) ** 0.5, abs=1e-4)


def test_densities_stay_finite_in_many_dimensions():
    head = posterior_head(FullCovariancePosterior(), 12, torch.float32)
    for extreme in (-1e4, 1e4):
        outputs = torch.full((2, head.n_outputs), extreme)
        outputs[:, 12:24] = 0.0
        q = head(outputs.requires_grad_())
        eps = torch.randn(3, 2, 12, generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(q.log_prob(q.rsample({"z": eps}))).all()
