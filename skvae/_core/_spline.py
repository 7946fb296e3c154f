"""Rational-quadratic splines that go back in float32, too. Imported where a flow is built only."""

from __future__ import annotations

import torch
from torch import Tensor
from zuko.transforms import MonotonicRQSTransform


class Spline(MonotonicRQSTransform):
    """zuko's spline, with another formula for the way back.

    There a quadratic equation is solved (Durkan et al., 2019, equations 6 to 8). Of its two forms
    one subtracts nearly equal numbers where the slope at the end of an interval is far above its
    mean slope: in float32 zuko's then gives NaN.
    """

    def _inverse(self, y: Tensor) -> Tensor:
        k = self.searchsorted(self.vertical, y) - 1
        inside, x0, x1, y0, y1, d0, d1, s = self.bin(k)
        rise, height = inside * (y - y0), y1 - y0
        bend = d0 + d1 - 2.0 * s
        a = height * (s - d0) + rise * bend
        b = height * d0 - rise * bend
        c = -s * rise
        root = (b.square() - 4.0 * a * c).clamp_min(torch.finfo(y.dtype).tiny).sqrt()
        # Where b < 0, a > 0; what is not chosen must not divide by zero either.
        usual = b >= 0.0
        above = torch.where(usual, 2.0 * c, root - b)
        below = torch.where(usual, -b - root, 2.0 * a)
        share = (above / below).clamp(0.0, 1.0)
        return torch.where(inside, x0 + share * (x1 - x0), y)
