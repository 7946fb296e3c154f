"""What is particular to a flow as prior."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from skvae.priors import FlowPrior, StandardNormalPrior
from tests.helpers import draw, prior_head


@pytest.mark.parametrize("family", ["spline", "affine"])
def test_it_begins_as_the_standard_normal(family):
    p = prior_head(FlowPrior(family=family), 3)(None)
    z = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal = prior_head(StandardNormalPrior(), 3)(None)
    torch.testing.assert_close(p.log_prob(z), normal.log_prob(z))
    torch.testing.assert_close(p.sample({"z": z}), z)


@torch.enable_grad()
def test_it_learns_a_distribution_and_draws_from_it():
    # A ring of known density: radius normal around 2, any angle.
    generator = torch.Generator().manual_seed(0)
    head = prior_head(FlowPrior(), 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)

    def ring(n):
        angle = 2.0 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
        radius = 2.0 + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)
        return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).unsqueeze(1)

    def log_density(z):
        radius = torch.linalg.vector_norm(z, dim=-1)
        return Normal(2.0, 0.3).log_prob(radius) - torch.log(2.0 * math.pi * radius)

    for _ in range(400):
        optimizer.zero_grad()
        loss = -head(None).log_prob(ring(256)).mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        z = ring(5000)
        p = head(None)
        divergence = float((log_density(z) - p.log_prob(z)).mean())
        normal = Normal(0.0, z.std())
        assert float((log_density(z) - normal.log_prob(z).sum(-1)).mean()) > 0.5
        assert 0.0 < divergence < 0.3
        own = p.sample(draw(head.noise_spec(5000), 1))
    radius = torch.linalg.vector_norm(own, dim=-1)
    assert float(((radius > 1.0) & (radius < 3.0)).double().mean()) > 0.95
    angle = torch.atan2(own[..., 1], own[..., 0]).numpy()
    counts, _ = np.histogram(angle, bins=4, range=(-np.pi, np.pi))
    np.testing.assert_allclose(counts / 5000, 0.25, atol=0.05)
