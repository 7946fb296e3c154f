"""Linear discriminant analysis where the classes of some rows only are known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skvae.engine._rows import Rows
from skvae.models import SemiSupervisedAutoencoder

# Rows that are looked at, at most, and features: of more the covariance is not formed.
MOST_ROWS, MOST_FEATURES = 20_000, 1536
# Steps of expectation maximisation.
N_STEPS = 10
# Share of the covariance that is taken to be that of features that do not depend on each other,
# and the least variance of a feature as a share of the mean one.
SHRINKAGE, LEAST_VARIANCE = 0.1, 1e-3


@torch.no_grad()
def start_classifier_(rows: Rows, model: SemiSupervisedAutoencoder) -> None:
    """Start the classifier at linear discriminants, if it has a linear path.

    Means of the classes and a covariance within all of them are found by expectation maximisation
    (Dempster et al., 1977): rows of known class count for it, the others for each class by its
    probability.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete data
    via the EM algorithm. Journal of the Royal Statistical Society B 39.
    """
    n_features = model.observation_head.n_features
    if not model.classifier.has_linear_path or n_features > MOST_FEATURES:
        return
    batch = rows.gather(_chosen(rows))
    assert batch.context is not None
    label = batch.context.double()
    features = model.class_features(batch).double()
    known = label.sum(1, keepdim=True)
    log_prior = model.class_log_prior().double()
    # A few rows of known class tell the centres of the classes and nothing of their shape.
    all_known = bool((known > 0).all())
    weight, bias = _discriminants(features, label, log_prior, centres_only=not all_known)
    for _ in range(0 if all_known else N_STEPS):
        logits = features @ weight + bias
        share = label + (1.0 - known) * torch.softmax(logits, dim=1)
        weight, bias = _discriminants(features, share, log_prior)
    model.classifier.start_linear_(weight, bias)


def _chosen(rows: Rows) -> np.ndarray:
    """Positions of rows to look at: those that are shown often, and evenly spaced others."""
    often = rows.shown_often()
    if often is None:
        return np.linspace(0, len(rows) - 1, min(len(rows), MOST_ROWS)).astype(np.int64)
    few, others = np.flatnonzero(often)[:MOST_ROWS], np.flatnonzero(~often)
    some = np.linspace(0, len(others) - 1, min(len(others), MOST_ROWS)).astype(np.int64)
    return np.concatenate([few, others[some]])


def _discriminants(
    features: Tensor, share: Tensor, log_prior: Tensor, *, centres_only: bool = False
) -> tuple[Tensor, Tensor]:
    """Weights (n_features, n_classes) and biases of the logits of p(y | features).

    Parameters
    ----------
    features : Tensor of shape (n_rows, n_features)
    share : Tensor of shape (n_rows, n_classes)
        What each row counts for in each class.
    log_prior : Tensor of shape (n_classes,)
    centres_only : bool, default=False
        Whether features are taken to vary in the classes as they do in all rows, and independently.
    """
    counts = share.sum(0)
    centre = features.mean(0)
    means = centre + (share.mT @ (features - centre)) / counts.clamp(min=1.0).unsqueeze(1)
    deviation = features - centre
    total = deviation.mT @ deviation / len(features)
    shift = means - centre
    # Of all rows, a few of known class standing for the others.
    within = total - (counts / counts.sum() * shift.mT) @ shift
    variance = within.diagonal().clamp(min=LEAST_VARIANCE * float(total.diagonal().mean()))
    if centres_only:
        within = torch.zeros_like(total)
        variance = total.diagonal().clamp(min=float(variance.min()))
    within = (1.0 - SHRINKAGE) * within
    within.diagonal().copy_(variance)
    values, vectors = torch.linalg.eigh(within)
    values = values.clamp(min=SHRINKAGE * LEAST_VARIANCE * float(variance.mean()))
    weight = vectors @ ((vectors.mT @ means.mT) / values.unsqueeze(1))
    return weight, log_prior - 0.5 * (means.mT * weight).sum(0)
