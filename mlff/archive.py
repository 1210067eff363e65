"""Model files: safetensors arrays under a JSON header, checked by a digest, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import json
import os
import pathlib
import tempfile

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mlff.expansion import Expansion
from mlff.force_field import ForceField
from mlff.kernels import Descriptor, GlobalKernel
from mlff.radial import RADIALS
from mlff.symmetry import Permutations

FORMAT = "mlff"
VERSION = 1
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


def write_whole(path, content: bytes) -> None:
    """Write a file so that its name never refers to half of it: a temporary neighbour, then an atomic rename."""
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def save(force_field: ForceField, path) -> None:
    """Write a force field. Points, weights and permutations are arrays; everything else is JSON in the header.

    Raises:
        ValueError: the descriptor is no importable function: a lambda, or defined inside another function, a script or a
            notebook.
    """
    descriptor = force_field.kernel.descriptor
    qualified = descriptor.function.__qualname__
    if "<" in qualified or descriptor.function.__module__ == "__main__":
        raise ValueError(
            f"descriptor {descriptor.name} cannot be found again by name, so the model cannot be saved; "
            "define it with def at the top level of a module (a file of its own that is imported)"
        )
    model, kernel = force_field.model, force_field.kernel
    tensors = {
        "numbers": force_field.numbers.astype(np.int32),
        "origin": model.origin, "points": model.points, "tangents": model.tangents, "offsets": model.offsets,
    }  # fmt: skip
    tensors |= {name: getattr(model, name) for name in ("values", "images") if getattr(model, name) is not None}
    if kernel.permutations is not None:
        group = kernel.permutations
        for name in ("indices", "generators", "residuals", "support"):
            tensors[f"permutations.{name}"] = getattr(group, name)
    radial = {field.name: plain(getattr(kernel.radial, field.name)) for field in dataclasses.fields(kernel.radial)}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "units": {"energy": "eV", "length": "Å"},
        "descriptor": {
            "function": descriptor.name,
            "arguments": {name: plain(value) for name, value in descriptor.arguments.items()},
            "settings": [[name, value] for name, value in descriptor.settings],
        },
        "radial": {"name": type(kernel.radial).__name__, **radial},
        "amplitude": plain(kernel.amplitude),
        "constant": float(model.constant),
        "label_order": force_field.label_order,
        "record": force_field.record,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
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
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise ValueError(
            f"{path.name}: format {header.get('format')!r} version {header.get('version')!r}, this mlff reads "
            f"{FORMAT!r} version {VERSION}; install the mlff that wrote it ({_writer(header)}), or fit again"
        )
    if digest != _digest(arrays, text):
        raise ValueError(
            f"{path.name}: its content does not match its digest, the file is damaged; fit or copy it again"
        )
    return _rebuild(path, arrays, header)


def _rebuild(path: pathlib.Path, arrays: dict[str, np.ndarray], header: dict) -> ForceField:
    stored = header["descriptor"]
    descriptor = Descriptor(
        _import(path, stored["function"]),
        {name: _array(value) for name, value in stored["arguments"].items()},
        tuple((name, _frozen(value)) for name, value in stored["settings"]),
    )
    fields = {name: _array(value) for name, value in header["radial"].items() if name != "name"}
    radial = RADIALS[header["radial"]["name"]](**fields)
    permutations = None
    if "permutations.indices" in arrays:
        names = ("indices", "generators", "residuals", "support")
        permutations = Permutations(*(arrays[f"permutations.{name}"] for name in names))
    model = Expansion(
        descriptor, radial, arrays["origin"], arrays["points"], arrays["tangents"],
        arrays.get("values"), arrays["offsets"], arrays.get("images"), np.float64(header["constant"]),
    )  # fmt: skip
    kernel = GlobalKernel(descriptor, radial, permutations, header["amplitude"])
    return ForceField(model, arrays["numbers"], kernel, header["label_order"], header["record"])


def _import(path: pathlib.Path, name: str):
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path.name}: its descriptor {name} cannot be imported ({error}); put {module}.py where Python finds it "
            "(the folder of the script, or PYTHONPATH)"
        ) from error
    return found


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


def _frozen(value):
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _array(value):
    return np.asarray(value, dtype=np.float64) if isinstance(value, list) else value
