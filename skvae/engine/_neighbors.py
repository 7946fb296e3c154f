"""Labels of a few rows, spread to others along a graph of nearest neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Neighbours of a row, and the share of what they say that a row passes on. Over six tables, from
# two moons to digits, more neighbours and a little less than the usual share were the safer choice.
N_NEIGHBORS, PASSED_ON = 15, 0.9
# Passes; what is left to come then is PASSED_ON to their power.
N_PASSES = 60
# Standard deviations, or ranges, beyond which the entries of a row are taken to be alike: a column
# that hardly ever varies must not say which rows are near.
FARTHEST = 2.0
# Rows that are looked at, at most, and multiplications that their distances may cost.
MOST_ROWS, BUDGET = 20_000, 3e11
ROWS_AT_ONCE = 512


@torch.no_grad()
def spread_labels(features: Tensor, label: Tensor) -> Tensor:
    """Probability of each class of rows whose class is not known, by those of their neighbours.

    Rows are joined to their nearest neighbours, and what is known of a row is passed on along the
    graph (Zhou et al., 2004). Classes are weighed so that in all they are as frequent as among the
    rows of known class.

    Parameters
    ----------
    features : Tensor of shape (n_rows, n_features)
        Of about unit scale.
    label : Tensor of shape (n_rows, n_classes)
        Indicators, 0 where the class is not known.

    Returns
    -------
    share : Tensor of shape (n_rows, n_classes)
        In float64; that of a row of known class is its label, and 0 is of a row that was not
        looked at, of which there are many, or that no label can reach.

    References
    ----------
    Zhou, D., Bousquet, O., Lal, T. N., Weston, J. and Schölkopf, B. (2004). Learning with local and
    global consistency. NeurIPS.
    """
    label = label.double()
    share = label.clone()
    is_known = label.sum(1) > 0
    chosen = _chosen(is_known, features.shape[1])
    label, is_known = label[chosen], is_known[chosen]
    if is_known.all() or not is_known.any():
        return share
    joined = _graph(features[chosen].float().clamp(-FARTHEST, FARTHEST))
    counts = label.sum(0)
    given = label / counts.clamp(min=1.0)
    received = given
    for _ in range(N_PASSES):
        received = PASSED_ON * (joined @ received) + (1.0 - PASSED_ON) * given
    weighed = received * (counts / received.sum(0).clamp(min=1e-300))
    total = weighed.sum(1, keepdim=True)
    # Rows that nothing has come to stay 0.
    spread = torch.where(total > 0.0, weighed / total.clamp(min=1e-300), 0.0)
    share[chosen] = torch.where(is_known.unsqueeze(1), label, spread)
    return share


def _chosen(is_known: Tensor, n_features: int) -> Tensor:
    """Rows of known class, and evenly spaced others."""
    few, others = is_known.nonzero().squeeze(1), (~is_known).nonzero().squeeze(1)
    most = min(MOST_ROWS, int((BUDGET / max(n_features, 1)) ** 0.5))

    def spaced(index: Tensor, n_rows: int) -> Tensor:
        places = np.linspace(0, len(index) - 1, min(len(index), n_rows)).astype(np.int64)
        return index[torch.from_numpy(places).to(index.device)]

    few = spaced(few, most // 2)
    return torch.cat([few, spaced(others, most - len(few))])


def _graph(features: Tensor) -> Tensor:
    """Sparse matrix (n_rows, n_rows) of which neighbours are joined, of spectral radius 1."""
    n_rows = len(features)
    n_neighbors = min(N_NEIGHBORS, n_rows - 1)
    # Large means would leave nothing of small distances.
    features = features - features.mean(0)
    square = features.square().sum(1)
    nearest = []
    for start in range(0, n_rows, ROWS_AT_ONCE):
        here = features[start : start + ROWS_AT_ONCE]
        distance = square - 2.0 * (here @ features.mT)
        own = torch.arange(len(here), device=features.device)
        distance[own, start + own] = torch.inf
        nearest.append(distance.topk(n_neighbors, largest=False).indices)
    ends = torch.cat(nearest).flatten()
    begins = torch.arange(n_rows, device=ends.device).repeat_interleave(n_neighbors)
    # Joined are two rows of which either is near the other, once.
    pairs = torch.unique(torch.cat([begins * n_rows + ends, ends * n_rows + begins]))
    begins, ends = pairs // n_rows, pairs % n_rows
    degree = torch.bincount(begins, minlength=n_rows).double()
    strength = (degree[begins] * degree[ends]).rsqrt()
    return torch.sparse_coo_tensor(
        torch.stack([begins, ends]), strength, (n_rows, n_rows), check_invariants=False
    ).coalesce()
