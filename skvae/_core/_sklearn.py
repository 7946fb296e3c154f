"""The private names of scikit-learn that skvae relies on, gathered in one place.

Every other module below the estimators stays free of scikit-learn; the estimators import its
public names directly and its private ones from here, so that a release of scikit-learn that moves
one of them is answered in this file alone.
"""

from __future__ import annotations

from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    MissingValues,
    StrOptions,
)
from sklearn.utils.validation import _check_feature_names

try:  # scikit-learn >= 1.9; the interface is experimental upstream
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # pragma: no cover - depends on the installed version

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stand-in for scikit-learn's mixin on versions that have no callbacks."""


HAS_CALLBACKS = hasattr(CallbackSupportMixin, "_init_callback_context")

__all__ = [
    "HAS_CALLBACKS",
    "BaseEstimator",
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "MissingValues",
    "StrOptions",
    "_check_feature_names",
    "_fit_context",
]
