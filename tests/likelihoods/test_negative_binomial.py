"""Negative binomial probabilities, with and without excess zeros."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from skvae import VariationalAutoencoder
from skvae.likelihoods import (
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    ZeroInflatedNegativeBinomialLikelihood,
)
from skvae.likelihoods._negative_binomial import fit_log_dispersion
from skvae.likelihoods._zero_inflated import fit_zero_inflated
from tests.registry import draw_outputs

RNG = np.random.default_rng(0)
X = RNG.poisson([0.7, 5.0, 200.0] * RNG.gamma(2.0, 0.5, size=(800, 3))).astype(float)
WITH_ZEROS = X * (RNG.uniform(size=X.shape) > 0.3)


def head_for(component=None, X=X, dtype=torch.float64):
    component = NegativeBinomialLikelihood() if component is None else component
    return component.build(component.summarize(X), dtype)


@pytest.mark.parametrize("log_dispersion", [-13.0, -5.0, 0.0, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_probability_is_that_of_scipy(dtype, tolerance, log_dispersion):
    head = head_for(dtype=dtype)
    with torch.no_grad():
        head.log_dispersion.fill_(log_dispersion)
        params = head.params_from(draw_outputs(head, 2, 800))
        answer = head.log_prob_columns(params, torch.from_numpy(X).to(dtype))
    mean, size = np.exp(params.log_mean.double().numpy()), np.exp(-log_dispersion)
    exact = stats.nbinom.logpmf(X, size, size / (size + mean))
    np.testing.assert_allclose(answer, exact, rtol=tolerance, atol=10 * tolerance)


def test_without_dispersion_it_is_the_poisson_probability():
    counts = np.minimum(X, 30.0)
    head = head_for(X=counts)
    poisson = head_for(PoissonLikelihood(), counts)
    outputs = draw_outputs(poisson, 2, 800)
    with torch.no_grad():
        head.log_dispersion.fill_(-100.0)
        answers = [
            h.log_prob_columns(h.params_from(outputs), torch.from_numpy(counts))
            for h in (head, poisson)
        ]
    torch.testing.assert_close(*answers, rtol=1e-3, atol=5e-3)


def test_marginal_dispersion_is_that_of_maximum_likelihood():
    for column in X.T:

        def loss(log_dispersion, column=column):
            size = np.exp(-log_dispersion)
            return -stats.nbinom.logpmf(column, size, size / (size + column.mean())).sum()

        exact = optimize.minimize_scalar(loss, bounds=(-5.0, 3.0), method="bounded")
        assert loss(fit_log_dispersion(column)) < exact.fun + 1e-3


def test_counts_less_dispersed_than_poisson_get_poissons_score():
    counts = RNG.binomial(10, 0.5, size=(500, 3)).astype(float)
    poisson, own = (
        VariationalAutoencoder(0, likelihood=name).fit(counts).score(counts)
        for name in ("poisson", "negative_binomial")
    )
    assert own == pytest.approx(poisson, abs=2e-3)


def test_columns_of_zeros_have_a_finite_score():
    counts = np.column_stack([np.zeros(30), X[:30, 0]])
    for name in ("negative_binomial", "zero_inflated_negative_binomial"):
        vae = VariationalAutoencoder(0, likelihood=name).fit(counts)
        assert np.isfinite(vae.score_samples([[3.0, 0.0], [0.0, 1e6]])).all()


@pytest.mark.parametrize("zeros", ["per_feature", "predicted"])
def test_zero_inflated_probability_is_a_mixture(zeros):
    component = ZeroInflatedNegativeBinomialLikelihood(zeros=zeros)
    head = head_for(component, WITH_ZEROS)
    with torch.no_grad():
        outputs = draw_outputs(head, 2, 800)
        params = head.params_from(outputs)
        answer = head.log_prob_columns(params, torch.from_numpy(WITH_ZEROS)).exp()
        counted = NegativeBinomialLikelihood()
        counted = counted.build(counted.summarize(X), torch.float64)
        probability = counted.log_prob_columns(params.counted, torch.from_numpy(WITH_ZEROS)).exp()
        excess = params.zero_logit.sigmoid()
    expected = (1.0 - excess) * probability + excess * torch.from_numpy(WITH_ZEROS == 0.0)
    torch.testing.assert_close(answer, expected)
    assert head.n_outputs == (6 if zeros == "predicted" else 3)


def test_share_of_excess_zeros_is_found():
    for column, log_mean in zip(WITH_ZEROS[:, 1:].T, np.log([5.0, 200.0]), strict=True):
        found, _, logit = fit_zero_inflated(column)
        assert found == pytest.approx(log_mean, abs=0.1)
        assert 1.0 / (1.0 + np.exp(-logit)) == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("rows", [X, WITH_ZEROS], ids=["none", "excess zeros"])
def test_zero_inflated_marginals_are_no_worse_than_those_without(rows):
    plain, inflated = (
        VariationalAutoencoder(0, likelihood=name).fit(rows).score(rows)
        for name in ("negative_binomial", "zero_inflated_negative_binomial")
    )
    assert inflated > plain - 5e-3
    assert inflated > plain + 0.1 or rows is X


def test_missing_entries_are_left_out_of_the_marginals():
    holes = WITH_ZEROS.copy()
    holes[::3, 1] = np.nan
    component = ZeroInflatedNegativeBinomialLikelihood()
    found = component.summarize(holes).marginals
    rest = component.summarize(np.delete(WITH_ZEROS, np.s_[::3], axis=0)).marginals
    for name, values in found.items():
        assert values[1] == rest[name][1]


@pytest.mark.parametrize("zeros", ["shared", 0.5])
def test_impossible_zeros_are_refused(zeros):
    with pytest.raises(ValueError, match="zeros"):
        head_for(ZeroInflatedNegativeBinomialLikelihood(zeros=zeros))
