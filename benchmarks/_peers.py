"""Other packages that train the same autoencoder, each in its own usual way, where installed.

Encoder and decoder have one hidden layer with ReLU, the rate of Adam is 1e-3, and the likelihood
is the cross-entropy of grey values or a normal with unit variance.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import tempfile
import time
import warnings

import numpy as np
import torch
from _canonical import Contestant, Loop, TwoHeads, divergence
from _common import on_cores
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from torch import nn
from torch.nn import functional


class Peer(Contestant):
    """Another package."""

    needs: tuple[str, ...] = ()

    @classmethod
    def is_installed(cls) -> bool:
        """Whether its packages are there."""
        return all(importlib.util.find_spec(name) is not None for name in cls.needs)


class Perceptron(Peer):
    """scikit-learn's perceptron with the rows as its target: no noise, no divergence."""

    name = "MLPRegressor"

    def fit(self, n_epochs: int) -> None:
        _, n_hidden, n_latent = self.sizes
        model = MLPRegressor(
            hidden_layer_sizes=(n_hidden, n_latent, n_hidden),
            batch_size=self.batch_size,
            max_iter=n_epochs,
            tol=0.0,
            n_iter_no_change=n_epochs + 1,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(self.X, self.X)


def pythae_networks(sizes: tuple[int, int, int], bernoulli: bool) -> dict[str, nn.Module]:
    """Encoder and decoder with one hidden layer, in the form that pythae asks for."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    n_columns, n_hidden, n_latent = sizes
    last: list[nn.Module] = [nn.Sigmoid()] if bernoulli else []

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(n_columns, n_hidden), nn.ReLU())
            self.mean = nn.Linear(n_hidden, n_latent)
            self.log_variance = nn.Linear(n_hidden, n_latent)

        def forward(self, x):
            hidden = self.layers(x)
            return ModelOutput(
                embedding=self.mean(hidden), log_covariance=self.log_variance(hidden)
            )

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(n_latent, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_columns), *last
            )

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z))

    return {"encoder": Encoder(), "decoder": Decoder()}


def train_by_pythae(
    model: nn.Module,
    X: np.ndarray,
    *,
    n_epochs: int,
    batch_size: int,
    device: str = "cpu",
    callbacks: list | None = None,
) -> None:
    """pythae's trainer with Adam at 1e-3."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=n_epochs,
            learning_rate=1e-3,
            per_device_train_batch_size=batch_size,
            optimizer_cls="Adam",
            no_cuda=device == "cpu",
        )
        data = BaseDataset(torch.from_numpy(X), torch.ones(len(X)))
        BaseTrainer(
            model=model, train_dataset=data, training_config=training, callbacks=callbacks
        ).train()


class Pythae(Peer):
    """pythae's VAE and trainer."""

    name = "pythae"
    needs = ("pythae",)

    def fit(self, n_epochs: int) -> None:
        from pythae.models import VAE, VAEConfig

        torch.manual_seed(0)
        config = VAEConfig(
            input_dim=self.sizes[:1],
            latent_dim=self.sizes[2],
            reconstruction_loss="bce" if self.bernoulli else "mse",
        )
        self.model = VAE(config, **pythae_networks(self.sizes, self.bernoulli))
        train_by_pythae(
            self.model,
            self.X,
            n_epochs=n_epochs,
            batch_size=self.batch_size,
            device=self.device,
        )

    @torch.no_grad()
    def moments(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        output = self.model.encoder(torch.from_numpy(X))
        return output.embedding.numpy(), torch.exp(0.5 * output.log_covariance).numpy()

    @torch.no_grad()
    def expected(self, Z: np.ndarray) -> np.ndarray:
        return self.model.decoder(torch.from_numpy(Z)).reconstruction.numpy()


class TimeIsUp(Exception):
    """Ends a training of pythae, which knows epochs only."""


def pythae_curve(
    train: np.ndarray, test: np.ndarray, *, n_latent: int, seconds: float, seed: int
) -> list[tuple[float, float]]:
    """As `curve` of the usual loop, by pythae's trainer.

    pythae's own Gaussian likelihood has unit variance; to reach the same bounds, its VAE is given a
    noise variance for each column, as one is meant to extend it.
    """
    from pythae.models import VAE, VAEConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Vae(VAE):
        def loss_function(self, recon_x, x, mu, log_var, z):
            square = (x - recon_x).square() * torch.exp(-self.log_noise)
            fit = 0.5 * (square + self.log_noise + math.log(2.0 * math.pi)).sum(1)
            kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(1)
            return (fit + kl).mean(), fit.mean(), kl.mean()

    torch.manual_seed(seed)
    location, scale = train.mean(0), train.std(0)
    log_jacobian = float(np.log(scale).sum())
    X, held_out = (((x - location) / scale).astype(np.float32) for x in (train, test))
    rows = {"data": torch.from_numpy(held_out).repeat(8, 1)}
    sizes = (X.shape[1], 128, n_latent)
    config = VAEConfig(input_dim=sizes[:1], latent_dim=n_latent, reconstruction_loss="mse")
    model = Vae(config, **pythae_networks(sizes, bernoulli=False))
    model.log_noise = nn.Parameter(torch.zeros(X.shape[1]))
    points: list[tuple[float, float]] = []

    class Watch(TrainingCallback):
        spent = 0.0

        def on_epoch_begin(self, training_config, **kwargs) -> None:
            self.began = time.process_time()

        def on_epoch_end(self, training_config, **kwargs) -> None:
            self.spent += time.process_time() - self.began
            with torch.no_grad():
                points.append((self.spent, -float(model(rows).loss) - log_jacobian))
            if self.spent > seconds:
                raise TimeIsUp

    with contextlib.suppress(TimeIsUp):
        train_by_pythae(model, X, n_epochs=10**6, batch_size=64, callbacks=[Watch()])
    return points


class Skorch(Peer, Loop):
    """The module of the usual loop, trained by skorch's `NeuralNet`."""

    name = "skorch"
    needs = ("skorch",)

    def fit(self, n_epochs: int) -> None:
        from skorch import NeuralNet

        class Autoencoder(NeuralNet):
            def get_loss(self, y_pred, y_true, X=None, training=False):
                output, mean, log_variance = y_pred
                loss = self.criterion_(output, X.to(output.device))
                return (loss + divergence(mean, log_variance)) / len(X)

        torch.manual_seed(0)
        net = Autoencoder(
            TwoHeads(*self.sizes, sigmoid=self.bernoulli),
            criterion=nn.BCELoss if self.bernoulli else HalfSquare,
            criterion__reduction="sum",
            optimizer=torch.optim.Adam,
            lr=1e-3,
            batch_size=self.batch_size,
            max_epochs=n_epochs,
            iterator_train__shuffle=True,
            train_split=None,
            verbose=0,
            device=self.device,
        )
        self.module = net.fit(self.X, None).module_


class HalfSquare(nn.MSELoss):
    """Minus the log-density of a normal with unit variance, without its constant."""

    def forward(self, output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * functional.mse_loss(output, x, reduction=self.reduction)


class KerasOnJax(Peer):
    """Keras with a compiled step by JAX; what compiling takes is in the first epoch."""

    name = "Keras on JAX"
    needs = ("keras", "jax")
    model = None

    def forget(self) -> None:
        self.model = None

    def fit(self, n_epochs: int) -> None:
        os.environ["KERAS_BACKEND"] = "jax"
        import jax
        import keras
        from keras import layers, ops

        with on_cores(torch.get_num_threads()):
            jax.devices()  # begins its threads, the first time

        n_columns, n_hidden, n_latent = self.sizes

        class Autoencoder(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = layers.Dense(n_hidden, "relu")
                self.mean = layers.Dense(n_latent)
                self.log_variance = layers.Dense(n_latent)
                self.hidden_2 = layers.Dense(n_hidden, "relu")
                self.outputs_ = layers.Dense(n_columns)
                self.seed = keras.random.SeedGenerator(0)

            def call(self, x):
                hidden = self.hidden(x)
                mean, log_variance = self.mean(hidden), self.log_variance(hidden)
                noise = keras.random.normal(ops.shape(mean), seed=self.seed)
                z = mean + ops.exp(0.5 * log_variance) * noise
                terms = 1 + log_variance - ops.square(mean) - ops.exp(log_variance)
                self.add_loss(ops.mean(-0.5 * ops.sum(terms, -1)))
                return self.outputs_(self.hidden_2(z))

        def loss(x, output):
            if self.bernoulli:
                softplus = ops.maximum(output, 0) + ops.log1p(ops.exp(-ops.abs(output)))
                return ops.sum(softplus - output * x, -1)
            return 0.5 * ops.sum(ops.square(x - output), -1)

        if self.model is None:
            keras.utils.set_random_seed(0)
            self.model = Autoencoder()
            self.model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
        # Trained further where it was compiled before: a fresh one would be compiled anew.
        self.model.fit(self.X, self.X, batch_size=self.batch_size, epochs=n_epochs, verbose=0)

    def moments(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden = self.model.hidden(X)
        log_variance = np.asarray(self.model.log_variance(hidden))
        return np.asarray(self.model.mean(hidden)), np.exp(0.5 * log_variance)

    def expected(self, Z: np.ndarray) -> np.ndarray:
        output = np.asarray(self.model.outputs_(self.model.hidden_2(Z)))
        return 1.0 / (1.0 + np.exp(-output)) if self.bernoulli else output


PEERS = [Perceptron, Pythae, Skorch, KerasOnJax]
