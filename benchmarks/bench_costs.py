"""What do encoding, scoring, the linear start, restarts and memory cost, and how does cost grow?

Encoding and scoring are compared with the plain ways to do the same with PyTorch, on the same
weights, and with pythae where it is installed; a row of scoring takes 5,000 draws. "products only"
are the bare matrix products by the quicker of torch's two libraries for them. Models side by side
share one step, and their time is per model. Peak memory is that of a fresh process which fits one
epoch, above the process with the data alone. Width is that of two hidden layers. Growth is the
slope of log time against log size, over sizes that differ by 8 to 16 times; 1 is proportional.
Times are the processor's, on one thread, unless said otherwise.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _canonical import curve
from _common import (
    interleave,
    load_images,
    markdown_table,
    parse,
    parser,
    pin,
    result_name,
    write_results,
)
from _peers import Pythae, pythae_curve
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from skvae import VariationalAutoencoder
from skvae._core._batch import Batch
from skvae._core._products import products_into
from skvae.engine import TrainingStep
from skvae.engine._chunk import Chunk
from skvae.likelihoods import BernoulliLikelihood
from skvae.models import build_autoencoder
from skvae.networks import MLP
from skvae.objectives import SGVB
from skvae.posteriors import DiagonalPosterior
from skvae.priors import StandardNormalPrior
from skvae.solvers import Adam
from skvae.solvers._base import LearningRate

N_DRAWS = 5000


def table(n_rows: int, n_columns: int = 50) -> np.ndarray:
    """Rows of ten factors and noise, float32."""
    rng = np.random.default_rng(0)
    loadings = rng.standard_normal((10, n_columns), dtype=np.float32) / 3
    X = np.empty((n_rows, n_columns), dtype=np.float32)
    for part in np.array_split(np.arange(n_rows), max(1, n_rows // 10_000)):
        factors = rng.standard_normal((len(part), 10), dtype=np.float32)
        noise = rng.standard_normal((len(part), n_columns), dtype=np.float32)
        X[part[0] : part[-1] + 1] = factors @ loadings + 0.3 * noise
    return X


def jittered_digits() -> np.ndarray:
    """The digits of scikit-learn with uniform noise, since a density of integers says nothing."""
    X = load_digits().data
    return X + np.random.RandomState(0).uniform(size=X.shape)


def plain(*n_hidden: int) -> MLP:
    """The network that everybody writes."""
    return MLP(hidden_layer_sizes=n_hidden, linear_path=False)


def fitted(X: np.ndarray, n_epochs: int = 1, **parameters) -> VariationalAutoencoder:
    """Estimator that has been trained for some epochs without held-out rows."""
    model = VariationalAutoencoder(
        max_iter=n_epochs,
        early_stopping=False,
        n_iter_no_change=n_epochs + 1,
        random_state=0,
        **parameters,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X)


def medians(tasks: dict[str, Callable[[], object]], args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of tasks that take turns."""
    seconds = interleave(tasks, args.repeats, args.device)
    return {name: statistics.median(times) for name, times in seconds.items()}


def encoding(args: argparse.Namespace) -> list[dict]:
    """Posterior means of a long table."""
    X = table(args.n_rows)
    model = fitted(X[:5000], n_components=10, encoder=plain(128), decoder=plain(128))
    rows = torch.from_numpy(X)
    encoder = nn.Sequential(nn.Linear(50, 128), nn.ReLU(), nn.Linear(128, 20))

    @torch.no_grad()
    def one_shot() -> np.ndarray:
        return encoder(rows)[:, :10].numpy()

    @torch.no_grad()
    def loader() -> np.ndarray:
        batches = DataLoader(TensorDataset(rows), batch_size=512)
        return np.concatenate([encoder(x)[:, :10].numpy() for (x,) in batches])

    seconds = medians(
        {
            "DataLoader": loader,
            "module, all at once": one_shot,
            "skvae": lambda: model.transform(X),
        },
        args,
    )
    ours = seconds["skvae"]
    return [
        {"transform, rows": len(X), "way": way, "ms": 1e3 * s, "skvae is faster by": s / ours}
        for way, s in seconds.items()
    ]


def scoring(args: argparse.Namespace) -> list[dict]:
    """Log-likelihoods of binary images by importance sampling."""
    rng = np.random.default_rng(0)
    X = (rng.random((2000, 784)) < 0.2).astype(np.float32)
    estimator = fitted(
        X,
        n_components=20,
        encoder=plain(500),
        decoder=plain(500),
        likelihood="bernoulli",
        init="random",
        n_score_draws=N_DRAWS,
    )
    model, some = estimator.model_, X[: args.n_scored]
    # Of torch's own layers, which the one who writes it plainly would take.
    decoder = nn.Sequential(nn.Linear(20, 500), nn.ReLU(), nn.Linear(500, 784))
    own = [*model.decoder.hidden, model.decoder.output]
    with torch.no_grad():
        for layer, ours in zip(decoder[::2], own, strict=True):
            layer.weight.copy_(ours.weight.T)
            layer.bias.copy_(ours.bias)

    @torch.no_grad()
    def naive() -> list[Tensor]:
        """As in tutorials: a row at a time, all of its draws at once."""
        results = []
        for x in torch.from_numpy(some).split(1):
            q = model.posterior_head(model.encoder(model.observation_head.features(x, None)))
            noise = torch.randn(N_DRAWS, 20)
            z = q.mean + torch.exp(q.log_scale) * noise
            logits = decoder(z)
            x = x.expand(N_DRAWS, -1)
            fit = functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
            ratio = -0.5 * (z**2 - noise**2).sum(1) + q.log_scale.sum()
            results.append(torch.logsumexp(ratio - fit, 0) - math.log(N_DRAWS))
        return results

    # As many draws at a time as stay in the cache.
    z, hidden = torch.randn(1, 250, 20), torch.randn(1, 250, 500)
    first, second = torch.randn(1, 20, 500), torch.randn(1, 500, 784)
    into, out = torch.empty(1, 250, 500), torch.empty(1, 250, 784)

    @torch.no_grad()
    def products(product: Callable[..., object]) -> None:
        for _ in range(len(some) * N_DRAWS // 250):
            product(into, z, first)
            product(out, hidden, second)

    tasks = {
        "naive": naive,
        "skvae": lambda: estimator.score_samples(some),
        "products only": lambda: products(products_into),
        "products only, torch's BLAS": lambda: products(lambda out, a, b: torch.bmm(a, b, out=out)),
    }
    if Pythae.is_installed():
        peer = Pythae(
            X, n_hidden=500, n_latent=20, batch_size=100, likelihood="bernoulli", device="cpu"
        )
        peer.fit(1)
        few = torch.from_numpy(X[: max(1, len(some) // 5)])
        tasks["pythae"] = torch.no_grad()(lambda: peer.model.get_nll(few, n_samples=N_DRAWS))
    seconds = medians(tasks, args)
    per_row = {way: 1e3 * s / len(some) for way, s in seconds.items()}
    if Pythae.is_installed():
        per_row["pythae"] *= len(some) / len(few)
    return [
        {
            "score_samples": f"{N_DRAWS} draws",
            "way": way,
            "ms per row": ms,
            "skvae is faster by": ms / per_row["skvae"],
        }
        for way, ms in per_row.items()
    ]


def side_by_side(args: argparse.Namespace) -> list[dict]:
    """A step of the small table's model, alone and beside others."""
    X = np.random.default_rng(0).random((1797, 64)).astype(np.float32)
    likelihood = BernoulliLikelihood(soft=True)
    tasks, sizes = {}, (1, 6, 32)
    for n_models in sizes:
        models = [
            build_autoencoder(
                n_latent=2,
                summary=likelihood.summarize(X),
                likelihood=likelihood,
                prior=StandardNormalPrior(),
                posterior=DiagonalPosterior(),
                encoder=plain(64),
                decoder=plain(64),
                dtype=torch.float32,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in range(n_models)
        ]
        rate = LearningRate(1e-3, 0, 0, torch.device("cpu"))
        step = TrainingStep(models, SGVB().build(1000), Adam(), rate)
        chunk = Chunk(
            models, Batch(torch.empty(1, 64)), n_draws=1, n_steps=8, n_rows=64, with_features=True
        )
        chunk.rows.x.copy_(torch.rand(chunk.rows.x.shape))
        chunk.prepare(chunk.n_steps, torch.Generator())

        def some(step: TrainingStep = step, chunk: Chunk = chunk) -> None:
            for _ in range(20):
                step.run(chunk.steps)

        tasks[str(n_models)] = some
    n_epochs, n_steps = (1, 29) if args.smoke else (5, 5 * 29)
    if Pythae.is_installed():
        peer = Pythae(
            X, n_hidden=64, n_latent=2, batch_size=64, likelihood="bernoulli", device="cpu"
        )
        tasks |= {n: (lambda n=n: peer.fit(n)) for n in (1, 1 + n_epochs)}
    seconds = medians(tasks, args)
    per_step = {f"skvae, {n} models": seconds[str(n)] / 160 / n for n in sizes}
    if Pythae.is_installed():
        per_step["pythae, 1 model"] = (seconds[1 + n_epochs] - seconds[1]) / n_steps
    alone = per_step["skvae, 1 models"]
    return [
        {
            "side by side": way.replace(" 1 models", " 1 model"),
            "µs per step and model": 1e6 * s,
            "speed (1 model of skvae = 1)": alone / s,
        }
        for way, s in per_step.items()
    ]


def start(args: argparse.Namespace) -> list[dict]:
    """The linear start, its share of a default fit, and factor analysis.

    The images (in grey values, with a Bernoulli likelihood) are 784 columns wide; the table has 50.
    """
    sets = {
        "images": (load_images(args).train, 20, {"likelihood": BernoulliLikelihood(soft=True)}),
        "long table": (table(args.n_rows), 10, {}),
    }
    if not (args.full or args.smoke):
        sets["images"] = (sets["images"][0][:6000], *sets["images"][1:])
    original, rows = VariationalAutoencoder._start, []
    for name, (X, n_latent, parameters) in sets.items():
        spent: list[float] = []

        def watched(self, *arguments, spent=spent):
            began = time.process_time()
            result = original(self, *arguments)
            spent.append(time.process_time() - began)
            return result

        VariationalAutoencoder._start = watched
        try:
            model = VariationalAutoencoder(n_latent, random_state=0, **parameters)
            whole = seconds_of(lambda model=model, X=X: model.fit(X))
        finally:
            VariationalAutoencoder._start = original
        analysis = FactorAnalysis(n_latent, svd_method="randomized")
        theirs = seconds_of(lambda analysis=analysis, X=X: analysis.fit(X))
        rows.append(
            {
                "data": name,
                "rows": len(X),
                "default fit, s": whole,
                "epochs": model.n_iter_,
                "start, s": spent[0],
                "share of the fit, %": 100 * sum(spent) / whole,
                "FactorAnalysis, s": theirs,
                "start is faster by": theirs / spent[0],
            }
        )
    return rows


def seconds_of(task: Callable[[], object]) -> float:
    """Processor seconds of a task, all of whose threads share one core."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        task()
    return time.process_time() - began


def whole_fit(args: argparse.Namespace) -> list[dict]:
    """A default fit, start and judgement included, beside plain loops at their best.

    The usual loop's best held-out bound is chosen on the held-out rows, and the time is that until
    a loop first came within 0.05 nats of it; nobody tells a user when that is. Then the same for
    the bound of our default fit. Times are medians, those of loops of three seeds. All have two
    latent variables. The log-likelihood is exact for PCA and factor analysis, an estimate for ours,
    and never below the bound.
    """
    sets = {"digits": jittered_digits(), "breast cancer": load_breast_cancer().data}
    n_seeds, limit = (1, 0.5) if args.smoke else (3, 20.0)
    loops = {"usual loop": lambda *a, **k: curve(*a, with_loader=True, **k)}
    if Pythae.is_installed():
        loops["pythae"] = pythae_curve
    rows = []
    for name, X in sets.items():
        train, test = train_test_split(X, random_state=0)
        model = VariationalAutoencoder(2, random_state=0)
        models = {"skvae, default": model, "PCA": PCA(2), "FactorAnalysis": FactorAnalysis(2)}
        ours = None
        for way, estimator in models.items():
            fits = range(args.repeats + 1)  # the first warms up
            times = [seconds_of(lambda e=estimator, X=train: e.fit(X)) for _ in fits][1:]
            seconds = statistics.median(times)
            ours = seconds if ours is None else ours
            bound = model.lower_bound(test).mean() if estimator is model else None
            rows.append(
                {
                    "data": name,
                    "fit": way,
                    "s": seconds,
                    "held-out bound": "" if bound is None else f"{bound:.2f}",
                    "held-out log-likelihood": f"{estimator.score(test):.2f}",
                    "default fit is faster by": seconds / ours,
                }
            )
        curves = {
            way: [run(train, test, n_latent=2, seconds=limit, seed=i) for i in range(n_seeds)]
            for way, run in loops.items()
        }
        best = [max(bound for _, bound in points) for points in curves["usual loop"]]
        levels = {
            "usual loop's best": [bound - 0.05 for bound in best],
            "our bound": [float(model.lower_bound(test).mean())] * n_seeds,
        }
        for level, bounds in levels.items():
            for way, runs in curves.items():
                times = [
                    next((s for s, b in points if b >= bound), math.inf)
                    for points, bound in zip(runs, bounds, strict=True)
                ]
                seconds = statistics.median(times)
                never = math.isinf(seconds)
                rows.append(
                    {
                        "data": name,
                        "fit": f"{way} to {level}",
                        "s": f"not in {limit:g}" if never else seconds,
                        "held-out bound": f"{statistics.median(bounds):.2f}",
                        "held-out log-likelihood": "",
                        "default fit is faster by": f"> {limit / ours:.3g}"
                        if never
                        else seconds / ours,
                    }
                )
    return rows


MEMORY = """
import re, sys
import numpy as np
sys.path.insert(0, {folder!r})
from bench_costs import fitted, plain, table

def peak():
    # Not ru_maxrss, which begins with what the parent process had.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

X = table({n_rows})
fitted(X[:2000], n_components=10, encoder=plain(128), decoder=plain(128), batch_size=512)
before = peak()
fitted(X, n_components=10, encoder=plain(128), decoder=plain(128), batch_size=512)
print(peak() - before)
"""


def memory(args: argparse.Namespace) -> list[dict]:
    """Peak memory of a fit beyond its data."""
    folder = str(Path(__file__).parent)
    code = MEMORY.format(folder=folder, n_rows=args.n_rows)
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return [
        {
            "rows": args.n_rows,
            "data, MB": args.n_rows * 50 * 4 / 2**20,
            "peak above it, MB": float(output),
        }
    ]


SEARCH = """
import os, statistics, sys, time, warnings
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))
sys.path.insert(0, {folder!r})
from bench_costs import jittered_digits, table
from sklearn.model_selection import cross_val_score
from skvae import VariationalAutoencoder

if {wide}:
    X = table({n_rows}, 400)
    model = VariationalAutoencoder(
        20, hidden_layer_sizes=(512,), max_iter={n_epochs[1]}, early_stopping=False, random_state=0
    )
else:
    X = jittered_digits()[:{n_rows}]
    model = VariationalAutoencoder(2, max_iter={n_epochs[0]}, random_state=0)
os.environ["PYTHONWARNINGS"] = "ignore"
warnings.simplefilter("ignore")
# Workers are started, and have imported, before the clock is.
cross_val_score(model, X[:100], cv=2, n_jobs={n_jobs})
times = []
for _ in range({n_repeats}):
    began = time.perf_counter()
    cross_val_score(model, X, cv=4, n_jobs={n_jobs})
    times.append(time.perf_counter() - began)
print(statistics.median(times))
"""


def processes_and_threads(args: argparse.Namespace) -> list[dict]:
    """Wall time of four folds of `cross_val_score`, by processes and threads in each.

    The small one is a default fit of digits; the wide one has 400 columns and 512 hidden units.
    Processes run already. ``OMP_PROC_BIND`` is unset here: it would bind all of them to one core.
    """
    rows = []
    n_rows = {False: 100, True: 400} if args.smoke else {False: 1797, True: 8000}
    grid = [(1, 1)] if args.smoke else [(1, 1), (1, 2), (2, 1), (2, 2)]
    for n_jobs, n_threads in grid:
        row: dict[str, object] = {"n_jobs": n_jobs, "OMP_NUM_THREADS": n_threads}
        for name, wide in [("digits, s", False), ("wide model, s", True)]:
            code = SEARCH.format(
                folder=str(Path(__file__).parent),
                wide=wide,
                n_epochs=(2, 2) if args.smoke else (1000, 4),
                n_rows=n_rows[wide],
                n_jobs=n_jobs,
                n_repeats=min(args.repeats, 3),
            )
            threads = {f"{library}_NUM_THREADS": str(n_threads) for library in ("OMP", "MKL")}
            environment = {k: v for k, v in os.environ.items() if k != "OMP_PROC_BIND"} | threads
            output = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            ).stdout
            row[name] = float(output)
        rows.append(row)
    return rows


def growth(args: argparse.Namespace) -> list[dict]:
    """Seconds of an epoch against rows, columns, width and draws, each by itself."""
    scale = 1 if not args.smoke else 16

    def epoch(
        n_rows: int, n_columns: int = 50, n_hidden: tuple[int, ...] = (128,), n_draws: int = 1
    ) -> float:
        X = table(n_rows // scale, n_columns)
        parameters = {
            "n_components": 10,
            "encoder": plain(*n_hidden),
            "decoder": plain(*n_hidden),
            "objective": SGVB(n_draws=n_draws),
            "init": "random",
            "batch_size": 512,
        }
        times = []
        for _ in range(args.repeats):
            began = time.process_time()
            fitted(X, 1, **parameters)
            middle = time.process_time()
            fitted(X, 3, **parameters)
            times.append((time.process_time() - middle - (middle - began)) / 2)
        # On the small data of a smoke run the difference may be none.
        return max(statistics.median(times), 1e-6)

    series = {
        "rows": [(n, lambda n=n: epoch(n)) for n in (16_000, 64_000, 256_000)],
        "columns": [(p, lambda p=p: epoch(16_000, p)) for p in (256, 1024, 2048)],
        "width squared": [(h * h, lambda h=h: epoch(4_000, 50, (h, h))) for h in (512, 1024, 2048)],
        "draws": [(k, lambda k=k: epoch(8_000, n_draws=k)) for k in (8, 32, 128)],
    }
    rows = []
    for name, points in series.items():
        sizes, seconds = zip(*[(size, run()) for size, run in points], strict=True)
        slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        rows.append(
            {
                "time against": name,
                "sizes": ", ".join(map(str, sizes)),
                "seconds of an epoch": ", ".join(f"{s:.3g}" for s in seconds),
                "slope": float(slope),
            }
        )
    return rows


PARTS = [
    encoding,
    scoring,
    side_by_side,
    whole_fit,
    start,
    memory,
    growth,
    processes_and_threads,
]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="a million rows (minutes)")
    options.add_argument("--only", help="measure this part only, and keep the other results")
    options.add_argument("--repeats", type=int, help="repetitions of each measurement (5)")
    args = parse(options)
    pin(args)
    if args.repeats is None:
        args.repeats = 1 if args.smoke else 5
    args.n_rows = 4_000 if args.smoke else 1_000_000 if args.full else 200_000
    args.n_scored = 2 if args.smoke else 20
    results, tables = {}, []
    path = args.output / f"{result_name(args, 'costs')}.json"
    for part in PARTS:
        if args.only in (None, part.__name__):
            rows = part(args)
        else:
            rows = json.loads(path.read_text())[part.__name__]
        results[part.__name__] = rows
        tables.append(f"{inspect.cleandoc(part.__doc__)}\n\n{markdown_table(rows)}")
        print(tables[-1], flush=True)
    text = "\n\n".join(
        [f"# {__doc__.splitlines()[0]}", *__doc__.strip().split("\n\n")[1:], *tables]
    )
    write_results(args, "costs", text=text, results=results)


if __name__ == "__main__":
    main()
