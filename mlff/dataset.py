"""Dataset: labelled frames read from a file, checked, and split; units are converted here and nowhere else."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from scipy.spatial.distance import cdist

from mlff.system import System
from mlff.units import formula, parse_units

logger = logging.getLogger(__name__)

LABELS = ("energy", "forces", "stress", "hessian")
UNIT_KEYS = ("units", "unit")
NPZ_NAMES = {
    "positions": ("coords", "R", "positions"),
    "energy": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
    "numbers": ("nuclear_charges", "z", "numbers"),
}
SLOPE_FRAMES = 400  # frames whose neighbours are looked at
COINCIDENT = 0.1  # Å; nearer atoms are an error of the file
SLOPE_TOLERANCE = 0.25


@dataclasses.dataclass(frozen=True)
class Frame:
    """One geometry with its labels: energy (eV), forces (n, 3) (eV/Å), stress (3, 3) (eV/Å³), hessian (3n, 3n)."""

    system: System
    labels: Mapping[str, np.ndarray | float]

    @property
    def positions(self) -> np.ndarray:
        return self.system.positions

    @property
    def numbers(self) -> np.ndarray:
        return self.system.numbers

    @property
    def cell(self) -> np.ndarray:
        return self.system.cell

    def to_ase(self) -> Atoms:
        """Atoms with the labels under the keys that `Dataset.read` prefers."""
        atoms = self.system.to_ase()
        for name, value in self.labels.items():
            if name == "forces":
                atoms.arrays["REF_forces"] = np.array(value)
            else:
                atoms.info[f"REF_{name}"] = float(value) if np.ndim(value) == 0 else np.array(value)
        return atoms


class Dataset(Sequence[Frame]):
    """Frames with labels, in eV and Å, checked on entry.

    Attributes:
        frames: the frames.
        source: name of the file they come from, for messages.
        indices: index of each frame in that file.
        units: what the file's units were, and who said so.
    """

    def __init__(self, frames: Sequence[Frame], source: str = "data", indices=None, units: str = "eV, Å"):
        self.frames = tuple(frames)
        self.source = source
        self.indices = np.arange(len(self.frames)) if indices is None else np.asarray(indices)
        self.units = units

    # -- reading ---------------------------------------------------------------------------------------------------

    @classmethod
    def read(
        cls,
        path,
        units: str | None = None,
        labels: Sequence[str] | None = None,
        keys: Mapping[str, str] | None = None,
        index: str = ":",
    ) -> Dataset:
        """Read a file of reference calculations.

        Anything ASE reads, and npz files with `coords/energies/forces/nuclear_charges` (rMD17) or `R/E/F/z`
        (MD17, sGDML). Labels are taken from `REF_energy`, `REF_forces`, `REF_stress`, `REF_hessian`, else from the
        frames' calculator results, else from `keys`.

        Arguments:
            path: the file.
            units: energy unit, or energy/length, of what the file holds: "kcal/mol", "hartree/bohr". Without it they
                are what the file says (a `units` entry; `r_unit`, `e_unit` in npz), or eV and Å where ASE's own
                convention applies (calculator results and `REF_` keys); else it is an error.
            labels: labels that are wanted; frames may lack some of them. Without it, every label that is there must
                be there in every frame, and energy or forces must be among them.
            keys: names of labels in the file that are not the usual ones, {"energy": "energy_ref"}.
            index: which frames, in ASE's syntax ("0:200", "::10").
        Raises:
            ValueError: naming file, frame, what was expected and what to do.
            FileNotFoundError: no such file.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        reader = _read_npz if path.suffix == ".npz" else _read_ase
        content = reader(path, units, dict(keys or {}))
        chosen = np.arange(len(content.frames))[_slice(index, len(content.frames))]
        data = cls([content.frames[i] for i in chosen], path.name, chosen, content.units)
        data._check(labels, content.keys)
        return data

    def _check(self, wanted: Sequence[str] | None, keys: Sequence[str]) -> None:
        if not self.frames:
            raise ValueError(f"{self.source}: no frames; check the file, or the index that was asked for")
        if wanted is not None and (unknown := sorted(set(wanted) - set(LABELS))):
            raise ValueError(f"labels: {unknown[0]!r} is not known; there are {', '.join(LABELS)}")
        here = [name for name in LABELS if any(name in frame.labels for frame in self.frames)]
        if wanted is None and not {"energy", "forces"} & set(here):
            wanted = ("energy",)  # for its message: there is nothing to learn from
        for name in here if wanted is None else wanted:
            missing = [i for i, frame in zip(self.indices, self.frames, strict=True) if name not in frame.labels]
            if len(missing) == len(self.frames):
                raise ValueError(
                    f"{self.source}: no frame has {name}; the file holds {', '.join(keys) or 'positions alone'}; "
                    f"name the key with keys={{'{name}': …}} (--key {name}=…)"
                )
            if missing and wanted is None:
                raise ValueError(
                    f"{self.source}: frame {missing[0]} has no {name}, {len(missing)} of {len(self)} frames lack it; "
                    "complete or remove them, or say with labels= that frames may lack it"
                )
        for i, frame in zip(self.indices, self.frames, strict=True):
            _check_frame(f"{self.source}: frame {i}", frame)
        _check_duplicates(self)
        _warn_of_slope(self)

    # -- a sequence of frames --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def __getitem__(self, index):
        """A frame for an integer; a Dataset for a slice, a list of integers or a boolean mask."""
        if isinstance(index, (int, np.integer)):
            return self.frames[index]
        chosen = np.arange(len(self))[index]
        return Dataset([self.frames[i] for i in chosen], self.source, self.indices[chosen], self.units)

    def __repr__(self) -> str:
        kinds = sorted({formula(frame.numbers) for frame in self.frames})
        return f"Dataset({self.source}: {len(self)} frames of {', '.join(kinds)}; {', '.join(self.label_names)})"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Labels that every frame has."""
        return tuple(name for name in LABELS if all(name in frame.labels for frame in self.frames))

    def split(self, *sizes: int, seed: int = 0) -> tuple[Dataset, ...]:
        """Disjoint random subsets of the given sizes; the same seed gives the same frames.

        Raises:
            ValueError: the sizes exceed the number of frames.
        """
        if any(size < 1 for size in sizes) or sum(sizes) > len(self):
            raise ValueError(
                f"split{sizes}: the sizes must be at least 1 and together at most the {len(self)} frames of {self.source}"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        bounds = np.cumsum([0, *sizes])
        return tuple(self[np.sort(order[a:b])] for a, b in itertools.pairwise(bounds))

    def hash(self) -> str:
        """SHA-256 of positions, numbers, cells and labels, independent of the file they came from."""
        digest = hashlib.sha256()
        for frame in self.frames:
            digest.update(_fingerprint(frame))
            for name in sorted(frame.labels):
                digest.update(name.encode() + np.ascontiguousarray(frame.labels[name]).tobytes())
        return digest.hexdigest()

    def fingerprints(self) -> frozenset[str]:
        """One short hash a geometry, to tell whether two sets share frames."""
        return frozenset(hashlib.sha256(_fingerprint(frame)).hexdigest()[:16] for frame in self.frames)

    # -- as arrays, for models of one composition ------------------------------------------------------------------

    def uniform_numbers(self) -> np.ndarray:
        """Atomic numbers shared by all frames, shape (n,).

        Raises:
            ValueError: frames of different composition or order of atoms, naming the first that differs.
        """
        first = self.frames[0].numbers
        for i, frame in zip(self.indices, self.frames, strict=True):
            if not np.array_equal(frame.numbers, first):
                kind = "order of atoms" if np.array_equal(np.sort(frame.numbers), np.sort(first)) else "composition"
                raise ValueError(
                    f"{self.source}: frame {i} ({formula(frame.numbers)}) differs in {kind} from frame {self.indices[0]} "
                    f"({formula(first)}); a global model takes one molecule with its atoms in one order: select its frames"
                )
        return first

    def uniform_positions(self) -> np.ndarray:
        """Positions of all frames, shape (m, n, 3), Å; raises as `uniform_numbers`."""
        self.uniform_numbers()
        return np.stack([frame.positions for frame in self.frames])

    def array(self, name: str) -> np.ndarray:
        """One label of all frames: energy (m,), forces (m, n, 3), …

        Raises:
            ValueError: a frame lacks it.
        """
        for i, frame in zip(self.indices, self.frames, strict=True):
            if name not in frame.labels:
                raise ValueError(
                    f"{self.source}: frame {i} has no {name}; it has {', '.join(frame.labels) or 'no labels'}"
                )
        return np.stack([frame.labels[name] for frame in self.frames])


def _fingerprint(frame: Frame) -> bytes:
    system = frame.system
    return system.positions.tobytes() + system.numbers.astype(np.int32).tobytes() + system.cell.tobytes()


def _slice(index: str, total: int) -> slice | list[int]:
    """ASE's index syntax for several frames: "a:b:c", or one integer."""
    try:
        parts = [int(part) if part else None for part in index.split(":")]
    except ValueError:
        parts = [0] * 4
    if len(parts) > 3 or (len(parts) == 3 and parts[2] == 0):
        raise ValueError(f"index={index!r} is not understood; write '0:200', '::10' or '5', as in ASE")
    if len(parts) > 1:
        return slice(*parts)
    if not -total <= parts[0] < total:
        raise ValueError(f"index={index!r} is out of range: there are {total} frames")
    return [parts[0]]


class _Content(NamedTuple):
    """What a reader found: frames, the units and who stated them, the names of what the file holds."""

    frames: list[Frame]
    units: str
    keys: list[str]


def _read_npz(path: pathlib.Path, units: str | None, keys: dict[str, str]) -> _Content:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path.name}: cannot be read as an npz file of plain arrays ({error})") from error
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
    for kind, shape, unit in (("energy", (), energy_unit), ("forces", (atoms, 3), energy_unit / length_unit)):
        if found[kind] is not None:
            values = np.asarray(arrays[found[kind]], dtype=np.float64)
            if values.size != frames * int(np.prod(shape)):
                raise ValueError(f"{path.name}: {found[kind]} has shape {values.shape}, expected {(frames, *shape)}")
            labels[kind] = values.reshape(frames, *shape) * unit
    read = [
        Frame(
            System(positions[i] * length_unit, numbers[i], np.zeros((3, 3)), np.zeros(3, dtype=bool)),
            {kind: values[i] for kind, values in labels.items()},
        )
        for i in range(frames)
    ]
    return _Content(read, said, sorted(arrays))


def _npz_units(path: pathlib.Path, units: str | None, arrays: dict) -> tuple[float, float, str]:
    inside = None
    if "e_unit" in arrays or "r_unit" in arrays:
        inside = f"{arrays.get('e_unit', 'kcal/mol')}/{arrays.get('r_unit', 'Ang')}"
    text = units or inside
    if text is None:
        raise ValueError(
            f"{path.name}: its units are not stated; say units='kcal/mol', 'eV' or 'hartree/bohr' (energy, or energy/length)"
        )
    return *parse_units(text), f"{text} ({'as stated by the user' if units else 'as stated by the file'})"


def _read_ase(path: pathlib.Path, units: str | None, keys: dict[str, str]) -> _Content:
    try:
        images = ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever their parsers do
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path.name}: ASE cannot read it ({reason}); is it complete and of a format ASE knows?"
        ) from error
    frames, said, found = [], "", set()
    for i, atoms in enumerate(images):
        where = f"{path.name}: frame {i}"
        inside = next((str(atoms.info[key]) for key in UNIT_KEYS if key in atoms.info), None)
        if units is None and inside is None and keys:
            raise ValueError(
                f"{where}: the units of {', '.join(keys.values())} are not stated; say units='eV', 'kcal/mol' or 'hartree/bohr'"
            )
        energy_unit, length_unit = parse_units(units or inside or "eV")
        said = (
            f"{units} (as stated by the user)"
            if units
            else f"{inside} (as stated by the file)"
            if inside
            else "eV, Å (ASE's)"
        )
        system = System.from_ase(atoms)
        if length_unit != 1.0:
            system = system.replace(positions=system.positions * length_unit, cell=system.cell * length_unit)
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
    return _Content(frames, said, sorted(found))


def _ase_label(atoms: Atoms, name: str, key: str | None):
    """REF_ key, else calculator result, else the explicit key (which, when given, is the only place)."""
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


def _check_frame(where: str, frame: Frame) -> None:
    if not np.isfinite(frame.positions).all():
        atom = int(np.argwhere(~np.isfinite(frame.positions))[0, 0])
        raise ValueError(f"{where}: the position of atom {atom} is not finite; remove the frame or mend the file")
    for name, value in frame.labels.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{where}: {name} is not finite; remove the frame or repeat its calculation")
    if len(frame.numbers) > 1 and not frame.system.pbc.any():
        distances = cdist(frame.positions, frame.positions)
        np.fill_diagonal(distances, np.inf)
        a, b = np.unravel_index(np.argmin(distances), distances.shape)
        if distances[a, b] < COINCIDENT:
            raise ValueError(
                f"{where}: atoms {min(a, b)} and {max(a, b)} are {distances[a, b]:.3g} Å apart; are the units right? "
                "(say units='…/bohr' or '…/nm' where positions are not in Å)"
            )


def _check_duplicates(data: Dataset) -> None:
    seen: dict[bytes, int] = {}
    for i, frame in zip(data.indices, data.frames, strict=True):
        key = _fingerprint(frame)
        if key in seen:
            raise ValueError(
                f"{data.source}: frame {i} repeats the geometry of frame {seen[key]}; remove one of them "
                "(labels that differ on one geometry cannot both be right)"
            )
        seen[key] = int(i)


def force_energy_slope(data: Dataset) -> tuple[float, float, float]:
    """How energies follow forces: the median over neighbouring frames of ΔE / (−½ (F + F′)·Δx).

    Neighbours are nearest by their distance matrices; the second is rotated onto the first. The median is weighted by
    the predicted difference. 1 when energies and forces are consistent, −1 when forces point up the energy, a ratio of
    units when those differ.

    Returns:
        the median and the quartiles of the ratios, (slope, lower, upper): frames that are far apart give wide ones.
        NaN when frames are too few (below 20), periodic, mixed, or lack a label.
    """
    if len(data) < 20 or not {"energy", "forces"} <= set(data.label_names):
        return np.nan, np.nan, np.nan
    if any(frame.system.pbc.any() for frame in data.frames) or len({f.numbers.tobytes() for f in data.frames}) > 1:
        return np.nan, np.nan, np.nan
    positions = data.uniform_positions()
    if positions.shape[1] < 2:
        return np.nan, np.nan, np.nan
    energies, forces = data.array("energy"), data.array("forces")
    first, second = np.triu_indices(positions.shape[1], k=1)
    distances = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
    chosen = np.linspace(0, len(data) - 1, min(len(data), SLOPE_FRAMES)).astype(int)
    apart = cdist(distances[chosen], distances)
    apart[np.arange(len(chosen)), chosen] = np.inf
    measured, predicted = [], []
    for i, j in zip(chosen, np.argmin(apart, axis=1), strict=True):
        here, there = positions[i] - positions[i].mean(axis=0), positions[j] - positions[j].mean(axis=0)
        u, _, vt = np.linalg.svd(there.T @ here)
        u[:, -1] *= np.sign(np.linalg.det(u @ vt))
        rotation = u @ vt
        mean_force = 0.5 * (forces[i] + forces[j] @ rotation)
        predicted.append(-np.sum(mean_force * (there @ rotation - here)))
        measured.append(energies[j] - energies[i])
    measured, predicted = np.array(measured), np.array(predicted)
    useful = np.abs(predicted) > 0
    if not useful.any():
        return np.nan, np.nan, np.nan
    ratios, weights = measured[useful] / predicted[useful], np.abs(predicted[useful])
    order = np.argsort(ratios)
    share = np.cumsum(weights[order]) / weights.sum()
    lower, slope, upper = ratios[order][np.searchsorted(share, [0.25, 0.5, 0.75])]
    return float(slope), float(lower), float(upper)


def _warn_of_slope(data: Dataset) -> None:
    slope, lower, upper = force_energy_slope(data)
    if np.isnan(slope) or (lower <= 1.0 + SLOPE_TOLERANCE and upper >= 1.0 - SLOPE_TOLERANCE):
        return
    cause = (
        "the forces point up the energy: are they gradients? Change their sign"
        if slope < 0
        else "do energies and forces have the units that were stated, and belong to one method?"
    )
    logger.warning(
        "%s: between neighbouring frames the energy changes by %.3g times what the forces say (median; quartiles %.3g "
        "and %.3g; expected 1); %s", data.source, slope, lower, upper, cause,
    )  # fmt: skip
