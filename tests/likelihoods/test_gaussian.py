"""The normal likelihood: where its noise comes from, and in which units it answers."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from skvae.exceptions import SupportError
from skvae.likelihoods import GaussianLikelihood
from tests.registry import draw_outputs

X = np.random.default_rng(0).normal(size=(50, 3)) * [0.1, 1.0, 30.0] + [1e3, 0.0, -5.0]


def head_for(noise, X=X):
    likelihood = GaussianLikelihood(noise=noise)
    return likelihood.build(likelihood.summarize(X), torch.float64)


@pytest.mark.parametrize("noise", ["per_feature", "shared", "predicted", 0.3, [0.1, 2.0, 9.0]])
def test_density_is_the_normal_density_of_the_users_rows(noise):
    head = head_for(noise)
    with torch.no_grad():
        for p in head.parameters():
            p.uniform_(-2.0, 1.0, generator=torch.Generator().manual_seed(0))
        params = head.params_from(draw_outputs(head, 2, 50))
        x = torch.from_numpy(X)
        mean = head.from_expectation(head.expectation(params))
        expected = Normal(mean, head.noise_variance(params).sqrt()).log_prob(x)
        answer = head.log_prob_columns(params, head.standardize(x))
    torch.testing.assert_close(answer, expected, rtol=1e-10, atol=1e-10)


def test_noise_variance_is_in_the_units_of_x():
    start = head_for("per_feature")
    variance = start.noise_variance(start.params_from(start.initial_outputs())).detach()
    np.testing.assert_allclose(variance, X.var(axis=0), rtol=1e-6)
    shared = head_for("shared")
    variance = shared.noise_variance(shared.params_from(shared.initial_outputs())).detach()
    np.testing.assert_allclose(variance, np.full(3, X.var(axis=0).mean()), rtol=1e-6)


@pytest.mark.parametrize("noise", [0.3, [0.1, 2.0, 9.0]])
def test_fixed_noise_is_as_given_and_not_learned(noise):
    head = head_for(noise)
    assert list(head.parameters()) == []
    variance = head.noise_variance(head.params_from(draw_outputs(head, 1, 1)))
    np.testing.assert_allclose(np.broadcast_to(variance, (1, 1, 3))[0, 0], np.full(3, noise))


def test_number_of_learned_variances():
    sizes = {n: [p.numel() for p in head_for(n).parameters()] for n in ("per_feature", "shared")}
    assert sizes == {"per_feature": [3], "shared": [1]}
    assert list(head_for("predicted").parameters()) == []
    assert head_for("predicted").n_outputs == 6


def test_shared_noise_is_isotropic_in_the_units_of_x():
    # One scale for all columns: the model is probabilistic PCA of X as it is.
    head = head_for("shared")
    assert head.scale.unique().numel() == 1
    np.testing.assert_allclose(head.location, X.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("noise", ["per_feature", "predicted"])
def test_constant_column_keeps_a_noise_variance_of_one(noise):
    with_constant = X.copy()
    with_constant[:, 1] = 7.0
    head = head_for(noise, with_constant)
    outputs = draw_outputs(head, 1, 4, seed=3).requires_grad_()
    params = head.params_from(outputs)
    np.testing.assert_allclose(head.noise_variance(params).detach()[..., 1], 1.0)
    # The likelihood would grow without bound along this direction: nothing pushes there.
    x = head.standardize(torch.from_numpy(with_constant[:4]))
    learned = list(head.parameters()) or [outputs]
    (gradient,) = torch.autograd.grad(head.log_prob_columns(params, x).sum(), learned)
    assert (gradient[..., 1 if noise == "per_feature" else 4] == 0).all()


def test_noise_variance_has_a_floor_far_below_real_noise():
    head = head_for("per_feature")
    with torch.no_grad():
        head.log_variance.fill_(-200.0)
    variance = head.noise_variance(head.params_from(head.initial_outputs())).detach().numpy()
    share = variance / X.var(axis=0)
    assert (share > 0).all() and (share <= 1e-12 * (1 + 1e-6)).all()


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e20, 1e150])
def test_extreme_units_change_the_density_by_the_jacobian_only(scale):
    # Not 1e200: the square of the scale, the noise variance, would be infinite in float64.
    plain, scaled = head_for("per_feature"), head_for("per_feature", X * scale)
    outputs = draw_outputs(plain, 1, 50)
    answers = [
        head.log_prob_columns(head.params_from(outputs), head.standardize(torch.from_numpy(rows)))
        for head, rows in ((plain, X), (scaled, X * scale))
    ]
    torch.testing.assert_close(answers[1], answers[0] - np.log(scale), rtol=1e-9, atol=1e-9)


def test_float32_rows_far_from_zero_keep_their_digits():
    # 1e6 + noise of size 1 in float32 has 4 digits left; standardising must not lose them.
    rows = (X[:, [1]] + 1e6).astype(np.float32)
    head = head_for("per_feature", rows).to(torch.float32)
    x = head.standardize(torch.from_numpy(rows))
    exact = (rows.astype(np.float64) - rows.mean(dtype=np.float64)) / rows.std(dtype=np.float64)
    np.testing.assert_allclose(x, exact, atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, -1.0, [1.0, -1.0, 1.0], [1.0, np.inf, 1.0], "isotropic"])
def test_impossible_noise_is_refused(noise):
    with pytest.raises(ValueError, match="noise"):
        head_for(noise)


def test_noise_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\), but X has 3 columns"):
        head_for([1.0, 2.0])


def test_every_finite_number_is_in_the_support():
    GaussianLikelihood().check_support(np.array([[1e300, -1e300, 0.0]]))
    assert issubclass(SupportError, ValueError)
