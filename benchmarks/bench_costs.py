"""What do encoding, scoring, the linear start, restarts and memory cost, and how does cost grow?

Encoding and scoring are compared with the plain ways to do the same with PyTorch, on the same
weights; a row of scoring takes 5,000 draws. Models side by side share one step, and their time is
per model. Peak memory is that of a fresh process which fits one epoch, above the process with the
data alone. Width is that of two hidden layers. Growth is the slope of log time against log size,
over sizes that differ by 8 to 16 times; 1 is proportional.
"""

from __future__ import annotations

import argparse
import math
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
from _common import interleave, markdown_table, parse, parser, pin, write_results
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from skvae import VariationalAutoencoder
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

    @torch.no_grad()
    def naive() -> list[Tensor]:
        """As in tutorials: a row at a time, all of its draws at once."""
        results = []
        for x in torch.from_numpy(some).split(1):
            q = model.posterior_head(model.encoder(model.observation_head.features(x, None)))
            noise = torch.randn(N_DRAWS, 20)
            z = q.mean + torch.exp(q.log_scale) * noise
            logits = model.decoder(z)
            x = x.expand(N_DRAWS, -1)
            fit = functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
            ratio = -0.5 * (z**2 - noise**2).sum(1) + q.log_scale.sum()
            results.append(torch.logsumexp(ratio - fit, 0) - math.log(N_DRAWS))
        return results

    z, hidden = torch.randn(1000, 20), torch.randn(1000, 500)
    first, second = torch.randn(20, 500), torch.randn(500, 784)
    into, out = torch.empty(1000, 500), torch.empty(1000, 784)

    @torch.no_grad()
    def products() -> None:
        for _ in range(len(some) * N_DRAWS // 1000):
            torch.mm(z, first, out=into)
            torch.mm(hidden, second, out=out)

    seconds = medians(
        {"naive": naive, "skvae": lambda: estimator.score_samples(some), "products only": products},
        args,
    )
    ours = seconds["skvae"]
    return [
        {
            "score_samples": f"{len(some)} rows, {N_DRAWS} draws",
            "way": way,
            "ms per row": 1e3 * s / len(some),
            "skvae is faster by": s / ours,
        }
        for way, s in seconds.items()
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
        chunk = Chunk(models, 64, n_draws=1, n_steps=8, n_rows=64, with_features=True)
        chunk.x.copy_(torch.rand(chunk.x.shape))
        chunk.prepare(chunk.n_steps, torch.Generator())

        def some(step: TrainingStep = step, chunk: Chunk = chunk) -> None:
            for _ in range(20):
                step.run(chunk.steps)

        tasks[str(n_models)] = some
    seconds = medians(tasks, args)
    alone = seconds["1"] / 160
    return [
        {
            "models": n,
            "µs per step and model": 1e6 * seconds[str(n)] / 160 / n,
            "as fast as alone": alone / (seconds[str(n)] / 160 / n),
        }
        for n in sizes
    ]


def start(args: argparse.Namespace) -> list[dict]:
    """The linear start of a long table, its share of a default fit, and factor analysis."""
    X = table(args.n_rows)
    spent: list[float] = []
    original = VariationalAutoencoder._start

    def watched(self, *arguments):
        began = time.perf_counter()
        result = original(self, *arguments)
        spent.append(time.perf_counter() - began)
        return result

    VariationalAutoencoder._start = watched
    try:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = VariationalAutoencoder(10, random_state=0).fit(X)
        whole = time.perf_counter() - began
    finally:
        VariationalAutoencoder._start = original
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        FactorAnalysis(10, svd_method="randomized").fit(X)
    theirs = time.perf_counter() - began
    return [
        {
            "rows": len(X),
            "default fit, s": whole,
            "epochs": model.n_iter_,
            "start, s": spent[0],
            "share of the fit, %": 100 * sum(spent) / whole,
            "FactorAnalysis, s": theirs,
            "start is faster by": theirs / spent[0],
        }
    ]


def whole_fit(args: argparse.Namespace) -> list[dict]:
    """A default fit, start and judgement included, beside a plain loop at its best.

    The plain loop's best held-out bound is chosen on the held-out rows, and its time is that until
    it first came within 0.05 nats of it; nobody tells a user when that is.
    """
    digits = load_digits().data
    digits += np.random.RandomState(0).uniform(size=digits.shape)
    sets = {"digits": digits, "breast cancer": load_breast_cancer().data}
    rows = []
    for name, X in sets.items():
        train, test = train_test_split(X, random_state=0)
        began = time.process_time()
        model = VariationalAutoencoder(2, random_state=0).fit(train)
        ours = time.process_time() - began
        bound = float(model.lower_bound(test).mean())
        seconds = 1.0 if args.smoke else 60.0
        points = curve(train, test, n_latent=2, seconds=seconds, seed=0, with_loader=True)
        best = max(b for _, b in points)
        at_best = next(s for s, b in points if b >= best - 0.05)
        level = next((s for s, b in points if b >= bound), None)
        rows.append(
            {
                "data": name,
                "default fit, s": ours,
                "its bound": f"{bound:.2f}",
                "best of the loop": f"{best:.2f}",
                "reached after, s": at_best,
                "default fit is faster by": at_best / ours,
                "the loop at our bound, s": f"not in {seconds:.0f}" if level is None else level,
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
            began = time.perf_counter()
            fitted(X, 1, **parameters)
            middle = time.perf_counter()
            fitted(X, 3, **parameters)
            times.append((time.perf_counter() - middle - (middle - began)) / 2)
        return statistics.median(times)

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


PARTS = [encoding, scoring, side_by_side, whole_fit, start, memory, growth]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="a million rows (minutes)")
    options.add_argument("--repeats", type=int, help="repetitions of each measurement (5)")
    args = parse(options)
    pin(args)
    if args.repeats is None:
        args.repeats = 1 if args.smoke else 5
    args.n_rows = 4_000 if args.smoke else 1_000_000 if args.full else 200_000
    args.n_scored = 2 if args.smoke else 20
    results, tables = {}, []
    for part in PARTS:
        rows = part(args)
        results[part.__name__] = rows
        tables.append(f"{part.__doc__}\n\n{markdown_table(rows)}")
        print(tables[-1], flush=True)
    text = "\n\n".join(
        [f"# {__doc__.splitlines()[0]}", *__doc__.strip().split("\n\n")[1:], *tables]
    )
    write_results(args, "costs", text=text, results=results)


if __name__ == "__main__":
    main()
