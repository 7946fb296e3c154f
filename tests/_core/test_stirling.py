"""Gamma functions of large numbers in few digits."""

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from skvae._core._stirling import FROM, stirling_error

A = torch.logspace(-3, 2, 400, dtype=torch.float64)


def exact(a):
    return gammaln(a) - ((a - 0.5) * np.log(a) - a + 0.5 * np.log(2.0 * np.pi))


def test_is_what_the_formula_leaves_of_the_gamma_function():
    np.testing.assert_allclose(stirling_error(A), exact(A.numpy()), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("a", [1e3, 1e6, 1e12, 1e30])
def test_large_numbers_keep_their_digits_in_float32(a):
    answer = stirling_error(torch.tensor(a, dtype=torch.float32))
    assert float(answer) == pytest.approx(1.0 / (12.0 * a), rel=1e-5)


def test_gradient():
    # Away from where the series takes over, and next to it on either side.
    a = torch.tensor([1e-3, 0.5, 3.0, FROM - 1e-2, FROM + 1e-2, 1e3], dtype=torch.float64)
    assert torch.autograd.gradcheck(stirling_error, (a.requires_grad_(),), eps=1e-7)
