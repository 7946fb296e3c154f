"""What every solver promises."""

import copy

import pytest
import torch

from tests.registry import SOLVERS, each

every_solver = pytest.mark.parametrize("solver", each(SOLVERS))

N = 6
HESSIAN = torch.diag(torch.logspace(-1.0, 1.0, N, dtype=torch.float64))


def start():
    return torch.linspace(-2.0, 3.0, N, dtype=torch.float64)


def descend(rule, parameters, n_steps, rate, *, first_step=0):
    """Steps down a quadratic; the state of the rule is its own."""
    rate = torch.tensor(rate, dtype=torch.float64)
    for i in range(first_step, first_step + n_steps):
        gradient = HESSIAN.to(parameters.dtype) @ parameters
        rule.update_(parameters, gradient, rate, torch.tensor(float(i), dtype=torch.float64))
    return parameters


@every_solver
def test_a_quadratic_is_descended(solver):
    parameters = start()
    rule = solver.build(parameters, torch.ones(N, dtype=torch.float64))
    before = float(parameters @ HESSIAN @ parameters)
    descend(rule, parameters, 2000, 0.05)
    assert float(parameters @ HESSIAN @ parameters) < 0.1 * before


@every_solver
def test_rate_zero_moves_nothing(solver):
    parameters = start()
    rule = solver.build(parameters, torch.ones(N, dtype=torch.float64))
    descend(rule, parameters, 3, 0.0)
    assert torch.equal(parameters, start())


@every_solver
def test_state_is_all_that_is_carried(solver):
    is_weight = torch.ones(N, dtype=torch.float64)
    parameters = start()
    rule = solver.build(parameters, is_weight)
    descend(rule, parameters, 5, 0.05)
    # Another rule that takes over the state goes on as the first one does.
    other_parameters = parameters.clone()
    other = solver.build(other_parameters, is_weight)
    for target, value in zip(other.state, rule.state, strict=True):
        target.copy_(value)
    descend(rule, parameters, 5, 0.05, first_step=5)
    descend(other, other_parameters, 5, 0.05, first_step=5)
    assert torch.equal(parameters, other_parameters)


@every_solver
def test_state_is_allocated_once(solver):
    parameters = start()
    rule = solver.build(parameters, torch.ones(N, dtype=torch.float64))
    before = [t.data_ptr() for t in rule.state]
    descend(rule, parameters, 3, 0.05)
    assert [t.data_ptr() for t in rule.state] == before
    assert all(t.shape in (parameters.shape, ()) for t in rule.state)


@every_solver
def test_parts_of_a_vector_may_have_rules_of_their_own(solver):
    # The engine gives parts of the parameters different rates.
    whole, parts = start(), start()
    is_weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    rule = solver.build(whole, is_weight)
    rate = torch.tensor(0.05, dtype=torch.float64)
    slices = [slice(0, 2), slice(2, N)]
    rules = [solver.build(parts[s], is_weight[s]) for s in slices]
    for i in range(5):
        step = torch.tensor(float(i), dtype=torch.float64)
        rule.update_(whole, HESSIAN @ whole, rate, step)
        gradient = HESSIAN @ parts
        for part_rule, s in zip(rules, slices, strict=True):
            part_rule.update_(parts[s], gradient[s], rate, step)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


@every_solver
def test_float32_agrees_with_float64(solver):
    double, single = start(), start().float()
    for parameters in (double, single):
        rule = solver.build(parameters, torch.ones_like(parameters))
        descend(rule, parameters, 20, 0.05)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@every_solver
@pytest.mark.parametrize(
    ("name", "value"),
    [("warmup_steps", -1), ("cooldown_steps", 0.5), ("clip_norm", 0.0), ("clip_norm", -1.0)],
)
def test_impossible_parameters_are_refused(solver, name, value):
    wrong = copy.deepcopy(solver).set_params(**{name: value})
    with pytest.raises(ValueError, match=name):
        wrong.build(start(), torch.ones(N, dtype=torch.float64))
