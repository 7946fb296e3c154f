"""What is particular to columns of categories, unordered and ordered."""

import re

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch.distributions import Categorical

from skvae import VariationalAutoencoder
from skvae.exceptions import SupportError
from skvae.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ColumnLikelihood,
    OrdinalLikelihood,
)
from skvae.likelihoods._base import Columns
from tests.estimators.small import STILL_RISING
from tests.helpers import assert_mean
from tests.registry import draw_outputs

N_CATEGORIES = [2, 5, 1, 3]
LIKELIHOODS = [CategoricalLikelihood, OrdinalLikelihood]
either = pytest.mark.parametrize("cls", LIKELIHOODS)


def codes(n_rows=60, *, seed=0):
    """Codes of columns with unequal numbers of categories."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(0, k, n_rows) for k in N_CATEGORIES]).astype(float)


def head_of(cls, X=None, *, n_categories=N_CATEGORIES, dtype=torch.float64):
    likelihood = cls(n_categories=n_categories)
    return likelihood.build(likelihood.summarize(codes() if X is None else X), dtype)


def at_the_start(X, likelihood, n_components=2):
    """Bound at the linear start, as nothing is trained."""
    vae = VariationalAutoencoder(
        n_components,
        likelihood=likelihood,
        max_iter=1,
        learning_rate_init=1e-12,
        random_state=0,
    )
    return float(vae.fit(X).lower_bound(X).mean())


def probabilities(head, params):
    """Probabilities of the codes of each column, as a list of (n_draws, n_rows, n_categories)."""
    with torch.no_grad():
        return head.expectation(params).split(N_CATEGORIES, dim=-1)


def test_probabilities_are_a_softmax_of_each_columns_logits():
    head = head_of(CategoricalLikelihood)
    outputs = 2.0 * draw_outputs(head, 3, 60)
    x = torch.from_numpy(codes())
    actual = head.log_prob_columns(head.params_from(outputs), x)
    for j, logits in enumerate(outputs.split(N_CATEGORIES, dim=-1)):
        expected = Categorical(logits=logits).log_prob(x[:, j])
        torch.testing.assert_close(actual[..., j], expected)


def test_probabilities_are_differences_of_cumulative_logits():
    head = head_of(OrdinalLikelihood)
    location = draw_outputs(head, 3, 60)
    params = head.params_from(location)
    table = head._table().detach().numpy()
    for j, (own, k) in enumerate(zip(probabilities(head, params), N_CATEGORIES, strict=True)):
        thresholds = np.concatenate([[-np.inf], table[j, : k - 1], [np.inf]])
        assert (np.diff(thresholds) > 0).all()
        h = location[..., j, None].numpy()
        np.testing.assert_allclose(own.numpy(), np.diff(expit(thresholds - h), axis=-1), atol=1e-14)
        # The density of rows says the same.
        x = torch.from_numpy(codes())
        x[:, j] = k - 1
        log_prob = head.log_prob_columns(params, x)[..., j].detach().exp()
        np.testing.assert_allclose(log_prob.numpy(), own[..., -1].numpy(), rtol=1e-10)


@either
def test_draws_have_the_probabilities_as_frequencies(cls):
    head = head_of(cls)
    params = head.params_from(draw_outputs(head, 1, 1).expand(20_000, -1, -1))
    draws = head.sample(params, torch.Generator().manual_seed(0)).detach()[:, 0]
    for j, own in enumerate(probabilities(head, params)):
        indicators = draws[:, j, None] == torch.arange(N_CATEGORIES[j])
        assert_mean(indicators.double(), own[0, 0])


@either
def test_probabilities_may_be_averaged_and_then_name_a_code(cls):
    head = head_of(cls)
    with torch.no_grad():
        expectation = head.expectation(head.params_from(3.0 * draw_outputs(head, 50, 4))).mean(0)
        chosen = head.from_expectation(expectation).numpy()
    assert chosen.shape == (4, len(N_CATEGORIES))
    for j, own in enumerate(expectation.split(N_CATEGORIES, dim=-1)):
        if cls is CategoricalLikelihood:
            expected = own.argmax(-1).numpy()
        else:  # half of the probability lies at or below the median, and half at or above it
            expected = [np.searchsorted(np.cumsum(row), 0.5) for row in own.numpy()]
        np.testing.assert_array_equal(chosen[:, j], expected)


@either
def test_extreme_outputs_have_finite_gradients(cls):
    for dtype in (torch.float32, torch.float64):
        head = head_of(cls, dtype=dtype)
        x = torch.from_numpy(codes(8)).to(dtype)
        sign = torch.sign(draw_outputs(head, 2, 8)).to(dtype)
        for size in (1e4, -1e4):
            outputs = (size * sign).requires_grad_()
            params = head.params_from(outputs)
            log_prob = head.log_prob_columns(params, x)
            gradients = torch.autograd.grad(log_prob.sum(), [outputs, *head.parameters()])
            assert (log_prob <= 0).all()
            for value in (log_prob, head.expectation(params), *gradients):
                assert torch.isfinite(value).all()


def test_tails_of_cumulative_logits_do_not_cancel():
    """Both cumulative probabilities are 1 to the last digit, and their difference is not 0."""
    X = np.array([[0.0], [1.0], [2.0], [1.0]])
    head = head_of(OrdinalLikelihood, X, n_categories=3)
    with torch.no_grad():
        params = head.params_from(torch.full((1, 1, 1), -60.0, dtype=torch.float64))
        middle = float(head.log_prob_columns(params, torch.ones(1, 1, dtype=torch.float64)))
    low, high = head._table()[0].tolist()
    assert middle == pytest.approx(-60.0 - low + np.log1p(-np.exp(low - high)), abs=1e-12)


@either
def test_start_is_at_the_frequencies(cls):
    X = codes()
    head = head_of(cls, X)
    with torch.no_grad():
        own = probabilities(head, head.params_from(head.initial_outputs().expand(1, 1, -1)))
    for j, k in enumerate(N_CATEGORIES):
        # One more row is shared among the categories.
        expected = (np.bincount(X[:, j].astype(int), minlength=k) + 1.0 / k) / (len(X) + 1.0)
        np.testing.assert_allclose(own[j][0, 0], expected, rtol=1e-12)


@either
def test_without_latent_variables_the_score_is_that_of_the_frequencies(cls):
    X = codes(200)
    vae = VariationalAutoencoder(0, likelihood=cls()).fit(X)
    total = 0.0
    for j, k in enumerate(N_CATEGORIES):
        counts = np.bincount(X[:, j].astype(int), minlength=k)
        p = (counts + 1.0 / k) / (len(X) + 1.0)
        total += np.sum(counts / len(X) * np.log(p))
    assert vae.score(X) == pytest.approx(total, abs=1e-5)


@either
def test_two_categories_are_a_bernoulli_column(cls):
    """The same model in other coordinates: its linear start has about the same bound."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1500, 2)) @ (1.3 * rng.normal(size=(2, 8))) + rng.normal(size=8)
    X = (rng.random(logits.shape) < expit(logits)).astype(float)
    bernoulli, ours, marginal = (
        at_the_start(X, likelihood, k)
        for likelihood, k in [(BernoulliLikelihood(), 2), (cls(), 2), (cls(), 0)]
    )
    assert bernoulli - marginal > 0.2
    assert ours - marginal > 0.95 * (bernoulli - marginal)


@pytest.mark.filterwarnings(STILL_RISING)
def test_linear_start_finds_most_of_a_multinomial_factor_model():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(1500, 2))
    X = np.column_stack(
        [
            (z @ (1.3 * rng.normal(size=(2, k))) + rng.gumbel(size=(1500, k))).argmax(1)
            for k in (3, 5, 2, 4, 7, 3)
        ]
    )
    start, marginal = (at_the_start(X, CategoricalLikelihood(), k) for k in (2, 0))
    best = VariationalAutoencoder(
        2,
        hidden_layer_sizes=(),
        likelihood="categorical",
        early_stopping=False,
        max_iter=60,
        random_state=0,
    )
    assert start - marginal > 0.6 * (best.fit(X).lower_bound(X).mean() - marginal)


def test_linear_start_of_ordered_categories_uses_their_order():
    rng = np.random.default_rng(1)
    location = rng.normal(size=(1500, 1)) @ (1.0 + rng.random((1, 6)))
    X = np.digitize(location + rng.logistic(size=location.shape), [-2.0, -1.0, 0.0, 1.0, 2.0])
    ordinal, categorical, marginal = (
        at_the_start(X, likelihood, k)
        for likelihood, k in [
            (OrdinalLikelihood(), 1),
            (CategoricalLikelihood(), 1),
            (CategoricalLikelihood(), 0),
        ]
    )
    assert ordinal > categorical > marginal + 0.2


@pytest.mark.filterwarnings(STILL_RISING)
@either
def test_number_of_categories_is_that_of_all_training_rows(cls):
    """Not of those that a fold happens to see, and it stays when training goes on."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (60, 3))
    X[7, 1] = 4
    vae = VariationalAutoencoder(1, likelihood=cls(), max_iter=2, warm_start=True, random_state=0)
    vae.fit(X)
    assert vae.likelihood_.n_categories == [2, 5, 2]
    assert vae.likelihood.n_categories is None
    vae.fit(X[10:])  # without the largest code
    assert vae.likelihood_.n_categories == [2, 5, 2]
    assert vae.likelihoods_[1].n_categories == 5
    with pytest.raises(SupportError, match=re.escape("column 0 holds 3.0 in row 1")):
        vae.score(np.array([[0.0, 1.0, 0.0], [3.0, 0.0, 0.0]]))


@either
@pytest.mark.parametrize("bad", [0.5, -1.0, np.inf])
def test_what_is_no_code_is_refused(cls, bad):
    X = codes()
    X[4, 1] = bad
    with pytest.raises(SupportError, match=re.escape(f"column 1 holds {bad!s} in row 4")):
        cls().settled(X, Columns())
    with pytest.raises(SupportError, match="codes of categories"):
        cls(n_categories=N_CATEGORIES).check_support(X)


@either
@pytest.mark.parametrize("n_categories", [[2, 3], [2, 5, 0, 3], [2.5, 5, 1, 3], [[2, 5, 1, 3]]])
def test_n_categories_has_to_fit_theColumns(cls, n_categories):
    with pytest.raises(ValueError, match=f"n_categories of {cls.__name__}"):
        cls(n_categories=n_categories).settled(codes(), Columns())


@either
def test_identifiers_are_refused_by_name(cls):
    X = np.column_stack([np.arange(50) % 3, np.arange(50)]).astype(float)
    with pytest.raises(ValueError, match=re.escape("Column 'id' (index 1) has 50 categories")):
        cls().settled(X, Columns(["kind", "id"]))
    # Many categories that come often, or few of few rows, identify nothing.
    cls().settled(np.arange(200.0)[:, None] % 40, Columns())
    cls().settled(np.arange(20.0)[:, None], Columns())


# -- many categories ------------------------------------------------------------------------------


def many_codes(n_rows=800, n_categories=60, *, seed=0):
    """A column of many categories and two of numbers that depend on one variable."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_rows, 1))
    logits = 1.5 * z @ rng.normal(size=(1, n_categories)) + rng.normal(size=n_categories)
    code = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return np.column_stack([code, z + 0.5 * rng.normal(size=(n_rows, 2))])


def test_embedded_probabilities_are_a_softmax_of_low_rank():
    X = codes()
    likelihood = CategoricalLikelihood(n_categories=N_CATEGORIES, max_one_hot=2, embedding_size=2)
    whole = likelihood.build(likelihood.summarize(X), torch.float64)
    # Columns of up to two categories as they are, the other two embedded.
    assert (whole.n_features, whole.n_outputs) == (2 + 1 + 2 * 2, 2 + 1 + 2 * 2)
    embedded = whole.parts[1]
    outputs = draw_outputs(whole, 3, len(X))
    x = torch.from_numpy(X)
    actual = whole.log_prob_columns(whole.params_from(outputs), x)
    points = outputs[..., 3:].unflatten(-1, (2, 2))
    embeddings, biases = embedded.embedding.split([5, 3]), embedded.bias.split([5, 3])
    for i, j in enumerate([1, 3]):
        logits = points[..., i, :] @ embeddings[i].T + biases[i]
        torch.testing.assert_close(actual[..., j], Categorical(logits=logits).log_prob(x[:, j]))
    # What the encoder reads of a row is the embedding of its category, centred.
    features = whole.features(x, None)[:, 3:5]
    centre = embedded.frequency[:5] @ embeddings[0]
    torch.testing.assert_close(features, embeddings[0][x[:, 1].long()] - centre)


@pytest.mark.filterwarnings(STILL_RISING)
def test_many_categories_are_learned_with_few_weights():
    X = many_codes()
    groups = {
        size: ColumnLikelihood(
            [(CategoricalLikelihood(n_categories=60, max_one_hot=size), [0]), ("gaussian", [1, 2])]
        )
        for size in (32, 60)
    }
    embedded, plain = (
        VariationalAutoencoder(1, likelihood=each, max_iter=40, random_state=0).fit(X)
        for each in groups.values()
    )
    sizes = [sum(p.numel() for p in vae.model_.parameters()) for vae in (embedded, plain)]
    assert sizes[0] < 0.5 * sizes[1]
    marginal = VariationalAutoencoder(0, likelihood=groups[32]).fit(X).score(X)
    assert embedded.score(X) - marginal > 0.8 * (plain.score(X) - marginal) > 0.2
    assert at_the_start(X, groups[32], 1) > marginal + 0.2
    assert embedded.sample(20, random_state=0)[:, 0].max() < 60


def test_embedding_is_narrower_than_the_categories_are_many():
    with pytest.raises(ValueError, match=r"embedding_size=8 .* must not exceed max_one_hot=4"):
        head_of(lambda **given: CategoricalLikelihood(max_one_hot=4, **given))
