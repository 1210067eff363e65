"""Reading files of reference calculations into frames; units are converted here and nowhere else."""

from __future__ import annotations

import itertools
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, open_with_compression

from mlff.data.ase_labels import (
    PREFIX,
    VIRIAL,
    Label,
    by_convention,
    find_labels,
    operator_labels,
    scales,
    without_labels,
)
from mlff.data.content import Content
from mlff.data.frames import LABELS, Frame
from mlff.data.system import System
from mlff.units import agreed_units, parse_units

logger = logging.getLogger(__name__)

_TAIL = 200  # bytes at the end of a JSON file of ASE's in which it names its kind
UNIT_KEYS = ("units", "unit")
CONVENTION = "eV, Å (ASE's)"
DUMPS = ("lammps-dump-text", "lammps-dump-binary")  # in the units of their run, which they do not state
UNCONVERTED = ("extxyz", "xyz", "netcdftrajectory", "lammps-data", *DUMPS)
OWN = ("traj", "bundletrajectory", "json", "db")  # ASE's own forms, in eV and Å by definition


def read_ase(
    path: pathlib.Path, units: str | None, keys: Mapping[str, str], choose: Callable[[int], np.ndarray]
) -> Content:
    """Read the frames of any file that ASE reads.

    Raises:
        ValueError: naming file and frame; ASE cannot read it, labels of wrong shape, units not stated or contradictory.
    """
    if unknown := sorted(set(keys) - {*LABELS, VIRIAL}):
        raise ValueError(f"keys: {unknown[0]!r} is not known; there are {', '.join(LABELS)}, {VIRIAL}")
    images = _images(path)
    index = choose(len(images))
    images = [images[i] for i in index]
    where = [f"{path.name}: frame {i}" for i in index]
    statements = _statements(path, where, images, units, keys)
    _warn_of_unconverted(path, images, statements)
    frames, origins, doubts, held = [], {}, {}, set()
    for place, atoms, (energy, length, _) in zip(where, images, statements, strict=True):
        labels, doubtful = find_labels(place, atoms, keys)
        for name, label in labels.items():
            origins.setdefault(name, {}).setdefault(label.origin, place)
        doubts = {**doubtful, **doubts}
        frames.append(labelled(atoms, labels, energy, length))
        held |= {*atoms.info, *atoms.arrays, *getattr(atoms.calc, "results", {})} - {"positions", "numbers"}
    for name, places in origins.items():
        if len(places) > 1:
            (one, first), (other, second) = list(places.items())[:2]
            doubts[name] = (
                f"{first} has its {name} from {one}, {second} from {other}, which may be of another method; "
                f"name the key that is right, keys={{'{name}': …}}, or give every frame {PREFIX}{name}"
            )
    said = "; ".join(dict.fromkeys(said for *_, said in statements))
    return Content(frames, index, said, sorted(held), doubts)


def is_vibrations(path: pathlib.Path) -> bool:
    """Whether ASE wrote `VibrationsData` there, not one of its other JSON files."""
    with open(path, "rb") as file:
        file.seek(-min(_TAIL, path.stat().st_size), 2)
        return b'"vibrationsdata"' in file.read()


def read_vibrations(
    path: pathlib.Path, units: str | None, keys: Mapping[str, str], choose: Callable[[int], np.ndarray]
) -> Content:
    """Read the Hessian of a file that ASE's `VibrationsData.write` made, as a frame in eV and Å.

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
    labels, doubts = find_labels(path.name, atoms, {})
    labels["hessian"] = Label(hessian, "VibrationsData", ())
    index = choose(1)
    return Content([labelled(atoms, labels, 1.0, 1.0)] * len(index), index, CONVENTION, sorted(labels), doubts)


def read_geometry(path: pathlib.Path) -> Atoms:
    """Read the last geometry of a file that ASE reads, whole (masses, constraints, momenta, charges, tags, info), without calculator.

    Positions and cell are put in Å by the units that the file states, which no longer stand in `info`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: ASE cannot read it.
    """
    return read_geometries(path)[-1]


def read_geometries(path: pathlib.Path) -> list[Atoms]:
    """All geometries of a file, as `read_geometry` reads the last; labels that they have are not looked at."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return [_geometry(atoms, f"{path.name}: frame {i}") for i, atoms in enumerate(_images(path))]


def _geometry(atoms: Atoms, where: str) -> Atoms:
    if not np.isfinite(atoms.positions).all():
        atom = int(np.argwhere(~np.isfinite(atoms.positions))[0, 0])
        raise ValueError(
            f"{where}: the position of atom {atom} is not finite; mend the file, or start from another one"
        )
    if inside := stated_units(atoms):
        length_unit = parse_units(inside)[1]
        atoms.set_cell(atoms.cell.array * length_unit)
        atoms.set_positions(atoms.positions * length_unit, apply_constraint=False)
    atoms.info = {key: value for key, value in atoms.info.items() if key not in UNIT_KEYS}
    atoms.calc = None
    return atoms


def _images(path: pathlib.Path) -> list[Atoms]:
    _require_whole(path)
    try:
        return ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever their parsers do
        raise unreadable(path.name, error) from error


def unreadable(name: str, error: Exception) -> ValueError:
    """What is said of a file that ASE cannot read."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return ValueError(f"{name}: ASE cannot read it ({reason}); is it complete and of a format ASE knows?")


def _require_whole(path: pathlib.Path) -> None:
    """Refuse a file in the xyz form as `xyz_blocks` does."""
    if ".xyz" not in path.name and ".extxyz" not in path.name:
        return
    with open_with_compression(str(path), "rb") as file:
        for _ in xyz_blocks(path.name, file):
            pass


def xyz_blocks(name: str, file) -> Iterator[list[bytes]]:
    """The lines of every frame of a file in the xyz form, as long as it has this form.

    Arguments:
        name: of the file, for messages.
        file: opened for bytes, at its beginning.
    Raises:
        ValueError: a frame claims more atoms than there are lines, or the file goes on behind a blank line, where ASE stops.
    """
    head = file.readline()
    for frame in itertools.count():
        words = head.split()
        if frame and not words and any(line.strip() for line in file):
            raise ValueError(f"{name}: goes on behind a blank line after frame {frame - 1}; remove the blank line")
        if len(words) != 1 or not words[0].isdigit():
            if frame and words:
                raise ValueError(
                    f"{name}: frame {frame} does not begin with its number of atoms; is the file complete?"
                )
            return  # the end, or a form that ASE may know
        claimed = int(words[0])
        block = [head, *itertools.islice(file, claimed + 1)]
        if len(block) < claimed + 2:
            raise ValueError(
                f"{name}: frame {frame} claims {claimed} atoms, and the file ends after {max(0, len(block) - 2)} of them; "
                "is it complete?"
            )
        head = file.readline()
        while head.lstrip().startswith(b"VEC"):
            block.append(head)
            head = file.readline()
        yield block


def _statements(path: pathlib.Path, where: list[str], images: list[Atoms], units: str | None, keys: Mapping[str, str]):
    """Factors to eV and Å of every frame, and who stated them.

    Raises:
        ValueError: some frames state units and others do not, the user contradicts the file or a convention, or nothing is stated
            where no convention holds.
    """
    stated = [stated_units(atoms) for atoms in images]
    form = form_of(path)
    if units is None and None in stated and any(stated):
        with_one, without = next(i for i, text in enumerate(stated) if text), stated.index(None)
        raise ValueError(
            f"{where[with_one]} states its units ({stated[with_one]}), frame {where[without].split()[-1]} and "
            f"{stated.count(None) - 1} others do not; state them in every frame, or say units= for all"
        )
    require_convertible(path, form, units)
    return [statement(place, atoms, form, units, keys) for place, atoms in zip(where, images, strict=True)]


def require_convertible(path: pathlib.Path, form: str, units: str | None) -> None:
    """Refuse units for a file whose form has its own.

    Raises:
        ValueError: naming the form.
    """
    if units is not None and form not in UNCONVERTED and not np.allclose(parse_units(units), 1.0):
        if form in OWN:
            raise ValueError(f"{path.name}: files of the form {form} are ASE's own, in eV and Å; leave units= out")
        raise ValueError(f"{path.name}: ASE converts files of the form {form} to eV and Å itself; leave units= out")


def statement(
    where: str, atoms: Atoms, form: str, units: str | None, keys: Mapping[str, str]
) -> tuple[float, float, str]:
    """Factors to eV and Å of a frame, and who stated them.

    Raises:
        ValueError: the user contradicts the frame or a convention, or nothing is stated where no convention holds.
    """
    inside = stated_units(atoms)
    unconventional = [key for key in keys.values() if not by_convention(atoms, key)]
    if units is None and inside is None and (unconventional or form in DUMPS):
        what = f"the units of {', '.join(unconventional)}" if unconventional else "the units of a LAMMPS run"
        raise ValueError(f"{where}: {what} are not stated; say units='eV', 'kcal/mol' or 'hartree/bohr'")
    silent = units is None and inside is None
    return (1.0, 1.0, CONVENTION) if silent else agreed_units(where, units, inside)


def _warn_of_unconverted(path: pathlib.Path, images: list[Atoms], statements) -> None:
    """Log a warning where labels of the user's own operators are not read as such, being in units that nobody can convert."""
    for atoms, (energy, length, said) in zip(images, statements, strict=True):
        if not energy == length == 1.0 and (labels := operator_labels(atoms)):
            keys = ", ".join(key for label in labels.values() for key in label.keys)
            logger.warning(
                "%s: %s is no label here, as %s cannot be converted; give it in eV and Å", path.name, keys, said
            )
            return


def form_of(path: pathlib.Path) -> str:
    """The name that ASE has for the form of a file."""
    try:
        return filetype(str(path))
    except UnknownFileTypeError:
        return "unknown"


def stated_units(atoms: Atoms) -> str | None:
    """What a frame itself says of its units; None where it says nothing."""
    return next((str(atoms.info[key]) for key in UNIT_KEYS if key in atoms.info), None)


def labelled(atoms: Atoms, labels: Mapping[str, Label], energy: float, length: float) -> Frame:
    """The frame in eV and Å. Labels of the user's own operators are there where the file is in these units already: nobody knows how to
    convert them."""
    factors = scales(energy, length)
    label_keys = {key for label in labels.values() for key in label.keys}
    additional = operator_labels(atoms) if energy == length == 1.0 else {}
    additional = {name: label for name, label in additional.items() if label_keys.isdisjoint(label.keys)}
    unlabelled = without_labels(atoms, [*labels.values(), *additional.values()])
    for key in UNIT_KEYS:
        unlabelled.info.pop(key, None)  # they were those of the file
    values = {name: label.value * factors.get(name, 1.0) for name, label in {**labels, **additional}.items()}
    return Frame(_in_angstrom(atoms, length), values, unlabelled)


def _in_angstrom(atoms: Atoms, length_unit: float) -> System:
    system = System.from_ase(atoms)
    return system.replace(positions=system.positions * length_unit, cell=system.cell * length_unit)
