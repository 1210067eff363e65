"""Reading files of reference calculations into frames; units are converted here and nowhere else."""

from __future__ import annotations

import pathlib
import zipfile
import zlib
from typing import NamedTuple

import ase.io
import numpy as np
from ase import Atoms

from mlff.frames import LABELS, Frame
from mlff.system import System
from mlff.units import parse_units

_TAIL = 200  # bytes at the end of a JSON file of ASE's in which it names its kind
UNIT_KEYS = ("units", "unit")
NPZ_NAMES = {
    "positions": ("coords", "R", "positions"),
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
    "hessian": ("hessians", "H", "hessian"),
    "numbers": ("nuclear_charges", "z", "numbers"),
}


class Content(NamedTuple):
    """What a reader found: frames, the units and who stated them, the names of what the file holds."""

    frames: list[Frame]
    units: str
    keys: list[str]


def read_npz(path: pathlib.Path, units: str | None, keys: dict[str, str]) -> Content:
    """Frames of an npz file in the forms of rMD17, MD17 and sGDML.

    Raises:
        ValueError: naming the file; no plain arrays, arrays missing or of wrong shape, units not stated.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path.name}: cannot be read as an npz file of plain arrays ({error})") from error
    if unknown := sorted(set(keys) - set(NPZ_NAMES)):
        raise ValueError(f"keys: {unknown[0]!r} is not known for npz files; there are {', '.join(NPZ_NAMES)}")
    names = {kind: (keys[kind],) if kind in keys else usual for kind, usual in NPZ_NAMES.items()}
    found = {kind: next((name for name in options if name in arrays), None) for kind, options in names.items()}
    for kind in ("positions", "numbers"):
        if found[kind] is None:
            raise ValueError(
                f"{path.name}: no {kind} (looked for {', '.join(names[kind])}); the file holds {', '.join(sorted(arrays))}"
            )
    energy_unit, length_unit, said = _npz_units(path, units, arrays)
    positions = np.asarray(arrays[found["positions"]], dtype=np.float64)
    numbers = np.asarray(arrays[found["numbers"]])
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise ValueError(f"{path.name}: {found['positions']} has shape {positions.shape}, expected (frames, atoms, 3)")
    frames, atoms = positions.shape[:2]
    if numbers.shape not in ((atoms,), (frames, atoms)):
        raise ValueError(f"{path.name}: {found['numbers']} has shape {numbers.shape}, expected ({atoms},)")
    numbers = np.broadcast_to(numbers, (frames, atoms)).astype(np.int32)
    labels = {}
    kinds = (
        ("energy", (), energy_unit), ("forces", (atoms, 3), energy_unit / length_unit),
        ("hessian", (3 * atoms, 3 * atoms), energy_unit / length_unit**2),
    )  # fmt: skip
    for kind, shape, unit in kinds:
        if found[kind] is not None:
            values = np.asarray(arrays[found[kind]], dtype=np.float64)
            if values.shape != (frames, *shape) and not (kind == "energy" and values.shape == (frames, 1)):
                raise ValueError(f"{path.name}: {found[kind]} has shape {values.shape}, expected {(frames, *shape)}")
            labels[kind] = values.reshape(frames, *shape) * unit
    read = [
        Frame(
            System(positions[i] * length_unit, numbers[i], np.zeros((3, 3)), np.zeros(3, dtype=bool)),
            {kind: values[i] for kind, values in labels.items()},
        )
        for i in range(frames)
    ]
    return Content(read, said, sorted(arrays))


def _npz_units(path: pathlib.Path, units: str | None, arrays: dict) -> tuple[float, float, str]:
    inside = f"{arrays['e_unit']}/{arrays['r_unit']}" if {"e_unit", "r_unit"} <= set(arrays) else None
    text = units or inside
    if text is None:
        raise ValueError(
            f"{path.name}: its units are not stated; say units='kcal/mol', 'eV' or 'hartree/bohr' (energy, or energy/length)"
        )
    return *parse_units(text), _said(units, inside)


def read_ase(path: pathlib.Path, units: str | None, keys: dict[str, str]) -> Content:
    """Frames of any file that ASE reads.

    Raises:
        ValueError: naming file and frame; ASE cannot read it, labels of wrong shape, units of own keys not stated.
    """
    if unknown := sorted(set(keys) - set(LABELS)):
        raise ValueError(f"keys: {unknown[0]!r} is not known; there are {', '.join(LABELS)}")
    images = _images(path)
    frames, said, found = [], "", set()
    for i, atoms in enumerate(images):
        where = f"{path.name}: frame {i}"
        inside = _stated(atoms)
        if units is None and inside is None and keys:
            raise ValueError(
                f"{where}: the units of {', '.join(keys.values())} are not stated; say units='eV', 'kcal/mol' or 'hartree/bohr'"
            )
        energy_unit, length_unit = parse_units(units or inside or "eV")
        said = _said(units, inside)
        system = _in_angstrom(atoms, length_unit)
        scales = {
            "energy": energy_unit, "forces": energy_unit / length_unit,
            "hessian": energy_unit / length_unit**2, "stress": energy_unit / length_unit**3,
        }  # fmt: skip
        labels = {}
        for name in LABELS:
            value = _ase_label(atoms, name, keys.get(name))
            if value is not None:
                labels[name] = _shaped(where, name, value, len(atoms)) * scales[name]
        frames.append(Frame(system, labels))
        found |= {*atoms.info, *atoms.arrays, *getattr(atoms.calc, "results", {})} - {"positions", "numbers"}
    return Content(frames, said, sorted(found))


def is_vibrations(path: pathlib.Path) -> bool:
    """Whether ASE wrote `VibrationsData` there, not one of its other JSON files."""
    with open(path, "rb") as file:
        file.seek(-min(_TAIL, path.stat().st_size), 2)
        return b'"vibrationsdata"' in file.read()


def read_vibrations(path: pathlib.Path, units: str | None, keys: dict[str, str]) -> Content:
    """The Hessian of a file that ASE's `VibrationsData.write` made, a frame in eV and Å.

    Rows of atoms that it leaves out are missing entries, NaN.

    Raises:
        ValueError: the file is of another kind, or units or keys are given that it does not need.
    """
    from ase.vibrations import VibrationsData  # which takes a third of a second, and few files need it

    if units is not None or keys:
        raise ValueError(f"{path.name}: VibrationsData are in eV and Å; leave units and keys out")
    try:
        data = VibrationsData.read(path)
    except Exception as error:  # ASE's reader raises whatever it meets
        raise ValueError(f"{path.name}: no VibrationsData that ASE reads ({error}); write it again") from error
    atoms, moving = data.get_atoms(), np.asarray(data.get_indices())
    hessian = np.full((3 * len(atoms), 3 * len(atoms)), np.nan)
    rows = (3 * moving[:, None] + np.arange(3)).ravel()
    hessian[np.ix_(rows, rows)] = data.get_hessian_2d()
    labels = {"hessian": hessian}
    for name in ("energy", "forces"):
        value = _ase_label(atoms, name, None)
        if value is not None:
            labels[name] = _shaped(path.name, name, value, len(atoms))
    return Content([Frame(System.from_ase(atoms), labels)], _said(None, None), sorted(labels))


def read_geometry(path: pathlib.Path) -> Atoms:
    """The last geometry of a file that ASE reads, whole (masses, constraints, momenta, charges, tags, info), without calculator.

    Positions and cell are put in Å by the units that the file states, which no longer stand in `info`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ASE cannot read it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    atoms = _images(path)[-1]
    if inside := _stated(atoms):
        length_unit = parse_units(inside)[1]
        atoms.set_cell(atoms.cell.array * length_unit)
        atoms.set_positions(atoms.positions * length_unit, apply_constraint=False)
    atoms.info = {key: value for key, value in atoms.info.items() if key not in UNIT_KEYS}
    atoms.calc = None
    return atoms


def _images(path: pathlib.Path) -> list[Atoms]:
    try:
        return ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever their parsers do
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path.name}: ASE cannot read it ({reason}); is it complete and of a format ASE knows?"
        ) from error


def _stated(atoms: Atoms) -> str | None:
    return next((str(atoms.info[key]) for key in UNIT_KEYS if key in atoms.info), None)


def _said(units: str | None, inside: str | None) -> str:
    if units:
        return f"{units} (as stated by the user)"
    return f"{inside} (as stated by the file)" if inside else "eV, Å (ASE's)"


def _in_angstrom(atoms: Atoms, length_unit: float) -> System:
    system = System.from_ase(atoms)
    return system.replace(positions=system.positions * length_unit, cell=system.cell * length_unit)


def _ase_label(atoms: Atoms, name: str, key: str | None):
    """The explicit key where one is given, else the REF_ key, else the calculator's result."""
    for candidate in (key,) if key else (f"REF_{name}", f"REF_{name}".lower()):
        if candidate in atoms.info:
            return atoms.info[candidate]
        if candidate in atoms.arrays:
            return atoms.arrays[candidate]
    results = getattr(atoms.calc, "results", {})
    return results.get(key or name)


def _shaped(where: str, name: str, value, atoms: int) -> np.ndarray:
    shapes = {"energy": (), "forces": (atoms, 3), "stress": (3, 3), "hessian": (3 * atoms, 3 * atoms)}
    try:
        value = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name} is no array of numbers ({value!r:.60})") from error
    if name == "stress" and value.shape == (6,):
        xx, yy, zz, yz, xz, xy = value
        value = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if value.size == int(np.prod(shapes[name])) and (name != "forces" or value.shape == shapes[name]):
        return value.reshape(shapes[name])
    raise ValueError(f"{where}: {name} has shape {value.shape}, expected {shapes[name]}")
