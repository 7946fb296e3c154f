"""Inference after training, on top of the model protocol alone."""

from skvae.inference._importance import (
    evidence_lower_bound,
    importance_log_likelihood,
    log_weights,
)
from skvae.inference._refine import refined_posterior
