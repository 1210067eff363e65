"""Dataset: labelled frames read from a file, checked, and split."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

import numpy as np

from mlff.arguments import checked_seed
from mlff.data.ase_labels import VIRIAL
from mlff.data.checks import check_duplicates, check_frame, warn_of_close_atoms, warn_of_copies, warn_of_slope
from mlff.data.content import Content
from mlff.data.frames import LABELS, Frame, joined
from mlff.data.identity import fingerprints, twins
from mlff.data.npz import ELSEWHERE, read_npz
from mlff.data.placeholders import find_placeholders
from mlff.data.readers import is_vibrations, read_ase, read_vibrations
from mlff.units import formula, symbols


class Dataset(Sequence[Frame]):
    """Frames with labels, in eV and Å; `Dataset.read` checks what it reads.

    Attributes:
        frames: the frames.
        source: name of the file they come from, for messages.
        indices: index of each frame in that file.
        units: what the file's units were, and who said so.
        atomic_energies: energies of isolated atoms that the file holds, eV, by symbol: of frames of one atom that are of the group
            `IsolatedAtom` (`config_type` or `group`), which are no frames here.
    """

    def __init__(
        self,
        frames: Sequence,
        source: str = "data",
        indices=None,
        units: str = "eV, Å",
        atomic_energies: Mapping[str, float] | None = None,
    ):
        self.frames: tuple[Frame, ...] = tuple(frames)
        for i, frame in enumerate(self.frames):
            if not isinstance(frame, Frame):
                raise ValueError(
                    f"Dataset: frames[{i}] is of {type(frame).__name__}, expected mlff.Frame; write Atoms to a file and read it with "
                    "Dataset.read, or make mlff.Frame(mlff.System.from_ase(atoms), {'energy': …})"
                )
        self.source = source
        self.indices = np.arange(len(self.frames)) if indices is None else np.asarray(indices)
        self.units = units
        self.atomic_energies = dict(atomic_energies or {})

    # -- reading ---------------------------------------------------------------------------------------------------

    @classmethod
    def read(
        cls,
        path,
        units: str | None = None,
        labels: str | Sequence[str] | None = None,
        keys: Mapping[str, str] | None = None,
        index: str | int | slice = ":",
    ) -> Dataset:
        """Read a file of reference calculations.

        Anything ASE reads, npz files with `coords/energies/forces/nuclear_charges` (rMD17) or `R/E/F/z`
        (MD17, sGDML), with Hessians under `hessians` or `H`, and what ASE's `VibrationsData.write` wrote. Labels are
        taken from `keys` where they name one, else from `REF_energy`, `REF_forces`, `REF_stress`, `REF_hessian`, … (what
        `Frame.to_ase` writes), else from the frames' calculator results. Virials (−V times the stress, eV; `virial`,
        `REF_virial`, or any key that is named and says virial) are read as stress. Labels of operators of your own are those
        under REF_ and their names.

        Arguments:
            path: the file.
            units: energy unit, or energy/length, of what the file holds: "kcal/mol", "hartree/bohr". Without it they
                are what the file says (a `units` entry; `r_unit`, `e_unit` in npz), or eV and Å where ASE's own
                convention applies (calculator results and `REF_` keys); else it is an error, and so is another unit than
                the file's own.
            labels: one label or several that are wanted; frames may lack some of them. Without it, every label that is there must
                be there in every frame, and energy or forces must be among them.
            keys: names of labels in the file that are not the usual ones, {"energy": "energy_ref"}.
            index: which frames, in ASE's syntax ("0:200", "::10"), an integer or a slice.
        Raises:
            ValueError: naming file, frame, what was expected and what to do.
            FileNotFoundError: no such file.
        """
        path = _checked_path(path, keys or {})
        labels = (labels,) if isinstance(labels, str) else labels
        reader = read_npz if path.suffix == ".npz" else read_vibrations if is_vibrations(path) else read_ase
        content = reader(path, units, dict(keys or {}), lambda total: _chosen(index, total, path.name))
        isolated = np.array([frame.is_isolated_atom for frame in content.frames], dtype=bool)
        lone = {int(i): frame for i, frame in zip(content.index, content.frames, strict=True) if frame.is_isolated_atom}
        frames = [frame for frame in content.frames if not frame.is_isolated_atom]
        data = cls(frames, path.name, content.index[~isolated], content.units, _atomic_energies(path.name, lone))
        return data._checked(labels, content, tuple(keys or ()))

    def _checked(self, wanted: Sequence[str] | None, content: Content, named: Sequence[str]) -> Dataset:
        """The data set, without labels that are doubtful and not wanted."""
        if not self.frames:
            raise ValueError(f"{self.source}: no frames; check the file")
        have = dict.fromkeys(name for frame in self.frames for name in frame.labels)
        if wanted is not None and (unknown := sorted(set(wanted) - {*LABELS, *have})):
            raise ValueError(
                f"labels: {unknown[0]!r} is not known; there are {', '.join(LABELS)}, and in a file in eV and Å those of your own "
                f"operators under REF_{unknown[0]}"
            )
        present = [name for name in LABELS if name in have]
        if wanted is None and not {"energy", "forces", "hessian", "hessian_products", "curvatures"} & set(present):
            wanted = ("energy",)  # for its message: there is nothing to learn from
        named = ["stress" if name == VIRIAL else name for name in named if name in (*LABELS, VIRIAL)]
        for name in dict.fromkeys([*(present if wanted is None else wanted), *named]):
            self._require_label(name, wanted, content)
        for i, frame in zip(self.indices, self.frames, strict=True):
            check_frame(f"{self.source}: frame {i}", frame, content.doubts)
        check_duplicates(self.frames, self.indices, self.source)
        warn_of_copies(self.frames, self.source)
        trusted = self._trusted(wanted, content.doubts)
        warn_of_close_atoms(self.frames, self.source)
        warn_of_slope(trusted.frames, self.source)
        return trusted

    def _require_label(self, name: str, wanted: Sequence[str] | None, content: Content) -> None:
        """Refuse a label that no frame has, or that some lack although nobody said so."""
        missing = [i for i, frame in zip(self.indices, self.frames, strict=True) if name not in frame.labels]
        if len(missing) == len(self.frames):
            remedy = f"name the key with keys={{'{name}': …}}" if name in content.readable else ELSEWHERE
            raise ValueError(
                f"{self.source}: no frame has {name}; the file holds {', '.join(content.keys) or 'positions alone'}; {remedy}"
            )
        if missing and wanted is None:
            raise ValueError(
                f"{self.source}: frame {missing[0]} has no {name}, {len(missing)} of {len(self)} frames lack it; "
                "complete or remove them, or say with labels= that frames may lack it"
            )

    def _trusted(self, wanted: Sequence[str] | None, doubts: Mapping[str, str]) -> Dataset:
        """The data set without the labels that cannot be trusted, which must not be among the wanted ones."""
        empty = {name: f"{self.source}: {what}" for name, what in find_placeholders(self.frames).items()}
        doubts = {**empty, **doubts}
        for name, reason in doubts.items():
            if wanted is None or name in wanted:
                raise ValueError(f"{reason}; else leave {name} out: say with labels= which labels are wanted")
        if not doubts:
            return self
        frames = [
            dataclasses.replace(frame, labels={k: v for k, v in frame.labels.items() if k not in doubts})
            for frame in self.frames
        ]
        return Dataset(frames, self.source, self.indices, self.units, self.atomic_energies)

    # -- a sequence of frames --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    @overload
    def __getitem__(self, index: int | np.integer) -> Frame: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | Sequence[bool] | np.ndarray) -> Dataset: ...
    def __getitem__(self, index):
        """A frame for an integer; a Dataset for a slice, a list of integers or a boolean mask."""
        if isinstance(index, (int, np.integer)):
            return self.frames[index]
        chosen = np.arange(len(self))[slice(0) if np.size(index) == 0 else index]
        frames = [self.frames[i] for i in chosen]
        return Dataset(frames, self.source, self.indices[chosen], self.units, self.atomic_energies)

    def __add__(self, other: Dataset) -> Dataset:
        """The frames of both; a geometry that both have becomes one frame with the labels of both. One that the other has moved
        or turned stays a frame of its own, as its forces are turned too, and a warning is logged.

        Raises:
            ValueError: both have the same label of one geometry, state different charges of it, or differ in the energy of an isolated
                atom.
        """
        energies = {**self.atomic_energies, **other.atomic_energies}
        if differing := [symbol for symbol, energy in self.atomic_energies.items() if energies[symbol] != energy]:
            raise ValueError(
                f"{other.source}: an isolated atom {differing[0]} has {energies[differing[0]]} eV, in {self.source} it has "
                f"{self.atomic_energies[differing[0]]} eV: are both of one method?"
            )
        everything = (*self.frames, *other.frames)
        first, frames, place = twins(everything), list(self.frames), list(range(len(self)))
        for i, frame in zip(other.indices, other.frames, strict=True):
            at = first[len(place)]
            if at == len(place):
                place.append(len(frames))
                frames.append(frame)
                continue
            place.append(place[at])
            earlier = frames[place[at]]
            if repeated := sorted(set(frame.labels) & set(earlier.labels)):
                raise ValueError(
                    f"{other.source}: frame {i} repeats the geometry of frame {place[at]} of {self.source}, and both have "
                    f"{', '.join(repeated)}; remove one of them"
                )
            stated, charge = earlier.stated_charge, frame.stated_charge
            if stated is not None and charge is not None and stated != charge:
                raise ValueError(
                    f"{other.source}: frame {i} has the geometry of frame {place[at]} of {self.source} and the total charge {charge:+g}, "
                    f"not {stated:+g}; labels of different charges make no frame: keep the sets apart, or mend what they state"
                )
            labels = {**earlier.labels, **frame.labels}
            frames[place[at]] = dataclasses.replace(earlier, labels=labels, atoms=joined(earlier.atoms, frame.atoms))
        units = self.units if self.units == other.units else f"{self.units}; {other.units}"
        union = Dataset(frames, f"{self.source} + {other.source}", units=units, atomic_energies=energies)
        warn_of_copies(union.frames, union.source)
        return union

    def __repr__(self) -> str:
        charges = {(formula(frame.numbers), frame.charge) for frame in self.frames}
        kinds = [f"{kind} (charge {charge:+g})" if charge else kind for kind, charge in sorted(charges)]
        return f"Dataset({self.source}: {len(self)} frames of {', '.join(kinds)}; {', '.join(self.label_names)})"

    def charges(self) -> dict[str, float]:
        """Total charges, e, by the composition of the frames that state one; frames that state none count as neutral beside them.

        Raises:
            ValueError: frames of one composition have different charges, which no force field can tell apart.
        """
        seen: dict[str, tuple[int, float]] = {}
        stated: dict[str, float] = {}
        for i, frame in zip(self.indices, self.frames, strict=True):
            kind = formula(frame.numbers)
            first, charge = seen.setdefault(kind, (int(i), frame.charge))
            if frame.charge != charge:
                raise ValueError(
                    f"{self.source}: frame {i} ({kind}) has the total charge {frame.charge:+g}, frame {first} has {charge:+g}; a "
                    "force field does not see charges: fit one for each"
                )
            if frame.stated_charge is not None:
                stated[kind] = charge
        return stated

    @property
    def label_names(self) -> tuple[str, ...]:
        """Labels that every frame has."""
        names = dict.fromkeys([*LABELS, *self.frames[0].labels]) if self.frames else ()
        return tuple(name for name in names if all(name in frame.labels for frame in self.frames))

    def split(self, *sizes: int, seed: int = 0) -> tuple[Dataset, ...]:
        """Disjoint random subsets of the given sizes; the same seed gives the same frames.

        Raises:
            ValueError: the sizes exceed the number of frames.
        """
        if any(size < 1 for size in sizes) or sum(sizes) > len(self):
            raise ValueError(
                f"split{sizes}: the sizes must be at least 1 and together at most the {len(self)} frames of {self.source}"
            )
        order = np.random.default_rng(checked_seed(seed)).permutation(len(self))
        bounds = np.cumsum([0, *sizes])
        return tuple(self[np.sort(order[a:b])] for a, b in itertools.pairwise(bounds))

    def hash(self) -> str:
        """SHA-256 of positions, numbers, cells and labels, independent of the file they came from."""
        digest = hashlib.sha256()
        for frame in self.frames:
            digest.update(frame.fingerprint())
            for name in sorted(frame.labels):
                digest.update(name.encode() + np.ascontiguousarray(frame.labels[name]).tobytes())
        return digest.hexdigest()

    def fingerprints(self) -> frozenset[str]:
        """One short text a geometry, by which `mlff.data.identity.among` tells whether another set shares frames."""
        return frozenset(fingerprints(self.frames))

    # -- as arrays, for models of one composition ------------------------------------------------------------------

    def uniform_numbers(self) -> np.ndarray:
        """Atomic numbers shared by all frames, shape (n,).

        Raises:
            ValueError: no frames, or frames of different composition or order of atoms, naming the first that differs.
        """
        self._require_frames()
        first = self.frames[0].numbers
        for i, frame in zip(self.indices, self.frames, strict=True):
            if not np.array_equal(frame.numbers, first):
                kind = "order of atoms" if np.array_equal(np.sort(frame.numbers), np.sort(first)) else "composition"
                raise ValueError(
                    f"{self.source}: frame {i} ({formula(frame.numbers)}) differs in {kind} from frame {self.indices[0]} "
                    f"({formula(first)}); a global model takes one molecule with its atoms in one order: take a local one "
                    "(recipe soap-gpr or fchl19-gpr), or select the frames of one molecule"
                )
        return first

    def uniform_positions(self) -> np.ndarray:
        """Positions of all frames, shape (m, n, 3), Å; raises as `uniform_numbers`."""
        self.uniform_numbers()
        return np.stack([frame.positions for frame in self.frames])

    def _require_frames(self) -> None:
        if not self.frames:
            raise ValueError(f"{self.source}: holds no frames; give some")

    def require(self, name: str) -> None:
        """Refuse frames that lack a label.

        Raises:
            ValueError: naming the first frame that does, and what it has.
        """
        for i, frame in zip(self.indices, self.frames, strict=True):
            if name not in frame.labels:
                raise ValueError(
                    f"{self.source}: frame {i} has no {name}; it has {', '.join(frame.labels) or 'no labels'}"
                )

    def require_some(self, name: str) -> None:
        """Refuse data in which no frame has a label.

        Raises:
            ValueError: naming the labels that there are.
        """
        if not any(name in frame.labels for frame in self.frames):
            have = dict.fromkeys(label for frame in self.frames for label in frame.labels)
            raise ValueError(f"{self.source}: no frame has {name}; there are {', '.join(have) or 'no labels'}")

    def array(self, name: str) -> np.ndarray:
        """One label of all frames: energy (m,), forces (m, n, 3), …

        Raises:
            ValueError: a frame lacks it, or there is none.
        """
        self._require_frames()
        self.require(name)
        return np.stack([frame.labels[name] for frame in self.frames])


def _atomic_energies(source: str, frames: Mapping[int, Frame]) -> dict[str, float]:
    """Energies of isolated atoms by symbol, of frames by their places in the file."""
    energies: dict[str, float] = {}
    for i, frame in frames.items():
        (symbol,), energy = symbols(frame.numbers), frame.labels.get("energy")
        if energy is None or not np.isfinite(energy):
            raise ValueError(
                f"{source}: frame {i} is an isolated atom {symbol} without an energy; give it one, or remove it"
            )
        if energies.setdefault(symbol, float(energy)) != float(energy):
            raise ValueError(
                f"{source}: frame {i} is an isolated atom {symbol} of {float(energy)} eV, another one has {energies[symbol]} eV; "
                "keep the one that is right"
            )
    return energies


def _checked_path(path, keys: Mapping[str, str]) -> pathlib.Path:
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"Dataset.read: path={path!r:.40} is no path; name a file")
    path = pathlib.Path(path)
    for name, key in keys.items():
        if not isinstance(key, str) or not key:
            raise ValueError(f"keys: {name!r} is given {key!r:.40}, expected the name that {path.name} has for it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def _chosen(index: str | int | slice, total: int, source: str) -> np.ndarray:
    """Indices of the frames that ASE's index syntax, an integer or a slice selects among `total`."""
    chosen = np.arange(total)[_slice(index, total)]
    if total and not len(chosen):
        raise ValueError(f"index={index!r} selects no frames: {source} has {total}")
    return chosen


def _slice(index: str | int | slice, total: int) -> slice | list[int]:
    """ASE's index syntax for several frames, "a:b:c", or one integer."""
    if isinstance(index, slice):
        index = ":".join("" if part is None else str(part) for part in (index.start, index.stop, index.step))
    text = str(index)
    try:
        parts = [int(part) if part else None for part in text.split(":")] if text else [0] * 4
    except ValueError:
        parts = [0] * 4
    if len(parts) > 3 or (len(parts) == 3 and parts[2] == 0):
        raise ValueError(f"index={index!r} is not understood; write '0:200', '::10' or '5', as in ASE")
    if len(parts) > 1:
        return slice(*parts)
    if not -total <= parts[0] < total:
        raise ValueError(f"index={index!r} is out of range: there are {total} frames")
    return [parts[0]]


def require_dataset(data) -> None:
    """Refuse what is no data set: geometries of ASE have no units, nor say which of their results are labels.

    Raises:
        ValueError: with what makes one.
    """
    if not isinstance(data, Dataset):
        kind = f"the class {data.__name__}" if isinstance(data, type) else f"a {type(data).__name__}"
        raise ValueError(f"data: expected a Dataset, received {kind}; Dataset.read(path) and Dataset(frames) make one")
