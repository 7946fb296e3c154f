"""The diagonal posterior, against torch's normals."""

import torch
from torch.distributions import Independent, Normal

from skvae.posteriors import DiagonalPosterior
from tests.helpers import posterior_head


def test_it_is_a_product_of_normals():
    head = posterior_head(DiagonalPosterior(), 3, torch.float64)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, head.n_outputs, generator=generator, dtype=torch.float64)
    # Means are the first outputs, those that an encoder's linear path reaches.
    assert head.n_location_outputs == 3
    expected = Independent(Normal(outputs[:, :3], outputs[:, 3:].exp()), 1)
    q = head(outputs)
    z = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(q.entropy(), expected.entropy())
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.variance, expected.variance)
    torch.testing.assert_close(q.rsample({"z": z}), expected.mean + expected.stddev * z)


def test_log_prob_of_a_narrow_posterior_keeps_its_digits_in_float32():
    # (z - mean) / scale of a draw loses all digits where scale / |mean| is under 1e-7.
    head = posterior_head(DiagonalPosterior(), 1, torch.float32)
    q = head(torch.tensor([[100.0, -15.0]]))
    noise = torch.linspace(-3, 3, 7).view(-1, 1, 1)
    _, log_prob = q.rsample_and_log_prob({"z": noise})
    expected = Normal(0.0, 1.0).log_prob(noise).squeeze(-1) + 15.0
    torch.testing.assert_close(log_prob, expected)
