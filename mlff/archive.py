"""The archive: trees of objects as JSON with arrays beside it, in one safetensors file. It knows no class itself.

Which classes a file may hold, under which names, and what each of their fields may be is a `Registry`: a value, made of one
table for every wing, which is handed in. So nothing has to be imported first, or for its side effects, for a file to be read.

The digest guards against damage, not against intent: whoever alters a file can sign it anew. So a file names nothing but
classes of the registry, and functions and classes that the reader trusts, and every field is checked.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mlff.expected import DATUM, Expected, require, require_known
from mlff.files import write_whole

DEPTH = 40  # of trees: of classes within each other, nested tuples and mappings
PLAIN = (bool, int, float, str)

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Stored:
    """How the objects of one class are stored.

    Attributes:
        cls: the class, a dataclass.
        fields: what each of its fields may be.
        may_lack: fields that older files do not have.
        no_longer: fields that only older files have, and that say nothing.
        build: makes an object of its fields, given by name; without it the class does.
    """

    cls: type
    fields: Mapping[str, Expected]
    may_lack: tuple[str, ...] = ()
    no_longer: tuple[str, ...] = ()
    build: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class Registry:
    """The classes that files may hold.

    Attributes:
        classes: by the names that files have for them, which stay when a class moves or gets another name.
        bases: classes of which users may derive their own; those are stored as module:Class.
    """

    classes: Mapping[str, Stored]
    bases: tuple[Stored, ...] = ()

    def joined(self, other: Registry) -> Registry:
        """The classes of both."""
        return Registry({**self.classes, **other.classes}, (*self.bases, *other.bases))

    def name_of(self, cls: type) -> str | None:
        """What files call a class; None for one that they do not hold."""
        names = {stored.cls: name for name, stored in self.classes.items()}
        if cls in names:
            return names[cls]
        return f"{cls.__module__}:{cls.__qualname__}" if issubclass(cls, self.extensible) else None

    @property
    def extensible(self) -> tuple[type, ...]:
        """The classes of which users may derive their own."""
        return tuple(base.cls for base in self.bases)

    def derived(self, cls: type) -> Stored:
        """How a user's class is stored: fields as its ancestors have them, and any data in those of its own."""
        ancestors = {stored.cls: stored.fields for stored in (*self.bases, *self.classes.values())}
        kinds = dict.fromkeys(stored_fields(cls), DATUM)
        for ancestor in reversed(cls.__mro__):
            kinds |= ancestors.get(ancestor, {})
        return Stored(cls, kinds, build=functools.partial(_made, cls))


def stored_fields(value) -> list[str]:
    """Names of the fields of an object or class, without those of trees' own."""
    return [field.name for field in dataclasses.fields(value) if not field.name.startswith("_")]


def _made(cls: type, **fields):
    """An object of a user's class."""
    try:
        return cls(**fields)
    except Exception as error:  # whatever a constructor of a user's class raises
        raise ValueError(f"class {cls.__name__} does not take its fields ({error})") from error


# -- trees of objects as JSON, their arrays beside it ----------------------------------------------------------------


def encode(value, name: str, arrays: Arrays, registry: Registry):
    """A tree of objects, mappings, tuples, arrays, functions and numbers as JSON; arrays are put into `arrays` by their path.

    Raises:
        ValueError: it holds something else.
    """
    deeper = functools.partial(encode, arrays=arrays, registry=registry)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}  # JSON has no such number
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.ndim == 0:
            return array.item()
        arrays[name] = np.ascontiguousarray(array)
        return {"array": name}
    if isinstance(value, (tuple, list)):
        return [deeper(item, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"mapping": {key: deeper(item, f"{name}.{key}") for key, item in value.items()}}
    if (class_name := registry.name_of(type(value))) is not None:
        fields = {field: deeper(getattr(value, field), f"{name}.{field}") for field in stored_fields(value)}
        return {"class": class_name, **fields}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"function": f"{value.__module__}:{value.__qualname__}"}
    raise ValueError(
        f"{name} is {value!r:.60}, which a model file cannot hold; expected numbers, text, arrays, tuples or mappings of them, "
        f"functions, or an object derived from {', '.join(cls.__name__ for cls in registry.extensible)}"
    )


def decode(
    tree, name: str, arrays: Arrays, registry: Registry, sources: Mapping[str, Callable | type], depth: int = DEPTH
):
    """What `encode` wrote under a name; arrays are taken out of `arrays`.

    Arguments:
        sources: the functions and classes that the tree names as module:name.
    Raises:
        ValueError: it is nothing that `encode` writes, or its fields are not those of its class.
    """
    if depth < 0:
        raise ValueError(f"{name} goes too deep")
    deeper = functools.partial(decode, arrays=arrays, registry=registry, sources=sources, depth=depth - 1)
    if isinstance(tree, list):
        return tuple(deeper(item, f"{name}.{i}") for i, item in enumerate(tree))
    if not isinstance(tree, dict):
        return tree
    kind = next(iter(tree), None) if len(tree) == 1 else "class"
    content = tree.get(kind)
    if kind == "array" and content == name and name in arrays:
        return arrays.pop(name)
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if kind == "mapping" and isinstance(content, dict):
        return {key: deeper(item, f"{name}.{key}") for key, item in content.items()}
    if kind == "function" and isinstance(content, str) and content in sources:
        return sources[content]
    if kind == "class" and isinstance(content, str) and (stored := _stored(content, registry, sources)) is not None:
        return _built(stored, name, {key: deeper(tree[key], f"{name}.{key}") for key in tree if key != "class"})
    raise ValueError(f"{name} is {tree!r:.60}, which no model file holds")


def _stored(name: str, registry: Registry, sources: Mapping[str, Callable | type]) -> Stored | None:
    if name in registry.classes:
        return registry.classes[name]
    cls = sources.get(name)
    return registry.derived(cls) if isinstance(cls, type) and issubclass(cls, registry.extensible) else None


def _built(stored: Stored, name: str, fields: dict):
    """An object of one of the stored classes, its fields checked before and by its own constructor."""
    fields = {key: value for key, value in fields.items() if key not in stored.no_longer}
    require_known(name, fields, stored.fields)
    require(name, fields, stored.fields, stored.may_lack)
    try:
        return (stored.build or stored.cls)(**fields)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def named_functions(tree, depth: int = DEPTH) -> frozenset[str]:
    """All functions that a tree names, wherever."""
    return frozenset(name for kind, name in _names(tree, depth) if kind == "function")


def named_classes(tree, depth: int = DEPTH) -> frozenset[str]:
    """All classes that a tree names by module:Class, wherever."""
    return frozenset(name for kind, name in _names(tree, depth) if kind == "class" and ":" in name)


def _names(tree, depth: int) -> set[tuple[str, str]]:
    if depth < 0 or not isinstance(tree, (dict, list)):
        return set()
    inside = tree.values() if isinstance(tree, dict) else tree
    here = tree.items() if isinstance(tree, dict) else ()
    pairs = {(kind, name) for kind, name in here if kind in ("function", "class") and isinstance(name, str)}
    return pairs.union(*(_names(item, depth - 1) for item in inside))


# -- the file ----------------------------------------------------------------------------------------------------------


def write(path, header: dict, arrays: Arrays) -> None:
    """Write a file, whole or not at all."""
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    write_whole(path, save_tensors(arrays, metadata={"header": text, "digest": digest(arrays, text)}))


def read(path: pathlib.Path, require_version: Callable[[dict], None]) -> tuple[Arrays, dict]:
    """Arrays and header of a whole file.

    Arguments:
        require_version: called with the header before anything else is looked at; refuses those of other versions.
    Raises:
        ValueError: it is no such file, or a damaged one.
    """
    content = path.read_bytes()
    try:
        arrays = load_tensors(content)
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size], object_pairs_hook=_unique)["__metadata__"]
        text, signature = metadata["header"], metadata["digest"]
        header = dict(json.loads(text, object_pairs_hook=_unique))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("no mlff model file, or a damaged one; fit or copy it again") from error
    require_version(header)
    if signature != digest(arrays, text):
        raise ValueError("its content does not match its digest, the file is damaged; fit or copy it again")
    return arrays, header


def digest(arrays: Arrays, text: str) -> str:
    """SHA-256 of a header and of all arrays with their names, kinds and shapes."""
    summed = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        summed.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode() + arrays[name].tobytes())
    return summed.hexdigest()


def _unique(pairs: list[tuple]) -> dict:
    """A JSON object, refused where it has a key twice: readers do not agree on which of them counts."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key stands twice in the header")
    return content
