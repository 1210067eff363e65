"""System: one geometry, as a pytree: positions, numbers, cell, periodic directions."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from jaxtyping import Bool, Float, Integer

from mlff.precision import Array
from mlff.trees import Tree


class System(Tree):
    """Atoms in space.

    Attributes:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
        cell: cell vectors as rows, shape (3, 3), Å; zeros where there is none.
        pbc: which directions are periodic, shape (3,).
    """

    positions: Float[Array, "n 3"]
    numbers: Integer[Array, " n"]
    cell: Float[Array, "3 3"]
    pbc: Bool[Array, " 3"]

    @classmethod
    def from_ase(cls, atoms: Atoms) -> System:
        return cls(
            positions=np.array(atoms.positions, dtype=np.float64),
            numbers=np.array(atoms.numbers, dtype=np.int32),
            cell=np.array(atoms.cell, dtype=np.float64),
            pbc=np.array(atoms.pbc, dtype=bool),
        )

    def to_ase(self) -> Atoms:
        return Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)

    def __len__(self) -> int:
        return len(self.numbers)
