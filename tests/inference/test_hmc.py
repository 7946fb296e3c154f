"""Hamiltonian Monte Carlo: what has to be so for any target, and targets that are known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.inference._hmc import (
    StepSizePilot,
    differentiated,
    hmc_chains,
    hmc_move,
    leapfrog,
)
from tests.helpers import assert_follows, assert_mean

ONE = torch.ones(1, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def bent(z):
    """A density of two variables that is neither normal nor symmetric."""
    first, second = z[..., 0], z[..., 1]
    return -0.5 * first.square() - 2.0 * (second - first.square()).square() - 0.1 * second**4


def gumbel(z):
    return -(z + torch.exp(-z)).sum(-1)


def gamma_3(z):
    """Not a number outside of its support."""
    return (2.0 * torch.log(z) - z).sum(-1)


def exponential(z):
    """Without density outside of its support."""
    inside = z[..., 0] > 0
    return torch.where(inside, -z[..., 0], torch.full_like(z[..., 0], -torch.inf))


def test_trajectory_with_its_momentum_turned_round_leads_back():
    evaluate, rng = differentiated(bent), generator()
    z = torch.randn(5, 3, 2, generator=rng, dtype=torch.float64)
    momentum = torch.randn(5, 3, 2, generator=rng, dtype=torch.float64)
    how = (0.15 * ONE, torch.tensor([0.7, 1.3], dtype=torch.float64), 7)
    there, at_end = leapfrog(evaluate, evaluate(z), momentum, *how)
    assert (there.z - z).abs().min() > 1e-3
    back, at_start = leapfrog(evaluate, there, -at_end, *how)
    torch.testing.assert_close(back.z, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(at_start, -momentum, rtol=0, atol=1e-10)


def test_trajectories_preserve_volume():
    # The Jacobian of four variables by differences; every chain starts a little elsewhere.
    evaluate, step = differentiated(bent), 1e-5
    start = torch.tensor([0.3, -0.2, 0.8, -0.5], dtype=torch.float64)
    shifts = torch.cat([torch.eye(4), -torch.eye(4)]).double() * step
    states = (start + shifts).unsqueeze(1)
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64)
    point, momentum = leapfrog(
        evaluate, evaluate(states[..., :2]), states[..., 2:], 0.3 * ONE, scale, 5
    )
    ends = torch.cat([point.z, momentum], -1)[:, 0]
    jacobian = (ends[:4] - ends[4:]) / (2.0 * step)
    assert (jacobian - torch.eye(4).double()).abs().max() > 0.5
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-6)


def test_energy_error_falls_with_the_square_of_the_step():
    evaluate = differentiated(bent)
    z = torch.tensor([[[0.4, 0.1]]], dtype=torch.float64)
    momentum = torch.tensor([[[0.7, -0.4]]], dtype=torch.float64)
    errors = []
    for n in (20, 40, 80):
        point, end = leapfrog(evaluate, evaluate(z), momentum, ONE / n, ONE, n)
        error = point.log_prob - bent(z) - 0.5 * (end.square() - momentum.square()).sum(-1)
        errors.append(abs(float(error)))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.2)


@pytest.mark.parametrize(
    ("target", "law", "step_size"),
    [
        (lambda z: -0.5 * (z / 3.0).square().sum(-1), stats.norm(scale=3.0), 4.0),
        (gumbel, stats.gumbel_r(), 1.2),
        (gamma_3, stats.gamma(3), 1.5),
        (exponential, stats.expon(), 0.7),
    ],
    ids=["normal", "gumbel", "gamma", "exponential"],
)
@pytest.mark.parametrize("n_leapfrog", [1, 4])
def test_target_is_invariant_even_with_steps_that_are_too_large(target, law, step_size, n_leapfrog):
    n = 40_000
    draws = law.rvs(n, random_state=np.random.default_rng(0))
    evaluate, rng = differentiated(target), generator()
    point = evaluate(torch.from_numpy(draws).view(n // 2, 2, 1))
    accepted = []
    for _ in range(4):
        step_sizes = torch.tensor([1.0, 0.6], dtype=torch.float64) * step_size
        point, acceptance = hmc_move(evaluate, point, step_sizes, ONE, n_leapfrog, rng)
        accepted.append(float(acceptance.mean()))
    # Not for want of movement, nor without rejections: these are what makes it exact.
    assert 0.2 < np.mean(accepted) < 0.95
    moved = point.z.flatten().numpy()
    assert np.corrcoef(moved, draws)[0, 1] < 0.9
    edges = law.ppf(np.linspace(0.001, 0.999, 500))
    assert_follows(moved, edges, law.cdf(edges))
    assert_mean(moved, law.mean())
    torch.testing.assert_close(point.log_prob, target(point.z))


def test_chains_find_a_normal_that_they_do_not_start_in():
    # Correlated, with a metric that does not know it; each row has its own.
    factor = torch.tensor([[[1.0, 0.0], [0.9, 0.4]], [[0.2, 0.0], [-1.0, 3.0]]]).double()
    precision = torch.linalg.inv(factor @ factor.mT)
    mean = torch.tensor([[1.0, -2.0], [5.0, 0.0]], dtype=torch.float64)

    def target(z):
        away = z - mean
        return -0.5 * torch.einsum("cri,rij,crj->cr", away, precision, away)

    evaluate, rng = differentiated(target), generator()
    scale = (factor @ factor.mT).diagonal(dim1=-2, dim2=-1).sqrt()
    point = evaluate(torch.full((2000, 2, 2), 10.0, dtype=torch.float64))
    point, step_size = hmc_chains(evaluate, point, scale, n_pilot=60, n_leapfrog=6, generator=rng)
    acceptances = []
    for _ in range(20):
        point, acceptance = hmc_move(evaluate, point, step_size, scale, 6, rng)
        acceptances.append(acceptance.mean(0))
    np.testing.assert_allclose(torch.stack(acceptances).mean(0), 0.65, atol=0.07)
    assert_mean(point.z, mean)
    away = point.z - mean
    assert_mean(torch.einsum("cri,crj->crij", away, away), factor @ factor.mT)


def test_pilot_settles_at_other_acceptances():
    # About 0.9 is what Monte Carlo EM in Kingma and Welling (2014) has.
    evaluate, rng = differentiated(gumbel), generator()
    z = torch.zeros(1000, 2, 3, dtype=torch.float64)
    point, step_size = hmc_chains(
        evaluate, evaluate(z), ONE, n_pilot=80, n_leapfrog=5, generator=rng, target=0.9
    )
    acceptances = []
    for _ in range(20):
        point, acceptance = hmc_move(evaluate, point, step_size, ONE, 5, rng)
        acceptances.append(acceptance.mean(0))
    np.testing.assert_allclose(torch.stack(acceptances).mean(0), 0.9, atol=0.06)


def test_step_sizes_stay_finite_where_nothing_or_all_is_accepted():
    pilot = StepSizePilot(torch.ones(2))
    for _ in range(300):
        pilot.adapt(torch.tensor([[0.0, 1.0]]))
    assert torch.isfinite(pilot.step_size).all()
    assert 0.0 < pilot.step_size[0] < 1e-3 < 1e2 < pilot.step_size[1]


def test_a_row_without_finite_densities_does_not_disturb_the_others():
    def target(z):
        log_prob = gumbel(z)
        nothing = torch.tensor([0.0, math.nan, -math.inf, math.inf], dtype=z.dtype)
        return log_prob + nothing

    evaluate, rng = differentiated(target), generator()
    law = stats.gumbel_r()
    start = torch.from_numpy(law.rvs((20_000, 4, 1), random_state=np.random.default_rng(0)))
    point = evaluate(start)
    for _ in range(3):
        point, acceptance = hmc_move(evaluate, point, 0.5 * ONE, ONE, 3, rng)
    assert torch.isfinite(point.z).all() and torch.isfinite(acceptance).all()
    assert torch.equal(point.z[:, 1:], start[:, 1:])
    edges = law.ppf(np.linspace(0.001, 0.999, 500))
    assert_follows(point.z[:, 0].flatten().numpy(), edges, law.cdf(edges))


def test_chains_that_start_without_density_come_into_the_support():
    evaluate, rng = differentiated(exponential), generator()
    point = evaluate(torch.full((500, 1, 1), -1.0, dtype=torch.float64))
    for _ in range(200):
        point, _ = hmc_move(evaluate, point, ONE, ONE, 1, rng)
    assert (point.z > 0).double().mean() > 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("latent_shape", [(3,), (2, 3), ()])
def test_dtype_and_any_shape_of_latent_variables_are_kept(dtype, latent_shape):
    def target(z):
        return -0.5 * z.square().flatten(2).sum(-1) if latent_shape else -0.5 * z.square()

    before = torch.get_rng_state()
    evaluate = differentiated(target)
    point = evaluate(torch.zeros(4, 5, *latent_shape, dtype=dtype))
    step_size, scale = torch.full((5,), 0.3, dtype=dtype), torch.ones(5, *latent_shape).to(dtype)
    point, acceptance = hmc_move(evaluate, point, step_size, scale, 2, generator())
    assert point.z.shape == point.gradient.shape == (4, 5, *latent_shape)
    assert point.log_prob.shape == acceptance.shape == (4, 5)
    assert {t.dtype for t in (*point, acceptance)} == {dtype}
    assert not any(t.requires_grad for t in point)
    assert torch.equal(torch.get_rng_state(), before)
