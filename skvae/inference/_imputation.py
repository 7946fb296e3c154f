"""What is missing, given what is observed: expectations, independent draws, Markov chains."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from skvae._core._batch import Batch, NoiseSpec, draw_noise
from skvae._core._random import generator_on
from skvae.inference._importance import Infer, weighted_draws
from skvae.models._base import LatentVariableModel
from skvae.posteriors._base import PosteriorDistribution


def conditional_expectation(
    model: LatentVariableModel,
    batch: Batch,
    noise: Mapping[str, Tensor],
    *,
    n_at_once: int | None = None,
    infer: Infer | None = None,
) -> tuple[Tensor, Tensor]:
    """Expectation of each row given what of it is observed, by self-normalised importance weights.

    Parameters
    ----------
    model : LatentVariableModel
    batch : Batch
    noise : mapping of str to Tensor
        As ``model.noise_spec`` declares.
    n_at_once : int or None, default=None
        Draws that are decoded at once.
    infer : callable or None, default=None
        The posterior of a batch, in place of the model's own.

    Returns
    -------
    expectation : Tensor of shape (n_rows, n_expectation)
        As the head's ``from_expectation`` reads it.
    effective_sample_size : Tensor of shape (n_rows,)
        Number of draws from the posterior itself that the weighted ones are worth (Kong, 1992).

    References
    ----------
    Mattei, P.-A. and Frellsen, J. (2019). MIWAE: deep generative modelling and imputation of
    incomplete data sets. ICML. Section 4.
    """
    largest = total = square = mean = None
    for draws in weighted_draws(model, batch, noise, n_at_once=n_at_once, infer=infer):
        log_weight, expected = draws.log_weight, draws.observation.expectation_of_missing
        top = log_weight.amax(0)
        if largest is None:
            largest = top
            total, square = torch.zeros_like(top), torch.zeros_like(top)
            mean = expected.new_zeros(expected.shape[1:])
        assert total is not None and square is not None and mean is not None
        new = torch.maximum(largest, top)
        weight, shrink = torch.exp(log_weight - new), torch.exp(largest - new)
        some = weight.sum(0)
        total, square = shrink * total + some, shrink.square() * square + weight.square().sum(0)
        # The running mean, so that nothing grows with the number of draws.
        step = torch.einsum("dr,drc->rc", weight, expected) - some.unsqueeze(1) * mean
        mean = mean + step / total.unsqueeze(1)
        largest = new
    assert total is not None and square is not None and mean is not None
    return mean, total.square() / square


def conditional_draws(
    model: LatentVariableModel,
    batch: Batch,
    noise: Mapping[str, Tensor],
    n_samples: int,
    generator: torch.Generator,
    *,
    n_at_once: int | None = None,
    infer: Infer | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws of rows given what of them is observed, by sampling importance resampling.

    Parameters
    ----------
    model, batch, noise, n_at_once, infer
        As for `conditional_expectation`.
    n_samples : int
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    x : Tensor of shape (n_samples, n_rows, n_columns)
        In the units of the head; what is observed is what it was.
    z : Tensor of shape (n_samples, n_rows, *latent_shape)
        The latent variables that they were drawn with.

    References
    ----------
    Rubin, D. B. (1987). Comment on Tanner and Wong. Journal of the American Statistical
    Association 82.
    """
    # What x is expected to be is not kept: it is much more than z.
    parts = [
        (draws.z, draws.log_weight)
        for draws in weighted_draws(model, batch, noise, n_at_once=n_at_once, infer=infer)
    ]
    z = torch.cat([some for some, _ in parts])
    z = z.expand(len(z), len(batch.x), *z.shape[2:])
    weight = torch.softmax(torch.cat([some for _, some in parts]), dim=0)
    # One uniform number for all draws of a row, evenly spaced (systematic resampling): with as many
    # of them as draws, each is taken as often as its weight says, to within one.
    cumulative = weight.double().cumsum(0)
    cumulative = cumulative / cumulative[-1:].clone()
    uniform = torch.rand(1, weight.shape[1], generator=generator, dtype=torch.float64)
    steps = torch.arange(n_samples, dtype=torch.float64).unsqueeze(1)
    wanted = ((steps + uniform) / n_samples).to(cumulative)
    chosen = torch.searchsorted(cumulative.mT.contiguous(), wanted.mT.contiguous()).mT
    chosen = chosen.clamp(max=len(z) - 1)
    # In no order: the first draws of all rows are to be as good as any.
    order = torch.rand(n_samples, weight.shape[1], generator=generator).argsort(0).to(chosen.device)
    chosen = chosen.gather(0, order)
    index = chosen.view(*chosen.shape, *[1] * (z.ndim - 2)).expand(-1, -1, *z.shape[2:])
    z = z.gather(0, index)
    return _with_observed(model, batch, z, generator), z


def chain_draws(
    model: LatentVariableModel,
    batch: Batch,
    x: Tensor,
    z: Tensor,
    n_steps: int,
    generator: torch.Generator,
    *,
    corrected: bool,
) -> Tensor:
    """Draws of rows given what of them is observed, by Markov chains that start at given ones.

    Each step draws z from the encoder's posterior given the row as it is, filled in, and then what
    is missing from p(x | z) (Rezende et al., 2014). The law that the chain tends to is the right
    one if the encoder's posterior is; if `corrected`, it is in any case, since z is then a proposal
    that is accepted or not (Mattei and Frellsen, 2018).

    Parameters
    ----------
    model : LatentVariableModel
    batch : Batch
    x : Tensor of shape (n_chains, n_rows, n_columns)
        Rows in the units of the head at which the chains start, complete.
    z : Tensor of shape (n_chains, n_rows, *latent_shape)
        Latent variables at which they start.
    n_steps : int
    generator : torch.Generator
        On the CPU.
    corrected : bool

    Returns
    -------
    x : Tensor of shape (n_chains, n_rows, n_columns)

    References
    ----------
    Rezende, D. J., Mohamed, S. and Wierstra, D. (2014). Stochastic backpropagation and approximate
    inference in deep generative models. ICML. Appendix F.

    Mattei, P.-A. and Frellsen, J. (2018). Leveraging the exact likelihood of deep latent variable
    models. NeurIPS.
    """
    assert batch.mask is not None
    n_chains, n_rows, _ = x.shape
    mask = batch.mask.repeat(n_chains, 1)
    context = None if batch.context is None else batch.context.repeat(n_chains, 1)
    x, z = x.flatten(0, 1), z.flatten(0, 1).unsqueeze(0)
    for _ in range(n_steps):
        # The row as it is filled in serves as a proposal; what is missing is missing all the same.
        now = Batch(x, context=context)
        q = model.posterior(now)
        proposed = q.rsample(_fresh(model.noise_spec(1), x, generator))
        if corrected:
            gain = _log_weight(model, now, q, proposed) - _log_weight(model, now, q, z)
            uniform = torch.rand(len(x), generator=generator, dtype=torch.float64)
            accepted = torch.log(uniform).to(gain) < gain
            proposed = torch.where(accepted.view(1, -1, *[1] * (z.ndim - 2)), proposed, z)
        z = proposed
        x = _with_observed(model, Batch(x, mask, context), z, generator)[0]
    return x.view(n_chains, n_rows, -1)


def _log_weight(
    model: LatentVariableModel, batch: Batch, q: PosteriorDistribution, z: Tensor
) -> Tensor:
    """log p(x, z) - log q(z | x) of one draw for each row, (n_rows,), in nats."""
    log_prior, log_likelihood = model.log_joint(batch, z)
    return (log_prior + log_likelihood - q.log_prob(z))[0]


def _with_observed(
    model: LatentVariableModel, batch: Batch, z: Tensor, generator: torch.Generator
) -> Tensor:
    """Draws of x given draws of z, with what is observed in its place."""
    on_device = generator_on(z.device, generator)
    drawn = model.generative(batch, z).observation.sample_missing(on_device)
    assert batch.mask is not None
    return torch.where(batch.mask > 0, batch.x, drawn)


def _fresh(
    specs: Mapping[str, NoiseSpec], like: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Noise for as many rows as `like` has, where it is and what it is."""
    cpu = torch.device("cpu")
    noise = draw_noise(specs, len(like), generator=generator, dtype=torch.float64, device=cpu)
    return {name: t.to(like) for name, t in noise.items()}
