"""Exported force fields: programs and weights in one file, which run without the descriptor's source.

A line with the digest of the rest, a line of JSON that says what it is, then safetensors: the weights, and programs that
take them (StableHLO, serialized by `jax.export`): one of energy and forces for any number of geometries, one of the distance
from the training frames, one of the Hessian.

JAX promises to run such programs with a jaxlib that was built up to 6 months after the one that wrote them, and up to 3
weeks before it (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees). Model files have no such limit.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import pathlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from mlff.batching import BATCH_MEMORY, HESSIAN_MEMORY, chunk_size
from mlff.compiling import uncompiled
from mlff.expected import (
    COUNT,
    DATE,
    ELEMENT,
    POSITIVE,
    TEXT,
    WHOLE,
    Expected,
    named,
    optional,
    require,
    require_known,
    several,
)
from mlff.files import write_whole
from mlff.kernels.surroundings import Surroundings
from mlff.potentials.compiled import Prepared, on_device
from mlff.potentials.force_field import ForceField
from mlff.potentials.program import ExportedProgram, Programs
from mlff.potentials.record import UNITS, versions
from mlff.potentials.reference import references
from mlff.precision import double_precision, doubled

MAGIC = b"mlff-export"
VERSION = 3  # with the distance from the training frames
PLATFORMS = ("cpu", "cuda")
LIFETIME = (
    "JAX promises to run it with a jaxlib built up to 6 months after the one named here, or up to 3 weeks before it"
)
HEADER = {
    "format": Expected(MAGIC.decode(), lambda value: value == MAGIC.decode()),
    "force_field": TEXT,
    "numbers": several(ELEMENT, least=1),
    "closest": named(POSITIVE),
    "units": Expected(f"{UNITS}, which is what files are written in", lambda value: value == UNITS),
    "created": DATE,
    "versions": named(TEXT),
    "lifetime": TEXT,
    "calling_convention": COUNT,
    "platforms": several(TEXT, least=1),
    "programs": several(TEXT, least=1),
    "no_hessian": optional(TEXT),
    "weights": WHOLE,
    "bytes_per_geometry": COUNT,
    "batch": COUNT,
}
REMEDY = "export it again from its model file, mlff.load(…).export(…)"


def save(force_field: ForceField, numbers: np.ndarray | None, path) -> None:
    """What `ForceField.export` does, for atoms of some numbers."""
    write_whole(path, written(force_field, numbers))


def written(force_field: ForceField, numbers: np.ndarray | None) -> bytes:
    """The content of the file that `ForceField.export` writes.

    Raises:
        ValueError: no atomic numbers are known, or the frames are periodic.
    """
    if numbers is None:
        raise ValueError("numbers: this force field was trained on several compositions; give the atomic numbers")
    if force_field.record.get("periodic"):
        raise ValueError(
            "export: the force field is of periodic frames, whose neighbour lists are made outside of its programs; only "
            "those of molecules can be exported, force_field.save(path) takes any"
        )
    if outside := references(force_field.model):
        raise ValueError(
            f"export: {outside[0].label} is computed outside of compiled programs; fit a baseline to frames of it (mlff.distilled), or "
            "save a model file, which names it"
        )
    prepared = Prepared.of(on_device(force_field.model), numbers)
    one = np.zeros((prepared.atoms, 3)), Surroundings(np.zeros((3, 3)))
    needed = prepared.bytes_per_gradient(*one)
    programs, refusal = {name: export(prepared) for name, export in ALWAYS.items()}, None
    try:
        force_field.require_derivative(2, "the Hessian")
        programs["hessian"] = _hessian(prepared, chunk_size(needed, HESSIAN_MEMORY))
    except ValueError as error:
        refusal = str(error)
    header = {
        "format": MAGIC.decode(),
        "version": VERSION,
        "force_field": repr(force_field),
        "numbers": np.asarray(prepared.numbers).tolist(),
        "closest": force_field.closest,
        "units": UNITS,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "lifetime": LIFETIME,
        "calling_convention": programs["energy_and_forces"].calling_convention_version,
        "platforms": PLATFORMS,
        "programs": list(programs),
        "no_hessian": refusal,
        "weights": len(prepared.leaves),
        "bytes_per_geometry": needed,
        "batch": prepared.batch_size(*one, BATCH_MEMORY),
    }
    arrays = {f"weights.{i}": np.array(leaf, order="C") for i, leaf in enumerate(prepared.leaves)}
    arrays |= {name: np.frombuffer(program.serialize(), dtype=np.uint8) for name, program in programs.items()}
    rest = json.dumps(header, ensure_ascii=False).encode() + b"\n" + save_tensors(arrays)
    return MAGIC + b" " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def load_export(path, trusted: bool = False) -> ForceField:
    """Read a file that `ForceField.export` wrote; the descriptor's source is not needed.

    Arguments:
        path: the file.
        trusted: that you know where the file is from: its compiled programs are code, which runs with your rights.
    Returns:
        a force field with every derivative that the programs hold; `record["export"]` is what the file says of itself.
    Raises:
        FileNotFoundError: no such file.
        ValueError: not trusted; no such file of ours, damaged, altered, of another format version, or older or newer than
            this JAX can run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if trusted is not True and path.read_bytes().startswith(MAGIC + b" "):
        raise ValueError(
            f"{path.name}: holds compiled programs, which are code and run with your rights; if you know where the file is "
            "from, load_export(path, trusted=True)"
        )
    return read_trusted(path.read_bytes(), path)


def read_trusted(content: bytes, path: pathlib.Path) -> ForceField:
    """The force field of the content of a file that is trusted; `path` names it in messages.

    Raises:
        ValueError: as `load_export`.
    """
    header, arrays = _read(content, path)
    try:
        _require_header(header)
    except ValueError as error:
        raise _altered(path, error) from error
    oldest, newest = (
        jax.export.minimum_supported_calling_convention_version,
        jax.export.maximum_supported_calling_convention_version,
    )
    if not oldest <= header["calling_convention"] <= newest:
        raise _expired(path, header, f"calling convention {header['calling_convention']}, here {oldest} to {newest}")
    names = {*header["programs"], *(f"weights.{i}" for i in range(min(header["weights"], len(arrays) + 1)))}
    if names != set(arrays):
        raise _altered(path, f"it holds {', '.join(sorted(arrays)):.60}, expected {', '.join(sorted(names)):.60}")
    try:
        programs = {name: _program(arrays[name]) for name in header["programs"]}
    except Exception as error:  # JAX's readers raise whatever they meet
        raise _expired(path, header, " ".join(str(error).split())[:200]) from error
    weights = [arrays[f"weights.{i}"] for i in range(header["weights"])]
    try:
        for name, program in programs.items():
            _require_program(name, program, header, weights)
    except ValueError as error:
        raise _altered(path, error) from error
    with doubled():
        model = ExportedProgram(tuple(jnp.asarray(array) for array in weights), Programs(header, programs))
    record = {"closest": header["closest"], "export": header, "labels": [], "versions": header["versions"]}
    return ForceField(model, np.array(header["numbers"], dtype=np.int32), None, record)


def _read(content: bytes, path: pathlib.Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Header and arrays of a whole file of a version that is known, which the reader trusts."""
    first, _, rest = content.partition(b"\n")
    if not first.startswith(MAGIC + b" "):
        raise ValueError(f"{path.name}: no exported force field, or a damaged one; {REMEDY}")
    if first.removeprefix(MAGIC + b" ") != hashlib.sha256(rest).hexdigest().encode():
        raise ValueError(
            f"{path.name}: its content does not match its digest, the file is damaged; copy it again, or {REMEDY}"
        )
    text, _, tensors = rest.partition(b"\n")
    try:
        header, arrays = dict(json.loads(text)), load_tensors(tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _altered(path, error) from error
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path.name}: format version {header.get('version')!r:.60}, this mlff reads {VERSION}; {REMEDY}"
        )
    return header, arrays


def _require_header(header: dict) -> None:
    """Refuse a header of which an entry is missing, of another kind, or at odds with another."""
    require_known("header", header, ("version", *HEADER))
    require("header", header, HEADER)
    if "jax" not in header["versions"]:
        raise ValueError("header.versions has no jax")
    if sorted(set(header["programs"]) | {"hessian"}) != sorted({*ALWAYS, "hessian"}) or len(header["programs"]) > 3:
        raise ValueError(
            f"header.programs are {header['programs']!r:.60}, expected {', '.join(ALWAYS)}, and hessian or not"
        )
    if (header["no_hessian"] is None) != ("hessian" in header["programs"]):
        raise ValueError("header.no_hessian is for files without a program hessian, and for them alone")


def _require_program(name: str, program: jax.export.Exported, header: dict, weights: list[np.ndarray]) -> None:
    """Refuse a program that takes or gives something else than the header says."""
    for i, (weight, taken) in enumerate(zip(weights, program.in_avals, strict=False)):
        if weight.shape != taken.shape or weight.dtype != taken.dtype:
            raise ValueError(f"weights.{i} is {weight.dtype}{weight.shape}, and program {name} takes {taken}")
        if not np.isfinite(weight).all():
            raise ValueError(f"weights.{i} is not finite")
    atoms, batch = len(header["numbers"]), name == "energy_and_forces"
    geometry = [tuple(aval.shape[batch:]) for aval in program.in_avals[len(weights) :]]
    results = [tuple(aval.shape[batch:]) for aval in program.out_avals]
    expected = {
        "energy_and_forces": [(), (atoms, 3)], "training_distance": [()], "hessian": [(3 * atoms, 3 * atoms)]
    }[name]  # fmt: skip
    if geometry != [(atoms, 3)] or results != expected:
        raise ValueError(
            f"program {name} takes {geometry} and gives {results}, not what {atoms} atoms and its weights need"
        )
    said = list(program.platforms), program.calling_convention_version
    if (list(header["platforms"]), header["calling_convention"]) != said:
        raise ValueError(f"header.platforms or header.calling_convention are not those of program {name}, {said}")


@double_precision
def _energy_and_forces(prepared) -> jax.export.Exported:
    def energy_and_forces(weights, positions):
        cells = jnp.zeros((positions.shape[0], 3, 3))
        packed = uncompiled(prepared.functions.batch)(weights, prepared.numbers, positions, Surroundings(cells))
        return packed[:, 0], packed[:, 1:].reshape(positions.shape)

    return _exported(energy_and_forces, prepared, jax.export.symbolic_shape(f"m, {prepared.atoms}, 3"))


@double_precision
def _training_distance(prepared) -> jax.export.Exported:
    spacings = prepared.potential.spacings()

    def training_distance(weights, positions):
        where = positions, prepared.numbers, jnp.zeros((3, 3)), None
        return uncompiled(prepared.functions.training_distance)(weights, spacings, *where)

    return _exported(training_distance, prepared, (prepared.atoms, 3))


ALWAYS = {"energy_and_forces": _energy_and_forces, "training_distance": _training_distance}  # programs of every file


@double_precision
def _hessian(prepared, rows: int) -> jax.export.Exported:
    rows = min(rows, 3 * prepared.atoms)

    def hessian(weights, positions):
        return uncompiled(prepared.functions.hessian)(
            weights, prepared.numbers, positions, jnp.zeros((3, 3)), None, rows_at_once=rows
        )

    return _exported(hessian, prepared, (prepared.atoms, 3))


def _exported(function, prepared, shape) -> jax.export.Exported:
    weights = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in prepared.leaves]
    positions = jax.ShapeDtypeStruct(shape, jnp.float64)
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(weights, positions)


@double_precision
def _program(serialized: np.ndarray) -> jax.export.Exported:
    program = jax.export.deserialize(bytearray(serialized.tobytes()))
    program.mlir_module()  # reads its StableHLO now: whether this JAX can is not to show at the first energy only
    return program


def _altered(path: pathlib.Path, reason) -> ValueError:
    return ValueError(f"{path.name}: {reason}; the file is none that mlff wrote, {REMEDY}")


def _expired(path: pathlib.Path, header: dict, reason: str) -> ValueError:
    return ValueError(
        f"{path.name}: jax {versions()['jax']} cannot run what jax {header['versions']['jax']} exported on "
        f"{header['created'][:10]} ({reason}); JAX promises to for 6 months, {REMEDY}, with this jax"
    )
