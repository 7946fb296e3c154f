"""Processes that train together do what one does: two of them, launched once for all tests."""

import json

import numpy as np
import pytest

from skvae.engine import ALONE, ProcessGroup
from tests.engine import group_cases
from tests.torchrun import ROOT, left_by


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes has found."""
    folder = left_by(ROOT / "tests" / "engine" / "group_cases.py", tmp_path_factory)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", group_cases.CASES)
def test_two_processes_take_the_steps_of_one(found, case):
    """In float64, with the same global batches: gradients, bounds and held-out bounds are sums."""
    for own in found:
        assert own[case]["n_steps"] >= 12
        assert own[case]["difference"] < 1e-8
        assert own[case]["bounds"] < 1e-8
        assert own[case]["scores"] < 1e-8


@pytest.mark.parametrize("case", group_cases.CASES | group_cases.NOT_EQUAL)
def test_all_processes_have_the_same_weights_after_every_epoch(found, case):
    first, second = (own[case]["hashes"] for own in found)
    assert len(set(first)) == len(first) == 4
    assert first == second


def test_what_one_process_asks_for_all_do(found):
    for own in found:
        assert own["stop"] == ["none", "STOPPED", 2]
        assert own["interrupt"] == ["none", "INTERRUPTED", 2]
        assert own["error"] == ["ZeroDivisionError: Rank 0 of 2: no further", 2]


def test_processes_that_train_other_models_are_told(found):
    for own in found:
        assert own["unlike"].startswith("ValueError")
        assert "rank 0 has batch_size=10; rank 1 has batch_size=11" in own["unlike"]


def test_rows_of_all_processes_in_order_of_rank(found):
    expected = [[i + 0.5, i + 100.0 * rank] for rank in range(2) for i in range(3 + rank)]
    for own in found:
        assert own["gathered"] == expected
        assert own["flags"] == [True]  # the other one has no rows
        assert own["integer"] == 7


def test_process_that_loses_another_says_where_to_look(found):
    assert found[0]["lost"].startswith("rank 0 of 2: another process of the group failed")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("n_rows", [0, 1, 2, 7, 100])
def test_each_row_is_counted_by_one_process(n_rows, size):
    groups = [ProcessGroup(rank, size) for rank in range(size)]
    owned = [np.arange(n_rows)[group.part(n_rows)] for group in groups]
    np.testing.assert_array_equal(np.concatenate(owned), np.arange(n_rows))
    if n_rows:
        portions = [group.portion(n_rows) for group in groups]
        assert sum(len(portion) for portion in portions if portion.counts) == n_rows
        assert min(len(portion) for portion in portions) >= 1


def test_single_process_is_its_own_group():
    group = ProcessGroup.current()
    assert group.is_alone and group.speaks
    assert ALONE.part(5) == slice(0, 5)
    with pytest.raises(KeyError, match="as it is"):
        group.agree(KeyError("as it is"))
