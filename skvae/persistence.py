"""Saving and loading estimators without pickle: nothing in a file is executed unasked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from skvae import estimators
from skvae._core._file_format import Reader, Writer, read_file, write_file
from skvae._version import __version__
from skvae.estimators._transaction import infers
from skvae.exceptions import FileFormatError

# Attributes without a trailing underscore that belong to a fitted estimator.
_PRIVATE = frozenset(
    {
        "_learned_missing",
        "_likelihood_given",
        "_schema",
        "_seed",
        "_sklearn_output_config",
        "_trainer_state",
    }
)
_FITTED = re.compile(r"[a-z][a-z0-9_]*_")
# What building a model and filling in its weights raises where they do not fit together.
_INCONSISTENT = (
    *(KeyError, TypeError, ValueError, RuntimeError, StopIteration, AttributeError),
    ImportError,  # of a trusted path
)


@infers
def save(estimator: Any, path: str | os.PathLike) -> None:
    """Write a fitted or unfitted estimator to a file.

    The file holds numbers and names only (safetensors and JSON), so that opening one from an
    untrusted place executes nothing. It is written whole or not at all. Callbacks are not saved.
    Of functions, such as the factory of a :class:`~skvae.networks.TorchNetwork`, the file holds the
    import path, and ``load`` has to be told to trust it.

    Parameters
    ----------
    estimator : estimator of skvae
        For instance a :class:`~skvae.VariationalAutoencoder`.
    path : str or path-like
        Where to write; ``.skvae`` is a good ending. An existing file is replaced.

    Raises
    ------
    TypeError
        If `estimator` is not one of skvae's, or a parameter holds something that the format does
        not know (a lambda, say).

    See Also
    --------
    load : Read what ``save`` has written.

    Examples
    --------
    >>> import tempfile, os, skvae
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> vae = skvae.VariationalAutoencoder(random_state=0).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "iris.skvae")
    ...     skvae.save(vae, path)
    ...     again = skvae.load(path)
    >>> bool((again.transform(X) == vae.transform(X)).all())
    True
    """
    if _classes().get(type(estimator).__name__) is not type(estimator):
        raise TypeError(
            f"skvae.save writes skvae's estimators; got {type(estimator).__name__}. "
            "Use joblib.dump for others."
        )
    writer = Writer()
    parameters = estimator.get_params(deep=False)
    document = {
        "skvae_version": __version__,
        "estimator": type(estimator).__name__,
        "parameters": {k: writer.encode(v, k) for k, v in parameters.items()},
        "fitted": {
            name: writer.encode(value, name)
            for name, value in vars(estimator).items()
            if name not in parameters and _may_be_fitted(name)
        },
    }
    write_file(path, document, writer.tensors)


@infers
def load(path: str | os.PathLike, *, trusted: Iterable[str] = ()) -> Any:
    """Read an estimator that ``save`` has written.

    Parameters
    ----------
    path : str or path-like
        The file.
    trusted : iterable of str, default=()
        Import paths ("package.module:name") that the file may name. Importing a module executes
        it, and the functions are called with what the file says, so list what you know. All others
        are refused before anything of them is imported.

    Returns
    -------
    estimator : estimator
        As it was saved; its tensors are on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    skvae.exceptions.FileFormatError
        If the file was not written by ``save``, is damaged, needs a newer skvae, or names something
        to import that is not in `trusted`; the message says what.

    See Also
    --------
    save : Write an estimator to a file.
    """
    if isinstance(trusted, str):
        raise TypeError(
            f"trusted must be a collection of import paths; got the string {trusted!r}. Pass "
            f"trusted=({trusted!r},)."
        )
    document, tensors = read_file(path)
    try:
        cls = _classes()[document["estimator"]]
        parameters, fitted = dict(**document["parameters"]), dict(**document["fitted"])
        names = set(cls().get_params(deep=False))
        unknown = set(parameters) - names | {k for k in fitted if not _may_be_fitted(k)}
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"{str(path)!r} does not describe an estimator ({error})") from error
    if unknown:
        raise FileFormatError(f"{str(path)!r} holds attributes unknown here: {sorted(unknown)}")
    reader = Reader(tensors, tuple(trusted))
    estimator = cls(**{k: reader.decode(v) for k, v in parameters.items()})
    values = {k: reader.decode(v) for k, v in fitted.items()}
    weights = values.pop("model_", None)
    if weights is None:
        vars(estimator).update(values)
        return estimator
    try:
        model = estimator._rebuild_model(values)
        model.to(weights[next(name for name, _ in model.named_parameters())].dtype)
        model.load_state_dict(weights)
        estimator._set_state(values, model)
    except _INCONSISTENT as error:
        raise FileFormatError(f"{str(path)!r} holds no consistent model ({error})") from error
    return estimator


def _classes() -> dict[str, type]:
    """Estimators that can be saved, by name."""
    return {name: getattr(estimators, name) for name in estimators.__all__}


def _may_be_fitted(name: str) -> bool:
    return name in _PRIVATE or _FITTED.fullmatch(name) is not None
