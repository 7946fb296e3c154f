"""Searches find what they find in one process, whoever runs their fits."""

import warnings

import numpy as np
import optuna
import pytest
from dask.distributed import Client, LocalCluster
from joblib import parallel_config
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score

from tests.estimators.small import STILL_RISING, factor_rows, small_vae

pytestmark = [
    pytest.mark.filterwarnings(STILL_RISING),
    pytest.mark.filterwarnings("ignore:No latent component is active"),
]

GRID = {"n_components": [0, 2]}


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one worker, in this process."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as local,
        Client(local) as client,
    ):
        yield client


def grid_search():
    return GridSearchCV(small_vae(), GRID, cv=2)


def halving_search():
    return HalvingGridSearchCV(
        small_vae(init="random"),
        {"n_components": [1, 2, 3]},
        resource="max_iter",
        min_resources=1,
        max_resources=3,
        factor=3,
        cv=2,
        random_state=0,
    )


@pytest.fixture(scope="module", params=[grid_search, halving_search])
def search_and_serial(request):
    """A search, and what it finds fit by fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return request.param, request.param().fit(factor_rows())


def assert_same_search(found, expected):
    assert found.best_params_ == expected.best_params_
    for name in ("mean_test_score", "rank_test_score"):
        np.testing.assert_array_equal(found.cv_results_[name], expected.cv_results_[name])
    X = factor_rows()
    np.testing.assert_array_equal(found.transform(X), expected.transform(X))


def test_processes_find_what_one_process_finds(search_and_serial):
    search, serial = search_and_serial
    with parallel_config(backend="loky", n_jobs=2, inner_max_num_threads=1):
        assert_same_search(search().fit(factor_rows()), serial)


def test_dask_finds_what_one_process_finds(search_and_serial, cluster):
    search, serial = search_and_serial
    with parallel_config(backend="dask", n_jobs=2):
        assert_same_search(search().fit(factor_rows()), serial)


@pytest.mark.slow
def test_ray_finds_what_one_process_finds(search_and_serial):
    pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    register_ray()
    search, serial = search_and_serial
    with parallel_config(backend="ray", n_jobs=2):
        assert_same_search(search().fit(factor_rows()), serial)


@pytest.fixture
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def test_optuna_finds_what_a_grid_search_finds(quiet):
    X = factor_rows()

    def score(trial):
        n_components = trial.suggest_categorical("n_components", GRID["n_components"])
        return cross_val_score(small_vae(n_components), X, cv=2).mean()

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GridSampler(GRID))
    study.optimize(score)
    serial = grid_search().fit(X)
    assert study.best_params == serial.best_params_
    by_optuna = {trial.params["n_components"]: trial.value for trial in study.trials}
    by_grid = dict(zip(GRID["n_components"], serial.cv_results_["mean_test_score"], strict=True))
    assert by_optuna == pytest.approx(by_grid)


def test_optuna_prunes_between_passes_over_the_rows(quiet):
    X = factor_rows(200)
    train, held_out = X[:150], X[150:]

    def score(trial):
        rate = trial.suggest_categorical("learning_rate_init", [1e-2, 1e-9])
        vae = small_vae(init="random", learning_rate_init=rate)
        for n_passes in range(1, 21):
            trial.report(vae.partial_fit(train).score(held_out), n_passes)
            if trial.should_prune():
                raise optuna.TrialPruned
        return vae.score(held_out)

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=3),
    )
    for rate in (1e-2, 1e-9):
        study.enqueue_trial({"learning_rate_init": rate})
    study.optimize(score, n_trials=2)
    good, bad = study.trials
    assert good.state is optuna.trial.TrialState.COMPLETE
    assert bad.state is optuna.trial.TrialState.PRUNED
    assert len(bad.intermediate_values) < 20
