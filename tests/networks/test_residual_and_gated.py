"""Residual and gated layers."""

import pytest
import torch

from skvae.networks import GatedMLP, ResidualMLP
from skvae.networks._layers import OUTPUT_GAIN


def build(component, n_inputs=3, n_outputs=5, n_location_outputs=2):
    return component.build(
        n_inputs,
        n_outputs,
        n_location_outputs=n_location_outputs,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )


def randomised(head):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in head.parameters():
            p.normal_(generator=generator)
    return head


def rows(n_rows=6, n_inputs=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n_rows, n_inputs, generator=generator, dtype=torch.float64)


def test_blocks_add_to_what_they_are_given():
    head = randomised(build(ResidualMLP(width=4, n_blocks=2, activation="tanh")))
    s, x = head.state_dict(), rows()
    h = x @ s["first.weight"] + s["first.bias"]
    for i in range(2):
        inner = torch.tanh(h) @ s[f"blocks.{i}.0.weight"] + s[f"blocks.{i}.0.bias"]
        h = h + torch.tanh(inner) @ s[f"blocks.{i}.1.weight"] + s[f"blocks.{i}.1.bias"]
    expected = torch.tanh(h) @ s["output.weight"] + s["output.bias"]
    expected[:, :2] += x @ s["linear_path.weight"]
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("n_blocks", [1, 10])
def test_blocks_begin_with_nearly_nothing(n_blocks):
    head = build(ResidualMLP(width=50, n_blocks=n_blocks), n_inputs=20)
    with torch.no_grad():
        before = head.first(rows(200, 20))
        total = head.body(rows(200, 20), None)
    change = (total - torch.relu(before)).std() / before.std()
    assert 0.0 < float(change) < 0.1 * n_blocks**0.5


def test_a_layer_is_a_linear_map_times_a_gate():
    head = randomised(build(GatedMLP(hidden_layer_sizes=(4, 2))))
    s, x = head.state_dict(), rows()
    h = x
    for i, width in enumerate((4, 2)):
        both = h @ s[f"hidden.{i}.weight"] + s[f"hidden.{i}.bias"]
        h = both[:, :width] * torch.sigmoid(both[:, width:])
    expected = h @ s["output.weight"] + s["output.bias"]
    expected[:, :2] += x @ s["linear_path.weight"]
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize(
    "component",
    [GatedMLP(hidden_layer_sizes=(100,) * 5), ResidualMLP(width=100, n_blocks=10)],
    ids=repr,
)
def test_activity_neither_dies_nor_explodes_with_depth(component):
    head = build(component, 100, 100, 0)
    with torch.no_grad():
        outputs = head(rows(500, 100))
    assert 0.2 < float(outputs.std(0).mean()) / OUTPUT_GAIN**0.5 < 2.0


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (ResidualMLP(width=0), "width"),
        (ResidualMLP(n_blocks=0), "n_blocks"),
        (ResidualMLP(activation="rely"), "activation"),
        (ResidualMLP(dropout=1.0), "dropout"),
        (GatedMLP(hidden_layer_sizes=(3, 0)), "positive integers"),
        (GatedMLP(hidden_layer_sizes=()), r"hidden_layer_sizes=\(\) leaves no layer"),
        (GatedMLP(dropout=-0.1), "dropout"),
    ],
    ids=repr,
)
def test_impossible_parameters_are_refused(component, message):
    with pytest.raises(ValueError, match=message):
        build(component)
