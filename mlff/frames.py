"""Frame: one geometry with its labels, in eV and Å."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from ase import Atoms

from mlff.system import System

LABELS = ("energy", "forces", "stress", "hessian")


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

    def fingerprint(self) -> bytes:
        """The geometry as bytes: equal for equal positions, numbers and cells."""
        system = self.system
        return system.positions.tobytes() + system.numbers.astype(np.int32).tobytes() + system.cell.tobytes()
