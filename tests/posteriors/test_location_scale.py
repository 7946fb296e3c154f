"""The families of location and scale, against SciPy's."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.posteriors import LocationScalePosterior
from tests.helpers import posterior_head

FAMILIES = {"laplace": stats.laplace, "logistic": stats.logistic, "gumbel": stats.gumbel_r}


def setting(family, dtype=torch.float64):
    """The head, and SciPy's distribution of mean 0 and deviation 1."""
    head = posterior_head(LocationScalePosterior(family=family), 1, dtype)
    scale = 1.0 / FAMILIES[family].std()
    return head, FAMILIES[family](loc=-scale * FAMILIES[family].mean(), scale=scale)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_density_and_moments(family):
    head, standard = setting(family)
    mean, log_scale = 0.7, -0.4
    q = head(torch.tensor([[mean, log_scale]], dtype=torch.float64))
    z = np.linspace(-4.0, 5.0, 19)
    expected = standard.logpdf((z - mean) / np.exp(log_scale)) - log_scale
    actual = q.log_prob(torch.from_numpy(z).view(-1, 1, 1))
    np.testing.assert_allclose(actual[:, 0], expected)
    assert float(q.entropy()) == pytest.approx(standard.entropy() + log_scale)
    assert (float(q.mean), float(q.variance)) == pytest.approx((mean, np.exp(2 * log_scale)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_draws_are_quantiles_into_the_tails(family, dtype):
    head, standard = setting(family, dtype)
    noise = torch.tensor([-8.0, -5.0, -2.0, -1e-3, 0.0, 1e-3, 2.0, 5.0, 8.0], dtype=dtype)
    q = head(torch.zeros(1, 2, dtype=dtype))
    z, log_prob = q.rsample_and_log_prob({"z": noise.view(-1, 1, 1)})
    exact = noise.double().numpy()
    # From either end, so that the digits of the tails count.
    expected = np.where(
        exact < 0, standard.ppf(stats.norm.cdf(exact)), standard.isf(stats.norm.sf(exact))
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(z.flatten(), expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(log_prob.flatten(), standard.logpdf(expected), rtol=10 * tolerance)


@pytest.mark.parametrize("family", ["cauchy", "normal", None, 3])
def test_family_is_checked(family):
    with pytest.raises(ValueError, match="family"):
        posterior_head(LocationScalePosterior(family=family), 2)
