"""Prediction at scale: frames go from one file to another through a force field, as many at a time as fit a memory budget.

Frames are taken in windows, which the numbers of atoms and the budget alone decide on: in a window those of one composition are worked
off together, and they are written in the order in which they came. What a run that was stopped has written tells where its last window
began; this one is worked out again, so that the same chunks give the same bits.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from mlff.arguments import bytes_of
from mlff.batching import BATCH_MEMORY
from mlff.data.ase_labels import REFERENCE, find_labels
from mlff.data.extended_xyz import extended_xyz
from mlff.data.frames import Frame
from mlff.data.readers import xyz_blocks
from mlff.data.streams import FrameStream, xyz_frame
from mlff.files import named_file, partial_of, reserved, written_in_pieces
from mlff.potentials.arguments import require_atoms, require_charge
from mlff.potentials.digest import digest_of
from mlff.potentials.errors import LabelErrors
from mlff.potentials.evaluator import Evaluator, Found, SingleEvaluator
from mlff.potentials.force_field import ForceField
from mlff.potentials.running_errors import RunningErrors

Progress = Callable[[str, float], None]
KEY = "mlff_model"  # in `info` of every frame that is written: the model that said it
MARK = f"{KEY}=sha256-".encode()
SUFFIXES = (".extxyz", ".xyz")
DOUBLE, SINGLE = "float64", "float32"
MEASURED = 32  # frames that single precision is compared with double on
ROUNDING = 1e-7  # Å, of positions in extended xyz files
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_RESULTS = ("energy", "free_energy", "forces", "stress", "energy_std", "forces_std")
_FRAME, _ATOM, _NEIGHBOR = (
    10_000,
    1_000,
    100,
)  # bytes; up to twice what windows took, of ethanol, and of silicon by SOAP
_DENSITY = 0.1  # atoms in an Å³ of a dense solid


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a run has done.

    Attributes:
        frames: how many the file has now.
        first: which was the first that this run wrote.
        seconds: that it took.
        errors: against labels that the input has, by name; whether the model was trained on them nobody looks at.
        not_compared: labels that the input has and that cannot be compared, with the reason.
        float32: largest deviations of single from double precision on the first frames, energy (eV) and force component (eV/Å);
            None in double precision.
    """

    frames: int
    first: int
    seconds: float
    errors: Mapping[str, LabelErrors]
    not_compared: Mapping[str, str]
    float32: tuple[float, float] | None = None

    def summary(self) -> dict:
        """The numbers, for JSON."""
        energy, forces = self.float32 or (None, None)
        return {
            "frames": self.frames, "first_frame": self.first, "seconds": self.seconds,
            "frames_per_second": (self.frames - self.first) / self.seconds,
            "errors": {name: dataclasses.asdict(errors) for name, errors in self.errors.items()},
            "not_compared": dict(self.not_compared),
            "float32": None if self.float32 is None else {"energy_max": energy, "forces_max": forces},
        }  # fmt: skip


def predict(
    force_field: ForceField,
    path,
    out,
    units: str | None = None,
    keys: Mapping[str, str] | None = None,
    std: bool = False,
    memory: int | str = BATCH_MEMORY,
    precision: str = DOUBLE,
    resume: bool = False,
    progress: Progress = lambda stage, share: None,
) -> Predicted:
    """Predict energies, forces and (of periodic frames) stresses of all frames of a file, and write them to another.

        mlff.predict(mlff.load("ethanol.mlff"), "frames.extxyz", "predicted.extxyz", memory="2GB")

    Frames are read, predicted and written a window at a time, however many there are. The new file is extended xyz, in eV and Å, with
    all that the frames hold: predictions are results of its calculators, labels of the input stand under REF_ and their names.

    Arguments:
        force_field: what predicts.
        path: frames: anything ASE reads, or npz; `units` and `keys` as of `Dataset.read`.
        out: file to write, .extxyz or .xyz, whole or not at all; it grows beside its place.
        std: whether standard deviations are written too, `energy_std` and `forces_std`.
        memory: bytes that frames and arrays may take beside the model, or a text such as "2GB".
        precision: "float64", or "float32", whose error on the first frames is measured.
        resume: go on behind the last whole frame of a run with the same arguments that was stopped, if there is one. On the same
            machine the file is then the same, byte for byte, as if the run had not stopped.
    Raises:
        FileNotFoundError: no such file.
        ValueError: naming file and frame; what cannot be read or that the force field cannot take, no space on the disk, or a run to
            go on with that had other arguments.
    """
    path, out, begun = named_file(path), named_file(out), time.perf_counter()
    if out.suffix not in SUFFIXES:
        raise ValueError(
            f"out={str(out)!r}: is written as extended xyz, so name it .extxyz; ase convert makes others of it"
        )
    if precision not in (DOUBLE, SINGLE):
        raise ValueError(f"precision={precision!r:.60} must be {DOUBLE!r} or {SINGLE!r}")
    run = _Run(force_field, FrameStream(path, units, keys), bytes_of(memory), std, precision)
    with reserved({"out": out}, [path], {"out": MARK}):
        progress("predict", 0.0)
        left = run.left_by(partial_of(out)) if resume else _Left()
        float32 = run.deviations() if precision == SINGLE else None
        count = run.go_on(left, out, progress)
        progress("predict", 1.0)
    run.errors.distrust(run.stream.doubts)
    seconds = time.perf_counter() - begun
    return Predicted(count, left.count, seconds, run.errors.errors(), run.errors.not_compared, float32)


@dataclasses.dataclass(frozen=True)
class _Left:
    """What a run that was stopped has left: `count` whole frames in `size` bytes, the last window from frame `start` on, which is
    that of `first`."""

    count: int = 0
    size: int = 0
    start: int = 0
    first: Atoms | None = None


class _Run:
    """Frames of a stream through a force field."""

    def __init__(self, force_field: ForceField, stream: FrameStream, memory: int, std: bool, precision: str):
        self.force_field, self.stream, self.errors = force_field, stream, RunningErrors(force_field)
        self._double = Evaluator(force_field, memory // 2, std)
        single = precision == SINGLE
        self._evaluate = SingleEvaluator(force_field, memory // 2, std) if single else self._double
        self._model = f"sha256-{digest_of(force_field)}{'-float32' if single else ''}"
        self._room = memory // 2
        neighbors = _DENSITY * 4.0 / 3.0 * math.pi * force_field.model.reach**3
        self._atom = _ATOM + int(_NEIGHBOR * neighbors)

    def go_on(self, left: _Left, out: pathlib.Path, progress: Progress) -> int:
        """Predict and write what is not there, and count all frames."""
        count = left.start
        try:
            with written_in_pieces(out, left.size) as write:
                for window in self._windows(self._checked(left.start), lambda frame: len(frame.numbers)):
                    images = [
                        self._image(frame, found)
                        for frame, found in zip(window, self._found(window, count), strict=True)
                    ]
                    if left.first is not None and count == left.start:
                        self._require_same(left, images, out)
                    write(extended_xyz(images[max(0, left.count - count) :]))
                    count += len(window)
                    progress("predict", self.stream.share)
                if left.first is not None and count == left.start:
                    self._require_same(left, [], out)
                if not count:
                    raise ValueError(f"{self.stream.path.name}: no frames; check the file")
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise ValueError(
                f"{out}: no space is left on its disk; make room, and go on with resume=True behind the frames that are written"
            ) from error
        return count

    def deviations(self) -> tuple[float, float]:
        """Largest deviations of what is written from double precision on the first frames, eV and eV/Å."""
        frames = list(itertools.islice(self._checked(0), MEASURED))
        pairs = list(zip(self._found(frames, 0), self._double(frames), strict=True))
        energy = max((abs(one["energy"] - other["energy"]) for one, other in pairs), default=0.0)
        forces = max((float(np.abs(one["forces"] - other["forces"]).max()) for one, other in pairs), default=0.0)
        return energy, forces

    def left_by(self, partial: pathlib.Path) -> _Left:
        """What an earlier run has written; errors of its frames are counted, but for those of the last window."""
        if not partial.is_file():
            return _Left()
        left, window = _Left(), []
        with partial.open("rb") as file:
            for following in self._windows(_whole_blocks(partial.name, file), lambda block: len(block) - 2):
                for i, block in enumerate(window, left.start):
                    self.errors.add(*_compared(xyz_frame(f"{partial.name}: frame {i}", block)))
                start, size = left.count, sum(len(line) for block in following for line in block)
                left, window = _Left(start + len(following), left.size + size, start), following
        if not window:
            return left
        return dataclasses.replace(left, first=xyz_frame(f"{partial.name}: frame {left.start}", window[0]))

    def _windows(self, items: Iterable, atoms_of: Callable) -> Iterator[list]:
        """Items in their order, as many together as there is room for."""
        window, filled = [], 0
        for item in items:
            window.append(item)
            filled += _FRAME + self._atom * atoms_of(item)
            if filled >= self._room:
                yield window
                window, filled = [], 0
        if window:
            yield window

    def _checked(self, start: int) -> Iterator[Frame]:
        """Frames that the force field can take."""
        for i, frame in enumerate(self.stream.frames(start), start):
            where = self.stream.where(i)
            if not len(frame.numbers) or not np.isfinite(frame.positions).all():
                raise ValueError(f"{where}: has no atoms, or positions that are not finite; leave it out")
            require_atoms(self.force_field, frame.numbers, where)
            require_charge(self.force_field, frame.numbers, _charge(where, frame), f"{where}: states")
            yield frame

    def _found(self, window: Sequence[Frame], start: int) -> list[Found]:
        """What is predicted of a window."""
        try:
            return self._evaluate(window)
        except ValueError:
            for i, frame in enumerate(window, start):  # which of them it is
                try:
                    self._evaluate([frame])
                except ValueError as error:
                    raise ValueError(f"{self.stream.where(i)}: {error}") from error
            raise

    def _image(self, frame: Frame, found: Found) -> Atoms:
        """The frame with what is predicted of it; its errors are counted."""
        self.errors.add(frame.labels, found)
        atoms = frame.to_ase()
        for held in (atoms.info, atoms.arrays):
            for name in set(_RESULTS) & set(held):
                held[f"input_{name}"] = held.pop(name)
        said = {name: value for name, value in atoms.info.items() if name != KEY}
        atoms.info = {KEY: self._model, **said}  # where a file is known by it: hessians behind it may be long
        results = {name: found[name] for name in ("energy", "forces", "stress") if name in found}
        if "stress" in results:
            results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
        atoms.calc = SinglePointCalculator(atoms, **results)
        if "energy_std" in found:
            atoms.info["energy_std"] = found["energy_std"]
        if "forces_std" in found:
            atoms.arrays["forces_std"] = found["forces_std"]
        return atoms

    def _require_same(self, left: _Left, images: Sequence[Atoms], out: pathlib.Path) -> None:
        """Refuse to go on with frames that were predicted by another model, with other options, or of another file."""
        if len(images) < left.count - left.start or not _alike(images[0], left.first):
            raise ValueError(
                f"{out}: the run to go on with had another model, other options or other frames (frame {left.start} differs); "
                "go on with the same, or leave out resume=True"
            )


def _alike(ours: Atoms, theirs: Atoms) -> bool:
    """Whether two images are of one frame and one model, with the same kinds of results."""
    return (
        np.array_equal(ours.numbers, theirs.numbers)
        and np.allclose(ours.positions, theirs.positions, rtol=0.0, atol=ROUNDING)
        and ours.info[KEY] == theirs.info.get(KEY)
        and set(ours.arrays) == set(theirs.arrays)
    )


def _whole_blocks(name: str, file) -> Iterator[list[bytes]]:
    """The frames of a file up to the first that is not whole."""
    blocks = xyz_blocks(name, file)
    while True:
        try:
            block = next(blocks, None)
        except ValueError:  # where it was cut
            return
        if block is None or not block[-1].endswith(b"\n"):
            return
        yield block


def _compared(atoms: Atoms) -> tuple[dict, Found]:
    """Labels of a frame that was written, and what is predicted of it."""
    labels = find_labels("", atoms, {})[0]
    found = dict(atoms.calc.results)
    if "stress" in found:
        found["stress"] = voigt_6_to_full_3x3_stress(found["stress"])
    return {name: label.value for name, label in labels.items() if label.origin == REFERENCE}, found


def _charge(where: str, frame: Frame) -> float | None:
    try:
        return frame.stated_charge
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
