"""Training in turn, as in expectation maximisation."""

import numpy as np
import pytest
import torch

from skvae import DeepLatentGaussianModel, VariationalAutoencoder
from skvae.solvers import SGD, Adam, AdamW
from tests.estimators.small import STILL_RISING, factor_rows, small_vae
from tests.helpers import linear_gaussian_of

pytestmark = [
    pytest.mark.filterwarnings(STILL_RISING),
    pytest.mark.filterwarnings("ignore:No latent component is active"),
]


def states(estimator, X, n_epochs):
    """Parameters by name before and after each of some epochs."""
    found = []
    for _ in range(n_epochs):
        estimator.partial_fit(X)
        found.append({n: p.clone() for n, p in estimator.model_.named_parameters()})
    return found


def moved(before, after):
    """Parts of the model that have moved."""
    return {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}


@pytest.mark.parametrize("solver", [Adam(), AdamW(), SGD()], ids=repr)
@pytest.mark.parametrize(
    "estimator",
    [
        small_vae(posterior="low_rank", alpha=1.0),
        small_vae(hidden_layer_sizes=(), likelihood="gaussian"),
        small_vae(prior="mixture", posterior="flow"),
        DeepLatentGaussianModel(
            (1, 2), hidden_layer_sizes=(4,), recognition="bottom_up", init="random", random_state=0
        ),
    ],
    ids=["low_rank", "linear", "mixture", "layers"],
)
def test_phases_alternate(estimator, solver):
    """Within a phase the other side does not move, whatever momentum it had."""
    X = factor_rows(60)
    estimator.set_params(fit_order="em", n_phase_epochs=2, init="random", solver=solver)
    recognition, generative = {"encoder", "posterior_head"}, set()
    found = states(estimator, X, 8)
    for i in range(1, 8):
        parts = moved(found[i - 1], found[i])
        if i // 2 % 2 == 0:
            assert "encoder" in parts and parts <= recognition
        else:
            generative |= parts
            assert "decoder" in parts and not parts & recognition
    assert generative >= {"decoder", "observation_head"}
    if isinstance(estimator, VariationalAutoencoder) and estimator.prior == "mixture":
        assert "prior_head" in generative


def test_evidence_stays_and_the_bound_rises_to_it_then_both_rise():
    """On the data of the tutorial, with every quantity exact (papers: 2208.07818, section 2)."""
    rng = np.random.RandomState(42)
    loadings = np.array([[-0.5, -1.0], [-1.0, -1.0], [2.0, 0.5]])
    z = rng.normal(size=(2, 1000, 2))
    X = z[0] @ loadings.T + np.array([0.4, 0.2, 0.3]) * rng.normal(size=(1000, 3))
    vae = VariationalAutoencoder(
        2,
        hidden_layer_sizes=(),
        posterior="full",
        init="random",
        fit_order="em",
        n_phase_epochs=4,
        solver=Adam(warmup_steps=0),
        learning_rate_init=0.02,
        batch_size=50,
        n_score_draws=400,
        random_state=0,
    )
    ends = []
    for _ in range(6):
        evidence, bounds = [], []
        for _ in range(4):
            vae.partial_fit(X)
            evidence.append(linear_gaussian_of(vae.model_).log_prob(X).mean())
            bounds.append(vae.lower_bound(X).mean())
        ends.append((evidence, bounds))
    for phase, (evidence, bounds) in enumerate(ends):
        gap = evidence[-1] - bounds[-1]
        if phase % 2 == 0:
            np.testing.assert_allclose(evidence, evidence[0], rtol=1e-12)
            assert gap < 0.02  # tight: the exact posterior is in the family
            if phase:
                assert bounds[-1] > ends[phase - 1][1][-1] + 0.02
        else:
            before = ends[phase - 1]
            assert bounds[-1] > before[1][-1] + 0.05
            assert evidence[-1] - before[0][-1] > bounds[-1] - before[1][-1] - 0.01
            assert gap > 0.05
    saturated = -0.5 * (3 * np.log(2 * np.pi) + np.linalg.slogdet(np.cov(X.T, bias=True))[1] + 3)
    assert ends[0][0][0] < ends[-1][0][-1] < saturated + 1e-6


def test_in_turn_reaches_factor_analysis():
    X = factor_rows(400, 5)
    vae = VariationalAutoencoder(
        2,
        hidden_layer_sizes=(),
        init="random",
        fit_order="em",
        n_phase_epochs=1,
        early_stopping=False,
        max_iter=400,
        learning_rate_init=0.02,
        random_state=0,
    ).fit(X)
    linear = VariationalAutoencoder(2, hidden_layer_sizes=(), random_state=0).fit(X)
    assert vae.score(X) > linear.score(X) - 0.05


def test_default_fit_in_turn_is_never_worse_than_its_start():
    X = factor_rows(150)
    start = small_vae(max_iter=1, learning_rate_init=1e-12).fit(X)
    vae = small_vae(fit_order="em", n_phase_epochs=3, max_iter=30).fit(X)
    assert vae.score(X) > start.score(X) - 0.05
    assert vae.n_iter_ >= 6


def test_a_prior_made_of_the_encoder_is_refused():
    with pytest.raises(ValueError, match="fit_order='em' trains the recognition model"):
        small_vae(fit_order="em", prior="vamp").fit(factor_rows())


def test_another_order_may_follow():
    X = factor_rows(60)
    vae = small_vae(fit_order="em", n_phase_epochs=1, warm_start=True).fit(X)
    n_epochs = vae.n_iter_
    vae.set_params(fit_order="joint").fit(X)
    assert vae.n_iter_ > n_epochs and np.isfinite(vae.score(X))
