"""The multilayer perceptron and the linear path beside it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from skvae.networks import MLP
from skvae.networks._activations import ACTIVATIONS
from skvae.networks._layers import OUTPUT_GAIN


def build(n_inputs=3, n_outputs=5, n_location_outputs=2, *, seed=0, **parameters):
    return MLP(**parameters).build(
        n_inputs,
        n_outputs,
        n_location_outputs=n_location_outputs,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )


def rows(n_rows=6, n_inputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, n_inputs, generator=generator, dtype=torch.float64)


def randomised(head, seed=1):
    """The head with every parameter, biases included, drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in head.parameters():
            p.normal_(generator=generator)
    return head


def test_it_is_the_sum_of_a_network_and_a_linear_path():
    head = randomised(build(hidden_layer_sizes=(7, 4), activation="tanh"))
    state, x = head.state_dict(), rows()
    hidden = x
    for i in range(2):
        hidden = torch.tanh(
            functional.linear(hidden, state[f"hidden.{i}.weight"].T, state[f"hidden.{i}.bias"])
        )
    expected = functional.linear(hidden, state["output.weight"].T, state["output.bias"])
    # The path reaches the location outputs, which come first, and no others.
    expected[:, :2] += x @ state["linear_path.weight"]
    torch.testing.assert_close(head(x), expected)


def test_without_the_path_it_is_the_network():
    head = randomised(build(hidden_layer_sizes=(7,), linear_path=False))
    reference = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 5)).double()
    state = head.state_dict()
    reference.load_state_dict(
        {
            "0.weight": state["hidden.0.weight"].T,
            "0.bias": state["hidden.0.bias"],
            "2.weight": state["output.weight"].T,
            "2.bias": state["output.bias"],
        }
    )
    torch.testing.assert_close(head(rows()), reference(rows()))
    assert not head.has_linear_path


def test_without_hidden_layers_locations_are_linear_and_the_rest_constant():
    head, x = randomised(build(hidden_layer_sizes=())), rows()
    outputs = head(x)
    weight, bias = head.linear_path.weight, head.output.bias
    torch.testing.assert_close(outputs[:, :2], x @ weight + bias[:2])
    torch.testing.assert_close(outputs[:, 2:], bias[2:].expand(6, -1))
    # Two parallel linear maps would be one too many.
    assert sum(p.numel() for p in head.parameters()) == 3 * 2 + 5


def test_without_hidden_layers_and_path_everything_is_linear():
    head, x = randomised(build(hidden_layer_sizes=(), linear_path=False)), rows()
    assert sum(p.numel() for p in head.parameters()) == 3 * 5 + 5
    torch.testing.assert_close(head(2 * x) - head(x), head(x) - head(0 * x))


@pytest.mark.parametrize("n_location_outputs", [0, 2, 5])
def test_parameters_are_counted(n_location_outputs):
    head = build(hidden_layer_sizes=(7,), n_location_outputs=n_location_outputs)
    expected = (3 * 7 + 7) + (7 * 5 + 5) + 3 * n_location_outputs
    assert sum(p.numel() for p in head.parameters()) == expected


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activity_neither_dies_nor_explodes_with_depth(activation):
    # The logistic function and softplus have slopes of 1/4 and 1/2 at 0, and squeeze.
    depth = 1 if activation in {"logistic", "softplus"} else 6
    head = build(100, 100, 0, hidden_layer_sizes=(100,) * depth, activation=activation)
    with torch.no_grad():
        outputs = head(rows(500, 100))
    # Deviations between rows, not levels: some activations have a positive mean.
    assert 0.2 < float(outputs.std(0).mean()) / OUTPUT_GAIN**0.5 < 2.0


def test_activation_is_the_one_named():
    references = {
        "elu": nn.ELU(),
        "gelu": nn.GELU(),
        "logistic": nn.Sigmoid(),
        "relu": nn.ReLU(),
        "silu": nn.SiLU(),
        "softplus": nn.Softplus(),
        "tanh": nn.Tanh(),
    }
    assert set(references) == set(ACTIVATIONS)
    for name, reference in references.items():
        torch.testing.assert_close(ACTIVATIONS[name].forward(rows()), reference(rows()))


def test_initial_scale_is_that_of_weights_and_biases():
    head = build(50, 60, 0, hidden_layer_sizes=(200,), initial_scale=0.01)
    for p in head.parameters():
        assert float(p.detach().std()) == pytest.approx(0.01, rel=4.0 / p.numel() ** 0.5)


def test_biases_start_at_zero_otherwise():
    head = build(hidden_layer_sizes=(7, 4))
    assert all((p == 0).all() for p in head.parameters() if p.ndim == 1)
    assert all((p != 0).all() for p in head.parameters() if p.ndim == 2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_layer_sizes": (3, 0)}, "positive integers"),
        ({"hidden_layer_sizes": (2.5,)}, "positive integers"),
        ({"hidden_layer_sizes": 3}, "hidden_layer_sizes"),
        ({"activation": "rely"}, "activation"),
        ({"initial_scale": -0.1}, "initial_scale"),
        ({"initial_scale": float("nan")}, "initial_scale"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        build(**parameters)


def test_whole_numbers_are_scales_too():
    # An integer is as good as a float everywhere in scikit-learn.
    head = build(hidden_layer_sizes=(4,), initial_scale=1)
    assert float(head.hidden[0].weight.detach().std()) > 0.3
