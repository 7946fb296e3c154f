"""Models with exact answers, and an estimator for any data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae import VariationalAutoencoder
from skvae._core._batch import Batch, NoiseSpec, draw_noise
from skvae._core._component import resolve
from skvae._core._summary import ColumnSummary
from skvae.likelihoods import GaussianLikelihood, Likelihood
from skvae.models import (
    Autoencoder,
    ConditionalAutoencoder,
    LatentVariableModel,
    SemiSupervisedAutoencoder,
    build_autoencoder,
    build_deep_gaussian,
)
from skvae.networks import MLP
from skvae.networks._gaussian_layers import GaussianLayers
from skvae.posteriors import DiagonalPosterior
from skvae.priors import StandardNormalPrior
from tests.registry import case_of

# ------------------------------------------------------------------------- estimators on any rows


class OnSupport(VariationalAutoencoder):
    """Estimator that takes rows of real numbers whatever its likelihood.

    scikit-learn's checks feed normal data. After validation they are mapped, elementwise, into the
    support of the likelihood, so that the checks say of any likelihood what they say of the normal.
    """

    def _read_rows(self, X: Any, *, reset: bool) -> np.ndarray:
        rows = super()._read_rows(X, reset=reset)
        case = case_of(resolve(self.likelihood, Likelihood, "likelihood"))
        dtype = rows.dtype if rows.dtype.kind == "f" else np.dtype(np.float32)
        mapped = case.from_real(rows.astype(np.float64)).astype(dtype)
        return mapped if rows.dtype.kind != "f" else np.where(np.isnan(rows), rows, mapped)


# -------------------------------------------------------------------------------- building models


def build_model(
    X: np.ndarray,
    *,
    n_latent: int = 2,
    likelihood: Any = None,
    prior: Any = None,
    posterior: Any = None,
    encoder: Any = None,
    decoder: Any = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Autoencoder:
    """Autoencoder with random weights for the rows of X; linear unless told otherwise."""
    likelihood = GaussianLikelihood() if likelihood is None else likelihood
    return build_autoencoder(
        n_latent=n_latent,
        summary=likelihood.summarize(X)._replace(has_missing=bool(np.isnan(X).any())),
        likelihood=likelihood,
        prior=StandardNormalPrior() if prior is None else prior,
        posterior=DiagonalPosterior() if posterior is None else posterior,
        encoder=MLP(hidden_layer_sizes=()) if encoder is None else encoder,
        decoder=MLP(hidden_layer_sizes=()) if decoder is None else decoder,
        dtype=dtype,
        generator=torch.Generator().manual_seed(seed),
    )


def build_layered(
    X: np.ndarray,
    layers: GaussianLayers,
    *,
    likelihood: Any = None,
    posterior: Any = None,
    encoder: Any = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Autoencoder:
    """Deep latent Gaussian model with random weights for the rows of X."""
    likelihood = GaussianLikelihood() if likelihood is None else likelihood
    return build_deep_gaussian(
        layers=layers,
        summary=likelihood.summarize(X)._replace(has_missing=bool(np.isnan(X).any())),
        likelihood=likelihood,
        posterior=DiagonalPosterior() if posterior is None else posterior,
        encoder=MLP(hidden_layer_sizes=(5,)) if encoder is None else encoder,
        dtype=dtype,
        generator=torch.Generator().manual_seed(seed),
    )


def build_conditional(
    X: np.ndarray,
    n_context: int,
    *,
    in_prior: bool = False,
    in_decoder: bool = True,
    hidden: tuple[int, ...] = (5,),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    kind: Any = ConditionalAutoencoder,
) -> ConditionalAutoencoder:
    """Conditional autoencoder with random weights, none of them 0, for the rows of X."""
    likelihood, network = GaussianLikelihood(), MLP(hidden_layer_sizes=hidden)
    generator = torch.Generator().manual_seed(seed)

    def wire(**parts: Any) -> ConditionalAutoencoder:
        return kind(
            n_context=n_context, in_prior=in_prior, in_decoder=in_decoder, dtype=dtype, **parts
        )

    model = build_autoencoder(
        n_latent=2,
        summary=likelihood.summarize(X)._replace(has_missing=bool(np.isnan(X).any())),
        likelihood=likelihood,
        prior=StandardNormalPrior(),
        posterior=DiagonalPosterior(),
        encoder=network,
        decoder=network,
        n_encoder_context=n_context,
        n_decoder_context=n_context if in_decoder else 0,
        dtype=dtype,
        generator=generator,
        kind=wire,
    )
    with torch.no_grad():
        for t in (*model.parameters(), model.feature_slopes, model.missing.root):
            t.add_(0.1 * torch.randn(t.shape, generator=generator, dtype=t.dtype))
    assert isinstance(model, ConditionalAutoencoder)
    return model


def build_semi_supervised(
    X: np.ndarray, n_classes: int, *, spreads: bool = False, dtype: torch.dtype = torch.float64
) -> SemiSupervisedAutoencoder:
    """Semi-supervised autoencoder with random weights for the rows of X."""

    def kind(**parts: Any) -> SemiSupervisedAutoencoder:
        classifier = MLP(hidden_layer_sizes=(5,)).build(
            X.shape[1],
            n_classes,
            n_location_outputs=n_classes,
            dtype=dtype,
            generator=torch.Generator().manual_seed(9),
        )
        return SemiSupervisedAutoencoder(
            classifier=classifier,
            class_log_prior=torch.linspace(-1.0, 0.0, n_classes, dtype=dtype),
            learns_prior=True,
            spreads=spreads,
            **parts,
        )

    model = build_conditional(X, n_classes, dtype=dtype, kind=kind)
    assert isinstance(model, SemiSupervisedAutoencoder)
    return model


def posterior_head(posterior: Any, n_latent: int, dtype: torch.dtype = torch.float64) -> Any:
    """Head of a posterior, its weights (if any) drawn."""
    generator = torch.Generator().manual_seed(0)
    return posterior.build(n_latent, dtype=dtype, generator=generator)


def moved(head: Any, size: float = 0.3) -> Any:
    """The head with its parameters moved from where it begins, which may be a special case."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in head.parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.add_(size * noise.to(p.dtype))
    return head


# What encoders read, in the laws of priors.
N_FEATURES = 3


def prior_head(prior: Any, n_latent: int, dtype: torch.dtype = torch.float64) -> Any:
    """Head of a prior, its weights (if any) drawn."""
    generator = torch.Generator().manual_seed(0)
    return prior.build(n_latent, n_features=N_FEATURES, dtype=dtype, generator=generator)


def encode_with(n_latent: int, dtype: torch.dtype = torch.float64) -> Any:
    """An encoder for priors that are made of encoded rows: q(z | x) by its `features`."""
    generator = torch.Generator().manual_seed(1)
    head = posterior_head(DiagonalPosterior(), n_latent, dtype)
    weight = 0.5 * torch.randn(N_FEATURES, head.n_outputs, generator=generator, dtype=torch.float64)
    return lambda features: head(torch.tanh(features) @ weight.to(dtype))


def batch_of(model: LatentVariableModel, X: np.ndarray) -> Batch:
    """Rows as the model reads them, in the dtype of its parameters."""
    dtype = next(model.parameters()).dtype
    return Batch(model.observation_head.standardize(torch.from_numpy(X)).to(dtype))


def draw(
    specs: Mapping[str, NoiseSpec],
    n_rows: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Noise that was declared, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return draw_noise(specs, n_rows, generator=generator, dtype=dtype, device=torch.device("cpu"))


def noise_for(
    model: LatentVariableModel, n_draws: int, n_rows: int, *, seed: int = 0
) -> dict[str, Tensor]:
    """Noise that the model declares for a step."""
    dtype = next(model.parameters()).dtype
    return draw(model.noise_spec(n_draws), n_rows, seed=seed, dtype=dtype)


# ------------------------------------------------------------------------------- exact answers


class LinearGaussian(NamedTuple):
    """x = W z + mean + noise with standard normal z and independent normal noise.

    Attributes
    ----------
    loadings : ndarray of shape (n_columns, n_latent)
    noise : ndarray of shape (n_columns,)
        Variances.
    mean : ndarray of shape (n_columns,)
    """

    loadings: np.ndarray
    noise: np.ndarray
    mean: np.ndarray

    def log_prob(self, X: np.ndarray) -> np.ndarray:
        """Log-density of each row, in nats."""
        covariance = self.loadings @ self.loadings.T + np.diag(self.noise)
        return normal_log_density(X, self.mean, covariance)

    def posterior(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means (n_rows, n_latent) and the common covariance of z given each row."""
        weighted = self.loadings / self.noise[:, None]
        covariance = np.linalg.inv(np.eye(self.loadings.shape[1]) + weighted.T @ self.loadings)
        return (X - self.mean) @ weighted @ covariance, covariance

    def lower_bound(self, X: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        """Evidence lower bound of each row at q = N(mean, diag(variance)), in nats."""
        n_columns = len(self.mean)
        residuals = X - self.mean - mean @ self.loadings.T
        spread = variance @ np.sum(self.loadings**2 / self.noise[:, None], axis=0)
        reconstruction = -0.5 * (
            n_columns * np.log(2 * np.pi)
            + np.log(self.noise).sum()
            + np.sum(residuals**2 / self.noise, axis=1)
            + spread
        )
        kl = 0.5 * np.sum(mean**2 + variance - 1.0 - np.log(variance), axis=1)
        return reconstruction - kl

    def sample(self, n_rows: int, *, seed: int = 0) -> np.ndarray:
        """Rows."""
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(n_rows, self.loadings.shape[1]))
        noise = rng.normal(size=(n_rows, len(self.mean))) * np.sqrt(self.noise)
        return z @ self.loadings.T + self.mean + noise


def normal_log_density(X: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Log-density of each row under a multivariate normal, in nats."""
    factor = np.linalg.cholesky(covariance)
    standard = np.linalg.solve(factor, (X - mean).T)
    log_det = 2.0 * np.log(np.diag(factor)).sum()
    return -0.5 * (X.shape[1] * np.log(2 * np.pi) + log_det + np.square(standard).sum(axis=0))


def linear_gaussian_of(model: Autoencoder) -> LinearGaussian:
    """The marginal of an autoencoder whose decoder is affine and whose noise is constant.

    Read off from what the model answers, not from how it stores it.
    """
    (n_latent,) = model.latent_shape
    probe = torch.cat([torch.zeros(1, n_latent), torch.eye(n_latent)]).double().unsqueeze(1)
    with torch.no_grad():
        head, params, _ = model.generative(Batch(probe), probe).observation
        means = head.from_expectation(head.expectation(params))[:, 0].numpy()
        noise = head.noise_variance(params).reshape(-1, means.shape[1]).numpy()
    np.testing.assert_allclose(noise, noise[:1].repeat(len(noise), axis=0))
    return LinearGaussian((means[1:] - means[0]).T, noise[0], means[0])


def tight_linear_model(
    n_columns: int = 4, n_latent: int = 2, *, noise: str = "per_feature", seed: int = 0
) -> Autoencoder:
    """Linear autoencoder, in float64, whose encoder is the exact posterior.

    Columns have locations and scales of their own, the decoder an offset, and the loadings are
    turned so that the posterior covariance is diagonal.
    """
    rng = np.random.default_rng(seed)
    column = np.arange(n_columns)
    summary = ColumnSummary(
        mean=3.0 * column - 2.0,
        scale=0.5 + column,
        minimum=np.full(n_columns, -np.inf),
        maximum=np.full(n_columns, np.inf),
        n_observed=np.full(n_columns, 100.0),
    )
    model = build_autoencoder(
        n_latent=n_latent,
        summary=summary,
        likelihood=GaussianLikelihood(noise=noise),
        prior=StandardNormalPrior(),
        posterior=DiagonalPosterior(),
        encoder=MLP(hidden_layer_sizes=()),
        decoder=MLP(hidden_layer_sizes=()),
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )
    head = model.observation_head
    with torch.no_grad():
        head.log_variance.copy_(torch.from_numpy(rng.normal(-1.0, 0.5, head.log_variance.shape)))
    loadings = rng.normal(size=(n_columns, n_latent))
    offset = torch.from_numpy(0.3 * rng.normal(size=n_columns))
    scale = head.scale.numpy()
    variance = head.noise_variance(head.params_from(offset)).detach().expand(n_columns).numpy()
    variance = variance / scale**2
    _, turn = np.linalg.eigh(loadings.T @ (loadings / variance[:, None]))
    model.decoder.start_linear_(torch.from_numpy((loadings @ turn).T), offset)
    exact = linear_gaussian_of(model)
    # The posterior mean is affine in the standardised rows.
    corners = np.concatenate([np.zeros((1, n_columns)), np.eye(n_columns)])
    means, covariance = exact.posterior(corners * scale + head.location.numpy())
    outputs = model.posterior_head.outputs_at(torch.from_numpy(0.5 * np.log(np.diag(covariance))))
    outputs[:n_latent] = torch.from_numpy(means[0])
    model.encoder.start_linear_(torch.from_numpy(means[1:] - means[0]), outputs)
    return model


def perturbed_(model: Autoencoder, size: float = 0.2, *, seed: int = 0) -> Autoencoder:
    """The model with every weight of its encoder moved, so that its bound is loose."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.encoder.parameters():
            noise = torch.empty(p.shape, dtype=torch.float64).normal_(generator=generator)
            p.add_(size * noise.to(p.dtype))
    return model


def log_likelihood_by_quadrature(
    model: LatentVariableModel, batch: Batch, *, width: float = 8.0, n_nodes: int = 2001
) -> np.ndarray:
    """Log-likelihood of each row of a model with one latent variable, in nats, on a fine grid.

    Exact to many digits for a decoder without kinks and a posterior that is not narrower than a
    few cells of 0.008.
    """
    assert model.latent_shape == (1,)
    z = torch.linspace(-width, width, n_nodes, dtype=batch.x.dtype).view(-1, 1, 1)
    with torch.no_grad():
        log_prior, log_likelihood = model.log_joint(batch, z.expand(-1, len(batch.x), -1))
        total = torch.logsumexp(log_prior + log_likelihood, dim=0)
    return (total + np.log(2.0 * width / (n_nodes - 1))).numpy()


def real_line() -> tuple[Tensor, Tensor]:
    """Points (n, 1, 1) and weights (n, 1) of a sum that is an integral over the real line.

    The points are dense around 0 and reach 1e8, where the heaviest tails have ended. Exact to many
    digits for smooth densities, to 1e-6 for those with a kink.
    """
    t = torch.linspace(-20.0, 20.0, 80_001, dtype=torch.float64)
    return torch.sinh(t).view(-1, 1, 1), (torch.cosh(t) * (t[1] - t[0])).unsqueeze(1)


class StateSpace(NamedTuple):
    """z_t = A z_{t-1} + N(0, Q), x_t = C z_t + mean + N(0, diag(noise)), with z_0 = 0.

    Attributes
    ----------
    transition, process : ndarray of shape (n_latent, n_latent)
        A and Q.
    loadings : ndarray of shape (n_columns, n_latent)
    noise, mean : ndarray of shape (n_columns,)
    first : ndarray of shape (n_latent, n_latent) or None
        Covariance of the first z; None stands for Q.
    """

    transition: np.ndarray
    process: np.ndarray
    loadings: np.ndarray
    noise: np.ndarray
    mean: np.ndarray
    first: np.ndarray | None = None

    def kalman(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Exact answers for one sequence (n_steps, n_columns), NaN where missing.

        Returns
        -------
        log_prob : ndarray of shape (n_steps,)
            Of each step given those before, in nats.
        filtered, predicted : ndarray of shape (n_steps, n_latent)
            Means of z given the steps up to and with its own, and of the z after it.
        """
        mean = np.zeros(len(self.process))
        covariance = self.process if self.first is None else self.first
        log_prob, filtered, predicted = [], [], []
        for x in X:
            seen = ~np.isnan(x)
            C = self.loadings[seen]
            residual = x[seen] - self.mean[seen] - C @ mean
            S = C @ covariance @ C.T + np.diag(self.noise[seen])
            log_prob.append(normal_log_density(residual[None], np.zeros(len(S)), S)[0])
            gain = np.linalg.solve(S, C @ covariance).T
            mean, covariance = mean + gain @ residual, covariance - gain @ C @ covariance
            filtered.append(mean)
            mean = self.transition @ mean
            covariance = self.transition @ covariance @ self.transition.T + self.process
            predicted.append(mean)
        return np.array(log_prob), np.array(filtered), np.array(predicted)

    def complete(self, x: np.ndarray) -> np.ndarray:
        """A sequence (n_steps, n_columns), what is missing at its expectation given the rest."""
        n_steps, n_columns = x.shape
        covariance = np.zeros((n_steps, n_columns, n_steps, n_columns))
        own = self.process if self.first is None else self.first
        for t in range(n_steps):
            cross = own
            for s in range(t, n_steps):
                block = self.loadings @ cross @ self.loadings.T
                covariance[s, :, t], covariance[t, :, s] = block, block.T
                cross = self.transition @ cross
            covariance[t, :, t] += np.diag(self.noise)
            own = self.transition @ own @ self.transition.T + self.process
        matrix, flat = covariance.reshape(x.size, x.size), (x - self.mean).ravel()
        seen = ~np.isnan(flat)
        weights = np.linalg.solve(matrix[np.ix_(seen, seen)], flat[seen])
        filled = np.where(seen, flat, matrix[:, seen] @ weights)
        return filled.reshape(x.shape) + self.mean

    def sample(self, n_rows: int, n_steps: int, *, seed: int = 0) -> np.ndarray:
        """Sequences (n_rows, n_steps, n_columns)."""
        rng = np.random.default_rng(seed)
        first = self.process if self.first is None else self.first
        z = rng.multivariate_normal(np.zeros(len(first)), first, size=n_rows)
        X = []
        for _ in range(n_steps):
            noise = rng.normal(size=(n_rows, len(self.noise))) * np.sqrt(self.noise)
            X.append(z @ self.loadings.T + self.mean + noise)
            z = z @ self.transition.T
            z = z + rng.multivariate_normal(np.zeros(len(first)), self.process, size=n_rows)
        return np.stack(X, axis=1)


# ---------------------------------------------------------------------------------- comparisons


def assert_mean(
    draws: Any, expected: Any, *, n_errors: float = 4.5, axis: int = 0, name: str = ""
) -> None:
    """The mean of independent draws along `axis` is as expected, within its standard error.

    At 4.5 standard errors a comparison fails by chance 7 times in a million.
    """
    draws = np.asarray(draws, dtype=np.float64)
    error = draws.std(axis=axis, ddof=1) / np.sqrt(draws.shape[axis])
    distance = np.abs(draws.mean(axis=axis) - np.asarray(expected, dtype=np.float64))
    allowed = n_errors * error + 1e-10
    assert np.all(distance <= allowed), (
        f"{name}: off by {np.max(distance / allowed) * n_errors:.1f} standard errors"
    )


def assert_follows(draws: np.ndarray, edges: np.ndarray, cumulative: np.ndarray) -> None:
    """Draws (n,) follow a distribution, given by its distribution function at the edges.

    A Kolmogorov-Smirnov test that rejects one time in ten thousand.
    """
    empirical = np.searchsorted(np.sort(draws), edges, side="right") / len(draws)
    distance = np.max(np.abs(empirical - cumulative))
    assert distance < 2.23 / np.sqrt(len(draws)), f"distance {distance:.4f}"
