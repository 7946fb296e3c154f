"""The Student's t posterior, against torch's and SciPy's."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, StudentT

from skvae.posteriors import StudentTPosterior
from tests.helpers import assert_follows, draw, posterior_head

DEGREES = [2.1, 3.0, 5.0, 30.5, 1e6]


@pytest.mark.parametrize("df", DEGREES)
def test_it_is_a_product_of_ts(df):
    head = posterior_head(StudentTPosterior(df=df), 3)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, head.n_outputs, generator=generator, dtype=torch.float64)
    mean, deviation = outputs[:, :3], outputs[:, 3:].exp()
    scale = deviation * np.sqrt((df - 2.0) / df)
    expected = Independent(StudentT(torch.tensor(df).double(), mean, scale), 1)
    q = head(outputs)
    z = 3.0 * torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(q.entropy(), expected.entropy(), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.variance, deviation.square())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("df", DEGREES)
def test_draws_are_exact_for_any_degrees_of_freedom(df, dtype):
    head = posterior_head(StudentTPosterior(df=df), 1, dtype)
    q = head(torch.zeros(1, 2, dtype=dtype))
    draws = q.rsample(draw(head.noise_spec(200_000), 1, dtype=dtype)).double().flatten().numpy()
    edges = np.linspace(-30.0, 30.0, 2001)
    assert_follows(draws, edges, stats.t(df, scale=np.sqrt((df - 2) / df)).cdf(edges))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_safe_at_the_ends(dtype):
    head = posterior_head(StudentTPosterior(df=2.1), 1, dtype)
    q = head(torch.zeros(1, 2, dtype=dtype))
    ends = torch.tensor([[0.0, 0.0], [0.0, 8.0], [8.0, 8.0], [-8.0, 0.0], [1e-30, 0.0]])
    z, log_prob = q.rsample_and_log_prob({"z": ends.to(dtype).unsqueeze(1)})
    assert torch.isfinite(z).all() and torch.isfinite(log_prob).all()
    assert z[0, 0, 0] == z[1, 0, 0] == 0.0


def test_many_degrees_of_freedom_are_the_normal():
    head = posterior_head(StudentTPosterior(df=1e6), 2)
    q = head(torch.zeros(1, 4, dtype=torch.float64))
    noise = draw(head.noise_spec(100), 1)
    torch.testing.assert_close(q.rsample(noise), noise["z"][..., :2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("df", [2.0, -1.0, np.inf, np.nan, "five", None])
def test_degrees_of_freedom_are_checked(df):
    with pytest.raises(ValueError, match="df"):
        posterior_head(StudentTPosterior(df=df), 2)
