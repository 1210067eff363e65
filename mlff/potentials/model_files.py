"""Model files: safetensors arrays under a JSON header, written whole or not at all; data alone, nothing in them is run.

The digest guards against damage, not against intent: whoever alters a file can sign it anew. So the header names nothing but
known classes, and functions of modules that the reader trusts, and every value is checked against the others.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mlff.expected import LAST_ELEMENT, Expected, instance, optional, require, require_known, wholes
from mlff.files import named_file, write_whole
from mlff.kernels.composed import ProductKernel, SumKernel
from mlff.kernels.descriptor import Descriptor
from mlff.kernels.kernels import GlobalKernel, LocalKernel
from mlff.kernels.radial import RADIALS
from mlff.potentials.expansion import Expansion
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import require_record
from mlff.potentials.reproduced import require_reproduced
from mlff.potentials.stored import FIELDS, MAY_LACK, NO_LONGER, require_consistent
from mlff.trust import find_functions

FORMAT = "mlff"
MARK = b'{\\"format\\": \\"mlff\\"'  # where the header begins, within the header of safetensors
VERSION = 4
READABLE = (2, 3, 4)  # 3 added labels of second order, 4 lets a model be any potential
CLASSES = {cls.__name__: cls for cls in FIELDS}
UNITS = {"energy": "eV", "length": "Å"}
HEADER = {
    "units": Expected(f"{UNITS}, which is what files are written in", lambda value: value == UNITS),
    "label_order": Expected("0, 1 or 2", lambda value: type(value) is int and 0 <= value <= 2),
    "record": Expected("a JSON object", lambda value: isinstance(value, dict)),
}
NUMBERS = Expected(
    "atomic numbers as an array of integers",
    lambda value: wholes("n").holds(value) and len(value) > 0 and bool(((value > 0) & (value <= LAST_ELEMENT)).all()),
)
TREES = {
    "model": instance(Expansion),
    "kernel": instance(GlobalKernel, LocalKernel, ProductKernel, SumKernel),
    "numbers": optional(NUMBERS),
}
DEPTH = 40  # of trees: of classes within each other, nested tuples and mappings


def save(force_field: ForceField, path) -> None:
    """Write a force field. Points, weights and permutations are arrays; everything else is JSON in the header.

    Raises:
        ValueError: a descriptor is no importable function: a lambda, or defined inside another function, a script or a
            notebook; or a radial function is none of mlff's.
    """
    for leaf in force_field.kernel.leaves:
        descriptor = leaf.descriptor
        if not descriptor.function.__qualname__.isidentifier() or descriptor.function.__module__ == "__main__":
            raise ValueError(
                f"descriptor {descriptor.name} cannot be found again by name, so the model cannot be saved; "
                "define it with def at the top level of a module (a file of its own that is imported), or "
                "force_field.export(path, …), which needs no source"
            )
        if type(leaf.radial) not in FIELDS:
            raise ValueError(
                f"radial function {type(leaf.radial).__name__} is none of {', '.join(RADIALS)}, and a model file names no other; "
                "use one of them, or force_field.export(path, …), which needs no source"
            )
    arrays: dict[str, np.ndarray] = {}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "units": UNITS,
        "model": encode(force_field.model, "model", arrays),
        "kernel": encode(force_field.kernel, "kernel", arrays),
        "numbers": encode(force_field.numbers, "numbers", arrays),
        "label_order": force_field.model.label_order,
        "record": force_field.record,
    }
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    write_whole(path, save_tensors(arrays, metadata={"header": text, "digest": _digest(arrays, text)}))


def load(path, trusted: Sequence[str] = (), descriptors: Mapping[str, Callable] | None = None) -> ForceField:
    """Read a model file. It runs nothing, and imports from the package `descriptors` alone and from what `trusted` names.

    Arguments:
        path: the file.
        trusted: modules or packages of yours that define descriptors, ("mypackage",): to import them runs them.
        descriptors: descriptors handed over by the names that the file has for them, {"mine:screened": screened}.
    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file, damaged, altered, of another format version, or it names a descriptor of a module
            that is not trusted, that cannot be imported, or that is not the one of the fit.
    """
    path = named_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    arrays, header = _read(path)
    try:
        functions = find_functions(_function_names(header, DEPTH), trusted, descriptors)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    try:
        force_field = _rebuilt(header, arrays, functions)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}; the file is none that mlff wrote, fit or copy it again") from error
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            require_reproduced(force_field)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return force_field


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and header of a whole file of a version that is known."""
    content = path.read_bytes()
    try:
        arrays = load_tensors(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size], object_pairs_hook=_unique)["__metadata__"]
        text, digest = metadata["header"], metadata["digest"]
        header = dict(json.loads(text, object_pairs_hook=_unique))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name}: no mlff model file, or a damaged one; fit or copy it again") from error
    if header.get("format") != FORMAT or header.get("version") not in READABLE:
        raise ValueError(
            f"{path.name}: format {header.get('format')!r:.60} version {header.get('version')!r:.60}, this mlff reads "
            f"{FORMAT!r} version {VERSION} and {READABLE[0]}; install the mlff that wrote it ({_writer(header)}), or fit again"
        )
    if digest != _digest(arrays, text):
        raise ValueError(
            f"{path.name}: its content does not match its digest, the file is damaged; fit or copy it again"
        )
    return arrays, header


def _unique(pairs: list[tuple]) -> dict:
    """A JSON object, refused where it has a key twice: readers do not agree on which of them counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in the header")
    return found


def _function_names(stored, depth: int) -> set[str]:
    """All functions that a header names, wherever."""
    if depth < 0 or not isinstance(stored, (dict, list)):
        return set()
    inside = stored.values() if isinstance(stored, dict) else stored
    own = {stored["function"]} if isinstance(stored, dict) and isinstance(stored.get("function"), str) else set()
    return own.union(*(_function_names(item, depth - 1) for item in inside))


def _rebuilt(header: dict, arrays: dict[str, np.ndarray], functions: Mapping[str, Callable]) -> ForceField:
    """The force field of a header, everything in it checked."""
    require_known("header", header, ("format", "version", *TREES, *HEADER))
    require("header", header, HEADER)
    require_record(header["record"], header["label_order"])
    left = dict(arrays)
    trees = {name: decode(header.get(name), name, left, functions) for name in TREES}
    require("header", trees, TREES)
    if left:
        raise ValueError(f"array {min(left)!r:.60} belongs to nothing")
    model = trees["model"].replace(label_order=header["label_order"])
    force_field = ForceField(model, trees["numbers"], trees["kernel"], header["record"])
    with np.errstate(over="ignore", invalid="ignore"):
        require_consistent(force_field)
    return force_field


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
    if type(value) in FIELDS:
        fields = {f.name: encode(getattr(value, f.name), f"{name}.{f.name}", arrays) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    return {"function": f"{value.__module__}:{value.__qualname__}"}


def decode(stored, name: str, arrays: dict[str, np.ndarray], functions: Mapping[str, Callable], depth: int = DEPTH):
    """What `encode` wrote under a name; arrays are taken out of `arrays`.

    Raises:
        ValueError: it is nothing that `encode` writes, or its fields are not those of its class.
    """
    if depth < 0:
        raise ValueError(f"{name} goes too deep")
    deeper = functools.partial(decode, arrays=arrays, functions=functions, depth=depth - 1)
    if isinstance(stored, list):
        return tuple(deeper(item, f"{name}.{i}") for i, item in enumerate(stored))
    if not isinstance(stored, dict):
        return stored
    kind = next(iter(stored), None) if len(stored) == 1 else "class"
    content = stored.get(kind)
    if kind == "array" and content == name and name in arrays:
        return arrays.pop(name)
    if kind == "mapping" and isinstance(content, dict):
        return {key: deeper(item, f"{name}.{key}") for key, item in content.items()}
    if kind == "function" and isinstance(content, str):
        return functions.get(content)
    if kind == "class" and isinstance(content, str) and content in CLASSES:
        return _built(
            CLASSES[content], name, {key: deeper(stored[key], f"{name}.{key}") for key in stored if key != "class"}
        )
    raise ValueError(f"{name} is {stored!r:.60}, which no model file holds")


def _built(cls: type, name: str, fields: dict):
    """An object of one of the stored classes, its fields checked before and by its own constructor."""
    fields = {key: value for key, value in fields.items() if key not in NO_LONGER.get(cls, ())}
    require_known(name, fields, FIELDS[cls])
    require(name, fields, FIELDS[cls], MAY_LACK.get(cls, ()))
    if cls is not Descriptor:
        return cls(**fields)
    given = {**fields["arguments"], **dict(fields["settings"])}
    described = Descriptor.wrap(functools.partial(fields["function"], **given))
    if described.arguments.keys() != fields["arguments"].keys() or described.settings != fields["settings"]:
        raise ValueError(f"{name}: arguments and settings are not those of {described.name}")
    return described


def _digest(arrays: dict[str, np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def _writer(header: dict) -> str:
    record = header.get("record")
    software = record.get("versions") if isinstance(record, dict) else None
    return f"mlff {software.get('mlff', 'unknown') if isinstance(software, dict) else 'unknown'!r:.60}"


def plain(value):
    """A number or array as JSON holds it."""
    return value if value is None or isinstance(value, (int, float)) else np.asarray(value).tolist()
