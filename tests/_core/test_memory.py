"""Work goes on with half as much at a time where memory runs out, and says so once."""

import warnings

import numpy as np
import pytest
import torch

from skvae._core._memory import how_many_fit, in_stretches, is_out_of_memory, memory_allowed
from skvae.exceptions import OutOfMemoryError

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.1 GB)"),
    MemoryError(),
]


def run_with(largest, n, room, error=OUT_OF_MEMORY[0]):
    """Stretches that were worked on where more than `largest` things at a time are too many."""
    done = []

    def work(start, room):
        stop = min(start + room, n)
        if stop - start > largest:
            raise error
        done.append((start, stop))
        return stop

    in_stretches(work, n, room, advice="Have less.", halved="It was too much.")
    return done


@pytest.mark.parametrize("n", [0, 1, 7, 64])
@pytest.mark.parametrize("largest", [1, 3, 100])
def test_all_is_done_once_and_in_order(n, largest):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        done = run_with(largest, n, room=64)
    assert [i for start, stop in done for i in range(start, stop)] == list(range(n))
    assert len(said) == (largest < min(n, 64))


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_every_way_of_running_out_of_memory_is_known(error):
    assert is_out_of_memory(error)
    with pytest.warns(UserWarning, match="too much"):
        assert run_with(2, 8, 8, error) == [(0, 2), (2, 4), (4, 6), (6, 8)]


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes"), ValueError("memory")])
def test_other_errors_are_not_tried_again(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)):
        run_with(2, 8, 8, error)


def test_too_much_for_one_is_an_error_that_says_what_to_do():
    with pytest.warns(UserWarning), pytest.raises(OutOfMemoryError, match=r"CUDA.*Have less\."):
        run_with(0, 8, 8)
    assert issubclass(OutOfMemoryError, MemoryError)


def test_a_real_allocator_that_refuses_is_known():
    for allocate in (
        lambda: torch.empty(2**62, dtype=torch.uint8),
        lambda: np.empty(2**62, dtype=np.uint8),
    ):
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            allocate()
        assert is_out_of_memory(raised.value)


def test_what_is_allowed_is_shared_out_and_given_back():
    before = how_many_fit(1.0)
    with memory_allowed(100):
        assert how_many_fit(10) == 10
        assert how_many_fit(10, most=3) == 3
        assert how_many_fit(1000) == 1
        with pytest.raises(KeyError), memory_allowed(1):
            raise KeyError
        assert how_many_fit(1) == 100
    assert how_many_fit(1.0) == before
