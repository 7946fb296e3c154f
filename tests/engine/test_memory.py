"""Training that runs out of memory makes room, and goes on from where it was."""

import pytest
import torch

from skvae import VariationalAutoencoder
from skvae._core._memory import memory_allowed
from skvae._core._random import Streams
from skvae.engine import Rows, bounds_of_rows
from skvae.objectives import SGVB
from tests.engine.toy import (
    FOUR_ROWS,
    Script,
    counting_trainer,
    plan_of,
    rows_of,
    steps_of,
)
from tests.estimators.small import STILL_RISING, factor_rows

pytestmark = pytest.mark.filterwarnings(STILL_RISING)

N_EPOCHS = 3


def scripted(failing):
    """Trainer that runs out of memory at some of the steps that it tries, and the steps' rows."""
    seen = []

    def training(steps, x):
        seen.append(int(x[0]))
        return steps

    def fail(n):
        if n in failing:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    plan = plan_of(N_EPOCHS, batch_size=1)
    return counting_trainer(Script(training, at_call=fail), plan), plan, seen


def resident_rows():
    """Rows of which there is a copy where they are computed."""
    rows = rows_of(FOUR_ROWS)
    rows._resident = torch.from_numpy(rows._X)
    return rows


@pytest.mark.parametrize("failing", [(), (1,), (6,), (6, 12), (3, 4, 5)])
def test_every_epoch_counts_once_though_memory_ran_out_in_it(failing):
    trainer, plan, seen = scripted(failing)
    result = trainer.train(resident_rows(), plan)
    assert steps_of(trainer) == N_EPOCHS * len(FOUR_ROWS)
    assert len(result.bounds) == N_EPOCHS
    plain, plan, undisturbed = scripted(())
    assert plain.train(rows_of(FOUR_ROWS), plan).bounds == result.bounds
    assert seen[-4:] == undisturbed[-4:]


def test_x_leaves_the_device_before_fewer_steps_are_prepared():
    rooms = []
    rows = resident_rows()
    trainer, plan, _ = scripted((1, 2, 3))
    make_room = trainer._make_room

    def watched():
        made = make_room()
        rooms.append((rows._resident is None, trainer._chunk.n_steps))
        return made

    trainer._make_room = watched
    trainer.train(rows, plan)
    assert rooms == [(True, 4), (True, 2), (True, 1)]


def test_a_step_that_is_too_much_by_itself_is_an_error():
    trainer, plan, _ = scripted(range(100))
    with pytest.raises(torch.OutOfMemoryError):
        trainer.train(rows_of(FOUR_ROWS), plan)


def test_held_out_bounds_do_not_depend_on_how_many_rows_there_is_memory_for():
    X = factor_rows(200)
    model = VariationalAutoencoder(2, max_iter=2, random_state=0).fit(X).model_
    rows = Rows(
        X, model.observation_head.standardize, dtype=torch.float64, device=torch.device("cpu")
    )
    bounds = []
    for n_bytes in (2**30, 10**6, 1):
        with memory_allowed(n_bytes):
            bounds.append(bounds_of_rows(model, SGVB().build(1), rows, Streams(0)))
    torch.testing.assert_close(bounds[1], bounds[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bounds[2], bounds[0], rtol=1e-10, atol=1e-10)
