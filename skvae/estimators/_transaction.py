"""A failed fit leaves the estimator as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch


def all_or_nothing(method: Callable) -> Callable:
    """Decorate a method so that an exception restores every attribute of the estimator.

    The attributes are restored, not copied: what they hold must not have been changed in place,
    so the method works on copies of fitted state and sets attributes at its end.
    """

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = vars(self).copy()
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return guarded


def trains(method: Callable) -> Callable:
    """Decorate a method that needs gradients, whatever torch contexts its caller has open."""

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _own_contexts(), torch.enable_grad():
            return method(*args, **kwargs)

    return wrapped


def infers(method: Callable) -> Callable:
    """Decorate a method that needs no gradients, whatever torch contexts its caller has open."""

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _own_contexts(), torch.no_grad():
            return method(*args, **kwargs)

    return wrapped


def _own_contexts() -> ExitStack:
    """Contexts that shut out those of the caller: device, inference mode, automatic precision."""
    stack = ExitStack()
    if torch.get_default_device().type != "cpu":
        # Not otherwise: the context intercepts every call of torch, a quarter of a small fit.
        stack.enter_context(torch.device("cpu"))
    stack.enter_context(torch.inference_mode(False))
    for device_type in ("cpu", "cuda"):
        stack.enter_context(torch.autocast(device_type, enabled=False))
    return stack
