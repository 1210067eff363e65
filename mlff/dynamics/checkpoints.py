"""Trajectories that a run can go on from: every frame holds its settings and the state that the next step depends on."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib

import numpy as np
from ase import Atoms
from ase.io import ulm
from ase.io.trajectory import Trajectory

from mlff.arguments import checked_seed
from mlff.potentials.digest import digest_of
from mlff.potentials.force_field import ForceField

logger = logging.getLogger(__name__)

MAGIC = f"- of Ulm{'ASE-Trajectory':16}".encode()  # how ASE's trajectories begin
STRONGEST = 1.0  # friction times time step; measured on oscillators: 301 K of 300 at 1.0, 330 K at 1.5
_ITEMS = 8 + 16 + 8  # bytes before the number of frames
STATE = "dynamics"  # among `atoms.info` of a frame
LABELS = ("energy", "free_energy", "forces", "stress", "virial")  # of the first geometry, which no other frame has


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run is made.

    timestep: fs. temperature: of a Langevin thermostat, K; None at constant energy. friction: of the thermostat, 1/fs.
    interval: steps between frames. seed: of the thermostat's noise. velocities: the temperature that the first velocities
    were drawn at, K; None where the atoms brought theirs.

    Raises:
        ValueError: numbers out of range.
    """

    timestep: float = 0.5
    temperature: float | None = None
    friction: float = 0.01
    interval: int = 20
    seed: int = 0
    velocities: float | None = None

    def __post_init__(self):
        if self.interval < 1:
            raise ValueError(f"interval={self.interval} (steps) must be positive")
        if not 0 < self.timestep < np.inf:
            raise ValueError(f"timestep={self.timestep} (fs) must be positive")
        if self.temperature is not None and not 0 <= self.temperature < np.inf:
            raise ValueError(f"temperature={self.temperature} (K) must not be negative")
        if not 0 <= self.friction < np.inf:
            raise ValueError(f"friction={self.friction} (1/fs) must not be negative")
        if self.temperature is not None and not 0 < self.friction * self.timestep <= STRONGEST:
            raise ValueError(
                f"friction={self.friction} (1/fs) must be positive, and at most {STRONGEST:g} in a time step of "
                f"{self.timestep} fs, or the temperature is not the thermostat's; usual are 0.001 to 0.1"
            )
        checked_seed(self.seed)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A run between two steps: nothing else does the next step depend on.

    atoms: positions, momenta, masses, cell, constraints. step: how many were made. settings: of the run. noise: state of
    the thermostat's generator. bound: distance from the centre at which an atom has left, Å. model: what the forces come
    from, see `fingerprint`.
    """

    atoms: Atoms
    step: int
    settings: Settings
    noise: dict
    bound: float
    model: str

    def frame(self) -> Atoms:
        """The atoms as a frame of a trajectory, with this state in `info`; labels of the geometry that a run started from
        stay behind."""
        frame = self.atoms.copy()
        frame.calc = self.atoms.calc
        frame.info = {key: value for key, value in frame.info.items() if not _is_label(key)}
        state = {"settings": dataclasses.asdict(self.settings), "noise": self.noise}
        frame.info |= {"step": self.step, STATE: {**state, "bound": self.bound, "model": self.model}}
        return frame


def resume(trajectory: str | pathlib.Path) -> Checkpoint:
    """Read the last whole frame of a trajectory that a run wrote, without calculator.

    Raises:
        ValueError: no such trajectory, without a whole frame, or of another program.
    """
    path = pathlib.Path(trajectory)
    if not path.is_file():
        raise ValueError(f"{path}: no trajectory of mlff md to resume (no such file); leave out --resume")
    if whole_frames(path) == 0:
        raise ValueError(f"{path}: no trajectory of mlff md to resume (it has no whole frame); start the run anew")
    with Trajectory(path) as reader:
        atoms = reader[-1]
    try:
        step, state = int(atoms.info.pop("step")), atoms.info.pop(STATE)
        settings = Settings(**state["settings"])
        checkpoint = Checkpoint(atoms, step, settings, state["noise"], state["bound"], state["model"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: its frames hold no state of a run, so none can go on from there as if it had not stopped; start a new "
            "run from its last geometry (mlff md --start)"
        ) from error
    atoms.calc = None
    return checkpoint


def whole_frames(path: pathlib.Path) -> int:
    """Count the frames of a trajectory, after what the end of a process cut short is removed from it; 0 without the file.

    Raises:
        ValueError: another file, or a trajectory whose index is lost.
    """
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        head = file.read(_ITEMS + 8)
    if not (head.startswith(MAGIC) or MAGIC.startswith(head)):
        raise ValueError(f"{path}: no trajectory of mlff md, another file; name another one")
    promised = int(np.frombuffer(head[_ITEMS:], dtype="<i8")[0]) if len(head) == _ITEMS + 8 else 0
    if promised == 0 or _is_in_order(path):
        return promised
    partial = path.with_name(f".{path.name}.partial")
    whole = _copy_whole(path, partial)
    if whole == 0 and promised > 1:
        partial.unlink()
        raise ValueError(
            f"{path}: damaged, its index of {promised} frames is lost; keep it elsewhere and name another file"
        )
    os.replace(partial, path)
    return whole


def holds_nothing(path: pathlib.Path) -> bool:
    """Whether a file is all that is left of a trajectory whose first frame was never finished."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
    return MAGIC.startswith(head) and whole_frames(path) == 0


def remove_remains(path: pathlib.Path) -> None:
    """Make way for a new trajectory: a file without a whole frame goes, with a warning.

    Raises:
        ValueError: frames are there, or another file.
    """
    if not path.is_file():
        return
    if not holds_nothing(path):
        raise ValueError(f"{path} exists; go on with md.resume, or name another file")
    path.unlink()
    logger.warning("%s holds no whole frame; the run begins at step 0", path)


def drop_last(path: pathlib.Path) -> None:
    """Take the last frame out of a trajectory's index; the frames that follow are written behind it."""
    count = whole_frames(path) - 1
    with path.open("r+b") as file:
        file.seek(_ITEMS)
        file.write(np.array(count, dtype="<i8").tobytes())


def fingerprint(calculator) -> str:
    """What forces come from: a digest of a force field's numbers, or the name of another calculator."""
    force_field = getattr(calculator, "force_field", None)
    if not isinstance(force_field, ForceField):
        return type(calculator).__name__
    named = force_field.model if force_field.kernel is None else force_field.kernel
    return f"{named.label} {digest_of(force_field)}"


def _is_in_order(path: pathlib.Path) -> bool:
    """Whether the last frame is whole and the index, into which new frames enter, lies within the file."""
    try:
        with Trajectory(path) as reader:
            reader[-1]
        with ulm.open(path, "a") as writer:
            return bool(writer.pos0 + 8 * len(writer.offsets) <= path.stat().st_size)
    except Exception:  # half a file makes ASE's readers raise whatever they meet
        return False


def _copy_whole(path: pathlib.Path, copy: pathlib.Path) -> int:
    """Copy the frames up to the first that cannot be read, and count them."""
    count = 0
    with Trajectory(copy, "w") as writer:
        try:
            with Trajectory(path) as reader:
                for atoms in reader:
                    writer.write(atoms)
                    count += 1
        except Exception:  # as above; what was read before is whole
            return count
    return count


def _is_label(key: str) -> bool:
    return key in LABELS or key.lower().startswith("ref_")
