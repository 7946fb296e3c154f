"""Functions and classes by the name under which they are imported: ``"package.module:name"``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def import_path_of(value: Callable[..., Any]) -> str:
    """Import path of a function or class at the top level of a module, or nested in a class.

    Raises
    ------
    ValueError
        If it is not what its name stands for, or has none: a lambda, a function within a function,
        a method of an object, something from ``__main__``. The message says which.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("it has no name of its own")
    if module == "__main__":
        raise ValueError("it is defined in __main__, the script or notebook that runs")
    path = f"{module}:{name}"
    if not is_import_path(path):
        raise ValueError("it is a lambda or is defined within a function")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not value:
        raise ValueError(f"{path!r} stands for something else")
    return path


def import_from(path: str) -> Any:
    """What an import path stands for; its module is imported.

    Raises
    ------
    ValueError
        If `path` is not of the form.
    ImportError
        If there is no such module, or nothing of that name in it.
    """
    if not is_import_path(path):
        raise ValueError(f"{path!r} is not of the form 'package.module:name'")
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ImportError(f"there is no {name!r} in {module!r}") from error
    return found


def is_import_path(path: str) -> bool:
    """Whether `path` is of the form ``"package.module:name"``."""
    module, colon, name = path.partition(":")
    parts = [*module.split("."), *name.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)
