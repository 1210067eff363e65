"""Model files: what the file of a force field holds, and what is checked of it when it is read; data alone, nothing is run.

The digest guards against damage, not against intent: whoever alters a file can sign it anew. So the header names nothing but
known classes, and functions and classes of modules that the reader trusts, and every value is checked against the others.

A function or class of a script or notebook cannot be found again by its name. A model that has one brings along the compiled
programs of its export: with the function handed over it is read as any other, without it the programs are what is left.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from mlff import archive
from mlff.data.methods import METHODS
from mlff.expected import LAST_ELEMENT, Expected, array, instance, optional, require, require_known, wholes
from mlff.files import named_file
from mlff.kernels.composed import KernelBase
from mlff.potentials import exported
from mlff.potentials.calibration import Calibration
from mlff.potentials.committee import Committee
from mlff.potentials.consistent import require_consistent
from mlff.potentials.force_field import ForceField
from mlff.potentials.potential import Potential
from mlff.potentials.program import ExportedProgram
from mlff.potentials.record import UNITS, require_entries, require_record
from mlff.potentials.reference import references
from mlff.potentials.reproduced import require_reproduced
from mlff.potentials.stored import REGISTRY
from mlff.trust import find_sources, named_again, require_trusted

FORMAT = "mlff"
MARK = b'{\\"format\\": \\"mlff\\"'  # where the header begins, within the header of safetensors
VERSION = 6
# 3 added labels of second order; 4 classes of users, any potential, programs; 5 error bars; 6 tables of their committees
READABLE = (2, 3, 4, 5, 6)
HEADER = {
    "units": Expected(f"{UNITS}, which is what files are written in", lambda value: value == UNITS),
    "record": Expected("a JSON object", lambda value: isinstance(value, dict)),
}
NUMBERS = Expected(
    "atomic numbers as an array of integers",
    lambda value: wholes("n").holds(value) and len(value) > 0 and bool(((value > 0) & (value <= LAST_ELEMENT)).all()),
)
TREES = {
    "model": instance(Potential), "kernel": optional(instance(KernelBase)), "numbers": optional(NUMBERS),
    "posterior": optional(instance(Committee)), "posterior_calibration": optional(instance(Calibration)),
}  # fmt: skip
PROGRAM = "program"  # an export, byte by byte
BYTES = array("byte", lambda value: value.dtype == np.uint8, "b")
SHOWN = 8  # names in a message
ALTERED = "the file is none that mlff wrote, fit or copy it again"

logger = logging.getLogger(__name__)


def save(force_field: ForceField, path) -> None:
    """Write a force field. Points, weights and permutations are arrays; everything else is JSON in the header.

    Of a posterior the committee is written, a few samples of it: the factor that it has beside is as large as the matrix.

    Raises:
        ValueError: it holds something that is no data; or a function or class that cannot be found again by its name (a lambda, one
            defined inside another function, a script or a notebook) where no program can stand for it: the frames are
            periodic, or of several compositions.
    """
    if isinstance(force_field.model, ExportedProgram):
        raise ValueError(
            "this force field was read as compiled programs, and is no more than they are; copy the file that they are from, or "
            "hand over the source, load(path, descriptors={…}), and save that"
        )
    for term in references(force_field.model):
        if not term.named:
            raise ValueError(
                f"{term.label} is an object of one of ASE's calculators, which a model file cannot hold; name a method instead "
                f"({', '.join(METHODS)}), or fit the baseline to frames of it (mlff.distilled)"
            )
    arrays: archive.Arrays = {}
    held = {name: getattr(force_field, name) for name in ("model", "kernel", "numbers")}
    held |= {"posterior": force_field.committee, "posterior_calibration": force_field.calibration}
    trees = {name: archive.encode(value, name, arrays, REGISTRY) for name, value in held.items()}
    header = {"format": FORMAT, "version": VERSION, "units": UNITS, **trees, "record": force_field.record}
    names = archive.named_functions(trees) | archive.named_classes(trees)
    if lost := sorted(name for name in names if not named_again(name)):
        program = np.frombuffer(_program(force_field, lost), dtype=np.uint8)
        header[PROGRAM] = archive.encode(program, PROGRAM, arrays, REGISTRY)
    archive.write(path, header, arrays)


def _program(force_field: ForceField, lost: Sequence[str]) -> bytes:
    """The export of a force field whose functions or classes cannot be found again.

    Raises:
        ValueError: there can be none.
    """
    if force_field.numbers is None or force_field.record.get("periodic"):
        reason = "several compositions" if force_field.numbers is None else "periodic frames"
        raise ValueError(
            f"{', '.join(lost)} cannot be found again by name, and a compiled program in its place is of one molecule, not of "
            f"{reason}; define it with def or class at the top level of a module (a file of its own that is imported)"
        )
    return exported.written(force_field, np.asarray(force_field.numbers, dtype=np.int32))


def load(path, trusted: Sequence[str] = (), descriptors: Mapping[str, Callable | type] | None = None) -> ForceField:
    """Read a model file. It runs nothing, and imports from the package `descriptors` alone and from what `trusted` names.

    Of a model whose descriptor was defined in a script or notebook there are two ways to read it: with the function handed
    over, descriptors={"__main__:screened": screened}, all of it; with trusted=("__main__",) the compiled programs that the file
    holds: energy, forces, Hessian and the distance from the training frames, but no kernel, so that it cannot be fitted again.
    Such programs are code, and JAX promises to run them for six months.

    Arguments:
        path: the file.
        trusted: modules or packages of yours that define descriptors and classes, ("mypackage",): to import them runs them.
        descriptors: descriptors, and classes such as radial functions and potentials, handed over by the names that the file has
            for them, {"mine:screened": screened, "mine:Cauchy": Cauchy}.
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
        missing = (functions | classes) - set(descriptors or {})
        if lost := sorted(name for name in missing if not named_again(name)):
            _require_program(header, lost, missing, trusted)
        else:
            sources = find_sources(functions, classes, trusted, descriptors, REGISTRY.extensible)
            return _with_sources(header, arrays, sources)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return _of_program(path, header, arrays, lost)


def _require_version(header: dict) -> None:
    if header.get("format") != FORMAT or header.get("version") not in READABLE:
        raise ValueError(
            f"format {header.get('format')!r:.60} version {header.get('version')!r:.60}, this mlff reads {FORMAT!r} versions "
            f"{READABLE[0]} to {READABLE[-1]}; install the mlff that wrote it ({_writer(header)}), or fit again"
        )


def _with_sources(header: dict, arrays: archive.Arrays, sources: Mapping[str, Callable | type]) -> ForceField:
    """The force field of a header, everything in it checked."""
    try:
        force_field = _rebuilt(_upgraded(header), arrays, sources)
    except ValueError as error:
        raise ValueError(f"{error}; {ALTERED}") from error
    with np.errstate(over="ignore", invalid="ignore"):
        require_reproduced(force_field)
    return force_field


def _upgraded(header: dict) -> dict:
    """A header as the newest version has it."""
    model = header.get("model")
    if header["version"] >= 4 or not isinstance(model, dict):
        return header
    rest = {name: value for name, value in header.items() if name != "label_order"}
    order = {name: value for name, value in header.items() if name == "label_order"}
    return {**rest, "model": {**model, "members": None, **order}}


def _rebuilt(header: dict, arrays: archive.Arrays, sources: Mapping[str, Callable | type]) -> ForceField:
    require_known("header", header, ("format", "version", *TREES, *HEADER, PROGRAM))
    require("header", header, HEADER)
    left = dict(arrays)
    trees = {name: archive.decode(header.get(name), name, left, REGISTRY, sources) for name in (*TREES, PROGRAM)}
    require("header", trees, {**TREES, PROGRAM: optional(BYTES)})
    if left:
        raise ValueError(f"array {min(left)!r:.60} belongs to nothing")
    model, kernel, record = trees["model"], trees["kernel"], header["record"]
    if kernel is None:
        require_entries("record", record)
    else:
        require_record(record, getattr(model, "label_order", None))
    force_field = ForceField(
        model, trees["numbers"], kernel, record, trees["posterior"], trees["posterior_calibration"]
    )
    with np.errstate(over="ignore", invalid="ignore"):
        require_consistent(force_field)
    return force_field


# -- without the source ------------------------------------------------------------------------------------------------


def _require_program(header: dict, lost: Sequence[str], missing: Set[str], trusted: Sequence[str]) -> None:
    """Refuse to take the programs of a file, unless it has some and the reader trusts all that it names."""
    handed = f"hand over what it is, descriptors={{{lost[0]!r:.80}: …}}"
    if PROGRAM not in header:
        raise ValueError(
            f"wants {_listed(lost)}, which no module defines at its top level, and holds no program to stand for it; {handed}"
        )
    modules = sorted({name.partition(":")[0] for name in lost})
    require_trusted(
        missing,
        trusted,
        f"wants {_listed(lost)} of a script or notebook, which cannot be found by name; {handed}, for the full model, or if you know "
        f"where the file is from, take the compiled program that it holds, which is code, trusted={tuple(modules)!r:.200} or "
        f"--trust {modules[0]!r:.80}",
    )


def _listed(names: Sequence[str]) -> str:
    """Names that nobody has checked, on one line of whatever terminal."""
    return ", ".join(f"{name!r:.80}" for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _of_program(path: pathlib.Path, header: dict, arrays: archive.Arrays, lost: Sequence[str]) -> ForceField:
    """The force field of the programs in a file."""
    try:
        require_known("header", header, ("format", "version", *TREES, *HEADER, PROGRAM))
        require("header", header, HEADER)
        require_entries("record", header["record"])
        left = dict(arrays)
        trees = {name: archive.decode(header.get(name), name, left, REGISTRY, {}) for name in ("numbers", PROGRAM)}
        require("header", trees, {"numbers": NUMBERS, PROGRAM: BYTES})
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}; {ALTERED}") from error
    force_field = exported.read_trusted(trees[PROGRAM].tobytes(), path)
    if not np.array_equal(force_field.numbers, trees["numbers"]):
        raise ValueError(f"{path.name}: numbers and those of its program are of different molecules; {ALTERED}")
    logger.warning(
        "%s: read as compiled programs, as the source of %s is not at hand: energy, forces, Hessian and no fit; "
        "load(path, descriptors={%r: …}) reads all of it", path.name, _listed(lost), lost[0],
    )  # fmt: skip
    return force_field.replace(record={**header["record"], "export": force_field.record["export"]})


def _writer(header: dict) -> str:
    record = header.get("record")
    software = record.get("versions") if isinstance(record, dict) else None
    return f"mlff {software.get('mlff', 'unknown') if isinstance(software, dict) else 'unknown'!r:.60}"


def plain(value):
    """A number or array as JSON holds it."""
    return value if value is None or isinstance(value, (int, float)) else np.asarray(value).tolist()
