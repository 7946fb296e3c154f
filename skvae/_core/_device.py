"""Devices and dtypes."""

from __future__ import annotations

import numpy as np
import torch


def resolve_device(device: str) -> torch.device:
    """Device that the string names; "auto" is the first CUDA device where there is one, else CPU.

    Raises
    ------
    ValueError
        If `device` is not a device that torch knows or that this machine has.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # With its number, as tensors there have it.
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"device={device!r} cannot be used on this machine ({first_line}). "
            'Use device="auto" or "cpu".'
        ) from error


def torch_dtype(dtype: np.dtype | type) -> torch.dtype:
    """torch's name of NumPy's float32 or float64."""
    return torch.float32 if np.dtype(dtype) == np.float32 else torch.float64
