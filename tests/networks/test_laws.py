"""What every network promises."""

import pytest
import torch

from skvae.networks import MLP, GatedMLP, TorchNetwork
from tests.helpers import assert_mean
from tests.registry import NETWORKS, each, for_columns

N_INPUTS, N_OUTPUTS, N_LOCATION = 6, 8, 4

# Networks for images are there twice: as encoders, whose inputs are an image, and as decoders,
# whose outputs are two images.
ENTRIES = {
    repr(network): network
    for entry in NETWORKS
    for network in (for_columns(entry, N_INPUTS), for_columns(entry, N_LOCATION))
}
ENTRIES = list(ENTRIES.values())

every_network = pytest.mark.parametrize("network", each(ENTRIES))
every_dense_network = pytest.mark.parametrize(
    "network",
    each([n for n in ENTRIES if not isinstance(n, TorchNetwork) and not hasattr(n, "image_shape")]),
)


def build(network, *, seed=0, dtype=torch.float64, n_inputs=N_INPUTS):
    return network.build(
        n_inputs,
        N_OUTPUTS,
        n_location_outputs=N_LOCATION,
        dtype=dtype,
        generator=torch.Generator().manual_seed(seed),
    )


with_linear_path = pytest.mark.parametrize(
    "network", each([network for network in ENTRIES if build(network).has_linear_path])
)
with_dropout = pytest.mark.parametrize(
    "network", each([network for network in ENTRIES if getattr(network, "dropout", 0.0)])
)


def inputs(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, N_INPUTS, generator=generator, dtype=torch.float64)


@every_network
def test_rows_and_draws_do_not_mix(network):
    head, x = build(network), inputs(2, 4)
    outputs = head(x)
    assert outputs.shape == (2, 4, N_OUTPUTS)
    torch.testing.assert_close(head(x[1]), outputs[1])
    torch.testing.assert_close(head(x[:, 2:3]), outputs[:, 2:3])


@every_network
def test_first_outputs_are_the_first_of_all(network):
    head, x = build(network), inputs(2, 4)
    for n_outputs in range(1, N_OUTPUTS + 1):
        torch.testing.assert_close(head.first_outputs(x, n_outputs), head(x)[..., :n_outputs])


@every_network
def test_gradients_match_finite_differences(network):
    head = build(network)
    # Away from the kinks of a piecewise linear activation.
    assert torch.autograd.gradcheck(head, (inputs(3, seed=1).requires_grad_(),))


@every_dense_network
def test_weights_are_stored_inputs_first(network):
    head = build(network)
    for name, p in head.named_parameters():
        if not name.endswith("weight"):
            assert p.ndim == 1
    first = next(p for p in head.parameters() if p.ndim == 2)
    assert first.shape[0] == N_INPUTS


@every_network
def test_weights_come_from_the_generator_alone(network):
    before = torch.get_rng_state()
    first, again, other = (build(network, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@every_network
def test_start_at_moves_all_outputs_by_the_same(network):
    head, x = build(network), inputs(4)
    before = head(x).detach()
    start = torch.arange(N_OUTPUTS, dtype=torch.float64)
    head.start_at(start)
    torch.testing.assert_close(head(x), before + start)


@with_linear_path
def test_linear_start_is_linear(network):
    head, x = build(network), inputs(2, 4)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(N_INPUTS, N_LOCATION, generator=generator, dtype=torch.float64)
    outputs = torch.arange(N_OUTPUTS, dtype=torch.float64)
    head.start_linear_(weight, outputs)
    expected = outputs.expand(2, 4, -1).clone()
    expected[..., :N_LOCATION] += x @ weight
    torch.testing.assert_close(head(x), expected)


@with_linear_path
def test_silent_linear_path_leaves_the_network(network):
    head, x = build(network), inputs(4)
    head.silence_linear_path_()
    silent = head(x).detach()
    # What a linear start adds to a silent path is what it says, once the network is silent too.
    head.start_linear_(torch.zeros(N_INPUTS, N_LOCATION), torch.zeros(N_OUTPUTS))
    torch.testing.assert_close(head(x), torch.zeros(4, N_OUTPUTS, dtype=torch.float64))
    fresh = build(network)
    weight = fresh.linear_path.weight.detach()
    expected = fresh(x).detach()
    expected[..., :N_LOCATION] -= x @ weight
    torch.testing.assert_close(silent, expected)


@with_linear_path
def test_linear_start_can_be_left(network):
    # At the start the last layer is zero; what feeds it must not be, or nothing would ever move.
    head, x = build(network), inputs(50)
    head.start_linear_(torch.zeros(N_INPUTS, N_LOCATION), torch.zeros(N_OUTPUTS))
    start = {name: p.detach().clone() for name, p in head.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(50, N_OUTPUTS, generator=generator, dtype=torch.float64)
    for _ in range(2):
        gradients = torch.autograd.grad((head(x) * target).sum(), list(head.parameters()))
        with torch.no_grad():
            for p, gradient in zip(head.parameters(), gradients, strict=True):
                p.add_(gradient)
    for name, p in head.named_parameters():
        assert p.numel() == 0 or (p != start[name]).any(), name


@every_dense_network
def test_no_inputs_give_constant_outputs(network):
    head = build(network, n_inputs=0)
    outputs = head(torch.zeros(2, 4, 0, dtype=torch.float64))
    assert outputs.shape == (2, 4, N_OUTPUTS)
    torch.testing.assert_close(outputs, outputs[:1, :1].expand_as(outputs))


@every_network
def test_float32_agrees_with_float64(network):
    x = inputs(4)
    single, double = build(network, dtype=torch.float32), build(network)
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    single.load_state_dict(double.state_dict())
    torch.testing.assert_close(single(x.float()).double(), double(x), rtol=1e-4, atol=1e-5)


@every_network
def test_noise_is_asked_for_where_there_is_dropout_only(network):
    widths = build(network).noise_widths
    assert bool(widths) == bool(getattr(network, "dropout", 0.0))
    assert all(width > 0 for width in widths.values())


def uniform(head, *shape, seed=0):
    """Noise that the network asks for."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(*shape, width, generator=generator, dtype=torch.float64)
        for name, width in head.noise_widths.items()
    }


@with_dropout
def test_noise_says_no_more_than_what_is_dropped(network):
    head, x = build(network), inputs(2, 4)
    noise = uniform(head, 2, 4)
    share = network.dropout
    # All that is dropped moved within [0, share), all that is kept within [share, 1).
    moved = {
        name: torch.where(u < share, 0.5 * u, share + 0.5 * (u - share))
        for name, u in noise.items()
    }
    assert torch.equal(head(x, noise), head(x, moved))
    assert not torch.allclose(head(x, noise), head(x, uniform(head, 2, 4, seed=1)))
    assert not torch.allclose(head(x, noise), head(x))


@with_dropout
def test_rows_and_draws_do_not_mix_in_dropout(network):
    head, x = build(network), inputs(2, 4)
    noise = uniform(head, 2, 4)
    outputs = head(x, noise)
    for draw in range(2):
        own = {name: u[draw] for name, u in noise.items()}
        torch.testing.assert_close(head(x[draw], own), outputs[draw])
    some = {name: u[:, 1:3] for name, u in noise.items()}
    torch.testing.assert_close(head(x[:, 1:3], some), outputs[:, 1:3])


@with_dropout
def test_rows_may_share_what_is_dropped(network):
    head, x = build(network), inputs(2, 4)
    shared = uniform(head, 2, 1)
    same = {name: u.expand(2, 4, -1) for name, u in shared.items()}
    torch.testing.assert_close(head(x, shared), head(x, same))


@with_dropout
def test_nothing_is_dropped_without_noise(network):
    head, x = build(network), inputs(4)
    assert torch.equal(head.train()(x), head.eval()(x))
    # Without anything dropped the activities are larger; with a share of zero they are the same.
    head.dropout = 0.0
    assert torch.equal(head(x, {"dropout": torch.zeros(4, 100)}), head(x))


@pytest.mark.parametrize(
    "network", [MLP(dropout=0.4), GatedMLP(hidden_layer_sizes=(64,), dropout=0.4)]
)
def test_dropout_changes_no_mean(network):
    """Outputs are linear in what is dropped, so that their mean is what is said without dropout."""
    head, x = build(network), inputs(1)
    with torch.no_grad():
        outputs = head(x.expand(4000, -1), uniform(head, 4000))
        assert_mean(outputs.numpy(), head(x)[0].numpy())
        dropped = {name: torch.zeros(1, width) for name, width in head.noise_widths.items()}
        alone = head.output.bias.expand(1, -1).clone()
        alone[:, :N_LOCATION] += head.linear_path(x)
        torch.testing.assert_close(head(x, dropped), alone)
