"""A surrogate of a calculator's energy: springs and a Gaussian process of the labels so far, which learns one geometry after the other.

The springs (`mlff.potentials.springs`) are at rest where it begins; the kernel compares inverse distances, and its length scale and
amplitude are those of the largest likelihood of the labels (`most_likely`).
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from jaxtyping import Float

from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.methods import require_calculator, said
from mlff.dynamics.sampling import labelled
from mlff.kernels.kernels import GlobalKernel
from mlff.kernels.radial import RBF
from mlff.operators import ENERGY, FORCES
from mlff.potentials.differences import remaining
from mlff.potentials.force_field import ForceField
from mlff.potentials.room import with_room
from mlff.potentials.springs import springs_around
from mlff.potentials.sums import PotentialSum
from mlff.regression.exact import IndefiniteMatrix
from mlff.regression.solution import solve
from mlff.regression.tuning.evidence import most_likely

SCALES = 2.0 ** np.arange(-2.0, 4.1, 0.5)  # length scales that are tried, 1/Å


class Surrogate:
    """Labels of a molecule, and the force field of them.

    Attributes:
        frames: labelled geometries, in the order in which they were asked for.
        force_field: of all of them, with its posterior; None before the first.
    """

    def __init__(self, atoms: Atoms, calculator, noise: float):
        """Of no label yet.

        Arguments:
            atoms: a molecule.
            calculator: any of ASE.
            noise: of forces, eV/Å: what self-consistent calculations leave; of energies 0.1 Å times that.
        Raises:
            ValueError: no calculator, or no molecule of two atoms or more.
        """
        require_calculator(calculator)
        if not isinstance(atoms, Atoms) or len(atoms) < 2:
            raise ValueError(f"atoms: expected ASE's Atoms, two or more, received {atoms!r:.60}")
        if not np.isfinite(atoms.positions).all():
            raise ValueError("atoms: positions are not all finite")
        if atoms.pbc.any():
            raise ValueError(
                "atoms: periodic; the surrogate is of molecules. Set pbc=False, or search with a fitted force field"
            )
        self.atoms, self.calculator = atoms.copy(), calculator
        self.atoms.set_constraint()
        self.springs = springs_around(atoms.positions, atoms.numbers)
        self.kernel = GlobalKernel(inverse_distances, RBF()).completed(atoms.numbers)
        self.noise = {ENERGY: 0.1 * noise, FORCES: noise}
        self.frames: list[Frame] = []
        self.force_field: ForceField | None = None

    @property
    def data(self) -> Dataset:
        """The labelled geometries."""
        return Dataset(self.frames, "labels")

    def ask(self, positions: Float[np.ndarray, "n 3"]) -> None:
        """Label a geometry, and learn the label.

        Raises:
            ValueError: the calculator fails, or the label follows from the others to rounding.
        """
        asked = self.atoms.copy()
        asked.calc = self.calculator
        try:
            self.frames.append(labelled(asked, positions))
        except Exception as error:  # of anybody's program
            name = type(self.calculator).__name__
            raise ValueError(f"calculator: {name} fails at call {len(self.frames) + 1}, {said(error)}") from error
        rest = LabelledFrames.of(remaining(self.data, self.springs, (ENERGY, FORCES)))
        try:
            kernel = most_likely(self.kernel, rest, self.noise, SCALES)
            solution = solve(kernel, rest, self.noise, posterior=True)
        except IndefiniteMatrix as error:
            raise ValueError(
                f"atoms: after {len(self.frames)} calls the search comes back to where it was; start elsewhere, or with another mode"
            ) from error
        model = PotentialSum((self.springs.model, with_room(solution.model)))
        self.force_field = ForceField(model, self.atoms.numbers, None, {}, solution.posterior)

    def nearest(self, positions: Float[np.ndarray, "n 3"]) -> Frame:
        """The labelled geometry next to one."""
        return self.frames[int(np.argmin(self.distances(positions)))]

    def distances(self, positions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " k"]:
        """From all labelled geometries, of all atoms together, Å."""
        return np.array([np.linalg.norm(frame.positions - positions) for frame in self.frames])
