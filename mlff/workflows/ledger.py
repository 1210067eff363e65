"""What learning on the fly has come to, in a folder: labelled frames, walkers, calls. Written so that a kill at any moment loses nothing.

`frames.extxyz` holds the labels, `state.json` everything else. A geometry is named in the state before its label is asked for, and the
label is written before the state says so: what is found tells which of both was the last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlff.data.dataset import Dataset
from mlff.data.extended_xyz import extended_xyz
from mlff.data.frames import Frame
from mlff.data.readers import read_ase
from mlff.files import PNG, reserved, write_whole
from mlff.potentials.model_files import MARK

FORMAT = 1
STATE, FRAMES, MODEL, PICTURE = "state.json", "frames.extxyz", "model.mlff", "learn.png"


@dataclasses.dataclass(frozen=True)
class Call:
    """A label that was asked for, and what the model had said.

    Attributes:
        walker: whose geometry it was; None of the first ones, which no model had seen.
        time: of the walker, fs.
        std, error: root mean square standard deviation and error of the forces, eV/Å; None without a model.
        threshold: of the largest standard deviation of a force component, eV/Å.
    """

    walker: int | None
    time: float
    std: float | None
    error: float | None
    threshold: float | None


@dataclasses.dataclass
class Walker:
    """Positions (Å) and momenta, (n, 3), and time steps made."""

    positions: np.ndarray
    momenta: np.ndarray
    step: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, which come back to the same bits."""
        return {"positions": self.positions.tolist(), "momenta": self.momenta.tolist(), "step": self.step}

    @classmethod
    def of_json(cls, said: dict) -> Walker:
        """What `to_json` made."""
        return cls(np.array(said["positions"], dtype=float), np.array(said["momenta"], dtype=float), int(said["step"]))


@dataclasses.dataclass
class Ledger:
    """The state of learning on the fly.

    Attributes:
        folder: where it is kept; None for nowhere.
        settings: what it was begun with, as plain numbers and text.
        walkers: where they are.
        frames: with labels, in the order of the calls.
        calls: what is known of each of them.
        threshold: that counts now, eV/Å; None before there is a model.
        turn: how many turns walkers have had.
        quiet: how many of the last ones ended without a call.
        failed: how many of the last calls the calculator failed at.
        pending: whether the walker whose turn it was waits for a label.
    """

    folder: pathlib.Path | None
    settings: dict[str, Any]
    walkers: list[Walker]
    frames: list[Frame] = dataclasses.field(default_factory=list)
    calls: list[Call] = dataclasses.field(default_factory=list)
    threshold: float | None = None
    turn: int = 0
    quiet: int = 0
    failed: int = 0
    pending: bool = False

    @classmethod
    @contextlib.contextmanager
    def held(cls, folder, settings: dict[str, Any], walkers: list[Walker]) -> Iterator[Ledger]:
        """That of a folder, which no other process writes to meanwhile; begun, or gone on with where the folder has one.

        Raises:
            ValueError: it was begun with other settings, is damaged, or is in use.
        """
        if folder is None:
            yield cls(None, settings, walkers)
            return
        if not str(folder) or pathlib.Path(folder).is_file() or not pathlib.Path(folder).parent.is_dir():
            raise ValueError(f"folder {str(folder)!r}: expected the name of a folder, in one that is there")
        folder = pathlib.Path(folder)
        folder.mkdir(exist_ok=True)
        marks = {STATE: b"mlff learn", FRAMES: b"REF_forces", MODEL: MARK, PICTURE: PNG}
        with reserved({"folder": [folder / name for name in marks]}, marks=marks):
            if (folder / STATE).exists():
                yield cls._read(folder, settings)
            elif (folder / FRAMES).exists():
                raise ValueError(f"{folder}: holds {FRAMES}, but no {STATE} of mlff learn; name another folder")
            else:
                yield cls(folder, settings, walkers)

    @classmethod
    def _read(cls, folder: pathlib.Path, settings: dict[str, Any]) -> Ledger:
        path = folder / STATE
        try:
            said = json.loads(path.read_text())
            known, begun = said["format"] == FORMAT, said["settings"]
            rest = {name: said[name] for name in ("threshold", "turn", "quiet", "failed", "pending")}
            walkers = [Walker.of_json(each) for each in said["walkers"]]
            calls = [Call(**each) for each in said["calls"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is no state of mlff learn; name another folder") from error
        if not known:
            raise ValueError(f"{path}: is of another version of mlff; name another folder")
        if differing := [name for name in settings if begun.get(name) != settings[name]]:
            name = differing[0]
            if name == "start":
                raise ValueError(f"{path}: was begun with another start; go on with the same, or name another folder")
            raise ValueError(
                f"{path}: was begun with {name}={begun.get(name)!s:.200}, received {settings[name]!s:.60}; go on with the same, or name "
                "another folder"
            )
        ledger = cls(folder, begun, walkers, calls=calls, **rest)
        ledger.frames = ledger._labelled()
        # a label more than the state knows of is the one that was waited for
        if len(ledger.frames) - len(calls) not in (0, 1):
            raise ValueError(f"{folder}: holds {len(ledger.frames)} frames for {len(calls)} calls; it was changed")
        return ledger

    @property
    def data(self) -> Dataset:
        """The labelled frames."""
        return Dataset(self.frames, FRAMES)

    @property
    def has_label(self) -> bool:
        """Whether the label that was asked for last is there, and not yet counted."""
        return len(self.frames) > len(self.calls)

    def save(self) -> None:
        """Write the state."""
        if self.folder is None:
            return
        own = ("settings", "threshold", "turn", "quiet", "failed", "pending")
        said = {
            "program": "mlff learn", "format": FORMAT, **{name: getattr(self, name) for name in own},
            "walkers": [walker.to_json() for walker in self.walkers],
            "calls": [dataclasses.asdict(call) for call in self.calls],
        }  # fmt: skip
        write_whole(self.folder / STATE, json.dumps(said).encode())

    def add(self, frame: Frame) -> None:
        """One label more; what is learnt from are the numbers that the file says."""
        if self.folder is None:
            self.frames.append(frame)
            return
        write_whole(self.folder / FRAMES, extended_xyz([each.to_ase() for each in (*self.frames, frame)]))
        self.frames = self._labelled()

    def _labelled(self) -> list[Frame]:
        path = self.folder / FRAMES
        return read_ase(path, None, {}, lambda total: np.arange(total)).frames if path.exists() else []
