"""Columns standardised anew: in the user's units the model says what it said before."""

import numpy as np
import pytest
import torch

from skvae._core._batch import Batch, draw_noise
from skvae._core._summary import ColumnSummary
from skvae.likelihoods import GaussianLikelihood
from skvae.models._autoencoder import build_autoencoder
from skvae.networks import MLP
from skvae.objectives import SGVB
from skvae.posteriors import DiagonalPosterior
from skvae.priors import StandardNormalPrior, VampPrior
from tests.registry import LIKELIHOODS, NETWORKS, N_COLUMNS, case_of, combinations, make_rows

N_LATENT = 2
KINDS = {"likelihood": [case.component for case in LIKELIHOODS], "network": NETWORKS}


def build(likelihood, encoder=None, decoder=None, *, prior=None, dtype=torch.float64, **parts):
    """Model with weights drawn at random, as training might have left it, and its first rows."""
    rows = make_rows(case_of(likelihood))
    model = build_autoencoder(
        n_latent=N_LATENT,
        summary=likelihood.summarize(rows)._replace(has_missing=True),
        likelihood=likelihood,
        prior=prior or StandardNormalPrior(),
        posterior=DiagonalPosterior(),
        encoder=encoder or MLP(hidden_layer_sizes=(6,)),
        decoder=decoder or MLP(hidden_layer_sizes=(5,)),
        dtype=dtype,
        generator=torch.Generator().manual_seed(0),
        **parts,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
        for name in ("loadings", "root"):
            buffer = getattr(model.missing, name)
            buffer.copy_(torch.randn(buffer.shape, generator=generator, dtype=dtype))
    return model.eval(), rows


def said(model, rows):
    """What the model says of rows in the user's units, some of them with holes."""
    head, first = model.observation_head, next(model.parameters())
    x, holes = torch.from_numpy(rows), torch.from_numpy(rows)
    mask = torch.ones(rows.shape, dtype=first.dtype)
    mask[::3, 0] = mask[1::3, 1:] = 0.0
    results = {}
    for name, mask in (("complete", None), ("holes", mask)):
        own = head.standardize(x).to(first.dtype)
        if mask is not None:
            filler = torch.as_tensor(head.placeholder, dtype=first.dtype)
            own = torch.where(mask > 0, own, filler)
        batch = Batch(own, mask)
        noise = draw_noise(
            model.noise_spec(3) | model.prior_noise_spec(3),
            len(rows),
            generator=torch.Generator().manual_seed(2),
            dtype=first.dtype,
            device=first.device,
        )
        with torch.no_grad():
            batch = model.observe(batch, noise)
            q = model.posterior(batch)
            z = q.rsample(noise)
            log_prior, log_likelihood = model.log_joint(batch, z)
            observation = model.generative(batch, z).observation
            results |= {
                f"posterior mean, {name}": q.mean,
                f"posterior variance, {name}": q.variance,
                f"log prior, {name}": log_prior,
                f"log likelihood, {name}": log_likelihood,
                f"expectation, {name}": head.from_expectation(observation.expectation),
                f"sample, {name}": head.unstandardize(
                    observation.sample(torch.Generator().manual_seed(3))
                ),
            }
    return results


def rescaled(model, likelihood, rows, further):
    """The moves of a model that has seen further rows."""
    before = likelihood.moments(likelihood.summarize(rows))
    own = likelihood.moments(likelihood.summarize_further(further))
    return model.rescale_(before, before.merged(own))


def further_rows(likelihood, *, spread=4.0):
    """Rows of other location and scale than the first ones, within the support."""
    case = case_of(likelihood)
    rows = make_rows(case, n_rows=60, seed=5)
    if case.rows.name == "real" and case.from_real is case.rows.from_real:
        return spread * rows + spread * np.linspace(-1.0, 2.0, N_COLUMNS)
    return rows * np.linspace(1.0, 3.0, N_COLUMNS) if case.rows.name == "positive" else rows


def assert_says_the_same(before, after, rtol):
    for name, value in before.items():
        size = float(value.abs().max())
        np.testing.assert_allclose(
            after[name], value, rtol=rtol, atol=rtol * size, err_msg=name, strict=True
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "case", [pytest.param(c, id=" ".join(map(repr, c.values()))) for c in combinations(KINDS)]
)
def test_a_rescaled_model_says_the_same(case, dtype):
    likelihood, network = case.values()
    pytest.importorskip("torch")
    for place in ("encoder", "decoder"):
        if "image_shape" in network.get_params():
            continue
        model, rows = build(likelihood, **{place: network}, dtype=dtype)
        further = further_rows(likelihood)
        if not model.can_rescale:
            continue
        some = np.vstack([rows[:20], further[:20]])
        before = said(model, some)
        state = {name: t.clone() for name, t in model.state_dict().items()}
        rescaled(model, likelihood, rows, further)
        # The floor of a noise is a share of its column's variance, the new one as well as the old.
        exact = 1e-6 if "predicted" in repr(likelihood) else 1e-9
        assert_says_the_same(before, said(model, some), exact if dtype == torch.float64 else 1e-5)
        assert any(not torch.equal(t, state[name]) for name, t in model.state_dict().items())
