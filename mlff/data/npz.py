"""Reading npz files of reference calculations, in the forms of rMD17, MD17 and sGDML."""

from __future__ import annotations

import logging
import math
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from ase import Atoms

from mlff.batching import machine_memory
from mlff.data.ase_labels import VIRIAL, scales, sign
from mlff.data.content import Content
from mlff.data.frames import Frame
from mlff.data.system import System
from mlff.units import HEAVIEST, agreed_units, parse_units

logger = logging.getLogger(__name__)

NAMES = {
    "positions": ("coords", "R", "positions"),
    "numbers": ("nuclear_charges", "z", "numbers"),
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
    "hessian": ("hessians", "H", "hessian"),
    "cell": ("cell", "cells", "lattice"),
    "pbc": ("pbc",),
    "charge": ("charge", "total_charge", "net_charge", "charges", "Charge", "Q", "q"),
}
COLUMNS = "lattice"  # sGDML's name, whose columns are the vectors
ELSEWHERE = "give other labels in an extxyz file, as REF_stress and the like"
READABLE = ("energy", "forces", "hessian")
UNITS = ("units", "unit", "e_unit", "r_unit")


def read_npz(
    path: pathlib.Path, units: str | None, keys: Mapping[str, str], choose: Callable[[int], np.ndarray]
) -> Content:
    """Read the frames of an npz file. Only arrays that are needed are read, after their shapes were checked.

    Raises:
        ValueError: naming the file; no plain arrays, arrays missing or of wrong shape or kind, units not stated.
    """
    arrays, said, held = npz_arrays(path, units, keys)
    index = choose(len(arrays["positions"]))
    return Content([frame_of(arrays, int(i)) for i in index], index, said, held, {}, READABLE)


def npz_arrays(
    path: pathlib.Path, units: str | None, keys: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], str, list[str]]:
    """Arrays with one entry a frame, in eV and Å, by what they are; who stated the units; names of what the file holds.

    Raises:
        ValueError: as `read_npz`.
    """
    if unknown := sorted(set(keys) - set(NAMES)):
        raise ValueError(f"keys: {unknown[0]!r} is not read from npz files, there are {', '.join(NAMES)}; {ELSEWHERE}")
    try:
        with zipfile.ZipFile(path) as archive:
            headers = _headers(path, archive)
            names = _array_names(path, headers, keys)
            frames = _checked_shapes(path, headers, names)
            stated = {
                name: _text(_read(archive, name).item()) for name in UNITS if headers.get(name, ((1,), None))[0] == ()
            }
            energy, length, said = agreed_units(path.name, units, _statement(stated))
            _require_parts(path, stated, (energy, length))
            arrays = {kind: _read(archive, name) for kind, name in names.items()}
    except (OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path.name}: cannot be read as an npz file of plain arrays ({error})") from error
    factors = {**scales(energy, length), "positions": length, "cell": length}
    arrays = {kind: _per_frame(frames, kind, names[kind], array) for kind, array in arrays.items()}
    _require_elements(path, names["numbers"], arrays["numbers"])
    for kind in set(arrays) & set(factors):
        arrays[kind] = arrays[kind].astype(np.float64) * (sign(kind, keys) * factors[kind])
    if unread := sorted(name for name in headers if name.lower().startswith(("stress", VIRIAL))):
        logger.warning(
            "%s: %s is not read, as npz files hold %s for mlff; %s",
            path.name,
            unread[0],
            ", ".join(READABLE),
            ELSEWHERE,
        )
    return arrays, said, sorted(headers)


def _headers(path: pathlib.Path, archive: zipfile.ZipFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and kind of every array of the file; what they claim must be what the archive holds."""
    headers = {}
    for entry in (entry for entry in archive.infolist() if entry.filename.endswith(".npy")):
        with archive.open(entry) as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            except ValueError as error:
                raise ValueError(
                    f"{path.name}: cannot be read as an npz file of plain arrays ({entry.filename}: {error})"
                ) from error
            size = math.prod(shape) * dtype.itemsize
            if not dtype.hasobject and size != entry.file_size - file.tell():
                raise ValueError(
                    f"{path.name}: cannot be read as an npz file of plain arrays ({entry.filename} claims the shape {shape} and "
                    f"holds {entry.file_size} bytes)"
                )
            headers[entry.filename.removesuffix(".npy")] = (shape, dtype)
    return headers


def _array_names(path: pathlib.Path, headers: Mapping, keys: Mapping[str, str]) -> dict[str, str]:
    """The name of the array that holds the positions, the numbers, …"""
    names = {kind: (keys[kind],) if kind in keys else usual for kind, usual in NAMES.items()}
    present = {kind: [name for name in options if name in headers] for kind, options in names.items()}
    if "charge" not in keys:
        present["charge"] = [
            name for name in present["charge"] if _has_one_a_frame(headers, present["positions"], name)
        ]
    for kind, several in present.items():
        if len(several) > 1:
            raise ValueError(
                f"{path.name}: holds {' and '.join(several)}, which are names of {kind}; say which one, keys={{'{kind}': …}}"
            )
    for kind in dict.fromkeys(("positions", "numbers", *keys)):
        if not present[kind]:
            raise ValueError(
                f"{path.name}: no {kind} (looked for {', '.join(names[kind])}); the file holds {', '.join(sorted(headers))}"
            )
    return {kind: several[0] for kind, several in present.items() if several}


def _has_one_a_frame(headers: Mapping, positions: list[str], name: str) -> bool:
    """Whether an array holds a number, or one for each frame: others of the name hold charges of atoms, or atomic numbers."""
    frames = headers[positions[0]][0][:1] if positions else ()
    return headers[name][0] in ((), (1,), frames, (*frames, 1))


def _checked_shapes(path: pathlib.Path, headers: Mapping, names: Mapping[str, str]) -> int:
    """Check that every array is of real numbers and has its shape, and count the frames."""
    positions = headers[names["positions"]][0]
    if len(positions) != 3 or positions[2] != 3:
        raise ValueError(f"{path.name}: {names['positions']} has shape {positions}, expected (frames, atoms, 3)")
    frames, atoms, _ = positions
    allowed = {
        "positions": [positions], "numbers": [(atoms,), (frames, atoms)], "energy": [(frames,), (frames, 1)],
        "forces": [positions], "hessian": [(frames, 3 * atoms, 3 * atoms)], "cell": [(frames, 3, 3), (3, 3)],
        "pbc": [(frames, 3), (3,), ()], "charge": [(frames,), (), (1,), (frames, 1)],
    }  # fmt: skip
    for kind, name in names.items():
        shape, dtype = headers[name]
        if dtype.hasobject:
            raise ValueError(
                f"{path.name}: cannot be read as an npz file of plain arrays ({name} holds Python objects, and nothing is "
                "unpickled)"
            )
        if dtype.kind not in ("biu" if kind == "pbc" else "fiu"):
            expected = "true or false" if kind == "pbc" else "real numbers"
            raise ValueError(f"{path.name}: {name} is of {dtype}, expected {expected} as {kind}")
        if shape not in allowed[kind]:
            raise ValueError(f"{path.name}: {name} has shape {shape}, expected {allowed[kind][0]}")
    needed = sum(math.prod(headers[name][0]) * 8 for name in names.values())
    if needed > machine_memory() / 4:
        raise ValueError(
            f"{path.name}: holds {needed / 2**30:.2g} GiB of labelled frames, more than a quarter of this machine's memory; give a "
            "file of fewer frames"
        )
    return frames


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _per_frame(frames: int, kind: str, name: str, array: np.ndarray) -> np.ndarray:
    """The array with one entry a frame, where it holds one for all of them."""
    if kind == "cell" and name == COLUMNS:
        array = np.swapaxes(array, -1, -2)
    if kind == "energy":
        return array.reshape(frames)
    if kind == "charge":
        return np.broadcast_to(array.reshape(-1), (frames,))
    entry_axes = {"numbers": 1, "cell": 2, "pbc": 1}
    if kind in entry_axes and array.ndim <= entry_axes[kind]:
        return np.broadcast_to(array, (frames, *(array.shape or (3,) * entry_axes[kind])))
    return array


def _require_elements(path: pathlib.Path, name: str, numbers: np.ndarray) -> None:
    right = (numbers == np.round(numbers)) & (numbers >= 1) & (numbers <= HEAVIEST)
    if not right.all():
        raise ValueError(
            f"{path.name}: {name} holds {numbers[~right][0]}, which is no atomic number; expected integers from 1 to {HEAVIEST}"
        )


def _text(value) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _statement(stated: Mapping[str, str]) -> str | None:
    """What the file says of its units, in one text."""
    parts = f"{stated['e_unit']}/{stated['r_unit']}" if {"e_unit", "r_unit"} <= set(stated) else None
    return stated.get("units", stated.get("unit", parts))


def _require_parts(path: pathlib.Path, stated: Mapping[str, str], factors: tuple[float, float]) -> None:
    """Refuse a unit of energy or length that the file states and that is not the one it is read with."""
    for place, (name, text) in enumerate((("e_unit", "{}/Ang"), ("r_unit", "eV/{}"))):
        try:
            said = parse_units(text.format(stated[name]))[place] if name in stated else factors[place]
        except ValueError:
            continue  # words that are not known, for which the user's stand
        if not np.isclose(said, factors[place], rtol=1e-4, atol=0.0):
            raise ValueError(
                f"{path.name}: its {name} is {stated[name]!r}, and units= or its entry units says otherwise; leave units= out, or "
                "correct the file"
            )


def frame_of(arrays: Mapping[str, np.ndarray], i: int) -> Frame:
    """One of the frames of `npz_arrays`."""
    cell = arrays["cell"][i] if "cell" in arrays else np.zeros((3, 3))
    pbc = np.array(arrays["pbc"][i], dtype=bool) if "pbc" in arrays else cell.any(axis=1)
    system = System(arrays["positions"][i], arrays["numbers"][i].astype(np.int32), np.array(cell), pbc)
    labels = {kind: np.asarray(arrays[kind][i]) for kind in READABLE if kind in arrays}
    if "charge" not in arrays:
        return Frame(system, labels)
    atoms = Atoms(system.numbers, system.positions, info={"charge": float(arrays["charge"][i])})
    return Frame(system, labels, atoms)
