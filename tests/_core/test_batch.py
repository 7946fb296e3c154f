"""Declared noise and the clock."""

import math

import pytest
import torch

from skvae._core._batch import Clock, NoiseSpec, evenly_spread_normals
from tests.helpers import assert_follows, draw


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (NoiseSpec((4, 2)), (4, 7, 2)),
        (NoiseSpec((4,)), (4, 7)),
        (NoiseSpec((4, 2), per="row"), (7, 4, 2)),
        (NoiseSpec((), per="row"), (7,)),
        (NoiseSpec((4, 2), per="batch"), (4, 2)),
        (NoiseSpec((4, 0)), (4, 7, 0)),
    ],
)
def test_rows_go_where_the_spec_says(spec, shape):
    assert spec.full_shape(7) == shape
    assert draw({"a": spec}, 7)["a"].shape == shape


def test_bases_are_standard():
    z = draw({"n": NoiseSpec((20_000,)), "u": NoiseSpec((20_000,), base="uniform")}, 1)
    edges = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    assert_follows(z["n"].flatten().numpy(), edges.numpy(), torch.special.ndtr(edges).numpy())
    assert_follows(z["u"].flatten().numpy(), edges.numpy(), edges.clamp(0, 1).numpy())
    assert (z["u"] >= 0).all() and (z["u"] < 1).all()


def test_noise_is_drawn_from_the_generator_alone():
    specs = {"z": NoiseSpec((3, 2)), "u": NoiseSpec((2,), base="uniform", per="row")}
    before = torch.get_rng_state()
    first, again, other = draw(specs, 4), draw(specs, 4), draw(specs, 4, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    for name in specs:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_dtype_is_as_asked():
    assert draw({"z": NoiseSpec((3,))}, 2, dtype=torch.float32)["z"].dtype == torch.float32


def test_clock_ticks_in_place():
    clock = Clock.start(torch.device("cpu"))
    step = clock.step
    for _ in range(3):
        clock.tick()
    assert clock.step is step and float(step) == 3.0
    assert float(clock.cooldown_start) == float("inf")


def test_clock_counts_beyond_the_whole_numbers_of_float32():
    clock = Clock.start(torch.device("cpu"))
    clock.step.fill_(2.0**24)
    clock.tick()
    assert float(clock.step) == 2.0**24 + 1


def test_evenly_spread_normals_are_normal_and_even():
    spec = NoiseSpec((256, 3))
    draws = torch.stack([evenly_spread_normals(spec, seed) for seed in range(200)])
    assert draws.shape == (200, 256, 1, 3)
    first = draws[:, 0, 0, 0].sort().values
    expected = torch.special.ndtri((torch.arange(200, dtype=torch.float64) + 0.5) / 200)
    assert float((first - expected).abs().mean()) < 0.15
    # The mean of exp(z) over the draws: its error is far below that of independent draws.
    means = draws.exp().mean(dim=(1, 2, 3))
    independent = (math.exp(2) - math.exp(1)) ** 0.5 / (256 * 3) ** 0.5
    assert float(means.mean()) == pytest.approx(math.exp(0.5), abs=0.01)
    assert float(means.std()) < 0.35 * independent


def test_other_noise_is_not_spread():
    assert evenly_spread_normals(NoiseSpec((3,), base="uniform", per="row"), 0) is None
    assert evenly_spread_normals(NoiseSpec((4, 0)), 0) is None
    assert evenly_spread_normals(NoiseSpec((1, 30_000)), 0) is None
