"""The training loop, on a model whose course is known beforehand (see ``toy.py``)."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from skvae._core._random import Streams
from skvae.engine import Status, Trainer
from skvae.engine._loop import MAX_HALVINGS
from skvae.likelihoods import GaussianLikelihood
from skvae.networks import MLP
from skvae.objectives import SGVB
from skvae.solvers import SGD, Adam
from tests import registry
from tests.engine.toy import (
    FOUR_ROWS,
    Counter,
    Diary,
    Recording,
    Script,
    counting_trainer,
    plain_sgd,
    plan_of,
    rows_of,
    steps_of,
)
from tests.helpers import batch_of, build_model, noise_for
from tests.registry import BINARY, REAL, each, likelihood, make_rows

ROWS = rows_of(FOUR_ROWS)
HELD_OUT = rows_of([0.0, 0.0, 0.0])


def run(script, plan, *, validation=HELD_OUT, observer=None, solver=None):
    """Result of training a counter, and the number that it ends with."""
    trainer = counting_trainer(script, plan, solver=solver)
    result = trainer.train(ROWS, plan, validation=validation, observer=observer)
    return result, steps_of(trainer)


def table(*values):
    """Script that reads the bound after 0, 1, 2 ... steps from a list; its last value stays."""
    return lambda steps, x: values[min(int(steps), len(values) - 1)]


# -- which state is kept --------------------------------------------------------------------------


def test_best_state_on_held_out_rows_is_kept():
    script = Script(held_out=table(0.0, 2.0, 1.0, 5.0, 4.0, 4.5))
    result, steps = run(script, plan_of(5))
    assert steps == 3
    assert result.validation_scores == [2.0, 1.0, 5.0, 4.0, 4.5]
    assert result.status is Status.MAX_EPOCHS


def test_state_before_training_competes():
    result, steps = run(Script(held_out=table(3.0, 2.0, 1.0)), plan_of(4))
    assert steps == 0
    assert result.validation_scores == [2.0, 1.0, 1.0, 1.0]


def test_first_of_equal_states_is_kept():
    _, steps = run(Script(held_out=table(0.0, 1.0, 1.0, 1.0)), plan_of(4))
    assert steps == 1


def test_last_state_is_kept_without_held_out_rows():
    result, steps = run(Script(training=table(0.0, 5.0, 4.0, 3.0)), plan_of(6), validation=None)
    assert steps == 6
    assert result.validation_scores == []


def test_held_out_bounds_that_are_not_finite_are_passed_over():
    values = table(math.nan, 1.0, math.nan, 3.0, math.inf * -1, math.nan)
    result, steps = run(Script(training=lambda s, x: s, held_out=values), plan_of(5))
    assert steps == 3
    np.testing.assert_array_equal(result.validation_scores, [1, math.nan, 3, -math.inf, math.nan])


def test_bounds_are_means_over_the_rows_during_the_epoch():
    """Each row counts once; the last batch is filled up, and what fills it up does not count."""
    rows = rows_of(np.arange(10.0))
    plan = plan_of(3, batch_size=4, learning_rate=0.5)
    # The bound of a row is its value plus, in each batch, 100 times the steps taken so far.
    trainer = counting_trainer(Script(lambda steps, x: x + 100 * steps), plan, n_rows=10)
    result = trainer.train(rows, plan)
    assert steps_of(trainer) == 3 * 3 * 0.5
    for epoch, bound in enumerate(result.bounds):
        steps = np.array([0, 0.5, 1.0]) + 1.5 * epoch
        assert bound == pytest.approx(4.5 + 100 * np.average(steps, weights=[4, 4, 2]))


# -- when it stops --------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 4])
@pytest.mark.parametrize("held_out", [True, False])
def test_training_ends_when_patience_runs_out(patience, held_out):
    # The last improvement is at step 5.
    values = table(0, 1, 2, 3, 4, 5, 4.9)
    script = Script(training=values, held_out=values)
    plan = plan_of(100, patience=patience)
    result, _ = run(script, plan, validation=HELD_OUT if held_out else None)
    assert result.status is Status.CONVERGED
    # A training bound is known one epoch later: that of epoch n is taken at the steps before it.
    assert len(result.bounds) == (5 if held_out else 6) + patience
    assert not result.still_rising


def test_no_patience_never_stops():
    result, _ = run(Script(training=lambda steps, x: 0.0), plan_of(30, patience=None))
    assert len(result.bounds) == 30
    assert result.status is Status.MAX_EPOCHS
    assert not result.still_rising


def test_gains_below_the_tolerance_do_not_count():
    script = Script(held_out=lambda steps, x: min(steps, 3) + 0.01 * steps)
    result, steps = run(script, plan_of(100, patience=5, tolerance=0.1))
    # Many small gains add up to one that counts: 0.11 are reached after 11 more epochs, too late.
    assert len(result.bounds) == 3 + 5
    # They are kept nevertheless.
    assert steps == 8
    result, _ = run(script, plan_of(40, patience=12, tolerance=0.1))
    assert result.status is Status.MAX_EPOCHS


def test_cool_down_follows_patience():
    """Where patience ends, the rate falls in a straight line to 0, and then training ends."""
    script = Script(held_out=table(0.0, 1.0, 0.0))
    diary = Diary()
    plan = plan_of(100, patience=2)
    result, _ = run(script, plan, observer=diary, solver=plain_sgd(cooldown_steps=3))
    assert result.status is Status.CONVERGED
    assert len(result.bounds) == 1 + 2 + 3
    rates = [report.learning_rate for report in diary.reports]
    np.testing.assert_allclose(rates[:2], [1.0, 1.0])
    # What is reported is the rate that comes next.
    np.testing.assert_allclose(rates[-3:], [0.5, 0.25, 0.0])


def test_state_that_the_cool_down_finds_is_kept():
    """The steps of the cool-down are 0.75, 0.5 and 0.25 long."""
    script = Script(held_out=lambda steps, x: steps if steps > 3 else table(0, 1, 0, 0)(steps, x))
    result, steps = run(script, plan_of(100, patience=2), solver=plain_sgd(cooldown_steps=3))
    assert steps == pytest.approx(3 + 0.75 + 0.5 + 0.25)
    assert len(result.bounds) == 6


@pytest.mark.parametrize(("cooldown_steps", "n_epochs"), [(1, 1), (3, 1), (4, 2), (6, 2)])
def test_cool_down_takes_whole_epochs(cooldown_steps, n_epochs):
    rows, plan = rows_of(np.arange(10.0)), plan_of(50, patience=2)
    assert plan.steps_per_epoch(10) == 3
    solver = plain_sgd(cooldown_steps=cooldown_steps)
    trainer = counting_trainer(Script(lambda s, x: 0.0), plan, solver=solver, n_rows=10)
    result = trainer.train(rows, plan)
    assert len(result.bounds) == 1 + 2 + n_epochs
    # A straight line over the whole of them: its mean is one half.
    assert steps_of(trainer) == pytest.approx(3 * (3 + n_epochs / 2))


def test_epochs_run_out_during_the_cool_down():
    script = Script(held_out=table(0.0, 1.0, 0.0))
    result, steps = run(script, plan_of(4, patience=2), solver=plain_sgd(cooldown_steps=9))
    assert result.status is Status.MAX_EPOCHS
    assert not result.still_rising
    assert steps == 1


@pytest.mark.parametrize(
    ("n_epochs", "n_warmup"), [(20, 2), (100, 10), (300, 30), (5, 0)], ids=lambda n: f"{n}"
)
def test_warm_up_is_clipped_to_a_tenth_of_the_run(n_epochs, n_warmup):
    plan = plan_of(n_epochs)
    _, steps = run(Script(), plan, validation=None, solver=plain_sgd(warmup_steps=30))
    # A straight line to 1: half a step is lost for each step of the warm-up.
    assert steps == pytest.approx(n_epochs - n_warmup / 2)


def test_warm_up_of_an_open_ended_run_is_not_clipped():
    plan = plan_of(5, open_ended=True)
    _, steps = run(Script(), plan, validation=None, solver=plain_sgd(warmup_steps=9))
    assert steps == pytest.approx((1 + 2 + 3 + 4 + 5) / 10)


def test_patience_waits_for_the_warm_up_of_the_bound():
    """While the weight of the divergence still rises, the bound may well fall."""
    plan = plan_of(100, patience=2)
    script = Script(held_out=lambda steps, x: -steps, n_warmup_steps=5)
    result, _ = run(script, plan)
    assert len(result.bounds) == 5 + 2


@pytest.mark.parametrize(
    ("held_out", "rising"),
    [
        (lambda steps, x: steps, True),
        (lambda steps, x: min(steps, 10), False),
        (lambda steps, x: -steps, False),
    ],
    ids=["rises", "rose", "falls"],
)
def test_whether_the_bound_still_rises_is_told(held_out, rising):
    result, _ = run(Script(held_out=held_out), plan_of(40, patience=100))
    assert result.status is Status.MAX_EPOCHS
    assert result.still_rising is rising


# -- values that are not finite -------------------------------------------------------------------


def at(*calls, value=math.nan):
    """What a `Script` adds to its bound at some training steps."""
    return lambda n: value if n in calls else None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_training_steps_back_and_halves_the_rate(value):
    """It steps back by an epoch: where that one ended may be the brink."""
    script = Script(at_call=at(3, value=value))
    result, steps = run(script, plan_of(5), validation=None)
    assert result.n_halvings == 1
    assert result.bounds == [0.0, 1.0, 1.0, 1.5, 2.0]
    assert steps == 2.5
    assert result.status is Status.MAX_EPOCHS


def test_rate_is_halved_until_values_are_finite():
    """Whole numbers above 0 have no finite bound, and steps of 1 and 1/2 do not avoid them."""

    def training(steps, x):
        return math.nan if steps and steps % 1 == 0 else steps

    plan = plan_of(1, batch_size=1)  # four steps for each epoch, the bound taken before each
    script = Script(training, held_out=lambda steps, x: steps)
    result, steps = run(script, plan, validation=None)
    assert result.n_halvings == 2
    assert result.bounds == [np.mean([0, 0.25, 0.5, 0.75])]
    assert steps == 1


def test_histories_hold_finite_epochs_only():
    script = Script(at_call=at(1, 4, 5), held_out=lambda steps, x: steps)
    diary = Diary()
    result, steps = run(script, plan_of(6), observer=diary)
    assert result.n_halvings == 3
    assert len(result.bounds) == len(result.validation_scores) == 6
    assert np.isfinite(result.bounds).all()
    assert steps == result.validation_scores[-1]
    # An epoch that is repeated is one epoch to those who watch.
    assert [e if e == "begins" else e.epoch for e in diary.entries] == [
        entry for epoch in range(1, 7) for entry in ("begins", epoch)
    ]


def test_weights_that_are_not_finite_are_undone_though_the_bound_is_finite():
    class BadGradient(Script):
        def __call__(self, model, batch, noise, clock=None):
            bound = super().__call__(model, batch, noise, clock)
            if clock is not None and self.n_calls == 3:
                # Its value is 0 and its derivative is not a number.
                return bound + torch.sqrt(torch.abs(model.steps - model.steps.detach()))
            return bound

    result, steps = run(BadGradient(), plan_of(5), validation=None)
    assert result.n_halvings == 1
    assert result.bounds == [0.0, 1.0, 1.0, 1.5, 2.0]
    assert steps == 2.5


@pytest.mark.parametrize("held_out", [True, False])
def test_no_finite_value_at_all_is_an_error(held_out):
    script = Script(at_call=lambda n: math.nan)
    trainer = counting_trainer(script, plan_of(5))
    diary = Diary()
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.train(ROWS, plan_of(5), validation=HELD_OUT if held_out else None, observer=diary)
    assert script.n_calls == MAX_HALVINGS + 1
    assert steps_of(trainer) == 0
    assert diary.entries == ["begins"]


def test_finite_state_is_kept_where_training_gives_up():
    script = Script(at_call=lambda n: math.nan if n > 3 else None)
    result, steps = run(script, plan_of(100), validation=None)
    assert result.status is Status.DIVERGED
    assert result.n_halvings == MAX_HALVINGS
    assert result.bounds == [0.0, 1.0, 2.0]
    # The third epoch, the last finite one, began here.
    assert steps == 2


def test_after_trouble_the_better_state_is_kept_without_held_out_rows():
    """Training that had to step back may have ended anywhere; the start may be better."""
    script = Script(at_call=at(3), held_out=lambda steps, x: -steps)
    _, steps = run(script, plan_of(5), validation=None)
    assert steps == 0
    # Without trouble the last state is kept, as ever.
    _, steps = run(Script(held_out=lambda steps, x: -steps), plan_of(5), validation=None)
    assert steps == 5


def test_best_state_is_kept_where_training_gives_up():
    script = Script(
        at_call=lambda n: math.nan if n > 3 else None, held_out=table(0.0, 1.0, 9.0, 2.0)
    )
    result, steps = run(script, plan_of(100))
    assert result.status is Status.DIVERGED
    assert steps == 2


@pytest.mark.parametrize("solver", each(registry.SOLVERS))
def test_weights_and_moments_recover(solver):
    """After a bound that is not a number, nothing that training carries is without value."""

    class Planted(type(SGVB().build(10))):
        calls = 0

        def __call__(self, model, batch, noise, clock=None):
            bound = super().__call__(model, batch, noise, clock)
            if clock is not None:
                self.calls += 1
                if self.calls == 7:
                    return bound * math.nan
            return bound

    case = likelihood(GaussianLikelihood(), REAL)
    X = make_rows(case, 40)
    model = build_model(X, decoder=MLP(hidden_layer_sizes=(4,)))
    bound = Planted(n_draws=1, analytic=True, beta=1.0, n_warmup_steps=0)
    plan = plan_of(6, batch_size=10, learning_rate=0.01)
    trainer = Trainer(model, bound, solver, plan, Streams(0), len(X))
    x = (X - X.mean(axis=0)) / X.std(axis=0)
    result = trainer.train(rows_of(x), plan)
    assert result.n_halvings == 1 and len(result.bounds) == 6
    for t in trainer.step.state()[:-1]:
        assert torch.isfinite(t).all()
    # Six epochs of four steps, one of them undone.
    assert float(trainer.step.clock.step) == 20


# -- interruption ---------------------------------------------------------------------------------


def interrupting(n):
    def at_call(call):
        if call == n:
            raise KeyboardInterrupt

    return at_call


def test_interruption_keeps_the_last_whole_epoch():
    """Two steps for each epoch; the interruption falls between those of the fourth."""
    plan = plan_of(10, batch_size=2)
    result, steps = run(Script(at_call=interrupting(8)), plan, validation=None)
    assert result.status is Status.INTERRUPTED
    assert steps == 6
    assert len(result.bounds) == 3


def test_interruption_keeps_the_best_state():
    plan = plan_of(10, batch_size=2)
    script = Script(held_out=table(0, 0, 1, 0, 3, 0, 2), at_call=interrupting(8))
    result, steps = run(script, plan)
    assert result.status is Status.INTERRUPTED
    assert steps == 4
    assert result.validation_scores == [1, 3, 2]


@pytest.mark.parametrize("held_out", [True, False])
def test_interruption_before_the_end_of_the_first_epoch_is_passed_on(held_out):
    plan = plan_of(10, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run(Script(at_call=interrupting(2)), plan, validation=HELD_OUT if held_out else None)


# -- those who watch ------------------------------------------------------------------------------


def test_observer_is_called_in_order():
    diary = Diary()
    script = Script(training=lambda steps, x: 10 + steps, held_out=lambda steps, x: 20 + steps)
    run(script, plan_of(3), observer=diary)
    assert [e if e == "begins" else "ends" for e in diary.entries] == ["begins", "ends"] * 3
    assert [r.epoch for r in diary.reports] == [1, 2, 3]
    assert [r.bound for r in diary.reports] == [10, 11, 12]
    assert [r.validation for r in diary.reports] == [21, 22, 23]
    seconds = [r.seconds for r in diary.reports]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_nothing_held_out_is_reported_as_none():
    diary = Diary()
    run(Script(), plan_of(2), validation=None, observer=diary)
    assert [r.validation for r in diary.reports] == [None, None]


def test_observer_may_stop_training():
    diary = Diary(stop=3)
    result, steps = run(Script(held_out=table(0, 1, 5, 2)), plan_of(9), observer=diary)
    assert result.status is Status.STOPPED
    assert len(result.bounds) == 3
    assert steps == 2
    assert not result.still_rising


def test_epochs_are_counted_over_the_life_of_the_model():
    plan = plan_of(2)
    trainer, diary = counting_trainer(Script(), plan), Diary()
    trainer.train(ROWS, plan, observer=diary)
    trainer.train(ROWS, plan, observer=diary)
    assert [r.epoch for r in diary.reports] == [1, 2, 3, 4]
    assert steps_of(trainer) == 4


# -- the start as a rival -------------------------------------------------------------------------


def gaining(gains):
    """Script whose held-out rows gain so much once training has begun."""
    gains = torch.as_tensor(gains, dtype=torch.float64)
    return Script(held_out=lambda steps, x: gains if steps else 0.0 * x)


CLEAR = [1.0, 1.1, 0.9, 1.0, 1.05]
# Their mean is 0.5, and their standard error 0.7.
DOUBTFUL = [3.0, -1.0, 1.0, -1.5, 1.0]
ONE_ROW = [5.0]


@pytest.mark.parametrize(
    ("gains", "kept"),
    [(CLEAR, False), (DOUBTFUL, True), (ONE_ROW, True), ([-1.0, -2.0, -1.5], True)],
    ids=["clear gain", "within sampling error", "one row tells nothing", "loss"],
)
def test_start_is_kept_unless_training_beats_it_beyond_sampling_error(gains, kept):
    validation = rows_of(np.zeros(len(gains)))
    script, plan = gaining(gains), plan_of(3, start_is_rival=True)
    result, steps = run(script, plan, validation=validation)
    assert result.kept_start is kept
    # Its state is that of the best mean; what a rival start means is up to the caller.
    assert steps == (1 if np.mean(gains) > 0 else 0)


def test_any_gain_is_taken_where_the_start_is_no_rival():
    result, steps = run(gaining(DOUBTFUL), plan_of(3), validation=rows_of(np.zeros(5)))
    assert not result.kept_start
    assert steps == 1


def test_start_is_not_kept_where_its_bound_is_not_finite():
    script = Script(held_out=lambda steps, x: steps if steps else -math.inf)
    result, steps = run(script, plan_of(3, start_is_rival=True))
    assert steps == 3
    assert not result.kept_start


def places(*numbers):
    """Counters that stand at these numbers."""
    return [[Counter(float(n))] for n in numbers]


def by_place(before, first, second):
    """Script of held-out bounds: before training, and below and above 100 steps."""

    def bounds(steps, x):
        value = before if steps == 0 else first if steps < 100 else second
        return torch.as_tensor(value, dtype=torch.float64) + 0.0 * x

    return Script(training=lambda steps, x: 0.0, held_out=bounds)


def run_from(script, plan, *numbers):
    trainer = counting_trainer(script, plan)
    result = trainer.train(ROWS, plan, validation=HELD_OUT, departures=places(*numbers))
    return result, steps_of(trainer)


LEAVING = {"patience": 5, "start_is_rival": True}


def test_training_leaves_from_another_place_than_the_rival_start():
    result, steps = run_from(by_place(0.0, 2.0, 9.0), plan_of(100, **LEAVING), 10)
    assert not result.kept_start
    assert steps == 11
    assert result.status is Status.CONVERGED


def test_training_begins_anew_where_the_first_place_led_nowhere():
    result, steps = run_from(by_place(0.0, -2.0, 3.0), plan_of(100, **LEAVING), 10, 100)
    assert not result.kept_start
    assert steps == 101
    # Patience of the first attempt, the gain of the second, and its patience.
    assert len(result.validation_scores) == 5 + 1 + 5


def test_training_does_not_begin_anew_where_it_has_beaten_the_start():
    result, steps = run_from(by_place(0.0, 2.0, 9.0), plan_of(100, **LEAVING), 10, 100)
    assert steps == 11
    assert len(result.bounds) == 5


def test_start_is_kept_where_no_place_leads_beyond_it():
    result, _ = run_from(by_place(0.0, -2.0, -1.0), plan_of(100, **LEAVING), 10, 100)
    assert result.kept_start
    assert len(result.bounds) == 5 + 5


def test_attempts_share_the_epochs():
    result, _ = run_from(by_place(0.0, -2.0, 3.0), plan_of(8, **LEAVING), 10, 100)
    assert len(result.bounds) == 8
    assert result.status is Status.MAX_EPOCHS


def test_further_attempt_goes_on_while_it_is_catching_up():
    """It rises by 1 in each epoch, and is level with the start after 8, when patience is 5."""
    values = Script(
        training=lambda steps, x: 0.0,
        held_out=lambda steps, x: (
            0.0 * x
            if steps == 0
            else 0.0 * x - 50.0
            if steps < 100
            else min(steps - 108.0, 5.0) + 0.0 * x
        ),
    )
    result, steps = run_from(values, plan_of(100, **LEAVING), 10, 100)
    assert steps == 113
    assert not result.kept_start


def test_attempts_begin_with_a_fresh_solver_and_clock():
    plan = plan_of(100, **LEAVING)
    solver = plain_sgd(momentum=0.5, cooldown_steps=3)
    trainer = counting_trainer(by_place(0.0, -2.0, -1.0), plan, solver=solver)
    diary = Diary()
    trainer.train(ROWS, plan, validation=HELD_OUT, departures=places(10, 100), observer=diary)
    rates = [report.learning_rate for report in diary.reports]
    half = len(rates) // 2
    assert rates[:half] == rates[half:]
    assert rates[0] > rates[half - 1]


# -- held-out bounds ------------------------------------------------------------------------------


GAUSSIAN = likelihood(GaussianLikelihood(), REAL)


def trainer_for(X, *, solver=None, plan=None, seed=0, **parameters):
    """Trainer of a small model in float64, and its rows."""
    model = build_model(X, decoder=MLP(hidden_layer_sizes=(4,)), **parameters)
    plan = plan_of(3, batch_size=10, learning_rate=0.01) if plan is None else plan
    solver = Adam() if solver is None else solver
    trainer = Trainer(model, SGVB().build(1000), solver, plan, Streams(seed), len(X))
    return trainer, rows_of(batch_of(model, X).x.numpy())


def test_held_out_bounds_have_the_same_noise_at_every_call():
    X = make_rows(GAUSSIAN, 60)
    trainer, rows = trainer_for(X)
    first = trainer.validate(rows)
    assert first.shape == (60,)
    assert first.dtype == torch.float64
    assert torch.equal(trainer.validate(rows), first)
    trainer.train(rows, plan_of(1, batch_size=10))
    after = trainer.validate(rows)
    assert not torch.equal(after, first)
    assert torch.equal(trainer.validate(rows), after)


def test_held_out_bounds_are_those_of_each_row():
    """On average over seeds they are the bound with very many draws, row by row."""
    X = make_rows(GAUSSIAN, 12)
    bounds = []
    for seed in range(40):
        trainer, rows = trainer_for(X, seed=seed)
        bounds.append(trainer.validate(rows))
    bounds = torch.stack(bounds)
    model = trainer.model
    noise = noise_for(model, 20_000, 12)
    with torch.no_grad():
        exact = SGVB().build(1)(model, batch_of(model, X), noise)
        one_draw = SGVB().build(1)(model, batch_of(model, X), noise_for(model, 1, 12))
    error = bounds.std(0) / math.sqrt(len(bounds))
    assert torch.all((bounds.mean(0) - exact).abs() < 5 * error)
    # Few rows have several draws each, so that their mean is less of a gamble.
    spread = torch.sqrt(torch.mean((bounds - exact) ** 2))
    assert spread < 0.5 * torch.sqrt(torch.mean((one_draw - exact) ** 2))


def test_held_out_rows_in_several_pieces(monkeypatch):
    monkeypatch.setattr("skvae.engine._train.VALIDATION_BATCH", 4)
    script = Script(held_out=lambda steps, x: x)
    trainer = counting_trainer(script, plan_of(1))
    assert trainer.validate(rows_of(np.arange(10.0))).tolist() == list(range(10))


def test_held_out_rows_leave_no_gradient_and_no_trace():
    """Looking at held-out rows does not change what training does."""
    X = make_rows(GAUSSIAN, 40)
    plan = plan_of(4, batch_size=10, learning_rate=0.01)
    with_, without = (trainer_for(X, plan=plan)[0] for _ in range(2))
    rows = trainer_for(X)[1]
    result = with_.train(rows, plan, validation=rows_of(np.zeros((7, 3))))
    assert without.train(rows, plan).bounds == result.bounds


# -- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", each(registry.SOLVERS))
def test_going_on_from_a_state_equals_going_on_at_once(solver):
    X = make_rows(GAUSSIAN, 33)
    long = plan_of(6, batch_size=8, learning_rate=0.01, open_ended=True)
    short = plan_of(3, batch_size=8, learning_rate=0.01, open_ended=True)
    whole, rows = trainer_for(X, solver=solver, plan=long)
    expected = whole.train(rows, long).bounds
    first, _ = trainer_for(X, solver=solver, plan=short)
    bounds = list(first.train(rows, short).bounds)
    state = pickle.loads(pickle.dumps(first.state()))
    second, _ = trainer_for(X, solver=solver, plan=short, seed=99)
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.resume(state)
    bounds += second.train(rows, short).bounds
    assert bounds == expected
    assert second.n_epochs == whole.n_epochs == 6
    for a, b in zip(second.step.state(), whole.step.state(), strict=True):
        assert torch.equal(a, b)


def test_state_keeps_the_lowered_rate_and_the_warm_up():
    plan = plan_of(2, open_ended=True)
    solver = plain_sgd(warmup_steps=3)
    first = counting_trainer(Script(at_call=at(2)), plan, solver=solver)
    first.train(ROWS, plan)
    # Back at the beginning, the warm-up begins again: 1/4, halved.
    assert steps_of(first) == 0.125
    second = counting_trainer(Script(), plan, solver=solver)
    second.resume(first.state())
    second.train(ROWS, plan)
    # 2/4 and 3/4, halved.
    assert steps_of(second) == pytest.approx(0.25 + 0.375)


def test_state_is_a_copy():
    plan = plan_of(2)
    trainer = counting_trainer(Script(), plan, solver=SGD(momentum=0.5, warmup_steps=0))
    trainer.train(ROWS, plan)
    state = trainer.state()
    before = [t.clone() for t in state.tensors]
    trainer.train(ROWS, plan)
    assert all(torch.equal(a, b) for a, b in zip(before, state.tensors, strict=True))
    assert state.n_epochs == 2


def test_cool_down_is_over_when_training_goes_on():
    plan = plan_of(50, patience=1)
    trainer = counting_trainer(Script(lambda s, x: 0.0), plan, solver=plain_sgd(cooldown_steps=3))
    trainer.train(ROWS, plan)
    ended_at = steps_of(trainer)
    assert ended_at == pytest.approx(2 + 0.75 + 0.5 + 0.25)
    trainer.train(ROWS, plan_of(1))
    assert steps_of(trainer) == pytest.approx(ended_at + 1)


def test_same_seed_gives_the_same_course_and_another_seed_another():
    X = make_rows(GAUSSIAN, 40)
    plan = plan_of(3, batch_size=10, learning_rate=0.01)

    def bounds(seed):
        trainer, rows = trainer_for(X, plan=plan, seed=seed)
        return trainer.train(rows, plan).bounds

    assert bounds(1) == bounds(1) != bounds(2)


# -- the prior on weights -------------------------------------------------------------------------


def test_prior_on_weights_weighs_as_much_as_one_of_the_rows():
    """`prior_precision` is that of the whole data set, whatever the batches."""
    case = likelihood(registry.BernoulliLikelihood(), BINARY)
    X = make_rows(case, 40)
    gradients = []
    for alpha in (0.0, 5.0):
        model = build_model(X, likelihood=case.component)
        plan = plan_of(1, batch_size=10, prior_precision=alpha)
        trainer = Trainer(model, SGVB().build(10), Recording(), plan, Streams(0), len(X))
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        trainer.train(rows_of(X), plan)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, p in weights.items():
        expected = 5.0 / 40 * p if name.endswith("weight") else torch.zeros_like(p)
        torch.testing.assert_close(gradients[1][name] - gradients[0][name], expected)


def test_counter_counts():
    """The toy is what these tests believe it to be."""
    model = Counter()
    (g,) = torch.autograd.grad(
        Script(lambda s, x: 7.0 + x)(model, batch_of_numbers(1.0, 2.0), {}).sum(), model.steps
    )
    assert g.tolist() == [2.0]


def batch_of_numbers(*x):
    from skvae._core._batch import Batch

    return Batch(torch.tensor(x, dtype=torch.float64)[:, None])
