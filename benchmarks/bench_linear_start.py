"""How many epochs does the linear start save on MNIST?

784-500-20-500-784, Bernoulli pixels binarised anew at each visit, Adam at 1e-3, batches of 100: the
test bound before training and after each epoch, from the linear start and from random weights
(with the biases of the outputs at the marginals, which already is better than the usual zeros).
The test rows are binarised once; bounds come from lines that are not skvae's (_bounds.py).
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from _bounds import lower_bounds
from _common import load_images, markdown_table, parse, parser, write_results

from skvae import VariationalAutoencoder
from skvae.likelihoods import BernoulliLikelihood

STARTS = ("linear", "random")


def curve(
    init: str, train: np.ndarray, test: np.ndarray, n_epochs: int, args: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """Test bound before training and after each epoch, and seconds until then."""
    parameters = {
        "hidden_layer_sizes": (64 if args.smoke else 500,),
        "likelihood": BernoulliLikelihood(binarize="dynamic"),
        "batch_size": 100,
        "init": init,
        "device": args.device,
        "random_state": args.seed,
    }
    bounds, seconds = [], []
    began, judging = time.perf_counter(), 0.0

    def judge(model: VariationalAutoencoder) -> None:
        nonlocal judging
        stop = time.perf_counter()
        seconds.append(stop - began - judging)
        moments = model.posterior_moments(test)
        rows = lower_bounds(test, moments, model.inverse_transform, likelihood="bernoulli")
        bounds.append(float(rows.mean()))
        judging += time.perf_counter() - stop

    # A rate of nothing leaves the model where it starts.
    start = VariationalAutoencoder(
        20, **parameters, learning_rate_init=1e-12, max_iter=1, early_stopping=False
    )
    judge(start.partial_fit(train))
    began, judging = time.perf_counter(), 0.0
    model = VariationalAutoencoder(20, **parameters)
    for _ in range(n_epochs):
        judge(model.partial_fit(train))
    return bounds, seconds


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--seed", type=int, default=0)
    args = parse(options)
    warnings.simplefilter("ignore")
    images = load_images(args)
    n_epochs = 2 if args.smoke else args.epochs
    rng = np.random.default_rng(0)
    test = (rng.uniform(size=images.test.shape) < images.test).astype(np.float32)
    results = {init: curve(init, images.train, test, n_epochs, args) for init in STARTS}
    table = [
        {
            "epochs": epoch,
            "linear start": f"{results['linear'][0][epoch]:.2f}",
            "random start": f"{results['random'][0][epoch]:.2f}",
            "seconds, linear": f"{results['linear'][1][epoch]:.1f}",
            "seconds, random": f"{results['random'][1][epoch]:.1f}",
        }
        for epoch in range(n_epochs + 1)
    ]
    three, five = min(3, n_epochs), min(5, n_epochs)
    ahead = results["linear"][0][three] - results["random"][0][five]
    text = f"""# {__doc__.splitlines()[0]}

Test bound in nats per row, {images.name}, {len(images.train):,} training and {len(test):,} test
rows, seed {args.seed}.

{markdown_table(table)}

The linear start after {three} epochs is {ahead:+.2f} nats from the random start after {five}.
"""
    write_results(args, "linear_start", text=text, results={"curves": results})


if __name__ == "__main__":
    main()
