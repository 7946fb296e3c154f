"""Flat parameters."""

import copy
import pickle

import pytest
import torch
from torch import nn

from skvae._core._flat import FlatParameters, own_storage


class Slow(nn.Linear):
    rate_factor = 0.25


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(3, 4)
        self.slow = Slow(4, 2)
        self.last = nn.Linear(2, 1)
        self.scale = nn.Parameter(torch.zeros(5))
        self.frozen = nn.Parameter(torch.ones(7), requires_grad=False)
        self.empty = nn.Parameter(torch.zeros(0, 3))
        with torch.no_grad():
            for p in (*self.first.parameters(), *self.slow.parameters()):
                p.normal_(generator=generator)

    def forward(self, x):
        return self.last(torch.tanh(self.slow(torch.tanh(self.first(x))))) + self.scale.sum()


X = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


def test_values_stay_as_they_are():
    net = Net()
    before = copy.deepcopy(net)
    FlatParameters(net)
    assert torch.equal(net(X), before(X))
    for name, value in before.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)


def test_the_vector_is_the_module():
    net = Net()
    flat = FlatParameters(net)
    assert flat.data.shape == flat.grad.shape == flat.is_weight.shape
    assert len(flat.data) == sum(p.numel() for p in net.parameters() if p.requires_grad)
    flat.data.fill_(0.5)
    assert all((p == 0.5).all() for p in net.parameters() if p.requires_grad)
    assert (net.frozen == 1).all()
    with torch.no_grad():
        net.scale.fill_(2.0)
    assert int((flat.data == 2.0).sum()) == 5


def test_gradients_arrive_in_the_vector():
    net, reference = Net(), Net()
    reference.load_state_dict(net.state_dict())
    flat = FlatParameters(net)
    for module in (net, reference):
        (module(X).square().sum() + module.empty.sum()).backward()
    expected = {n: p.grad for n, p in reference.named_parameters() if p.requires_grad}
    for name, p in net.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name])
    torch.testing.assert_close(
        flat.grad.square().sum(), sum(g.square().sum() for g in expected.values())
    )
    # They add up, as torch's do, until the vector is zeroed.
    before = flat.grad.clone()
    net(X).square().sum().backward()
    torch.testing.assert_close(flat.grad, 2 * before)
    flat.grad.zero_()
    assert all((p.grad == 0).all() for p in net.parameters() if p.requires_grad)


def test_weights_are_told_from_biases():
    net = Net()
    flat = FlatParameters(net)
    flat.data.copy_(flat.is_weight)
    for p in net.parameters():
        if p.requires_grad:
            assert (p == float(p.ndim == 2)).all()


def test_groups_cover_the_vector_and_name_the_rates():
    net = Net()
    flat = FlatParameters(net)
    factors = torch.zeros_like(flat.data)
    for part, factor in flat.groups:
        factors[part] += factor
    flat.data.copy_(factors)
    for module in (net.first, net.last):
        assert all((p == 1.0).all() for p in module.parameters())
    assert all((p == 0.25).all() for p in net.slow.parameters())
    assert (net.scale == 1.0).all()
    # One part for each rate, however the modules are ordered.
    assert len(flat.groups) == 2


def test_a_module_without_rate_factors_is_one_group():
    flat = FlatParameters(nn.Linear(3, 2))
    assert flat.groups == [(slice(0, 8), 1.0)]


def test_shared_parameters_are_there_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    flat = FlatParameters(net)
    assert len(flat.data) == 9 + 3 + 3
    assert net[1].weight is net[0].weight


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameters"):
        FlatParameters(nn.Linear(3, 2).requires_grad_(False))


def test_own_storage_makes_pickles_small_again():
    net = Net()
    flat = FlatParameters(net)
    values = {k: v.clone() for k, v in net.state_dict().items()}
    own_storage(net)
    for p in net.parameters():
        assert p.untyped_storage().nbytes() == p.numel() * p.element_size()
        assert p.grad is None
    flat.data.zero_()
    for name, value in pickle.loads(pickle.dumps(net)).state_dict().items():
        assert torch.equal(value, values[name])
