"""Each update rule takes the steps of its namesake in torch.optim."""

import pytest
import torch

from skvae.solvers import SGD, Adagrad, Adam, AdamW

N_WEIGHTS, N = 4, 6
RATE = 0.05


def run_ours(solver, n_steps=25, dtype=torch.float64, *, fused=None):
    parameters = torch.linspace(-2.0, 3.0, N, dtype=dtype)
    is_weight = (torch.arange(N) < N_WEIGHTS).to(dtype)
    rule = solver.build(parameters, is_weight)
    if fused is not None:
        assert rule.fused, "this machine has no fused kernel to compare with"
        rule.fused = fused
    path = []
    for i in range(n_steps):
        rule.update_(
            parameters,
            gradient_at(parameters, i),
            torch.tensor(RATE / (1 + i), dtype=torch.float64),
            torch.tensor(float(i), dtype=torch.float64),
        )
        path.append(parameters.clone())
    return torch.stack(path)


def run_torch(make, n_steps=25, dtype=torch.float64):
    start = torch.linspace(-2.0, 3.0, N, dtype=dtype)
    weights = torch.nn.Parameter(start[:N_WEIGHTS].clone())
    biases = torch.nn.Parameter(start[N_WEIGHTS:].clone())
    optimizer = make(weights, biases)
    path = []
    for i in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE / (1 + i)
        gradient = gradient_at(torch.cat([weights, biases]).detach(), i)
        weights.grad, biases.grad = gradient[:N_WEIGHTS], gradient[N_WEIGHTS:]
        optimizer.step()
        path.append(torch.cat([weights, biases]).detach().clone())
    return torch.stack(path)


def gradient_at(parameters, i):
    """Gradient of a quadratic, with a push that changes its sign, so that momentum matters."""
    curvature = torch.logspace(-1.0, 1.0, N, dtype=parameters.dtype)
    return curvature * parameters + (-1.0) ** i


PAIRS = {
    "adam": (Adam(), lambda w, b: torch.optim.Adam([w, b])),
    "adam with other decays": (
        Adam(beta_1=0.5, beta_2=0.9, epsilon=0.1),
        lambda w, b: torch.optim.Adam([w, b], betas=(0.5, 0.9), eps=0.1),
    ),
    "adamw, decay on weights only": (
        AdamW(weight_decay=0.3),
        lambda w, b: torch.optim.AdamW(
            [{"params": [w], "weight_decay": 0.3}, {"params": [b], "weight_decay": 0.0}]
        ),
    ),
    "adamw without decay is adam": (
        AdamW(weight_decay=0.0),
        lambda w, b: torch.optim.Adam([w, b]),
    ),
    "adagrad": (Adagrad(), lambda w, b: torch.optim.Adagrad([w, b])),
    "adagrad with a start": (
        Adagrad(initial_accumulator=0.5, epsilon=0.1),
        lambda w, b: torch.optim.Adagrad([w, b], initial_accumulator_value=0.5, eps=0.1),
    ),
    "sgd": (SGD(), lambda w, b: torch.optim.SGD([w, b], momentum=0.9)),
    "sgd without momentum": (SGD(momentum=0.0), lambda w, b: torch.optim.SGD([w, b])),
    "sgd, nesterov": (
        SGD(momentum=0.7, nesterov=True),
        lambda w, b: torch.optim.SGD([w, b], momentum=0.7, nesterov=True),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_steps_are_those_of_torch(name):
    solver, make = PAIRS[name]
    # The fused kernel of Adam counts steps in float32.
    torch.testing.assert_close(run_ours(solver), run_torch(make), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", [Adam(), AdamW(weight_decay=0.3)], ids=["adam", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_and_plain_forms_agree(solver, dtype):
    fused = run_ours(solver, dtype=dtype, fused=True)
    plain = run_ours(solver, dtype=dtype, fused=False)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(fused, plain, rtol=tolerance, atol=tolerance)


def test_plain_adam_is_exact_in_float64():
    expected = run_torch(lambda w, b: torch.optim.Adam([w, b]))
    torch.testing.assert_close(run_ours(Adam(), fused=False), expected, rtol=1e-12, atol=1e-12)


def test_the_first_step_of_adam_has_the_length_of_the_rate():
    path = run_ours(Adam(), 1)
    start = torch.linspace(-2.0, 3.0, N, dtype=torch.float64)
    torch.testing.assert_close((path[0] - start).abs(), torch.full((N,), RATE).double())
