"""Named random streams."""

import itertools

import numpy as np
import pytest
import torch

from skvae._core._random import MAX_SEED, Streams, generator_on

NAMES = ("init", "rows", "noise", "validation", "scoring", "refinement", "weights")


def numpy_state_now():
    return np.random.mtrand._rand.get_state()[1].copy()


def first_draws(seed, name):
    return torch.randn(8, generator=Streams(seed).generator(name))


def test_streams_differ_by_name_and_by_seed():
    draws = [first_draws(seed, name) for seed in (0, 1, MAX_SEED) for name in NAMES]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(draws, 2))


def test_a_stream_begins_anew_each_time():
    streams = Streams(3)
    assert torch.equal(
        torch.randn(5, generator=streams.generator("noise")),
        torch.randn(5, generator=streams.generator("noise")),
    )


def test_streams_do_not_depend_on_the_order_in_which_they_are_asked_for():
    streams = Streams(3)
    forwards = [streams.derived_seed(name) for name in NAMES]
    backwards = [streams.derived_seed(name) for name in reversed(NAMES)]
    assert forwards == backwards[::-1]


def test_seeds_are_what_they_were():
    # Saved estimators score with the stream "scoring" of their seed: it must never change.
    seeds = [Streams(0).derived_seed(name) for name in NAMES]
    assert seeds == [
        3757552657,
        673228719,
        3241444873,
        3685993406,
        1216546553,
        2078861726,
        2471122328,
    ]


def test_no_generator_of_the_process_is_touched():
    torch_state, numpy_state = torch.get_rng_state(), numpy_state_now()
    first_draws(0, "rows")
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, numpy_state_now())


def test_generator_on_the_cpu_is_the_one_given():
    generator = torch.Generator().manual_seed(0)
    assert generator_on(torch.device("cpu"), generator) is generator


@pytest.mark.gpu
def test_generator_on_a_gpu_is_seeded_by_the_one_given():
    device = torch.device("cuda")
    one, same = (torch.Generator().manual_seed(0) for _ in range(2))
    first, second, third = (
        torch.rand(4, device=device, generator=generator_on(device, generator))
        for generator in (one, one, same)
    )
    assert torch.equal(first, third) and not torch.equal(first, second)
