"""The loops that skvae is compared with: the usual one, and the same one with its pitfalls removed.

`Usual` is how a variational autoencoder is written with PyTorch everywhere: a module with two
narrow heads, a DataLoader over a TensorDataset, the cross-entropy of a sigmoid, Adam as it comes.
`InMemory` is what someone does who has profiled it: batches by index from one tensor,
the cross-entropy of logits, one head, fused Adam. Neither tracks more than the loss.

`race` trains the latter with a learned noise variance for each column, and asks after each epoch
how good it is.
"""

from __future__ import annotations

import math
import time
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

LikelihoodName = Literal["bernoulli", "unit_normal"]


class TwoHeads(nn.Module):
    """Encoder with a head for means and one for log-variances; decoder."""

    def __init__(self, n_columns: int, n_hidden: int, n_latent: int, sigmoid: bool) -> None:
        super().__init__()
        self.encoder = nn.Linear(n_columns, n_hidden)
        self.mean = nn.Linear(n_hidden, n_latent)
        self.log_variance = nn.Linear(n_hidden, n_latent)
        self.decoder = nn.Linear(n_latent, n_hidden)
        self.output = nn.Linear(n_hidden, n_columns)
        self.sigmoid = sigmoid

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = functional.relu(self.encoder(x))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, z: Tensor) -> Tensor:
        output = self.output(functional.relu(self.decoder(z)))
        return torch.sigmoid(output) if self.sigmoid else output

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decode(z), mean, log_variance


class OneHead(TwoHeads):
    """The same network with one output for means and log-variances, and logits."""

    def __init__(self, n_columns: int, n_hidden: int, n_latent: int) -> None:
        super().__init__(n_columns, n_hidden, n_latent, sigmoid=False)
        self.head = nn.Linear(n_hidden, 2 * n_latent)
        del self.mean, self.log_variance

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(functional.relu(self.encoder(x))).chunk(2, dim=1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q || p), summed over rows."""
    return -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())


class Contestant:
    """Someone who fits the same autoencoder to the same rows."""

    name: str

    def __init__(
        self,
        X: np.ndarray,
        *,
        n_hidden: int,
        n_latent: int,
        batch_size: int,
        likelihood: LikelihoodName,
        device: str,
    ) -> None:
        self.X = X
        self.sizes = (X.shape[1], n_hidden, n_latent)
        self.batch_size = batch_size
        self.bernoulli = likelihood == "bernoulli"
        self.device = device

    def fit(self, n_epochs: int) -> None:
        """Train for so many epochs."""
        raise NotImplementedError

    def forget(self) -> None:
        """Make the next fit begin anew, as it does unless said otherwise."""


class Loop(Contestant):
    """A training loop: `fit` a fresh module, then ask it."""

    module: TwoHeads

    @property
    def rows(self) -> Tensor:
        """The rows on the device."""
        return torch.from_numpy(self.X).to(self.device)

    @torch.no_grad()
    def moments(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, log_variance = self.module.encode(torch.from_numpy(X).to(self.device))
        return mean.cpu().numpy(), torch.exp(0.5 * log_variance).cpu().numpy()

    @torch.no_grad()
    def expected(self, Z: np.ndarray) -> np.ndarray:
        output = self.module.decode(torch.from_numpy(Z).to(self.device))
        if self.bernoulli and not self.module.sigmoid:
            output = torch.sigmoid(output)
        return output.cpu().numpy()


class Usual(Loop):
    """As in tutorials."""

    name = "usual loop"

    def fit(self, n_epochs: int) -> None:
        torch.manual_seed(0)
        loader = DataLoader(TensorDataset(self.rows), batch_size=self.batch_size, shuffle=True)
        self.module = module = TwoHeads(*self.sizes, sigmoid=self.bernoulli).to(self.device)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        module.train()
        for _ in range(n_epochs):
            total = 0.0
            for (x,) in loader:
                optimizer.zero_grad()
                output, mean, log_variance = module(x)
                if self.bernoulli:
                    fit = functional.binary_cross_entropy(output, x, reduction="sum")
                else:
                    fit = 0.5 * functional.mse_loss(output, x, reduction="sum")
                loss = (fit + divergence(mean, log_variance)) / len(x)
                loss.backward()
                total += loss.item() * len(x)
                optimizer.step()


class InMemory(Loop):
    """The same model and updates, by someone who has profiled."""

    name = "tuned loop"

    def fit(self, n_epochs: int) -> None:
        torch.manual_seed(0)
        X = self.rows
        self.module = module = OneHead(*self.sizes).to(self.device)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
        module.train()
        for _ in range(n_epochs):
            total = torch.zeros((), device=self.device)
            for rows in torch.randperm(len(X), device=self.device).split(self.batch_size):
                x = X[rows]
                optimizer.zero_grad()
                output, mean, log_variance = module(x)
                if self.bernoulli:
                    fit = functional.binary_cross_entropy_with_logits(output, x, reduction="sum")
                else:
                    fit = 0.5 * functional.mse_loss(output, x, reduction="sum")
                loss = (fit + divergence(mean, log_variance)) / len(x)
                loss.backward()
                total += loss.detach() * len(x)
                optimizer.step()
            total.item()


def race(train: np.ndarray, test: np.ndarray, *, n_latent: int, seconds: float, seed: int) -> float:
    """Bound of held-out rows that a plain autoencoder reaches in the given processor seconds.

    Returns
    -------
    best : float
        The largest over the epochs, in nats per row: chosen on the held-out rows, in its favour.
    """
    points = curve(train, test, n_latent=n_latent, seconds=seconds, seed=seed)
    return max(bound for _, bound in points)


def curve(
    train: np.ndarray,
    test: np.ndarray,
    *,
    n_latent: int,
    seconds: float,
    seed: int,
    with_loader: bool = False,
) -> list[tuple[float, float]]:
    """Processor seconds and held-out bound of a plain autoencoder after each of its epochs.

    One hidden layer of 128, Gaussian with a learned variance for each column, Adam at 1e-3,
    batches of 64, on standardised columns. The bound counts what is in the units of the data.

    Parameters
    ----------
    with_loader : bool
        Whether batches come from a DataLoader, as in tutorials, and Adam is as it comes.
    """
    torch.manual_seed(seed)
    location, scale = train.mean(0), train.std(0)
    log_jacobian = float(np.log(scale).sum())
    X, held_out = (torch.from_numpy((x - location) / scale).float() for x in (train, test))
    module = OneHead(X.shape[1], 128, n_latent)
    log_noise = nn.Parameter(torch.zeros(X.shape[1]))
    fused = None if with_loader else True
    optimizer = torch.optim.Adam([*module.parameters(), log_noise], lr=1e-3, fused=fused)
    loader = DataLoader(TensorDataset(X), batch_size=64, shuffle=True)

    def bound(x: Tensor) -> Tensor:
        output, mean, log_variance = module(x)
        square = (x - output).square() * torch.exp(-log_noise)
        log_prob = -0.5 * (square + log_noise + math.log(2 * math.pi)).sum()
        return (log_prob - divergence(mean, log_variance)) / len(x)

    spent, points = 0.0, []
    while spent < seconds:
        began = time.process_time()
        if with_loader:
            batches = (x for (x,) in loader)
        else:
            batches = (X[rows] for rows in torch.randperm(len(X)).split(64))
        for x in batches:
            optimizer.zero_grad()
            (-bound(x)).backward()
            optimizer.step()
        spent += time.process_time() - began
        with torch.no_grad():
            points.append((spent, float(bound(held_out.repeat(8, 1))) - log_jacobian))
    return points
