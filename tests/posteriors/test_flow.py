"""What is particular to a flow as posterior."""

import math

import pytest
import torch
from torch.distributions import Normal

from skvae.posteriors import DiagonalPosterior, FlowPosterior
from tests.helpers import draw, moved, posterior_head


def some_outputs(head, n_rows=3, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, head.n_outputs, generator=generator, dtype=torch.float64)


def test_it_begins_as_the_diagonal_posterior():
    head = posterior_head(FlowPosterior(), 3)
    outputs = some_outputs(head)
    q, diagonal = head(outputs), posterior_head(DiagonalPosterior(), 3)(outputs[:, :6])
    noise = draw(head.noise_spec(5), 3)
    for one, other in zip(
        q.rsample_and_log_prob(noise), diagonal.rsample_and_log_prob(noise), strict=True
    ):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(q.mean, diagonal.mean)
    torch.testing.assert_close(q.variance, diagonal.variance)


def test_one_variable_by_shift_and_scale_stays_normal():
    head = moved(posterior_head(FlowPosterior(family="affine"), 1))
    with torch.no_grad():
        q = head(some_outputs(head))
        z = torch.linspace(-3.0, 3.0, 7, dtype=torch.float64).view(-1, 1, 1)
        normal = Normal(q.mean, q.variance.sqrt())
        torch.testing.assert_close(q.log_prob(z), normal.log_prob(z).squeeze(-1))


def test_without_context_all_rows_have_one_shape():
    outputs = some_outputs(posterior_head(FlowPosterior(), 2))
    with torch.no_grad():
        for n_context in (0, 8):
            head = moved(posterior_head(FlowPosterior(n_context=n_context), 2))
            q = head(outputs[:, : head.n_outputs])
            z = q.rsample(draw(head.noise_spec(50), 1))
            standard = (z - q.location) * torch.exp(-q.log_scale)
            assert torch.allclose(standard[:, :1], standard) == (n_context == 0)


def test_log_prob_of_a_narrow_posterior_keeps_its_digits_in_float32():
    # (z - location) / scale of a draw loses all digits where scale / |location| is under 1e-7.
    head = posterior_head(FlowPosterior(n_context=0), 1, torch.float32)
    noise = torch.linspace(-3, 3, 7).view(-1, 1, 1)
    _, log_prob = head(torch.tensor([[100.0, -15.0]])).rsample_and_log_prob({"z": noise})
    expected = Normal(0.0, 1.0).log_prob(noise).squeeze(-1) + 15.0
    torch.testing.assert_close(log_prob, expected)


def banana(z):
    """A curved density in the plane, normalised: N(a; 0, 1) N(b; a² - 1, 0.3)."""
    a, b = z.unbind(-1)
    return Normal(0.0, 1.0).log_prob(a) + Normal(a.square() - 1.0, 0.3).log_prob(b)


def two_peaks(z):
    """Two peaks on the line, normalised."""
    peaks = [Normal(m, 0.5).log_prob(z.squeeze(-1)) for m in (-1.5, 1.5)]
    return torch.logsumexp(torch.stack(peaks), 0) - math.log(2.0)


def approximated(posterior, target, n_latent):
    """The family's best q for one row, by its bound on a log normaliser of 0."""
    head = posterior_head(posterior, n_latent)
    outputs = head.outputs_at(torch.zeros(n_latent, dtype=torch.float64)).requires_grad_()
    optimizer = torch.optim.Adam([outputs, *head.parameters()], lr=0.02)
    for step in range(400):
        optimizer.zero_grad()
        q = head(outputs.unsqueeze(0))
        z, log_q = q.rsample_and_log_prob(draw(head.noise_spec(64), 1, seed=step))
        loss = (log_q - target(z)).mean()
        loss.backward()
        optimizer.step()
    return head, head(outputs.detach().unsqueeze(0))


@pytest.mark.parametrize(
    ("target", "n_latent"), [(banana, 2), (two_peaks, 1)], ids=["curved", "two peaks"]
)
@torch.enable_grad()
def test_it_becomes_what_a_normal_cannot(target, n_latent):
    divergences = {}
    for family in (DiagonalPosterior(), FlowPosterior()):
        head, q = approximated(family, target, n_latent)
        with torch.no_grad():
            z, log_q = q.rsample_and_log_prob(draw(head.noise_spec(5000), 1, seed=1000))
            divergences[family.shorthand] = float((log_q - target(z)).mean())
    assert divergences["diagonal"] > 0.6
    assert 0.0 <= divergences["flow"] < 0.2
