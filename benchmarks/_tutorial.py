"""Images and networks of Yang's tutorial (2022), for the scripts that reproduce it."""

from __future__ import annotations

import numpy as np
import torch
from _common import Images
from torch import Tensor

from skvae._core._summary import ColumnSummary
from skvae.likelihoods import ContinuousBernoulliLikelihood
from skvae.likelihoods._continuous_bernoulli import (
    ContinuousBernoulliHead,
    ContinuousBernoulliParams,
)
from skvae.networks import MLP

# Grey levels of a pixel.
LEVELS = 256
# Largest logit that PyTorch's distribution, which the tutorial uses, knows of: in float32 it keeps
# probabilities 2^-23 away from 0 and 1.
LARGEST_LOGIT = float(-np.log(np.finfo(np.float32).eps))


def dequantized(images: Images, seed: int = 0) -> Images:
    """Grey levels plus uniform noise as wide as one of them, divided by their number."""
    rng = np.random.default_rng(seed)
    # Numbers as near to 1 as float32 can be are rounded to it, which is a grey value, too.
    train, test = (
        ((np.rint(x * (LEVELS - 1)) + rng.random(x.shape, dtype=np.float32)) / LEVELS).astype(
            np.float32
        )
        for x in (images.train, images.test)
    )
    return Images(images.name, train, test)


def thresholded(images: Images) -> Images:
    """1 where a pixel is in the upper half of grey levels, else 0."""
    train, test = (
        (np.rint(x * (LEVELS - 1)) >= LEVELS // 2).astype(np.float32)
        for x in (images.train, images.test)
    )
    return Images(images.name, train, test)


def network(dropout: float = 0.1, *, linear_path: bool = False) -> MLP:
    """Two layers of 500, of the autoencoder and of the conditional one."""
    return MLP(hidden_layer_sizes=(500, 500), dropout=dropout, linear_path=linear_path)


class BoundedContinuousBernoulli(
    ContinuousBernoulliLikelihood, shorthand="bounded_continuous_bernoulli"
):
    """Continuous Bernoulli likelihood whose logits are kept within ±15.94, as PyTorch's are.

    A black pixel of dequantised images is uniform in [0, 1/256), where the density of the family
    can be as high as 188 (5.2 nats), with a logit of -512. With logits this small it is at most 16
    (2.8 nats): bounds of the tutorial are to be compared with bounds under this likelihood.
    """

    def build(self, summary: ColumnSummary, dtype: torch.dtype) -> ContinuousBernoulliHead:
        """Head whose outputs are clipped."""
        self.check_parameters()
        return _BoundedHead(summary, dtype=dtype)


class _BoundedHead(ContinuousBernoulliHead):
    """Clips the logits of the densities."""

    def __init__(self, summary: ColumnSummary, *, dtype: torch.dtype) -> None:
        super().__init__(summary, dtype=dtype)
        # Beyond its limits nothing has a gradient.
        self.logits.clamp_(-0.9 * LARGEST_LOGIT, 0.9 * LARGEST_LOGIT)

    def params_from(self, outputs: Tensor) -> ContinuousBernoulliParams:
        return ContinuousBernoulliParams(outputs.clamp(-LARGEST_LOGIT, LARGEST_LOGIT))
