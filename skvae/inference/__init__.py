"""Inference after training, on top of the model protocol alone."""

from skvae.inference._importance import (
    evidence_lower_bound,
    importance_log_likelihood,
    log_weights,
    weighted_draws,
)
from skvae.inference._imputation import chain_draws, conditional_draws, conditional_expectation
from skvae.inference._pooling import PooledEstimates, pool_estimates
from skvae.inference._refine import refined_posterior
