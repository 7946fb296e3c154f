"""Sequences as a user gives them: all forms alike, each as if alone, and answers worth having."""

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import skvae
from skvae import VariationalRNN
from skvae.exceptions import SupportError
from skvae.likelihoods import BernoulliLikelihood
from skvae.solvers import Adam
from tests.estimators.small import STILL_RISING, _global_states
from tests.helpers import StateSpace
from tests.registry import RECURRENCES, each

pytestmark = [
    pytest.mark.filterwarnings(STILL_RISING),
    pytest.mark.filterwarnings("ignore:No latent component is active"),
]


def small(**parameters):
    defaults = {"hidden_layer_sizes": (8,), "state_size": 6, "max_iter": 2, "random_state": 0}
    return VariationalRNN(**{**defaults, **parameters})


def walks(n=30, n_steps=8, n_columns=2, *, seed=0):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(size=(n, n_steps, n_columns)), axis=1)


def ragged(X, *, seed=0):
    ends = np.random.default_rng(seed).integers(1, X.shape[1] + 1, len(X))
    return [x[:end] for x, end in zip(X, ends, strict=True)]


def stacked(parts):
    return np.concatenate(parts), [len(part) for part in parts]


def padded(parts, n_steps):
    out = np.full((len(parts), n_steps, parts[0].shape[1]), np.nan)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out


def said(model, X, **given):
    """What a fitted model says of whole sequences, by method."""
    return {
        "transform": model.transform(X, **given),
        "score_samples": model.score_samples(X, **given),
        "lower_bound": model.lower_bound(X, **given),
        "predict_next": model.predict_next(X, 2, random_state=0, **given),
    }


def assert_alike(first, second, *, rtol=1e-9):
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=rtol, atol=1e-9, err_msg=name)


# -- forms of sequences ---------------------------------------------------------------------------


def test_forms_of_the_same_sequences_say_the_same():
    parts = ragged(walks())
    X, lengths = stacked(parts)
    as_list, as_table = small().fit(parts), small().fit(X, lengths=lengths)
    assert_alike(said(as_list, parts), said(as_table, X, lengths=lengths), rtol=0)
    np.testing.assert_array_equal(
        np.concatenate(as_list.transform_sequences(parts)),
        as_table.transform_sequences(X, lengths=lengths),
    )
    np.testing.assert_array_equal(
        np.concatenate(as_list.score_steps(parts)), as_table.score_steps(X, lengths=lengths)
    )
    whole = walks()
    np.testing.assert_array_equal(
        small().fit(whole).transform(whole), small().fit(list(whole)).transform(list(whole))
    )
    np.testing.assert_array_equal(
        small().fit_transform(X, lengths=lengths), as_list.transform(parts)
    )
    as_list.partial_fit(X, lengths=lengths)


def test_rows_are_sequences_of_one_column():
    X = walks(n_columns=1)[:, :, 0]
    as_rows, as_array = small().fit(X), small().fit(X[:, :, None])
    np.testing.assert_array_equal(as_rows.transform(X), as_array.transform(X[:, :, None]))
    np.testing.assert_array_equal(as_rows.score_samples(X), as_array.score_samples(X))
    assert as_rows.n_features_in_ == 8 and as_array.n_features_in_ == 1
    assert as_rows.sample(3).shape == (3, 8) and as_array.sample(3).shape == (3, 8, 1)
    assert as_rows.predict_next(X, 2).shape == (30, 2)
    # As a table it has its columns; other forms, and arrays, may be longer.
    with pytest.raises(ValueError, match="X has 5 features, but VariationalRNN is expecting 8"):
        as_rows.transform(X[:, :5])
    np.testing.assert_array_equal(as_rows.transform(X[:, :5, None]), as_array.transform(X[:, :5]))


def test_sequences_may_be_longer_than_those_of_fit():
    model = small().fit(walks(n_steps=4))
    X = walks(n_steps=20)
    assert model.transform_sequences(X).shape == (30, 20, 2)
    np.testing.assert_allclose(
        model.transform_sequences(X)[:, :4], model.transform_sequences(X[:, :4]), rtol=1e-9
    )
    np.testing.assert_allclose(
        model.score_steps(X)[:, :3], model.score_steps(X[:, :3]), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("parameters", [{}, {"n_components": 0}, {"cell": "gru"}])
def test_a_sequence_is_answered_as_if_alone(parameters):
    parts = ragged(walks())
    model = small(**parameters).fit(parts)
    together = said(model, parts)
    alone = [said(model, [part]) for part in parts]
    for name in ("transform", "score_samples", "lower_bound"):
        each = np.concatenate([one[name] for one in alone])
        np.testing.assert_allclose(together[name], each, rtol=1e-9, atol=1e-9, err_msg=name)
    order = np.random.default_rng(1).permutation(len(parts))
    shuffled = said(model, [parts[i] for i in order])
    for name in ("transform", "score_samples", "lower_bound"):
        np.testing.assert_allclose(together[name][order], shuffled[name], rtol=1e-9, atol=1e-9)
    one_step = [model.predict_next([part])[0] for part in parts]
    np.testing.assert_allclose(model.predict_next(parts), one_step, rtol=1e-9, atol=1e-9)


def test_padding_does_not_matter():
    """Not to training either, of which the noise is then the same."""
    parts = ragged(walks())
    model = small().fit(parts)
    before = model.score_samples(parts), model.lower_bound(parts)
    for n_steps in (8, 9, 40):
        X = padded(parts, n_steps)
        np.testing.assert_allclose(model.score_samples(X), before[0], rtol=1e-9)
        np.testing.assert_allclose(model.lower_bound(X), before[1], rtol=1e-9)
    assert not model.model_.reads_mask
    assert small().fit(np.where(np.arange(8)[:, None] == 3, np.nan, walks())).model_.reads_mask


@pytest.mark.parametrize(
    ("X", "lengths", "message"),
    [
        (walks(), [8] * 30, "lengths goes with a 2-d X"),
        (walks()[0], [3, 4], r"lengths add up to 7, but X has 8 rows"),
        (walks()[0], [8, 0], r"lengths\[1\] is 0; each sequence needs at least 1 step"),
        (walks()[0], [4.5, 3.5], "lengths must hold one integer for each sequence"),
        (walks()[0], 8, "lengths must hold one integer for each sequence"),
        ([walks()[0], walks(n_columns=3)[0]], None, r"X\[1\] has 3 columns, but X\[0\] has 2"),
        ([walks()[0], np.zeros((0, 2))], None, r"X\[1\] has no steps"),
        ([walks()[0], np.zeros(3)], None, r"entry 1 has 1 axes"),
        ([walks()[0], np.full((3, 2), np.inf)], None, r"Input X\[1\] contains infinity"),
        (np.zeros((4, 0, 2)), None, "at least one step"),
        (walks()[0], None, "fitted to steps of 2 columns. Pass a 3-d array"),
        (walks(n_columns=3), None, "X has 3 columns at each step, but .* to 2"),
    ],
)
def test_what_is_no_set_of_sequences_is_refused(X, lengths, message):
    model = small().fit(walks())
    before = model.score_samples(walks())
    with pytest.raises(ValueError, match=message):
        model.score_samples(X, lengths=lengths)
    if "fitted" not in message and "at each step" not in message:
        with pytest.raises(ValueError, match=message):
            model.fit(X, lengths=lengths)
    np.testing.assert_array_equal(model.score_samples(walks()), before)


def test_value_outside_the_support_is_named_with_its_sequence():
    X = np.zeros((6, 4, 2))
    X[4, 2, 1] = 3.0
    with pytest.raises(SupportError, match=r"Sequence 4.*column 1 holds 3.0 in row 2"):
        small(likelihood="bernoulli").fit(X)


# -- what it promises -----------------------------------------------------------------------------


def test_scores_of_steps_add_up():
    parts = ragged(walks())
    model = small(max_iter=10).fit(parts)
    totals = [steps.sum() for steps in model.score_steps(parts)]
    np.testing.assert_allclose(totals, model.score_samples(parts), rtol=1e-12)
    np.testing.assert_allclose(model.score(parts), np.mean(totals), rtol=1e-12)
    X, lengths = stacked(parts)
    exact = model.log_likelihood(X, lengths=lengths, n_draws=2000, random_state=0)
    np.testing.assert_allclose(exact.mean, model.score(parts), atol=0.1)
    assert model.lower_bound(parts).mean() < exact.mean


@pytest.fixture(scope="module")
def oscillation():
    """A noisy oscillation, a model fitted to it, and exact answers."""
    exact = StateSpace(
        np.array([[0.9, 0.4], [-0.4, 0.9]]),
        0.05 * np.eye(2),
        np.array([[1.0, 0.0], [0.7, -0.7], [0.0, 2.0]]),
        np.array([0.1, 0.2, 0.1]),
        np.array([0.0, 5.0, -5.0]),
    )
    model = VariationalRNN(
        hidden_layer_sizes=(16,),
        state_size=16,
        learning_rate_init=1e-2,
        max_iter=80,
        random_state=0,
    )
    return exact, model.fit(exact.sample(300, 12))


def test_fit_comes_near_the_truth(oscillation):
    exact, model = oscillation
    X = exact.sample(100, 12, seed=1)
    truth = np.mean([exact.kalman(x)[0].sum() for x in X])
    steps = X.reshape(-1, 3)
    fixed = -0.5 * 12 * (np.linalg.slogdet(2 * np.pi * np.e * np.cov(steps.T))[1])
    score = model.score(X)
    # Of the way from the best model without memory to the truth, 8 tenths.
    assert truth - 0.2 * (truth - fixed) < score < truth
    assert model.kl_per_component_.sum() > 0.5


def test_predictions_are_nearly_the_best_there_are(oscillation):
    exact, model = oscillation
    X = exact.sample(200, 12, seed=2)
    predicted = model.predict_next(X[:, :10], 2, random_state=0)
    for step in range(2):
        best = []
        for x in X[:, :10]:
            mean = np.linalg.matrix_power(exact.transition, step) @ exact.kalman(x)[2][-1]
            best.append(exact.loadings @ mean + exact.mean)
        error = np.mean((predicted[:, step] - X[:, 10 + step]) ** 2)
        least = np.mean((np.array(best) - X[:, 10 + step]) ** 2)
        assert error < 1.25 * least < np.mean((X[:, 10 + step] - exact.mean) ** 2)


def test_missing_steps_are_filled_in(oscillation):
    exact, model = oscillation
    X = exact.sample(100, 12, seed=3)
    holes = np.zeros(X.shape, dtype=bool)
    holes[:, 7:9] = holes[::2, 3, 1] = True
    given = np.where(holes, np.nan, X)
    filled = model.impute(given)
    np.testing.assert_array_equal(filled[~holes], X[~holes])
    error = np.mean((filled[holes] - X[holes]) ** 2)
    assert error < 0.6 * np.mean((exact.mean - X)[:, 7:9] ** 2)
    parts = [given[0], given[1, :9]]
    assert [part.shape for part in model.impute(parts)] == [(12, 3), (9, 3)]
    X2, lengths = stacked(parts)
    np.testing.assert_array_equal(model.impute(X2, lengths=lengths)[:12], model.impute(parts)[0])


def test_drawn_sequences_are_like_those_of_fit(oscillation):
    exact, model = oscillation
    X, drawn = exact.sample(2000, 12, seed=4), model.sample(2000, 12, random_state=0)
    np.testing.assert_allclose(drawn.mean((0, 1)), X.mean((0, 1)), atol=0.15)
    lagged = [
        np.mean((Y[:, 5:] - exact.mean) * (Y[:, :-5] - exact.mean), (0, 1)) for Y in (X, drawn)
    ]
    np.testing.assert_allclose(lagged[1], lagged[0], atol=0.4)
    assert model.sample(2, 30).shape == (2, 30, 3)


def test_missing_steps_and_entries_in_training():
    X = walks(40)
    rng = np.random.default_rng(0)
    X[rng.random(X.shape) < 0.2] = np.nan
    X[:, 3] = np.nan
    X[0] = np.nan
    model = small(max_iter=5).fit(X)
    assert model.model_.reads_mask
    scores = model.score_steps(X)
    assert np.isfinite(scores).all() and (scores[:, 3] == 0).all() and (scores[0] == 0).all()
    assert np.isfinite(model.transform(X)).all()


# -- manners --------------------------------------------------------------------------------------


def test_fit_is_reproducible_and_touches_no_global_generator():
    parts = ragged(walks())
    before = _global_states()
    model = small().fit(parts)
    said(model, parts)
    model.sample(2, random_state=0)
    assert _global_states() == before
    assert_alike(said(clone(model).fit(parts), parts), said(model, parts), rtol=0)
    other = small(random_state=1).fit(parts)
    assert np.abs(other.transform(parts) - model.transform(parts)).max() > 1e-3


@pytest.mark.parametrize("recurrence", each(RECURRENCES))
def test_saved_and_pickled_models_say_the_same(tmp_path, recurrence):
    X = walks()
    X[:, 3] = np.nan
    parameters = recurrence.get_params()
    parameters["n_recurrent_layers"] = parameters.pop("n_layers")
    model = small(warm_start=True, **parameters).fit(X)
    skvae.save(model, tmp_path / "model.skvae")
    for again in (skvae.load(tmp_path / "model.skvae"), pickle.loads(pickle.dumps(model))):
        assert_alike(said(again, X), said(model, X), rtol=0)
        assert again.n_steps_ == 8 and again.fit(X).n_iter_ == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_answers_are_in_the_dtype_of_the_data(dtype):
    X = walks().astype(dtype)
    model = small().fit(X)
    for name, value in said(model, X).items():
        assert value.dtype == dtype, name
    assert model.sample(1).dtype == model.impute(X).dtype == dtype
    assert {p.dtype for p in model.model_.parameters()} == {torch.from_numpy(X).dtype}


def test_it_goes_on_with_sequences_of_other_lengths():
    model = small(warm_start=True).fit(walks())
    model.fit(walks(n_steps=5))
    assert model.n_iter_ == 4 and model.n_steps_ == 5
    model.partial_fit(ragged(walks(n_steps=12)))
    assert model.n_iter_ == 5
    with pytest.raises(ValueError, match="since state_size changed"):
        model.set_params(state_size=7).fit(walks())


def test_one_sequence_is_enough():
    X = walks(1, 40)
    X[0, 7] = np.nan
    model = small().fit(X)
    assert np.isfinite(model.score(X))
    assert small().fit(X[0], lengths=[40]).transform(X).shape == (1, 2)


def test_training_ends_when_held_out_sequences_gain_no_more():
    X = walks(60)
    solver = Adam(cooldown_steps=4)
    model = small(max_iter=100, n_iter_no_change=3, learning_rate_init=0.1, solver=solver).fit(X)
    assert len(model.validation_scores_) == model.n_iter_ < 100
    assert model.n_iter_ - np.argmax(model.validation_scores_) > 3
    with pytest.warns(ConvergenceWarning, match="still rising"):
        small(max_iter=3).fit(X)


@pytest.mark.parametrize("likelihood", ["poisson", BernoulliLikelihood(binarize="dynamic")])
def test_counts_and_probabilities(likelihood):
    X = np.random.default_rng(0).poisson(3.0, size=(25, 6, 2))
    X = X if likelihood == "poisson" else X / 20.0
    model = small(likelihood=likelihood).fit(X)
    assert model.score(X) < 0
    drawn = model.sample(3, random_state=0)
    assert (drawn >= 0).all() and (drawn == np.floor(drawn)).all()
    np.testing.assert_allclose(model.score_samples(X[:2, :4]), model.score_steps(X)[:2, :4].sum(1))


def test_features_out_and_names():
    pd = pytest.importorskip("pandas")
    X = walks()
    frame = pd.DataFrame(X.reshape(-1, 2), columns=["a", "b"])
    model = small().set_output(transform="pandas").fit(frame, lengths=[8] * 30)
    Z = model.transform(frame, lengths=[8] * 30)
    assert list(Z.columns) == ["variationalrnn0", "variationalrnn1"] and len(Z) == 30
    assert list(model.likelihoods_) == ["a", "b"] and list(model.feature_names_in_) == ["a", "b"]
    # Of the plain array the same, without names.
    np.testing.assert_array_equal(Z, model.set_output(transform="default").transform(X))


METHODS = [
    name
    for name, _ in inspect.getmembers(VariationalRNN, inspect.isfunction)
    if not name.startswith("_") and getattr(VariationalRNN, name).__module__.startswith("skvae")
]


def test_methods_take_lengths_and_say_so():
    without = {"sample", "set_callbacks"}
    for name in METHODS:
        parameters = inspect.signature(getattr(VariationalRNN, name)).parameters
        assert ("lengths" in parameters) != (name in without), name
    validate = pytest.importorskip("numpydoc.validate")
    for name in METHODS:
        errors = validate.validate(f"skvae.VariationalRNN.{name}")["errors"]
        excused = {"EX01", "SA01", "ES01", "RT02"}
        assert [e for e in errors if e[0] not in excused] == [], name


@pytest.mark.parametrize("name", ["inverse_transform", "sample_posterior", "posterior_moments"])
def test_what_has_no_meaning_for_sequences_is_not_there(name):
    assert not hasattr(small(), name)
    with pytest.raises(AttributeError, match=f"VariationalRNN has no {name}; "):
        getattr(small(), name)


@pytest.mark.parametrize(
    "parameters",
    [{"n_components": -1}, {"cell": "rnn"}, {"state_size": 0}, {"n_recurrent_layers": 0}],
)
def test_bad_parameters(parameters):
    with pytest.raises(ValueError, match=f"The '{next(iter(parameters))}' parameter"):
        small(**parameters).fit(walks())


def test_what_is_filled_in_does_not_depend_on_other_sequences():
    X = np.cumsum(np.random.default_rng(0).normal(size=(20, 6, 2)), axis=1)
    model = small().fit(X)
    X[:, 3] = X[5, 4, 0] = np.nan
    together = model.impute(X)
    np.testing.assert_allclose(model.impute(X[::-1])[::-1], together, rtol=1e-10)
    np.testing.assert_allclose(model.impute(X[4:6]), together[4:6], rtol=1e-10)
    np.testing.assert_array_equal(together[~np.isnan(X)], X[~np.isnan(X)])


def test_names_of_columns_in_lists_are_those_of_fit():
    X = np.random.default_rng(0).normal(size=(20, 6, 2))
    tables = [pd.DataFrame(x, columns=["p", "q"]) for x in X]
    model = small().fit(tables)
    assert list(model.likelihoods_) == ["p", "q"]
    with pytest.raises(ValueError, match="same order"):
        model.score([table[["q", "p"]] for table in tables])
    with pytest.raises(ValueError, match=r"X\[1\] has the columns \['q', 'p'\]"):
        model.score([tables[0], tables[1][["q", "p"]]])
    with pytest.raises(ValueError, match="X is an empty list"):
        model.score([])
