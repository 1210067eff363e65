"""Minima and saddle points of a calculator's energy with few calls: what is searched is a Gaussian process of the labels so far.

A surrogate costs nothing and has exact Hessians. A search on it goes on for as long as it knows the forces, or to its end; there the
calculator is asked, and the surrogate (`mlff.properties.surrogate`) learns the answer. A step to a saddle minimises the image of the
energy, in which slope and curvature along the followed mode have the other sign. At the end the softest modes are measured by labels
beside it: what the surrogate believes of directions that nobody has gone proves nothing.

Source: Denzel, Kästner, J. Chem. Phys. 148, 094114 (2018), doi 10.1063/1.5017103; Koistinen, Ásgeirsson, Vehtari, Jónsson, J. Chem. Theory
    Comput. 16, 499 (2020), doi 10.1021/acs.jctc.9b01038 (inverse distances); Helgaker, Chem. Phys. Lett. 182, 503 (1991),
    doi 10.1016/0009-2614(91)90115-P (images).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
from ase import Atoms
from jaxtyping import Float

from mlff.arguments import require_positive, whole_number
from mlff.data.dataset import Dataset
from mlff.dynamics.calculator import Calculator
from mlff.dynamics.motion import motions
from mlff.potentials.force_field import ForceField
from mlff.properties.relaxation import internal_directions, trust_region_step
from mlff.properties.surrogate import Surrogate
from mlff.properties.vibrations import wavenumbers

logger = logging.getLogger(__name__)

RADIUS = 0.1  # Å, of a step on the surrogate
REACH = 0.5  # Å from the nearest label, of all atoms together, after which a search on the surrogate asks
STEPS = 60  # of such a search
UNSURE = 0.25  # of the largest force at the last label: where the surrogate knows forces no better, it asks
LOOK = 0.05  # Å, of the atom that moves most, from a geometry to one that tells its curvature along a mode
LOOKS = 5  # such geometries at most, at the start and at an end
KNOWN = 1.0  # eV/Å², standard deviation of a curvature that is known well enough to tell which mode is the softest
MEASURED = 0.9  # of a mode, squared, that lies in the directions of labels beside
BESIDE = 3.0  # times LOOK, how far away those are at most
NOISE = 1e-3, 0.3  # of forces, eV/Å, and at most this share of the largest force that is allowed

Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Stationary:
    """A stationary point of a calculator's energy, and what it took.

    Attributes:
        atoms: there.
        energy: of the calculator, eV; largest_force: on an atom, eV/Å.
        frequencies: the lowest, 1/cm, imaginary ones negative, as labels beside measured them: of a minimum one, of a saddle two.
        mode: the Cartesian direction of the first, of unit length, shape (n, 3).
        force_field: the surrogate, with its posterior.
        data: all labels.
    """

    atoms: Atoms
    energy: float
    largest_force: float
    frequencies: Float[np.ndarray, " k"]
    mode: Float[np.ndarray, "n 3"]
    force_field: ForceField
    data: Dataset

    @property
    def calls(self) -> int:
        """Of the calculator."""
        return len(self.data)


def find_saddle(
    atoms: Atoms,
    calculator,
    fmax: float = 0.01,
    calls: int = 100,
    mode=None,
    progress: Progress = lambda stage, share: None,
) -> Stationary:
    """The first-order saddle point that a guess leads to, with a fraction of the calls of a search on the calculator itself.

    The end has forces below fmax and one unstable mode: the two softest were measured, by one or two calls each.

        found = mlff.find_saddle(guess, TBLite(method="GFN2-xTB", verbosity=0));  print(found.calls, found.frequencies[0])

    Arguments:
        atoms: the guess, of a molecule; constraints of single atoms are kept. It stays as it is.
        calculator: any of ASE, of energy and forces.
        fmax: largest force of the calculator on an atom at the end, eV/Å.
        calls: of the calculator at most.
        mode: the direction of the reaction, shape (n, 3), where it is known; else the softest mode is followed.
        progress: called with the name of a stage and the share of it that is done.
    Raises:
        ValueError: no calculator, or one that fails; no molecule, or one that cannot move; a mode of another shape; not found with so
            many calls.
    """
    return _Search(atoms, calculator, fmax, calls, 1, progress).found(mode)


def find_minimum(
    atoms: Atoms,
    calculator,
    fmax: float = 0.01,
    calls: int = 100,
    progress: Progress = lambda stage, share: None,
) -> Stationary:
    """The minimum that a geometry leads to, with few calls; arguments and errors as of `find_saddle`."""
    return _Search(atoms, calculator, fmax, calls, 0, progress).found(None)


class _Search:
    """Where a search is, on a surrogate that it asks to learn."""

    def __init__(self, atoms: Atoms, calculator, fmax: float, calls: int, order: int, progress: Progress):
        require_positive("fmax", fmax, ", eV/Å")
        calls = whole_number("calls", calls)
        self.surrogate = Surrogate(atoms, calculator, min(NOISE[0], NOISE[1] * fmax))
        self.atoms, self.fmax, self.most, self.order, self.progress = atoms.copy(), fmax, calls, order, progress
        if not internal_directions(self.atoms).shape[1]:  # refuses constraints of other kinds too
            raise ValueError("atoms: constraints leave nothing to move")

    def found(self, mode) -> Stationary:
        """Go to the stationary point."""
        followed = None if mode is None else self._direction(mode)
        self._ask(self.atoms.positions)
        if self.order and followed is None:
            self._look_around()
        while True:
            if self._force < self.fmax and self._confirmed():
                return self._result()
            where, followed = self._walked(followed)
            self._ask(where)

    def _direction(self, mode) -> np.ndarray:
        direction = np.asarray(mode, dtype=np.float64) if np.shape(mode) == self.atoms.positions.shape else np.zeros(0)
        if not direction.size or not np.isfinite(direction).all() or not direction.any():
            raise ValueError(
                f"mode: expected displacements of shape {self.atoms.positions.shape}, finite, not all zero; received shape {np.shape(mode)}"
            )
        return direction.ravel()

    @property
    def _force(self) -> float:
        """Largest force of the calculator on an atom where the search is, along what may move, eV/Å."""
        basis = internal_directions(self.atoms)
        forces = self.surrogate.nearest(self.atoms.positions).labels["forces"]
        return float(np.linalg.norm((basis @ (basis.T @ forces.ravel())).reshape(-1, 3), axis=1).max())

    def _ask(self, positions: np.ndarray) -> None:
        """Go to a geometry, and have it labelled."""
        done = len(self.surrogate.frames)
        if done == self.most:
            raise ValueError(
                f"calls={self.most}: not found, the largest force is {self._force:.3g} eV/Å; allow more, or start closer"
            )
        self.progress("calls", done / self.most)
        self.surrogate.ask(positions)
        self.atoms.set_positions(positions, apply_constraint=False)
        energy = self.surrogate.frames[-1].labels["energy"]
        logger.info("call %d: energy %.4f eV, largest force %.3g eV/Å", done + 1, energy, self._force)

    def _ask_beside(self, direction: np.ndarray) -> None:
        """A label a little away along a direction; the search stays where it is."""
        here, vectors = self.atoms.positions.copy(), direction.reshape(-1, 3)
        self._ask(here + LOOK / np.linalg.norm(vectors, axis=1).max() * vectors)
        self.atoms.set_positions(here, apply_constraint=False)

    def _modes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Curvatures of the surrogate where the search is, eV/Å², Cartesian modes as columns, and slopes along them."""
        basis, force_field = internal_directions(self.atoms), self.surrogate.force_field
        values, vectors = np.linalg.eigh(basis.T @ force_field.hessian(self.atoms.positions) @ basis)
        modes = basis @ vectors
        return values, modes, -modes.T @ force_field.forces(self.atoms.positions).ravel()

    def _look_around(self) -> None:
        """Labels beside the start, along the modes that may be the softest for all that is known."""
        for _ in range(LOOKS):
            values, modes, _ = self._modes()
            stds = self._curvature_stds(modes)
            softest = int(np.argmin(values - stds))
            if stds[softest] < KNOWN:
                break
            self._ask_beside(modes[:, softest])

    def _curvature_stds(self, modes: np.ndarray) -> np.ndarray:
        """Standard deviations of v·H v."""
        directions = modes.T.reshape(-1, *self.atoms.positions.shape)
        covariance = self.surrogate.force_field.covariance(
            "hessian_products", self.atoms.positions, arguments=(directions,)
        )
        count, size = len(directions), modes.shape[0]
        blocks = covariance.reshape(count, size, count, size)
        return np.sqrt([max(v @ blocks[k, :, k] @ v, 0.0) for k, v in enumerate(modes.T)])

    def _walked(self, followed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Where a search on the surrogate comes to before it has to ask, and the mode that it follows there."""
        start, limit = self.atoms.positions.copy(), max(UNSURE * self._force, self.fmax)
        radius, before = RADIUS, np.zeros(start.size)
        for step in range(STEPS):
            values, modes, slope = self._modes()
            if step and np.abs(modes @ slope).max() < 0.1 * self.fmax:
                break
            if self.order:
                k = 0 if followed is None else int(np.argmax(np.abs(followed @ modes)))
                followed = None if followed is None else modes[:, k]
                values[k], slope[k] = -values[k], -slope[k]
            ascending = np.argsort(values)
            move = modes[:, ascending] @ trust_region_step(values[ascending], slope[ascending], radius)
            if before @ move < 0.0:  # to and fro between two softest modes
                radius *= 0.5
            before = move
            self.atoms.set_positions(self.atoms.positions + move.reshape(-1, 3), apply_constraint=False)
            here = self.atoms.positions
            if self.surrogate.distances(here).min() > REACH:
                break
            if float(np.max(self.surrogate.force_field.std("forces", here))) > limit:
                break
        where = self.atoms.positions.copy()
        self.atoms.set_positions(start, apply_constraint=False)
        return where, followed

    def _confirmed(self) -> bool:
        """Whether there are as many unstable modes as there should be, the softest ones measured."""
        for _ in range(LOOKS + self.order):
            values, modes = self._vibrations()
            unknown = [v for v in modes.T[: self.order + 1] if self._measured(v) < MEASURED]
            if not unknown:
                break
            self._ask_beside(unknown[0])
        else:
            values, modes = self._vibrations()
        return int(np.sum(values < 0.0)) == self.order

    def _vibrations(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of the surrogate's mass-weighted Hessian, and Cartesian modes of unit length as columns."""
        roots = np.sqrt(np.repeat(self.atoms.get_masses(), 3))
        space = motions(self.atoms).internal.T
        weighted = self.surrogate.force_field.hessian(self.atoms.positions) / np.outer(roots, roots)
        values, vectors = np.linalg.eigh(space.T @ weighted @ space)
        modes = space @ vectors / roots[:, None]
        return values, modes / np.linalg.norm(modes, axis=0)

    def _measured(self, mode: np.ndarray) -> float:
        """How much of a mode, squared, lies in the directions of labels beside."""
        basis = internal_directions(self.atoms)
        steps = np.stack([(frame.positions - self.atoms.positions).ravel() for frame in self.surrogate.frames])
        largest = np.linalg.norm(steps.reshape(len(steps), -1, 3), axis=2).max(axis=1)
        steps = steps[(largest > LOOK / BESIDE) & (largest < BESIDE * LOOK)] @ basis
        if not len(steps):
            return 0.0
        _, sizes, directions = np.linalg.svd(steps / np.linalg.norm(steps, axis=1, keepdims=True), full_matrices=False)
        inside, along = basis.T @ mode, directions[sizes > 0.3 * sizes[0]]
        return float(np.sum((along @ inside) ** 2) / (inside @ inside))

    def _result(self) -> Stationary:
        self.progress("calls", 1.0)
        values, modes = self._vibrations()
        atoms = self.atoms.copy()
        atoms.calc = Calculator(self.surrogate.force_field)
        energy = float(self.surrogate.nearest(atoms.positions).labels["energy"])
        lowest = wavenumbers(values[: self.order + 1])
        return Stationary(
            atoms, energy, self._force, lowest, modes[:, 0].reshape(-1, 3), self.surrogate.force_field, self.surrogate.data,
        )  # fmt: skip
