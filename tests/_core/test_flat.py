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


def twins():
    """Two modules of one architecture with different values."""
    first, second = Net(), Net()
    with torch.no_grad():
        for p in second.parameters():
            if p.requires_grad:
                p.add_(1.0)
    return first, second


def test_values_stay_as_they_are():
    nets = twins()
    before = copy.deepcopy(nets)
    FlatParameters(nets)
    for net, old in zip(nets, before, strict=True):
        assert torch.equal(net(X), old(X))
        for name, value in old.state_dict().items():
            assert torch.equal(net.state_dict()[name], value)


def test_the_vectors_are_the_modules():
    nets = twins()
    flat = FlatParameters(nets)
    n_parameters = sum(p.numel() for p in nets[0].parameters() if p.requires_grad)
    assert sum(group.data.shape[1] for group in flat.groups) == n_parameters
    for group in flat.groups:
        assert group.data.shape == group.grad.shape == group.is_weight.shape
        group.data[0] = 0.5
    assert all((p == 0.5).all() for p in nets[0].parameters() if p.requires_grad)
    assert not any((p == 0.5).any() for p in nets[1].parameters())
    assert (nets[0].frozen == 1).all()
    with torch.no_grad():
        nets[1].scale.fill_(2.5)
    assert sum(int((group.data[1] == 2.5).sum()) for group in flat.groups) == 5
    assert not any((group.data[0] == 2.5).any() for group in flat.groups)


def test_parameters_stand_side_by_side_by_name():
    nets = twins()
    stack = FlatParameters(nets).stack
    for i, net in enumerate(nets):
        own = {name: p for name, p in net.named_parameters() if p.requires_grad}
        assert set(own) == set(stack.values) == set(stack.gradients)
        for name, p in own.items():
            assert torch.equal(stack.values[name][i], p)
            stack.gradients[name][i].fill_(3.0)
            assert (p.grad == 3.0).all()
    second = stack.some(slice(1, 2)).part("slow")
    assert set(second.values) == {"weight", "bias"}
    assert second.modules == [nets[1].slow]
    assert torch.equal(second.values["weight"], nets[1].slow.weight.detach()[None])


def test_gradients_arrive_in_the_vectors():
    net, reference = Net(), Net()
    reference.load_state_dict(net.state_dict())
    flat = FlatParameters([net])
    for module in (net, reference):
        (module(X).square().sum() + module.empty.sum()).backward()
    expected = {n: p.grad for n, p in reference.named_parameters() if p.requires_grad}
    for name, p in net.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name])
    total = sum(g.square().sum() for g in expected.values())
    torch.testing.assert_close(sum(g.grad.square().sum() for g in flat.groups), total)
    for group in flat.groups:
        group.grad.zero_()
    assert all((p.grad == 0).all() for p in net.parameters() if p.requires_grad)


def test_weights_are_told_from_biases():
    net = Net()
    flat = FlatParameters([net])
    for group in flat.groups:
        group.data.copy_(group.is_weight)
    for p in net.parameters():
        if p.requires_grad:
            assert (p == float(p.ndim == 2)).all()


def test_matrices_of_a_module_without_weights_are_none():
    net = Net()
    net.slow.has_weights = False
    flat = FlatParameters([net])
    for group in flat.groups:
        group.data.copy_(group.is_weight)
    assert not net.slow.weight.any() and not net.slow.bias.any()
    assert net.first.weight.all() and net.last.weight.all()


def test_groups_cover_the_vector_and_name_the_rates():
    net = Net()
    flat = FlatParameters([net])
    for group in flat.groups:
        group.data.fill_(group.factor)
    for module in (net.first, net.last):
        assert all((p == 1.0).all() for p in module.parameters())
    assert all((p == 0.25).all() for p in net.slow.parameters())
    assert (net.scale == 1.0).all()
    # One for each rate, however the modules are ordered.
    assert len(flat.groups) == 2


def test_a_module_without_rate_factors_is_one_group():
    (group,) = FlatParameters([nn.Linear(3, 2)]).groups
    assert group.factor == 1.0
    assert group.data.shape == (1, 8)


def test_shared_parameters_are_there_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    (group,) = FlatParameters([net]).groups
    assert group.data.shape == (1, 9 + 3 + 3)
    assert net[1].weight is net[0].weight


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameters"):
        FlatParameters([nn.Linear(3, 2).requires_grad_(False)])


def test_own_storage_makes_pickles_small_again():
    net = Net()
    flat = FlatParameters([net])
    values = {k: v.clone() for k, v in net.state_dict().items()}
    own_storage(net)
    for p in net.parameters():
        assert p.untyped_storage().nbytes() == p.numel() * p.element_size()
        assert p.grad is None
    for group in flat.groups:
        group.data.zero_()
    for name, value in pickle.loads(pickle.dumps(net)).state_dict().items():
        assert torch.equal(value, values[name])
