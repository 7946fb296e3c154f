"""Products by oneDNN are those of torch's BLAS, to rounding; only products that gain go there."""

import pytest
import torch

from skvae._core import _products
from skvae._core._products import add_products_, affine, products_into
from skvae.engine._precision import products_in

needs_one_dnn = pytest.mark.skipif(
    _products._one_dnn() is None, reason="this processor gains nothing from oneDNN"
)


@pytest.fixture(params=[(1, 400, 150, 120), (3, 400, 150, 120), (1, 7, 5, 3), (2, 4, 0, 3)])
def operands(request):
    n_models, n_rows, n_inner, n_columns = request.param
    generator = torch.Generator().manual_seed(0)
    shapes = (n_models, n_rows, n_inner), (n_models, n_inner, n_columns), (n_models, 1, n_columns)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.fixture
def handed_over(monkeypatch):
    """Shapes of the products that oneDNN computed."""
    seen, plain = [], _products._product

    def watched(a, b, bias=None):
        seen.append((*a.shape, b.shape[-1]))
        return plain(a, b, bias)

    monkeypatch.setattr(_products, "_product", watched)
    return seen


def close(actual, expected):
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layout", ["as stored", "transposed", "with gaps"])
def test_stacks(operands, layout):
    a, b, bias = operands
    expected = a.double() @ b.double()
    if layout == "transposed":
        a, b = a.mT.contiguous().mT, b.mT.contiguous().mT
    if layout == "with gaps":
        a, b = (torch.cat([t, t], dim=2)[..., : t.shape[2]] for t in (a, b))
    out = torch.full(expected.shape, float("nan"))
    close(products_into(out, a, b), expected)
    close(products_into(out, a, b, bias), expected + bias)
    total = torch.ones(expected.shape)
    close(add_products_(total, a, b), expected + 1)


@pytest.mark.parametrize("needs", ["inputs", "weight", "bias"])
def test_affine_and_its_gradients(operands, needs):
    inputs, weight, bias = operands[0][0], operands[1][0], operands[2][0, 0]
    named = {"inputs": inputs, "weight": weight, "bias": bias}
    named[needs].requires_grad_()
    slope = torch.linspace(-1, 1, inputs.shape[0] * weight.shape[1]).view(len(inputs), -1)
    result = affine(inputs, weight, bias)
    exact = [named[name].detach().double().requires_grad_(name == needs) for name in named]
    expected = exact[0] @ exact[1] + exact[2]
    close(result, expected)
    (gradient,) = torch.autograd.grad((result * slope).sum(), named[needs])
    wanted = torch.autograd.grad((expected * slope).sum(), exact[list(named).index(needs)])[0]
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=1e-3)
    close(affine(inputs, weight), exact[0] @ exact[1])


@needs_one_dnn
def test_large_dense_float32_products_are_handed_over(handed_over):
    a, b = torch.ones(1, 200, 100), torch.ones(1, 100, 120)
    out = torch.empty(1, 200, 120)
    products_into(out, a, b)
    with torch.no_grad():
        affine(a[0], b[0])
    assert handed_over == [(200, 100, 120)] * 2
    # A gradient costs calls of its own, which larger products make up for.
    affine(a[0], b[0])
    assert len(handed_over) == 2
    affine(a[0].repeat(5, 1), b[0])
    assert handed_over.pop() == (1000, 100, 120)
    wide = torch.ones(1, 100, 240)
    products_into(out, a, wide[..., :120])  # a thousand times slower there
    products_into(out.double(), a.double(), b.double())
    products_into(torch.empty(1, 20, 120), a[:, :20], b)
    affine(torch.ones(200, 100, device="meta"), torch.ones(100, 120, device="meta"))
    assert len(handed_over) == 2


@needs_one_dnn
def test_each_row_is_computed_alone():
    """What a row becomes does not depend on the rows beside it."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 120, generator=generator)
    weight = torch.randn(120, 100, generator=generator)
    together = affine(inputs, weight)
    assert torch.equal(affine(inputs[100:250], weight), together[100:250])


@needs_one_dnn
@pytest.mark.skipif(not _products._has_bfloat16(), reason="this processor has no bfloat16")
def test_medium_precision_has_bfloat16_factors_and_float32_sums():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1, 200, 4000, generator=generator)
    b = torch.randn(1, 4000, 120, generator=generator)
    bias, out = torch.randn(1, 1, 120, generator=generator), torch.empty(1, 200, 120)
    exact = a.double() @ b.double() + bias
    with products_in("medium"):
        products_into(out, a, b, bias)
    error = float((out - exact).std() / exact.std())
    assert 1e-4 < error < 5e-3  # factors of 8 binary digits; sums of as many would be far worse
    products_into(out, a, b, bias)
    assert float((out - exact).std() / exact.std()) < 1e-6
