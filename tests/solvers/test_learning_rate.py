"""The schedule of the learning rate."""

import math

import pytest
import torch

from skvae._core._batch import Clock
from skvae.solvers._base import LearningRate


def rates(learning_rate, n_steps, *, cooldown_start=math.inf):
    clock = Clock.start(torch.device("cpu"))
    clock.cooldown_start.fill_(cooldown_start)
    values = []
    for _ in range(n_steps):
        values.append(float(learning_rate(clock)))
        clock.tick()
    return values


def schedule(n_warmup, n_cooldown, rate=1.0):
    return LearningRate(rate, n_warmup, n_cooldown, torch.device("cpu"))


def test_warm_up_rises_linearly_to_the_plateau():
    values = rates(schedule(4, 0, 2.0), 8)
    assert values == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0])


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert rates(schedule(0, 0, 0.3), 3) == pytest.approx([0.3, 0.3, 0.3])


def test_cool_down_falls_linearly_from_the_plateau_and_never_below_zero():
    values = rates(schedule(0, 4), 10, cooldown_start=3)
    assert values == pytest.approx([1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0])


def test_before_the_cool_down_its_length_does_not_matter():
    assert rates(schedule(2, 5), 6) == rates(schedule(2, 500), 6)


def test_lowering_the_plateau_lowers_what_follows():
    learning_rate = schedule(0, 0)
    learning_rate.plateau.mul_(0.5)
    assert rates(learning_rate, 2) == [0.5, 0.5]


def test_cool_down_may_begin_during_the_warm_up():
    values = rates(schedule(9, 4), 8, cooldown_start=2)
    assert max(values) == values[2] == pytest.approx(0.3 * 0.8)
    assert values[6:] == [0.0, 0.0]
