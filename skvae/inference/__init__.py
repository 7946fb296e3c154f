"""Inference after training, on top of the model protocol alone."""

from skvae.inference._annealed import AnnealedImportanceSampling, sigmoid_schedule
from skvae.inference._hmc import differentiated, hmc_chains, hmc_move
from skvae.inference._importance import (
    evidence_lower_bound,
    importance_log_likelihood,
    log_weights,
    part_probabilities,
    weighted_draws,
)
from skvae.inference._imputation import chain_draws, conditional_draws, conditional_expectation
from skvae.inference._log_likelihood import LogLikelihood, LogMeanWeight, log_mean_weight
from skvae.inference._particle_filter import (
    expected_continuation,
    expected_steps,
    filtered_log_likelihood,
)
from skvae.inference._pooling import PooledEstimates, pool_estimates
from skvae.inference._reciprocal import reciprocal_log_likelihood
from skvae.inference._refine import refined_posterior
