"""The normal density, against SciPy."""

import numpy as np
import torch
from scipy import stats

from skvae._core._normal import normal_log_prob, standard_normal_log_prob

RNG = np.random.default_rng(0)
X, MEAN, LOG_SCALE = RNG.normal(size=(3, 5, 4))


def test_log_prob():
    answer = normal_log_prob(*map(torch.from_numpy, (X, MEAN, LOG_SCALE)))
    np.testing.assert_allclose(answer, stats.norm(MEAN, np.exp(LOG_SCALE)).logpdf(X))


def test_standard_log_prob():
    np.testing.assert_allclose(
        standard_normal_log_prob(torch.from_numpy(X)), stats.norm.logpdf(X).sum(-1)
    )
