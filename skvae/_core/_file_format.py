"""The file format: values as JSON, arrays as safetensors, nothing that is executed.

A file is one safetensors file. Its metadata holds, under the key ``skvae``, a JSON document with
the format version, the name of the estimator's class, its parameters and its fitted attributes.
A JSON value stands for itself; anything else is an object with one key that says what it is:

==================  =============================================================================
``{"array": k}``    the array stored under the name k
``{"callable": p}`` the function or class with the import path p ("package.module:name")
``{"component":}``  kind, shorthand and parameters of a component
``{"dict": {}}``    a dict with string keys
``{"estimator":}``  an estimator within one: class, parameters and fitted attributes
``{"float": s}``    a float that JSON has no number for ("nan", "inf", "-inf")
``{"module": p}``   weights and buffers of the model, stored under names that begin with p
``{"random":}``     a NumPy ``RandomState``
``{"slice": []}``   a slice: start, stop and step
``{"strings": []}`` an object array of strings
``{"tensor": k}``   the array stored under the name k, as a torch tensor
``{"tuple": []}``   a tuple
==================  =============================================================================

Import paths, as callables or among the parameters of a component, are the only way by which a file
can lead to code, and are followed only if whoever reads the file has listed them, word by word.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from skvae._core._component import Component
from skvae._core._import_path import import_from, import_path_of
from skvae.exceptions import FileFormatError

FORMAT_VERSION = 1
METADATA_KEY = "skvae"


class Writer:
    """Turns values into JSON and collects the arrays that they hold."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: Any, name: str) -> Any:
        """JSON form of `value`; `name` is its path, for arrays and for messages.

        Raises
        ------
        TypeError
            If the value is of a kind that a file cannot hold.
        """
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (np.bool_, np.integer, np.floating)):
            value = value.item()
        if isinstance(value, (bool, int)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": repr(value)}
        if isinstance(value, list):
            return [self.encode(v, f"{name}[{i}]") for i, v in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": [self.encode(v, f"{name}[{i}]") for i, v in enumerate(value)]}
        if isinstance(value, slice):
            ends = [value.start, value.stop, value.step]
            return {"slice": [self.encode(v, f"{name}.{i}") for i, v in enumerate(ends)]}
        if isinstance(value, dict) and all(isinstance(k, str) for k in value):
            return {"dict": {k: self.encode(v, f"{name}.{k}") for k, v in value.items()}}
        if isinstance(value, np.ndarray):
            return self._encode_array(value, name)
        if isinstance(value, Tensor):
            self.tensors[name] = _plain(value)
            return {"tensor": name}
        if isinstance(value, nn.Module):
            for key, tensor in value.state_dict().items():
                self.tensors[f"{name}.{key}"] = _plain(tensor)
            return {"module": name}
        if isinstance(value, Component):
            return self._encode_component(value, name)
        if isinstance(value, np.random.RandomState):
            state = value.get_state(legacy=False)
            state["state"]["key"] = state["state"]["key"].tolist()
            return {"random": state}
        if callable(value):
            return self._encode_callable(value, name)
        raise TypeError(
            f"{name} is a {type(value).__name__}, which skvae.save cannot write. Set it to a "
            "value made of numbers, strings, arrays and skvae's components, or use joblib."
        )

    def _encode_array(self, value: np.ndarray, name: str) -> Any:
        is_text = value.dtype == object and all(isinstance(v, str) for v in value.ravel())
        if is_text or value.dtype.kind == "U":
            return {"strings": value.tolist()}
        # Native and contiguous; np.ascontiguousarray would give an array of no axes one.
        plain = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        try:
            self.tensors[name] = torch.tensor(plain)
        except TypeError as error:
            raise TypeError(
                f"{name} is an array of {value.dtype}, which cannot be saved"
            ) from error
        return {"array": name}

    @staticmethod
    def _encode_callable(value: Callable[..., Any], name: str) -> Any:
        try:
            return {"callable": import_path_of(value)}
        except ValueError as error:
            raise TypeError(
                f"{name} is a {type(value).__name__} that skvae.save cannot write: {error}. Only "
                "functions and classes at the top level of a module that can be imported are "
                "written, by their name."
            ) from error

    def _encode_component(self, value: Component, name: str) -> Any:
        registered = value.shorthands().get(value.shorthand or "")
        if registered is not type(value):
            raise TypeError(
                f"{name} is a {type(value).__name__}, which is not registered under a shorthand "
                f"and cannot be saved. Define it as class {type(value).__name__}(..., "
                'shorthand="...").'
            )
        parameters = value.get_params(deep=False)
        return {
            "component": [value.kind, value.shorthand],
            "parameters": {k: self.encode(v, f"{name}.{k}") for k, v in parameters.items()},
        }


class Reader:
    """Turns JSON back into values.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        What the file holds beside the JSON.
    trusted : collection of str, default=()
        Import paths that the file may name.
    """

    def __init__(self, tensors: Mapping[str, Tensor], trusted: Collection[str] = ()) -> None:
        self.tensors = tensors
        self.trusted = frozenset(trusted)

    def decode(self, value: Any) -> Any:
        """Value that a JSON form stands for.

        Raises
        ------
        FileFormatError
            If it stands for nothing that this version knows.
        """
        if isinstance(value, list):
            return [self.decode(v) for v in value]
        if not isinstance(value, dict):
            return value
        kind = next(iter(value), "")
        content: Any = value.get(kind)
        try:
            match kind:
                case "array":
                    return self.tensors[content].numpy()
                case "tensor":
                    return self.tensors[content]
                case "callable":
                    self._check_trusted(content)
                    return self._import(content)
                case "component":
                    component_kind, shorthand = content
                    cls = Component._registry[component_kind][shorthand]
                    parameters = {k: self.decode(v) for k, v in value["parameters"].items()}
                    component = cls(**parameters)
                    for path in component.import_paths():
                        self._check_trusted(path)
                    return component
                case "dict":
                    return {k: self.decode(v) for k, v in content.items()}
                case "float":
                    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[content]
                case "module":
                    prefix = f"{content}."
                    return {
                        k.removeprefix(prefix): t
                        for k, t in self.tensors.items()
                        if k.startswith(prefix)
                    }
                case "random":
                    state = np.random.RandomState()
                    content["state"]["key"] = np.array(content["state"]["key"], dtype=np.uint32)
                    state.set_state(content)
                    return state
                case "slice":
                    return slice(*(self.decode(v) for v in content))
                case "strings":
                    return np.array([str(v) for v in content], dtype=object)
                case "tuple":
                    return tuple(self.decode(v) for v in content)
        except FileFormatError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise FileFormatError(f"the file holds a malformed {kind!r} entry: {error}") from error
        raise FileFormatError(
            f"the file holds an entry of kind {kind!r}, which this version of skvae does not know"
        )

    def _check_trusted(self, path: Any) -> None:
        """Refuse an import path that is not listed; nothing of it has been looked at."""
        if not isinstance(path, str) or path not in self.trusted:
            raise FileFormatError(
                f"the file names {path!r}, which loading would import, that is, execute. If you "
                "know what it is and trust it and the file, add it: skvae.load(..., "
                f"trusted={(*sorted(self.trusted), path)!r})"
            )

    @staticmethod
    def _import(path: str) -> Any:
        try:
            found = import_from(path)
        except ImportError as error:
            raise FileFormatError(
                f"the file names {path!r}, which cannot be imported here: {error}"
            ) from error
        if not callable(found):
            raise FileFormatError(f"the file names {path!r}, which is a {type(found).__name__}")
        return found


def write_file(path: str | os.PathLike, document: dict, tensors: Mapping[str, Tensor]) -> None:
    """Write document and tensors to `path`, whole or not at all.

    The file is written beside its destination and then takes its place, so that an interruption
    leaves the earlier file, if any.
    """
    path = Path(path)
    metadata = {METADATA_KEY: json.dumps({"format_version": FORMAT_VERSION, **document})}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        # mkstemp makes a private file; give it what a plainly opened one would have.
        umask = os.umask(0)
        os.umask(umask)
        save_file(dict(tensors), temporary, metadata=metadata)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_file(path: str | os.PathLike) -> tuple[dict, dict[str, Tensor]]:
    """Document and tensors of the file at `path`.

    Raises
    ------
    FileFormatError
        If the file is not one that `write_file` wrote, is damaged, or is of a later format.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            if text is None:
                raise FileFormatError(f"{str(path)!r} was not written by skvae.save")
            document = json.loads(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(
            f"{str(path)!r} is not a saved skvae estimator, or is damaged ({error})"
        ) from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FileFormatError(f"{str(path)!r} names no format version")
    if version > FORMAT_VERSION:
        raise FileFormatError(
            f"{str(path)!r} has format version {version}; this skvae reads up to "
            f"{FORMAT_VERSION}. Upgrade skvae."
        )
    return document, tensors


def _plain(tensor: Tensor) -> Tensor:
    """Contiguous CPU copy without gradient."""
    return tensor.detach().cpu().clone().contiguous()
