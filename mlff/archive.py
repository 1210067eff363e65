"""Model files: safetensors arrays under a JSON header, checked by a digest, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mlff.descriptor import Descriptor, import_descriptor
from mlff.expansion import Channel, Curvature, Expansion, Part
from mlff.files import write_whole
from mlff.force_field import ForceField
from mlff.kernels import GlobalKernel, LocalKernel, ProductKernel, SumKernel
from mlff.radial import RADIALS
from mlff.symmetry import Permutations

FORMAT = "mlff"
VERSION = 3
READABLE = (2, 3)  # 3 added labels of second order
STORED = (
    ForceField, Expansion, Part, Channel, Curvature, GlobalKernel, LocalKernel, ProductKernel, SumKernel, Descriptor, Permutations,
    *RADIALS.values(),
)  # fmt: skip
PACKAGES = ("mlff", "jax", "jaxlib", "numpy", "scipy", "ase")


def versions() -> dict[str, str]:
    """Versions of the software that a model depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def save(force_field: ForceField, path) -> None:
    """Write a force field. Points, weights and permutations are arrays; everything else is JSON in the header.

    Raises:
        ValueError: the descriptor is no importable function: a lambda, or defined inside another function, a script or a
            notebook.
    """
    for leaf in force_field.kernel.leaves:
        descriptor = leaf.descriptor
        if "<" in descriptor.function.__qualname__ or descriptor.function.__module__ == "__main__":
            raise ValueError(
                f"descriptor {descriptor.name} cannot be found again by name, so the model cannot be saved; "
                "define it with def at the top level of a module (a file of its own that is imported), or "
                "force_field.export(path, …), which needs no source"
            )
    arrays: dict[str, np.ndarray] = {}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "units": {"energy": "eV", "length": "Å"},
        "model": encode(force_field.model, "model", arrays),
        "kernel": encode(force_field.kernel, "kernel", arrays),
        "numbers": encode(force_field.numbers, "numbers", arrays),
        "label_order": force_field.label_order,
        "record": force_field.record,
    }
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    write_whole(path, save_tensors(arrays, metadata={"header": text, "digest": _digest(arrays, text)}))


def load(path) -> ForceField:
    """Read a model file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file, damaged, of another format version, or its descriptor cannot be imported.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = path.read_bytes()
    try:
        arrays = load_tensors(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        text, digest = metadata["header"], metadata["digest"]
        header = json.loads(text)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: no mlff model file, or a damaged one; fit or copy it again") from error
    if header.get("format") != FORMAT or header.get("version") not in READABLE:
        raise ValueError(
            f"{path.name}: format {header.get('format')!r} version {header.get('version')!r}, this mlff reads "
            f"{FORMAT!r} version {VERSION} and {READABLE[0]}; install the mlff that wrote it ({_writer(header)}), or fit again"
        )
    if digest != _digest(arrays, text):
        raise ValueError(
            f"{path.name}: its content does not match its digest, the file is damaged; fit or copy it again"
        )
    return _rebuild(path, arrays, header)


def _rebuild(path: pathlib.Path, arrays: dict[str, np.ndarray], header: dict) -> ForceField:
    model, kernel, numbers = (decode(header[name], path, arrays) for name in ("model", "kernel", "numbers"))
    return ForceField(model, numbers, kernel, header["label_order"], header["record"])


# -- trees of our own classes as JSON, their arrays beside it ------------------------------------------------------


def encode(value, name: str, arrays: dict[str, np.ndarray]):
    """A tree of models, kernels, descriptors and numbers as JSON; arrays are put into `arrays` under their path."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.ndim == 0:
            return array.item()
        arrays[name] = np.ascontiguousarray(array)
        return {"array": name}
    if isinstance(value, (tuple, list)):
        return [encode(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {"mapping": {key: encode(item, f"{name}.{key}", arrays) for key, item in value.items()}}
    if type(value) in STORED:
        fields = {f.name: encode(getattr(value, f.name), f"{name}.{f.name}", arrays) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    return {"function": f"{value.__module__}:{value.__qualname__}"}


def decode(stored, path: pathlib.Path, arrays: Mapping[str, np.ndarray]):
    """What `encode` wrote.

    Raises:
        ValueError: a function cannot be imported.
    """
    if isinstance(stored, list):
        return tuple(decode(item, path, arrays) for item in stored)
    if not isinstance(stored, dict):
        return stored
    if "class" in stored:
        cls = {known.__name__: known for known in STORED}[stored["class"]]
        return cls(**{name: decode(item, path, arrays) for name, item in stored.items() if name != "class"})
    if "array" in stored:
        return arrays[stored["array"]]
    if "mapping" in stored:
        return {key: decode(item, path, arrays) for key, item in stored["mapping"].items()}
    return _import(path, stored["function"])


def _import(path: pathlib.Path, name: str):
    try:
        return import_descriptor(name)
    except ValueError as error:
        raise ValueError(f"{path.name}: its {error}") from error


def _digest(arrays: dict[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def _writer(header: dict) -> str:
    record = header.get("record")
    software = record.get("versions", {}) if isinstance(record, dict) else {}
    return f"mlff {software.get('mlff', 'unknown')}"


def plain(value):
    """A number or array as JSON holds it."""
    return value if value is None or isinstance(value, (int, float)) else np.asarray(value).tolist()
