"""A fit to rows drawn from a model of a likelihood comes near the log-likelihood of that model."""

import numpy as np
import pytest
import torch

from skvae import VariationalAutoencoder
from skvae.networks import MLP
from tests.helpers import batch_of, build_model, log_likelihood_by_quadrature
from tests.registry import LIKELIHOODS, each, make_rows

N_COLUMNS, N_ROWS = 6, 1500
# One of each class, of those that say how X itself is distributed.
first = {type(c.component): c for c in reversed(LIKELIHOODS) if c.rows is c.outcome}


def rows_of_a_known_model(case):
    """Rows to fit, rows to judge by, and the log-likelihood of the latter, in nats per row."""
    model = build_model(make_rows(case, 200, N_COLUMNS), n_latent=1, likelihood=case.component)
    head = model.observation_head
    n_locations = head.n_location_outputs
    loadings = torch.linspace(-2.0, 2.0, n_locations, dtype=torch.float64)
    if n_locations > N_COLUMNS:  # neighbours that move alike would change no probability
        loadings = loadings[torch.randperm(n_locations, generator=torch.Generator().manual_seed(0))]
    model.decoder.start_linear_(loadings[None], head.initial_outputs().detach())
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 2 * N_ROWS, 1, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        observation = model.generative(batch_of(model, np.zeros((1, N_COLUMNS)) + 0.5), z)[1]
        X = head.unstandardize(observation.sample(generator)[0]).numpy()
        truth = log_likelihood_by_quadrature(model, batch_of(model, X[N_ROWS:])).mean()
    return X[:N_ROWS], X[N_ROWS:], truth


@pytest.mark.slow
@pytest.mark.parametrize("case", each(list(first.values())))
def test_fit_comes_near_the_model_that_the_rows_were_drawn_from(case):
    X, X_test, truth = rows_of_a_known_model(case)
    linear = MLP(hidden_layer_sizes=())
    marginals, vae = (
        VariationalAutoencoder(n, likelihood=case.component, decoder=linear, random_state=0).fit(X)
        for n in (0, 1)
    )
    score = vae.score(X_test)
    # The columns have something in common, and the model finds it. Three parameters for each column
    # cost half a nat in N_ROWS each, and training stops a little before its end.
    assert marginals.score(X_test) < truth - 0.02
    assert truth - 0.08 < score < truth + 0.03
    assert vae.lower_bound(X_test).mean() <= score + 0.01
