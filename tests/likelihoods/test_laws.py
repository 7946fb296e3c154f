"""What every likelihood promises: the laws of probability, and those of the protocol."""

import copy
import re

import numpy as np
import pytest
import torch

from skvae._core._summary import ColumnSummary
from skvae.exceptions import SupportError
from skvae.likelihoods._base import Observation
from skvae.likelihoods._bernoulli import sum_of_log_probs
from skvae.likelihoods._gaussian import GaussianHead
from tests.helpers import assert_follows, assert_mean
from tests.registry import (
    BIT,
    CODE,
    LIKELIHOODS,
    N_COLUMNS,
    build_head,
    draw_outputs,
    each,
    make_rows,
)

every_likelihood = pytest.mark.parametrize("case", each(LIKELIHOODS))
# Those whose probability is that of X itself, not of something made of it.
of_x = pytest.mark.parametrize("case", each([c for c in LIKELIHOODS if c.rows is c.outcome]))
# Codes of categories have no mean; that of their indicators is tested with each such likelihood.
with_mean = pytest.mark.parametrize(
    "case", each([c for c in LIKELIHOODS if c.outcome not in (CODE, BIT)])
)
bounded = pytest.mark.parametrize(
    "case", each([c for c in LIKELIHOODS if np.isfinite([c.rows.low, c.rows.high]).any()])
)
with_parameters = pytest.mark.parametrize(
    "case", each([c for c in LIKELIHOODS if list(build_head(c).parameters())])
)


def one_density(head, *, seed=0):
    """Parameters of one density for each column, as a function of numbers of draws and rows."""
    outputs = draw_outputs(head, 1, 1, seed=seed)
    return lambda n_draws, n_rows=1: head.params_from(outputs.expand(n_draws, n_rows, -1))


def head_units(case, head, x):
    """Values of the outcome in the units of the head."""
    # What a likelihood makes of X by itself, such as a binarised value, is in its units already.
    return head.standardize(x) if case.rows is case.outcome else x


def user_units(case, head, x):
    """Values in the units of the head as values of the outcome."""
    return head.unstandardize(x) if case.rows is case.outcome else x


def sample(head, params, *, seed=0):
    """Draws (n_draws, n_columns) of one density for each column, in the units of the head."""
    with torch.no_grad():
        return head.sample(params, torch.Generator().manual_seed(seed))[:, 0]


def tabulate(case, head, params_for):
    """Values of the outcome and the probability of each, both (n_values, n_columns).

    A continuous support is covered by a grid that is fine where the draws lie and reaches far
    beyond them (a grid in the hyperbolic sine, mapped into the support).
    """
    draws = user_units(case, head, sample(head, params_for(2000))).numpy()
    support = case.outcome
    if support.discrete:
        high = support.high if np.isfinite(support.high) else 10 * draws.max() + 50
        values = np.tile(np.arange(support.low, high + 1)[:, None], (1, head.n_columns))
    else:
        low, middle, high = np.quantile(support.to_real(draws), [0.25, 0.5, 0.75], axis=0)
        steps = np.linspace(-11.0, 11.0, 60001)[:, None]
        values = support.from_real(middle + (high - low) * np.sinh(steps))
    x = head_units(case, head, torch.from_numpy(values))
    with torch.no_grad():
        density = torch.exp(head.log_prob_columns(params_for(1, len(x)), x))[0].numpy()
    if support.discrete:
        return values, density
    # The trapezoidal rule; each cell's mass is counted at its right end.
    cells = 0.5 * (density[1:] + density[:-1]) * np.diff(values, axis=0)
    return values[1:], cells


@every_likelihood
@pytest.mark.parametrize("seed", [0, 1])
def test_mass_is_one(case, seed):
    head = build_head(case, seed=seed)
    _, mass = tabulate(case, head, one_density(head, seed=seed))
    np.testing.assert_allclose(mass.sum(axis=0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("n_columns", [1, 3, 300])
@pytest.mark.parametrize("with_gradient", [False, True])
@every_likelihood
def test_density_of_rows_is_the_sum_over_columns(case, with_gradient, n_columns):
    rng = np.random.default_rng(0)
    head = case.component.build(
        case.component.summarize(case.from_real(rng.normal(size=(20, n_columns)))),
        torch.float64,
    )
    x = head_units(
        case, head, torch.from_numpy(case.outcome.from_real(rng.normal(size=(6, n_columns))))
    )
    # Also far out: every factor of a product may be tiny.
    outputs = draw_outputs(head, 4, 6) * torch.tensor([0.0, 1.0, 3.0, 8.0])[:, None, None]
    outputs.requires_grad_(with_gradient)
    params = head.params_from(outputs)
    expected = head.log_prob_columns(params, x).sum(-1)
    actual = head.log_prob_rows(params, x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-9)
    if with_gradient:
        (gradient,) = torch.autograd.grad(actual.sum(), outputs, retain_graph=True)
        (reference,) = torch.autograd.grad(expected.sum(), outputs)
        torch.testing.assert_close(gradient, reference)


@every_likelihood
def test_draws_follow_the_density(case):
    head = build_head(case)
    params_for = one_density(head)
    values, mass = tabulate(case, head, params_for)
    draws = user_units(case, head, sample(head, params_for(20_000), seed=1)).numpy()
    for j in range(head.n_columns):
        assert_follows(draws[:, j], values[:, j], np.cumsum(mass[:, j]))


@with_mean
def test_mean_matches_draws(case):
    head = build_head(case)
    params = head.params_from(draw_outputs(head, 1, 2).expand(20_000, -1, -1))
    with torch.no_grad():
        draws = head.unstandardize(head.sample(params, torch.Generator().manual_seed(0)))
        mean = head.from_expectation(head.expectation(params)).expand_as(draws)[0]
    assert_mean(draws, mean)


@with_mean
def test_expectations_of_draws_may_be_averaged(case):
    # Importance weights average expectations and then ask for columns.
    head = build_head(case)
    with torch.no_grad():
        expectation = head.expectation(head.params_from(draw_outputs(head, 2, 3)))
        each_alone = head.from_expectation(expectation)
        averaged = head.from_expectation(expectation.mean(0))
    torch.testing.assert_close(averaged, each_alone.mean(0))


@every_likelihood
def test_noise_variance_matches_draws(case):
    head = build_head(case)
    params = one_density(head)(20_000)
    with torch.no_grad():
        variance = head.noise_variance(params)
    if variance is None:
        return
    draws = head.unstandardize(sample(head, params))
    deviations = (draws - head.from_expectation(head.expectation(params))[:, 0]).square()
    assert_mean(deviations.detach(), variance.expand(20_000, 1, -1)[0, 0])


@with_mean
def test_mean_and_variance_are_those_of_the_density(case):
    head = build_head(case)
    params_for = one_density(head)
    values, mass = tabulate(case, head, params_for)
    if not case.outcome.discrete:  # the middle of each cell rather than its end
        values = values - 0.5 * np.diff(values, axis=0, prepend=values[:1])
    mean = (mass * values).sum(axis=0)
    variance = (mass * np.square(values - mean)).sum(axis=0)
    with torch.no_grad():
        expectation = head.from_expectation(head.expectation(params_for(1)))[0, 0]
        draws = user_units(case, head, sample(head, params_for(20_000), seed=2)).numpy()
    np.testing.assert_allclose(expectation, mean, rtol=1e-5, atol=1e-5)
    assert_mean(np.square(draws - mean), variance)


@of_x
def test_draws_are_in_the_support(case):
    head = build_head(case)
    params = head.params_from(draw_outputs(head, 50, 4))
    draws = head.unstandardize(head.sample(params, torch.Generator().manual_seed(0)).detach())
    assert draws.shape == (50, 4, N_COLUMNS)
    case.component.check_support(draws.flatten(0, 1).numpy())


@every_likelihood
def test_draws_come_from_the_generator_alone(case):
    head = build_head(case)
    params = head.params_from(draw_outputs(head, 2, 4))
    before = torch.get_rng_state()
    first, again = (sample(head, params, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())


@every_likelihood
def test_expected_score_is_zero(case):
    n_draws = 20_000
    head = build_head(case)
    outputs = draw_outputs(head, 1, 1).expand(n_draws, -1, -1).clone().requires_grad_()
    x = sample(head, head.params_from(outputs)).detach()
    # One row for each draw, so that the gradient of the sum is the score of each draw.
    rows = outputs.transpose(0, 1)
    log_prob = head.log_prob_columns(head.params_from(rows), x)
    (score,) = torch.autograd.grad(log_prob.sum(), outputs)
    assert_mean(score[:, 0], 0.0, name="outputs")
    # Every decoder output has a say.
    assert (score[:, 0].std(0) > 0).all()


@with_parameters
def test_expected_score_of_the_heads_parameters_is_zero(case):
    head = build_head(case)
    parameters = list(head.parameters())
    outputs = draw_outputs(head, 1, 1).expand(1, 100, -1)
    scores = []
    for seed in range(200):
        params = head.params_from(outputs)
        generator = torch.Generator().manual_seed(seed)
        x = head.sample(params, generator)[0].detach()
        gradients = torch.autograd.grad(head.log_prob_columns(params, x).sum(), parameters)
        scores.append(torch.cat([g.ravel() for g in gradients]))
    assert_mean(torch.stack(scores), 0.0)
    assert (torch.stack(scores).std(0) > 0).all()


@every_likelihood
def test_gradient_of_log_prob_matches_finite_differences(case):
    head = build_head(case)
    rows = torch.from_numpy(make_rows(case, 4, seed=1))
    x = head.standardize(rows)
    outputs = draw_outputs(head, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda o: head.log_prob_columns(head.params_from(o), x), (outputs,)
    )


@every_likelihood
@pytest.mark.parametrize("size", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_finite_however_extreme_the_outputs(case, size, dtype):
    head = build_head(case, dtype=dtype)
    x = head.standardize(torch.from_numpy(make_rows(case, 6))).to(dtype)
    signs = torch.tensor([[1.0], [-1.0]], dtype=dtype).expand(2, head.n_outputs)
    # Either end in every output alone, and in all together.
    outputs = torch.cat([size * signs, size * torch.eye(head.n_outputs, dtype=dtype)])
    outputs = outputs[:, None].repeat(1, 6, 1).requires_grad_()
    params = head.params_from(outputs)
    log_prob = head.log_prob_columns(params, x)
    gradients = torch.autograd.grad(log_prob.sum(), [outputs, *head.parameters()])
    for value in (log_prob, *gradients):
        assert torch.isfinite(value).all()
    with torch.no_grad():
        draws = head.sample(params, torch.Generator().manual_seed(0))
    assert not torch.isnan(draws).any()


@every_likelihood
def test_columns_and_rows_do_not_mix(case):
    head = build_head(case)
    x = head.standardize(torch.from_numpy(make_rows(case, 5)))
    outputs = draw_outputs(head, 2, 5)
    with torch.no_grad():
        whole = head.log_prob_columns(head.params_from(outputs), x)
        part = head.log_prob_columns(head.params_from(outputs[1:, 2:4]), x[2:4])
    assert whole.shape == (2, 5, N_COLUMNS)
    torch.testing.assert_close(part, whole[1:, 2:4])


@every_likelihood
def test_masked_column_does_not_matter(case):
    head = build_head(case)
    x = head.standardize(torch.from_numpy(make_rows(case, 6)))
    mask = torch.ones_like(x)
    mask[:, 1] = 0.0
    mask[2, 0] = 0.0
    outputs = draw_outputs(head, 2, 6).requires_grad_()
    params = head.params_from(outputs)
    columns = head.log_prob_columns(params, x)
    answers = []
    for hidden in (x, torch.where(mask > 0, x, torch.full_like(x, torch.nan)), x.flip(0)):
        entries = torch.where(mask > 0, x, hidden)
        log_prob = Observation(head, params).log_prob(entries, mask)
        features = head.features(entries, mask)
        index = head.column_of_feature
        if index is not None or features.shape == mask.shape:
            hidden_features = (mask if index is None else mask[:, index]) == 0
            assert (features[hidden_features] == 0).all()
        answers.append((log_prob, features))
    for log_prob, features in answers:
        torch.testing.assert_close(log_prob, (columns * mask).sum(-1))
        assert torch.equal(features, answers[0][1])
    # Hidden entries that are finite leave a finite gradient, which is that without the column.
    (gradient,) = torch.autograd.grad(answers[2][0].sum(), outputs, retain_graph=True)
    (expected,) = torch.autograd.grad((columns * mask).sum(), outputs)
    torch.testing.assert_close(gradient, expected)


@every_likelihood
def test_all_observed_equals_no_mask(case):
    head = build_head(case)
    x = head.standardize(torch.from_numpy(make_rows(case, 6)))
    observation = Observation(head, head.params_from(draw_outputs(head, 2, 6)))
    torch.testing.assert_close(
        observation.log_prob(x, torch.ones_like(x)), observation.log_prob(x), rtol=1e-14, atol=1e-14
    )
    assert torch.equal(head.features(x, torch.ones_like(x)), head.features(x, None))


@every_likelihood
def test_float32_agrees_with_float64(case):
    X = make_rows(case, 30)
    answers = {}
    for dtype in (torch.float32, torch.float64):
        head = build_head(case, dtype=dtype)
        assert {p.dtype for p in head.parameters()} <= {dtype}
        x = head.standardize(torch.from_numpy(X)).to(dtype)
        with torch.no_grad():
            params = head.params_from(draw_outputs(head, 2, 30))
            log_prob = head.log_prob_columns(params, x)
            features = head.features(x, None)
            mean = head.expectation(params)
            draws = head.sample(params, torch.Generator().manual_seed(0))
        assert {log_prob.dtype, features.dtype, mean.dtype, draws.dtype} == {dtype}
        answers[dtype] = log_prob.double()
    torch.testing.assert_close(answers[torch.float32], answers[torch.float64], rtol=1e-4, atol=1e-4)


@every_likelihood
def test_a_head_that_was_cast_and_cast_back_is_the_same_to_float32(case):
    head = build_head(case)
    cast = copy.deepcopy(head).to(torch.float32).to(torch.float64)
    x = head.standardize(torch.from_numpy(make_rows(case, 6)))
    # Locations and scales keep all their digits on the way.
    assert torch.equal(cast.standardize(torch.from_numpy(make_rows(case, 6))), x)
    outputs = draw_outputs(head, 2, 6)
    torch.testing.assert_close(
        cast.log_prob_columns(cast.params_from(outputs), x),
        head.log_prob_columns(head.params_from(outputs), x),
        rtol=1e-5,
        atol=1e-5,
    )


@every_likelihood
def test_initial_outputs_give_the_marginals(case):
    # At the maximum of the likelihood the mean score is zero; a correction that keeps estimates
    # off the border may move it by as much as a row or two more would.
    n_rows = 40
    head = build_head(case)
    x = head.standardize(torch.from_numpy(make_rows(case, n_rows)))
    start = head.initial_outputs()
    assert start.shape == (head.n_outputs,)
    outputs = start.expand(1, n_rows, -1).clone().requires_grad_()
    log_prob = head.log_prob_columns(head.params_from(outputs), x)
    scores, *others = torch.autograd.grad(log_prob.sum(), [outputs, *head.parameters()])
    deviation = scores[0].std(0)
    # Of a category that no row has the score is the same for all: the share it is given.
    allowed = torch.where(deviation > 0, 2.0 * deviation, torch.ones_like(deviation)) / n_rows
    assert (scores[0].mean(0).abs() < allowed).all()
    assert all((gradient.abs() < 1.0).all() for gradient in others)


@every_likelihood
def test_constant_columns_have_a_finite_start(case):
    X = np.tile(case.from_real(np.array([-1.0, 0.0, 1.0])), (5, 1))
    head = case.component.build(case.component.summarize(X), torch.float64)
    outputs = head.initial_outputs().clone().requires_grad_()
    x = head.standardize(torch.from_numpy(X))
    log_prob = head.log_prob_columns(head.params_from(outputs.expand(1, 5, -1)), x)
    gradients = torch.autograd.grad(log_prob.sum(), [outputs, *head.parameters()])
    for value in (outputs, log_prob, head.features(x, None), *gradients):
        assert torch.isfinite(value).all()


@of_x
def test_standardize_and_unstandardize_are_inverse(case):
    X = torch.from_numpy(make_rows(case, 20))
    head = build_head(case)
    torch.testing.assert_close(head.unstandardize(head.standardize(X)), X, rtol=1e-14, atol=1e-14)


@every_likelihood
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_])
def test_standardize_reads_every_dtype(case, dtype):
    X = np.array([[0, 1, 1], [1, 0, 1]])
    if not case.rows.is_closed:  # 0 is not in the support
        if case.rows.high == 1.0:
            return  # nor is any other whole number
        X = np.ones_like(X)
    head = build_head(case)
    torch.testing.assert_close(
        head.standardize(torch.from_numpy(X.astype(dtype))).double(),
        head.standardize(torch.from_numpy(X.astype(np.float64))).double(),
    )
    case.component.check_support(X.astype(dtype))


@every_likelihood
def test_a_head_can_be_loaded_into_a_blank_one(case):
    head = build_head(case)
    with torch.no_grad():
        for p in head.parameters():
            p.add_(0.1)
    blank = case.component.build(ColumnSummary.blank(N_COLUMNS), torch.float64)
    blank.load_state_dict(head.state_dict())
    X = torch.from_numpy(make_rows(case, 6))
    outputs = draw_outputs(head, 2, 6)
    answers = [h.log_prob_columns(h.params_from(outputs), h.standardize(X)) for h in (head, blank)]
    assert torch.equal(*answers)
    assert torch.equal(blank.initial_outputs(), head.initial_outputs())


@every_likelihood
def test_rows_in_the_support_are_accepted(case):
    for dtype in (np.float64, np.float32):
        case.component.check_support(make_rows(case).astype(dtype), ["a", "b", "c"])


@bounded
def test_support_errors_name_column_and_value(case):
    support = case.rows
    bad = [support.low - 37.5, support.high + 37.5]
    if support.discrete:
        bad.append(support.low + 0.25)
    if not support.is_closed:
        bad += [support.low, support.high]
    for value in [v for v in bad if not np.isinf(v)]:
        X = make_rows(case)
        X[5, 1] = value
        X[7, 0] = value
        with pytest.raises(SupportError, match=re.escape(f"column 1 holds {value!s} in row 5")):
            case.component.check_support(X)
        message = re.escape(f"column 'b' (index 1) holds {value!s} in row 5")
        with pytest.raises(SupportError, match=message) as error:
            case.component.check_support(X, ["a", "b", "c"])
        assert isinstance(error.value, ValueError)
        # The message says what was typed and what to do.
        assert str(error.value).startswith("likelihood=")
        needed, remedy = case.component.of_columns(N_COLUMNS)[1].support_hint()
        assert needed in str(error.value)
        assert str(error.value).endswith(remedy)


@every_likelihood
def test_missing_entries_are_within_every_support(case):
    X = make_rows(case)
    X[5, 1] = np.nan
    case.component.check_support(X)


@of_x
def test_residuals_are_standardised_deviations_from_the_marginals(case):
    head = build_head(case)
    residuals = head.residuals(head.standardize(torch.from_numpy(make_rows(case))))
    if residuals is None:
        return
    assert residuals.shape == (40, head.n_location_outputs)
    assert residuals.mean(0).abs().max() < 0.1
    # Columns may share one scale, in which case the mean variance is 1. Where the density fixes the
    # variance, the rows may vary less than their marginals do.
    outputs = head.initial_outputs().detach()
    draws = sample(head, head.params_from(outputs.expand(20_000, 1, -1)))
    variances = [r.var(0, correction=0).mean() for r in (residuals, head.residuals(draws))]
    assert min(abs(float(v) - 1.0) for v in variances) < 0.1


def test_density_of_rows_follows_that_of_columns_in_a_subclass():
    class Laplace(GaussianHead):
        def log_prob_columns(self, params, x):
            scaled = (x - params.mean).abs() * torch.exp(-params.log_scale)
            return -scaled - params.log_scale - np.log(2.0) - torch.log(self.scale)

    case = LIKELIHOODS[0]
    head = build_head(case)
    head.__class__ = Laplace
    x = head.standardize(torch.from_numpy(make_rows(case, 5)))
    params = head.params_from(draw_outputs(head, 2, 5))
    expected = head.log_prob_columns(params, x).sum(-1)
    torch.testing.assert_close(Observation(head, params).log_prob(x), expected)


def test_certain_bits_have_a_log_probability_of_nothing_in_float32():
    """784 columns of which each is nearly sure: large numbers do not cancel."""
    logits = torch.full((1, 1, 784), 20.0)
    logits[..., ::2] *= -1
    x = (logits[0] > 0).float()
    exact = -784 * np.log1p(np.exp(-20.0))
    assert float(sum_of_log_probs(logits, x)) == pytest.approx(exact, abs=1e-4)
    assert float(sum_of_log_probs(logits, x)) <= 0.0
