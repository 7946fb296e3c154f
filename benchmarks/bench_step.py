"""How long does a training step take, beside the usual PyTorch loop, peers and the bare products?

Three sizes: images (784-500-20, batch 100), a small table (64-64-2, batch 64) and a long one
(50-128-10, batch 512; also with batch 4096). All contestants train the same model with the same
batches and rate (Adam, 1e-3), in float32, from fresh weights, and are judged by the same lines of
NumPy; scikit-learn's MLPRegressor has neither noise nor divergence and is not judged. A step is the
difference between a fit of many epochs and a fit of one, so that what a fit does once (checks,
initial weights, diagnostics, compiling) is a column of its own. Figures are medians. Processor time
is taken on one thread, since other work on the machine spoils the clock's.

The floors are the matrix products of a step and nothing else. torch brings two libraries for them:
"products only" takes the quicker one for each size, as skvae does, and "products only, torch's
BLAS" the one that torch's own layers take, so that no loop on these can be faster (JAX brings a
third). The process is kept to as many cores as threads (``--threads``), since JAX has threads of
its own. "skvae, own network" is a network that skvae does not know, of torch's own layers, trained
by automatic differentiation; "skvae, default network" has a linear path beside it, which the others
lack.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _bounds import lower_bounds
from _canonical import InMemory, LikelihoodName, Usual
from _common import (
    interleave,
    load_images,
    markdown_table,
    parse,
    parser,
    pin,
    result_name,
    time_taken,
    write_results,
)
from _peers import PEERS
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skvae import VariationalAutoencoder
from skvae._core._products import products_into
from skvae.likelihoods import BernoulliLikelihood, GaussianLikelihood
from skvae.networks import MLP, Network, TorchNetwork
from skvae.solvers import Adam

JUDGED_ROWS = 5000


@dataclass(frozen=True)
class Workload:
    """Data and sizes; a step is averaged over `n_epochs`, and judged are fits of more."""

    name: str
    X: np.ndarray
    n_hidden: int
    n_latent: int
    batch_size: int
    likelihood: LikelihoodName
    n_epochs: int
    n_judged_epochs: int

    @property
    def n_steps(self) -> int:
        return -(-len(self.X) // self.batch_size)


def users_module(n_inputs: int, n_outputs: int, width: int) -> nn.Module:
    """The same network as a user would write it."""
    return nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, n_outputs))


class Skvae:
    """The public estimator."""

    name = "skvae"
    linear_path = False
    precision = "highest"

    def __init__(self, work: Workload, device: str) -> None:
        self.work = work
        self.device = device

    def forget(self) -> None:
        """Each fit begins anew."""

    def network(self) -> Network:
        """Encoder and decoder."""
        return MLP(hidden_layer_sizes=(self.work.n_hidden,), linear_path=self.linear_path)

    def fit(self, n_epochs: int) -> None:
        work = self.work
        network = self.network()
        if work.likelihood == "bernoulli":
            likelihood = BernoulliLikelihood(soft=True)
        else:
            likelihood = GaussianLikelihood(noise=1.0)
        self.model = VariationalAutoencoder(
            work.n_latent,
            encoder=network,
            decoder=network,
            likelihood=likelihood,
            init="random",
            solver=Adam(warmup_steps=0),
            batch_size=work.batch_size,
            max_iter=n_epochs,
            early_stopping=False,
            n_iter_no_change=n_epochs + 1,
            precision=self.precision,
            device=self.device,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # the bound still rises: it is meant
            self.model.fit(work.X)

    def moments(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.model.posterior_moments(X)

    def expected(self, Z: np.ndarray) -> np.ndarray:
        return self.model.inverse_transform(Z)


class SkvaeMedium(Skvae):
    name = 'skvae, precision="medium"'
    precision = "medium"


class SkvaeDefault(Skvae):
    name = "skvae, default network"
    linear_path = True


class SkvaeUsers(Skvae):
    name = "skvae, own network"

    def network(self) -> Network:
        parameters = {"width": self.work.n_hidden}
        return TorchNetwork(factory=users_module, parameters=parameters, linear_path=False)


class Products:
    """The matrix products of a step: forward, and for both gradients; into buffers."""

    name = "products only"
    product = staticmethod(products_into)

    def __init__(self, work: Workload, device: str) -> None:
        widths = [work.X.shape[1], work.n_hidden, 2 * work.n_latent]
        layers = [*itertools.pairwise(widths)]
        layers += [(work.n_latent, work.n_hidden), (work.n_hidden, work.X.shape[1])]
        self.n_steps = work.n_steps
        self.operands = []
        for i, (n_in, n_out) in enumerate(layers):
            inputs = torch.randn(1, work.batch_size, n_in, device=device)
            weight = torch.randn(1, n_in, n_out, device=device)
            outputs = torch.randn(1, work.batch_size, n_out, device=device)
            self.operands.append((inputs, weight, outputs))
            self.operands.append((inputs.clone().mT, outputs.clone(), torch.empty_like(weight)))
            if i > 0:  # no gradient is needed for the rows
                gradient = torch.empty_like(inputs)
                self.operands.append((outputs.clone(), weight.clone().mT, gradient))

    @torch.no_grad()
    def fit(self, n_epochs: int) -> None:
        for _ in range(n_epochs * self.n_steps):
            for a, b, out in self.operands:
                self.product(out, a, b)


class BlasProducts(Products):
    """The same by torch's BLAS, which the usual loop cannot beat."""

    name = "products only, torch's BLAS"

    @staticmethod
    def product(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
        torch.bmm(a, b, out=out)


def workloads(args: argparse.Namespace) -> list[Workload]:
    """The three sizes; the default takes a part of the rows of the two large ones."""
    images = load_images(args).train
    digits = np.divide(load_digits().data, 16).astype(np.float32)
    n_images, n_table = (60_000, 1_000_000) if args.full else (6_000, 50_000)
    epochs = (1, 99, 1) if args.full else (3, 30, 5)
    # As many as bring the bounds together.
    judged = (5, 100, 3, 3) if args.full else (30, 100, 6, 40)
    if args.smoke:
        n_images, n_table, epochs, judged = 400, 2048, (1, 1, 1), (1, 1, 1, 1)
    rng = np.random.default_rng(0)
    loadings = rng.standard_normal((10, 50), dtype=np.float32) / 3
    table = rng.standard_normal((n_table, 10), dtype=np.float32) @ loadings
    table += 0.3 * rng.standard_normal(table.shape, dtype=np.float32)
    images_sizes = (500, 20, 100, "bernoulli", epochs[0], judged[0])
    return [
        Workload("images", images[:n_images], *images_sizes),
        Workload("small table", digits, 64, 2, 64, "bernoulli", epochs[1], judged[1]),
        Workload("long table", table, 128, 10, 512, "unit_normal", epochs[2], judged[2]),
        Workload(
            "long table, batch 4096", table, 128, 10, 4096, "unit_normal", epochs[2], judged[3]
        ),
    ]


def measure(work: Workload, args: argparse.Namespace) -> list[dict]:
    """One row for each contestant."""
    sizes = {
        "n_hidden": work.n_hidden,
        "n_latent": work.n_latent,
        "batch_size": work.batch_size,
        "likelihood": work.likelihood,
        "device": args.device,
    }
    contestants: list[Any] = [Usual(work.X, **sizes), InMemory(work.X, **sizes)]
    contestants += [peer(work.X, **sizes) for peer in PEERS if peer.is_installed()]
    ours = [Skvae, SkvaeDefault, SkvaeUsers]
    if work.name == "images":  # narrow layers gain nothing
        ours.append(SkvaeMedium)
    contestants += [cls(work, args.device) for cls in ours]
    contestants += [Products(work, args.device), BlasProducts(work, args.device)]
    short, long = 1, 1 + work.n_epochs
    tasks = {(c.name, n): (lambda c=c, n=n: c.fit(n)) for c in contestants for n in (short, long)}
    timings = interleave(tasks, args.repeats, args.device)
    rows = []
    for contestant in contestants:
        pairs = zip(
            timings[contestant.name, short],
            timings[contestant.name, long],
            strict=True,
        )
        steps = [(b - a) / (work.n_epochs * work.n_steps) for a, b in pairs]
        step = statistics.median(steps)
        once = statistics.median(timings[contestant.name, short]) - step * work.n_steps
        bound = None
        if hasattr(contestant, "moments"):
            contestant.forget()
            contestant.fit(work.n_judged_epochs)
            X = work.X[:JUDGED_ROWS]
            bounds = lower_bounds(
                X, contestant.moments(X), contestant.expected, likelihood=work.likelihood
            )
            bound = float(bounds.mean())
        rows.append(
            {
                "workload": work.name,
                "contestant": contestant.name,
                "n_rows": len(work.X),
                "n_repeats": args.repeats,
                "time": time_taken(args.device),
                "batch_size": work.batch_size,
                "n_epochs": work.n_judged_epochs,
                "step_seconds": steps,
                "step": step,
                "once": max(once, 0.0),
                "bound": bound,
            }
        )
    return rows


def plot(results: list[dict], path: Path) -> None:
    """Bars of the speed of each contestant, the usual loop being 1, one panel for each size."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["workload"] for row in results))
    figure, panels = plt.subplots(
        1, len(names), figsize=(4 * len(names), 4), sharey=True, squeeze=False
    )
    panels = panels[0]
    order = [c for c in dict.fromkeys(r["contestant"] for r in results) if "products" not in c]
    for panel, name in zip(panels, names, strict=True):
        speeds = {r["contestant"]: r["speed"] for r in results if r["workload"] == name}
        colours = ["tab:blue" if c.startswith("skvae") else "0.7" for c in order]
        panel.barh(order, [speeds.get(c, 0.0) for c in order], color=colours)
        panel.axvline(speeds[Products.name], color="k", linestyle=":", label="bare products")
        panel.set(title=name, xlabel="speed (usual loop = 1)")
    panels[0].invert_yaxis()
    panels[-1].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="all rows (half an hour)")
    options.add_argument("--only", help="measure this size only, and keep the other results")
    options.add_argument("--repeats", type=int, help="repetitions of each measurement (7)")
    args = parse(options)
    pin(args)
    if args.repeats is None:
        args.repeats = 1 if args.smoke else 7

    path = args.output / f"{result_name(args, 'step')}.json"
    results, tables, conclusions = [], [], []
    for work in workloads(args):
        if args.only in (None, work.name):
            rows = measure(work, args)
        else:
            before = json.loads(path.read_text())["measurements"] if path.exists() else []
            rows = [row for row in before if row["workload"] == work.name]
        if not rows:
            continue
        results += rows
        by_name = {row["contestant"]: row for row in rows}
        usual = by_name[Usual.name]
        head = f"{work.name}, {usual['n_rows']} rows; {usual['n_repeats']} times, {usual['time']}"
        table = []
        for row in rows:
            # Repetitions are interleaved, so that ratios within one of them are the fairest.
            ratios = [
                u / s for u, s in zip(usual["step_seconds"], row["step_seconds"], strict=True)
            ]
            bound = row["bound"]
            row["speed"] = statistics.median(ratios)
            table.append(
                {
                    head: row["contestant"],
                    "µs per step": 1e6 * row["step"],
                    "speed (usual loop = 1)": row["speed"],
                    "lowest to highest": f"{min(ratios):.2f} to {max(ratios):.2f}",
                    "once per fit, ms": 1e3 * row["once"],
                    f"bound after {row['n_epochs']} epochs": ""
                    if bound is None
                    else f"{bound:.2f}",
                }
            )
        tables.append(markdown_table(table))
        conclusions.append(conclusion(by_name))
    text = "\n\n".join(
        [
            "# Time of a training step",
            __doc__.strip(),
            f"![Speeds]({result_name(args, 'step')}.png)",
            *tables,
            "\n".join(conclusions),
        ]
    )
    write_results(args, "step", text=text, results={"measurements": results})
    plot(results, path.with_suffix(".png"))


def conclusion(rows: dict[str, dict]) -> str:
    """Ratios of medians, in words."""
    ours, usual = rows[Skvae.name], rows[Usual.name]

    others = [
        f"{rows[name]['step'] / ours['step']:.2f} times that of {name}"
        for name in rows
        if not name.startswith(("skvae", "products"))
    ]
    variants = [
        f"{usual['step'] / row['step']:.2f} times with {name.removeprefix('skvae, ')}"
        for name, row in rows.items()
        if name.startswith("skvae, ")
    ]
    floors = [
        f"{ours['step'] / rows[name]['step']:.2f} times the bare products of {library}"
        for name, library in [
            (Products.name, "the quicker library"),
            (BlasProducts.name, "torch's BLAS"),
        ]
    ]
    gain = ours["bound"] - usual["bound"]
    return (
        f"- {ours['workload']}: the speed of skvae is {', '.join(others)}. That of the usual loop "
        f"is surpassed {', '.join(variants)}. A step takes {' and '.join(floors)}. The bound is "
        f"{gain:+.2f} nats ({100 * gain / abs(usual['bound']):+.2f} %) from the usual loop's."
    )


if __name__ == "__main__":
    main()
