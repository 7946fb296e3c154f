"""Flows go there and back, know their determinant, and begin as the identity."""

import subprocess
import sys

import pytest
import torch

from skvae._core._flow import Flow, import_zuko
from tests.helpers import moved

SETTINGS = pytest.mark.parametrize("family", ["spline", "affine"])
SIZES = pytest.mark.parametrize("n_context", [0, 2])


def flow_of(n_variables, n_context, family, *, dtype=torch.float64, seed=0, **parameters):
    parameters = {"n_transforms": 2, "n_groups": 2, "hidden_layer_sizes": (5,)} | parameters
    generator = torch.Generator().manual_seed(seed)
    zuko = import_zuko("a test")
    return Flow(
        zuko, n_variables, n_context, family=family, dtype=dtype, generator=generator, **parameters
    )


def points(n_variables, n_context, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = 3.0 * torch.randn(6, 4, n_variables, generator=generator, dtype=torch.float64)
    context = torch.randn(4, n_context, generator=generator, dtype=torch.float64)
    return x.to(dtype), context.to(dtype) if n_context else None


@SETTINGS
@SIZES
@pytest.mark.parametrize("n_groups", [2, 3])
@pytest.mark.parametrize("n_variables", [1, 2, 3])
def test_there_and_back(family, n_context, n_variables, n_groups):
    flow = moved(flow_of(n_variables, n_context, family, n_groups=n_groups))
    x, context = points(n_variables, n_context)
    y, log_det = flow(x, context)
    back, log_det_back = flow(y, context, inverse=True)
    assert (y - x).abs().max() > 0.1
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(log_det_back, -log_det)


@SETTINGS
@SIZES
@pytest.mark.parametrize("n_variables", [1, 3])
def test_determinant_is_that_of_the_derivative(family, n_context, n_variables):
    flow = moved(flow_of(n_variables, n_context, family))
    x, context = points(n_variables, n_context)
    for inverse in (False, True):
        _, log_det = flow(x, context, inverse=inverse)
        for row in range(x.shape[1]):
            own = None if context is None else context[row]
            one = x[0, row]
            matrix = torch.autograd.functional.jacobian(
                lambda v, own=own, inverse=inverse: flow(v, own, inverse=inverse)[0], one
            )
            torch.testing.assert_close(torch.linalg.slogdet(matrix)[1], log_det[0, row])


@SETTINGS
def test_two_layers_make_each_variable_depend_on_all(family):
    flow = moved(flow_of(5, 0, family, hidden_layer_sizes=(20,)))
    x = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda v: flow(v)[0], x)
    first, second = [0, 1, 2], [3, 4]
    assert (matrix[second][:, first] != 0).all() and (matrix[first][:, second] != 0).all()


@SETTINGS
@SIZES
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
@pytest.mark.parametrize("n_variables", [1, 3])
def test_at_first_it_is_the_identity(family, n_context, n_variables, hidden):
    flow = flow_of(n_variables, n_context, family, hidden_layer_sizes=hidden)
    x, context = points(n_variables, n_context)
    y, log_det = flow(x, context)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(log_det, torch.zeros(6, 4).double(), rtol=0, atol=1e-13)
    # And can leave: whatever changes the determinant has a gradient to do it by.
    last = list(flow.parameters())[-2:]
    gradients = torch.autograd.grad(((y - x.exp()) ** 2).sum() + log_det.sum(), last)
    assert all((g != 0).any() for g in gradients)


@SETTINGS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_variables", [1, 3])
def test_far_from_all_data_answers_are_finite(family, dtype, n_variables):
    flow = moved(flow_of(n_variables, 0, family, dtype=dtype), 2.0)
    signs = torch.tensor([-1.0, 1.0, 0.0, 1e-30, 1e-3], dtype=dtype)
    for size in (1.0, 5.0, 1e4):
        for inverse in (False, True):
            x = (size * signs).unsqueeze(1).repeat(1, n_variables).requires_grad_()
            y, log_det = flow(x, inverse=inverse)
            gradients = torch.autograd.grad(y.sum() + log_det.sum(), [x, *flow.parameters()])
            for t in (y, log_det, *gradients):
                assert torch.isfinite(t).all()


def steep_splines(dtype, n=2000):
    """Splines whose slopes reach their limits, and values within and outside of [-5, 5]."""
    from skvae._core._flow import MIN_SLOPE
    from skvae._core._spline import Spline

    generator = torch.Generator().manual_seed(0)
    shapes = [torch.randn(n, size, generator=generator, dtype=torch.float64) for size in (8, 8, 7)]
    y = 3.0 * torch.randn(50, n, generator=generator, dtype=torch.float64)
    return Spline(*(30.0 * p.to(dtype) for p in shapes), slope=MIN_SLOPE), y.to(dtype)


def test_splines_go_back_as_those_of_zuko_do():
    spline, y = steep_splines(torch.float64)
    torch.testing.assert_close(spline.inv(y), super(type(spline), spline)._inverse(y))


def test_splines_go_back_in_float32():
    spline, y = steep_splines(torch.float32)
    y.requires_grad_()
    x = spline.inv(y)
    torch.testing.assert_close(spline(x), y, rtol=0, atol=1e-3)
    (gradient,) = torch.autograd.grad(x.sum(), y)
    assert torch.isfinite(gradient).all()
    assert gradient.min() >= 0.0


def test_held_parameters_have_no_gradient_and_the_same_values():
    flow = moved(flow_of(3, 2, "spline"))
    x, context = points(3, 2)
    x.requires_grad_()
    for inverse in (False, True):
        free, held = flow(x, context, inverse=inverse), flow.held(x, context, inverse=inverse)
        for one, other in zip(free, held, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        total = held[0].sum() + held[1].sum()
        gradients = torch.autograd.grad(total, [x, *flow.parameters()], allow_unused=True)
        assert gradients[0] is not None
        assert all(g is None for g in gradients[1:])
    assert all(p.requires_grad for p in flow.parameters())


@SIZES
@pytest.mark.parametrize("n_variables", [1, 3])
def test_weights_come_from_the_generator_alone(n_context, n_variables):
    before = torch.get_rng_state()
    first, again, other = (
        moved(flow_of(n_variables, n_context, "spline", seed=seed), 0.0) for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)  # another state of torch's own generator
    once_more = flow_of(n_variables, n_context, "spline")
    torch.set_rng_state(before)
    for one in (again, once_more):
        for p, q in zip(first.parameters(), one.parameters(), strict=True):
            assert torch.equal(p, q)
    if n_context or n_variables > 1:
        pairs = zip(first.parameters(), other.parameters(), strict=True)
        assert any(not torch.equal(p, q) for p, q in pairs)


def test_without_zuko_the_error_says_what_to_install(monkeypatch):
    from skvae import VariationalAutoencoder
    from skvae.posteriors import FlowPosterior
    from skvae.priors import FlowPrior

    monkeypatch.setitem(sys.modules, "zuko", None)
    X = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).numpy()
    asked = {
        "FlowPosterior": {"posterior": FlowPosterior()},
        "FlowPrior": {"prior": FlowPrior()},
        "posterior='flow'": {"posterior": "flow"},
        "prior='flow'": {"prior": "flow"},
    }
    for name, ingredient in asked.items():
        with pytest.raises(ImportError, match=r'pip install "skvae\[flow\]"') as caught:
            VariationalAutoencoder(**ingredient).fit(X)
        assert name in str(caught.value)


def test_importing_skvae_does_not_import_zuko():
    code = "import sys, skvae, skvae.posteriors, skvae.priors; sys.exit('zuko' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
