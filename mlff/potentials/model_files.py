"""Model files: what the file of a force field holds, and what is checked of it when it is read; data alone, nothing is run.

The digest guards against damage, not against intent: whoever alters a file can sign it anew. So the header names nothing but
known classes, and functions and classes of modules that the reader trusts, and every value is checked against the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlff import archive
from mlff.expected import LAST_ELEMENT, Expected, instance, optional, require, require_known, wholes
from mlff.files import named_file
from mlff.kernels.composed import ProductKernel, SumKernel
from mlff.kernels.kernels import GlobalKernel, LocalKernel
from mlff.potentials.consistent import require_consistent
from mlff.potentials.expansion import Expansion
from mlff.potentials.force_field import ForceField
from mlff.potentials.potential import Potential
from mlff.potentials.record import require_record
from mlff.potentials.reproduced import require_reproduced
from mlff.potentials.stored import ORDER, REGISTRY
from mlff.trust import find_sources, named_again

FORMAT = "mlff"
MARK = b'{\\"format\\": \\"mlff\\"'  # where the header begins, within the header of safetensors
VERSION = 4
READABLE = (2, 3, 4)  # 3 added labels of second order, 4 potentials of all kinds and classes of users
UNITS = {"energy": "eV", "length": "Å"}
HEADER = {
    "units": Expected(f"{UNITS}, which is what files are written in", lambda value: value == UNITS),
    "label_order": ORDER,
    "record": Expected("a JSON object", lambda value: isinstance(value, dict)),
}
NUMBERS = Expected(
    "atomic numbers as an array of integers",
    lambda value: wholes("n").holds(value) and len(value) > 0 and bool(((value > 0) & (value <= LAST_ELEMENT)).all()),
)
MAY_LACK = ("label_order",)  # which the model has from version 4 on
TREES = {
    "model": instance(Potential),
    "kernel": optional(instance(GlobalKernel, LocalKernel, ProductKernel, SumKernel)),
    "numbers": optional(NUMBERS),
}


def save(force_field: ForceField, path) -> None:
    """Write a force field. Points, weights and permutations are arrays; everything else is JSON in the header.

    Raises:
        ValueError: a descriptor, or a class of the user's, cannot be found again by its name: a lambda, or defined inside
            another function, a script or a notebook.
    """
    arrays: archive.Arrays = {}
    trees = {name: archive.encode(getattr(force_field, name), name, arrays, REGISTRY) for name in TREES}
    for kind, names in (
        ("descriptor", archive.named_functions(trees)),
        ("class", archive.named_classes(trees)),
    ):
        if lost := sorted(name for name in names if not named_again(name)):
            raise ValueError(
                f"{kind} {lost[0]} cannot be found again by name, so the model cannot be saved; define it with "
                f"{'def' if kind == 'descriptor' else 'class'} at the top level of a module (a file of its own that is "
                "imported), or force_field.export(path, …), which needs no source"
            )
    header = {
        "format": FORMAT,
        "version": VERSION,
        "units": UNITS,
        **trees,
        "record": force_field.record,
    }
    archive.write(path, header, arrays)


def load(path, trusted: Sequence[str] = (), descriptors: Mapping[str, Callable | type] | None = None) -> ForceField:
    """Read a model file. It runs nothing, and imports from the package `descriptors` alone and from what `trusted` names.

    Arguments:
        path: the file.
        trusted: modules or packages of yours that define descriptors and classes, ("mypackage",): to import them runs them.
        descriptors: descriptors, and classes such as radial functions, handed over by the names that the file has for them,
            {"mine:screened": screened, "mine:Cauchy": Cauchy}.
    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file, damaged, altered, of another format version, or it names a descriptor or class of a
            module that is not trusted, that cannot be imported, or a descriptor that is not the one of the fit.
    """
    path = named_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        arrays, header = archive.read(path, _require_version)
        functions, classes = archive.named_functions(header), archive.named_classes(header)
        sources = find_sources(functions, classes, trusted, descriptors, REGISTRY.extensible)
        try:
            force_field = _rebuilt(header, arrays, sources)
        except ValueError as error:
            raise ValueError(f"{error}; the file is none that mlff wrote, fit or copy it again") from error
        with np.errstate(over="ignore", invalid="ignore"):
            require_reproduced(force_field)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return force_field


def _require_version(header: dict) -> None:
    if header.get("format") != FORMAT or header.get("version") not in READABLE:
        raise ValueError(
            f"format {header.get('format')!r:.60} version {header.get('version')!r:.60}, this mlff reads {FORMAT!r} versions "
            f"{READABLE[0]} to {READABLE[-1]}; install the mlff that wrote it ({_writer(header)}), or fit again"
        )


def _rebuilt(header: dict, arrays: archive.Arrays, sources: Mapping[str, Callable | type]) -> ForceField:
    """The force field of a header, everything in it checked."""
    require_known("header", header, ("format", "version", *TREES, *HEADER))
    require("header", header, HEADER, MAY_LACK)
    left = dict(arrays)
    trees = {name: archive.decode(header.get(name), name, left, REGISTRY, sources) for name in TREES}
    require("header", trees, TREES)
    if left:
        raise ValueError(f"array {min(left)!r:.60} belongs to nothing")
    model = trees["model"]
    if "label_order" in header and isinstance(model, Expansion):
        model = model.replace(label_order=header["label_order"])
    force_field = ForceField(model, trees["numbers"], trees["kernel"], header["record"])
    require_record(header["record"], model.label_order if isinstance(model, Expansion) else None)
    with np.errstate(over="ignore", invalid="ignore"):
        require_consistent(force_field)
    return force_field


def _writer(header: dict) -> str:
    record = header.get("record")
    software = record.get("versions") if isinstance(record, dict) else None
    return f"mlff {software.get('mlff', 'unknown') if isinstance(software, dict) else 'unknown'!r:.60}"


def plain(value):
    """A number or array as JSON holds it."""
    return value if value is None or isinstance(value, (int, float)) else np.asarray(value).tolist()
