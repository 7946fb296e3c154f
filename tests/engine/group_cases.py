"""Script for `test_group.py`, launched in two processes: what they find is left in a folder."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from skvae._core._random import Streams
from skvae.engine import ALONE, ProcessGroup, Rows, Trainer
from skvae.exceptions import ProcessGroupError
from skvae.likelihoods import BernoulliLikelihood, GaussianLikelihood
from skvae.networks import MLP, TorchNetwork
from skvae.objectives import IWAE, SGVB
from skvae.posteriors import LowRankPrecisionPosterior
from skvae.priors import MixturePrior
from skvae.solvers import SGD, Adam
from tests.engine.toy import Diary, plan_of
from tests.estimators.small import factor_rows
from tests.helpers import build_model

HIDDEN = {"encoder": MLP(hidden_layer_sizes=(6,)), "decoder": MLP(hidden_layer_sizes=(6,))}


class Hashes(Diary):
    """Observer that takes note of all weights and buffers after each epoch."""

    def __init__(self, trainer, **parameters):
        super().__init__(**parameters)
        self.trainer = trainer
        self.of_epochs = []

    def epoch_ends(self, report):
        digest = hashlib.sha256()
        for model in self.trainer.models:
            for t in (*model.parameters(), *model.buffers()):
                digest.update(t.detach().numpy().tobytes())
        self.of_epochs.append(digest.hexdigest())
        return super().epoch_ends(report)


def normalised(n_in, n_out):
    """A network that keeps running statistics in buffers."""
    return torch.nn.Sequential(
        torch.nn.Linear(n_in, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, n_out)
    )


def holed(X):
    """The rows with missing entries."""
    X = X.copy()
    X[np.random.default_rng(3).uniform(size=X.shape) < 0.15] = np.nan
    return X


def rows_for(model, X, index):
    """Some rows, as the model reads them."""
    head = model.observation_head
    placeholder = head.placeholder if np.isnan(X).any() else None
    kinds = {"dtype": torch.float64, "device": torch.device("cpu"), "placeholder": placeholder}
    return Rows(X, head.standardize, index=index, **kinds)


def train(group, X, *, objective=None, solver=None, n_held_out=15, n_models=1, **parameters):
    """Trainer of a model after four epochs, the diary of it, and the result."""
    plan = {"batch_size": 10, "learning_rate": 0.02}
    plan |= {name: parameters.pop(name) for name in list(parameters) if name in PLANS}
    models = [build_model(X, **HIDDEN | parameters, seed=seed) for seed in range(n_models)]
    plan = plan_of(4, **plan)
    bound = (SGVB() if objective is None else objective).build(1000)
    solver = Adam(warmup_steps=3) if solver is None else solver
    n_rows = len(X) - n_held_out
    trainer = Trainer(models[0], bound, solver, plan, Streams(5), n_rows, models[1:], group=group)
    training = rows_for(models[0], X, np.arange(n_rows))
    held_out = rows_for(models[0], X, np.arange(n_rows, len(X))) if n_held_out else None
    hashes = Hashes(trainer)
    result = trainer.train(training, plan, validation=held_out, observer=hashes)
    return trainer, hashes, result


PLANS = {"batch_size", "learning_rate", "prior_precision", "weight_posterior", "patience"}
X = factor_rows(60)

# Five steps an epoch of 45 rows, 20 in all, unless told otherwise; the last batch has 5 rows.
CASES = {
    "default": {},
    "odd batches": {"batch_size": 9},
    "fewer rows than processes": {"batch_size": 1, "n_held_out": 55},
    "no rows left for one": {"batch_size": 22, "n_held_out": 15},
    "one row held out": {"n_held_out": 1},
    "autograd": {"objective": IWAE(n_draws=3), "posterior": LowRankPrecisionPosterior(rank=1)},
    "uncertain weights": {"weight_posterior": True, "prior_precision": 1.0},
    "free bits": {"objective": SGVB(free_bits=0.3, n_draws=2)},
    "missing entries": {"X": holed(X)},
    "clipped, with a prior": {"solver": SGD(clip_norm=0.5), "prior_precision": 3.0},
    "dropout": {"encoder": MLP(hidden_layer_sizes=(6,), dropout=0.3)},
    "drawn binary": {
        "X": 1 / (1 + np.exp(-factor_rows(60))),
        "likelihood": BernoulliLikelihood(binarize="dynamic"),
    },
    "restarts": {"n_models": 3, "n_held_out": 0},
    "mixture": {"prior": MixturePrior(n_components=2)},
    "predicted noise": {"likelihood": GaussianLikelihood(noise="predicted")},
}
# What depends on the rows that are computed together is not that of a single process.
NOT_EQUAL = {"running statistics": {"encoder": TorchNetwork(factory=normalised)}}


def compare(name, case):
    """How far apart are the weights of a single process and those of the group?"""
    case = {"X": X} | case
    trainer, hashes, result = train(ProcessGroup.current(), **case)
    alone, _, expected = train(ALONE, **case)
    pairs = zip(trainer.step.weights(), alone.step.weights(), strict=True)
    return {
        "difference": max(float((a - b).abs().max()) for a, b in pairs),
        "bounds": np.abs(np.subtract(result.bounds, expected.bounds)).max(),
        "scores": np.abs(
            np.subtract(result.validation_scores or [0.0], expected.validation_scores or [0.0])
        ).max(),
        "hashes": hashes.of_epochs,
        "n_steps": float(trainer.clock.step),
    }


def message_of(action):
    """The error that something ends with."""
    try:
        action()
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


class Asking(Diary):
    """Observer that asks to stop on one process only, or raises something there."""

    def __init__(self, group, what, rank):
        super().__init__()
        self.mine, self.what = group.rank == rank, what

    def epoch_ends(self, report):
        super().epoch_ends(report)
        if not self.mine or report.epoch < 2:
            return False
        if self.what is not None:
            raise self.what("no further")
        return True


def asked(what, rank):
    """How training ends that one process asks to end, after how many epochs."""
    group = ProcessGroup.current()
    model = build_model(X, **HIDDEN)
    plan = plan_of(4, batch_size=10, learning_rate=0.02)
    trainer = Trainer(model, SGVB().build(9), Adam(), plan, Streams(0), 60, group=group)
    observer = Asking(group, what, rank)
    found = []

    def run():
        result = trainer.train(rows_for(model, X, None), plan, observer=observer)
        found.append(result.status.name)

    return [message_of(run), *found, len(observer.reports)]


def unlike():
    """Processes that were given different parameters."""
    rank = ProcessGroup.current().rank
    return message_of(lambda: train(ProcessGroup.current(), X, batch_size=10 + rank))


def main(folder):
    """All of it."""
    dist.init_process_group("gloo")
    group = ProcessGroup.current()
    found = {name: compare(name, case) for name, case in (CASES | NOT_EQUAL).items()}
    found["stop"] = asked(None, 1)
    found["interrupt"] = asked(KeyboardInterrupt, 1)
    found["error"] = asked(ZeroDivisionError, 0)
    found["unlike"] = unlike()
    own = np.arange(3 + group.rank)[:, None] + np.array([[0.5, 100.0 * group.rank]])
    found["gathered"] = group.gather(own).tolist()
    found["flags"] = group.gather(
        np.array([True] * group.rank, dtype=bool if group.rank else float)
    ).tolist()
    found["integer"] = group.integer(7 + group.rank)
    # At last, since the group is of no use afterwards.
    if group.rank == 0:
        try:
            group.sum_(torch.ones(3))
        except ProcessGroupError as error:
            found["lost"] = str(error)
    dist.destroy_process_group()
    (folder / f"{group.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
