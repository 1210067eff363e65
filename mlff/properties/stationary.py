"""Minima and saddle points of a calculator's energy with few calls: what is searched is a Gaussian process of the labels so far.

A surrogate costs nothing and has exact Hessians. A search on it goes on for as long as it knows the forces, or to its end; there the
calculator is asked, and the surrogate learns the answer. It is springs (`mlff.potentials.springs`) and a kernel of inverse distances, whose
length scale and amplitude are those of the largest likelihood of the labels,

    log p(y) = −½ yᵀ C⁻¹ y/A − ½ log|C| − n/2 log A + …,     A = yᵀ C⁻¹ y/n

A step to a saddle minimises the image of the energy, in which slope and curvature along the followed mode have the other sign.

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
from ase.calculators.calculator import BaseCalculator
from jaxtyping import Float

from descriptors import inverse_distances
from mlff.arguments import is_number, require_positive
from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset
from mlff.dynamics.calculator import Calculator
from mlff.dynamics.motion import motions
from mlff.dynamics.sampling import labelled
from mlff.kernels.kernels import GlobalKernel, Kernel
from mlff.kernels.radial import RBF
from mlff.operators import ENERGY, FORCES
from mlff.potentials.differences import remaining
from mlff.potentials.expansion import with_room
from mlff.potentials.force_field import ForceField
from mlff.potentials.springs import springs_around
from mlff.potentials.sums import PotentialSum
from mlff.properties.relaxation import internal_directions, trust_region_step
from mlff.properties.vibrations import wavenumbers
from mlff.regression.evidence import most_likely
from mlff.regression.solution import solve

logger = logging.getLogger(__name__)

RADIUS = 0.1  # Å, of a step on the surrogate
REACH = 0.5  # Å from the nearest label, of all atoms together, after which a search on the surrogate asks
STEPS = 60  # of such a search
UNSURE = 0.5  # of the largest force at the last label: where the surrogate knows forces no better, it asks
LOOK = 0.05  # Å, of the atom that moves most, from a geometry to one that tells its curvature along a mode
LOOKS = 5  # such geometries at most, at the start and at an end of another kind
KNOWN = 1.0  # eV/Å², standard deviation of a curvature that is known well enough to tell which mode is the softest
SCALES = 2.0 ** np.arange(-2.0, 4.1, 0.5)  # length scales that are tried, 1/Å
NOISE = {ENERGY: 1e-4, FORCES: 1e-3}  # eV, eV/Å: what self-consistent calculations leave

Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Stationary:
    """A stationary point of a calculator's energy, and what it took.

    Attributes:
        atoms: there.
        energy: of the calculator, eV; largest_force: on an atom, eV/Å.
        frequencies: of the surrogate there, 1/cm, ascending, imaginary ones negative.
        mode: the Cartesian direction of the lowest, of unit length, shape (n, 3).
        calls: of the calculator.
        force_field: the surrogate, with its posterior.
        data: all labels.
    """

    atoms: Atoms
    energy: float
    largest_force: float
    frequencies: Float[np.ndarray, " k"]
    mode: Float[np.ndarray, "n 3"]
    calls: int
    force_field: ForceField
    data: Dataset


def find_saddle(
    atoms: Atoms,
    calculator,
    fmax: float = 0.01,
    calls: int = 100,
    mode: Float[np.ndarray, "n 3"] | None = None,
    progress: Progress = lambda stage, share: None,
) -> Stationary:
    """The first-order saddle point that a guess leads to, with a fraction of the calls of a search on the calculator itself.

        found = mlff.find_saddle(guess, TBLite(method="GFN2-xTB", verbosity=0));  print(found.calls, found.frequencies[0])

    Arguments:
        atoms: the guess, of a molecule; constraints of single atoms are kept. It stays as it is.
        calculator: any of ASE, of energy and forces.
        fmax: largest force of the calculator on an atom at the end, eV/Å.
        calls: of the calculator at most.
        mode: the direction of the reaction, shape (n, 3), where it is known; else the softest mode is followed.
        progress: called with the name of a stage and the share of it that is done.
    Raises:
        ValueError: no calculator, or one that fails; a periodic geometry; not found with so many calls; an end with another number of
            unstable modes than one.
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
    """Labels, the surrogate of them, and where the search is."""

    def __init__(self, atoms: Atoms, calculator, fmax: float, calls: int, order: int, progress: Progress):
        if not isinstance(calculator, BaseCalculator):
            raise ValueError(f"calculator: expected one of ASE's calculators, received {type(calculator).__name__}")
        require_positive("fmax", fmax, ", eV/Å")
        if not is_number(calls) or calls < 1:
            raise ValueError(f"calls={calls!r:.60} must be a whole number, 1 or more")
        if atoms.pbc.any():
            raise ValueError(
                "atoms: periodic; the surrogate is of molecules. Set pbc=False, or search with a fitted force field"
            )
        motions(atoms)  # refuses constraints of other kinds before anything is calculated
        self.atoms, self.calculator, self.fmax, self.most, self.order = (
            atoms.copy(),
            calculator,
            fmax,
            int(calls),
            order,
        )
        self.springs = springs_around(atoms.positions, atoms.numbers)
        self.kernel: Kernel = GlobalKernel(inverse_distances, RBF()).completed(atoms.numbers)
        self.frames: list = []
        self.progress = progress
        self.surrogate: ForceField | None = None

    def found(self, mode) -> Stationary:
        """Go to the stationary point."""
        followed = None if mode is None else np.asarray(mode, dtype=float).ravel()
        self.ask(self.atoms.positions)
        if self.order and followed is None:
            self._look_around()
        looked = 0
        while True:
            if self.force < self.fmax:
                wrong = self._unlike()
                if not len(wrong):
                    return self._result()
                if looked == LOOKS:
                    raise ValueError(
                        f"atoms: {self._unstable()} unstable modes at the end, expected {self.order}; start closer to the one that is meant"
                    )
                looked += 1
                here = self.atoms.positions.copy()
                for direction in wrong:
                    self.ask(here + _shifted(direction))
                self.atoms.positions = here
                self._at(here)
                if not len(self._unlike()):
                    return self._result()
            where, followed = self._walked(followed)
            self.ask(where)

    # -- labels ------------------------------------------------------------------------------------------------------

    @property
    def force(self) -> float:
        """Largest force of the calculator on an atom where the search is, eV/Å."""
        return _largest(self._directions(), self.label["forces"])

    def ask(self, positions: np.ndarray) -> None:
        """The calculator's labels of a geometry, where the search is then; and the surrogate that knows them."""
        if len(self.frames) == self.most:
            raise ValueError(
                f"calls={self.most}: not found, the largest force is {self.force:.3g} eV/Å; allow more, or start closer"
            )
        self.progress("calls", len(self.frames) / self.most)
        asked = self.atoms.copy()
        asked.set_constraint()
        asked.calc = self.calculator
        self.frames.append(labelled(asked, positions))
        self._at(positions)
        logger.info(
            "call %d: energy %.4f eV, largest force %.3g eV/Å", len(self.frames), self.label["energy"], self.force
        )
        self.surrogate = self._fitted()

    def _at(self, positions: np.ndarray) -> None:
        """Be at a geometry that has labels."""
        self.atoms.set_positions(positions, apply_constraint=False)
        distances = [np.linalg.norm(frame.positions - positions) for frame in self.frames]
        self.label = self.frames[int(np.argmin(distances))].labels

    def _fitted(self) -> ForceField:
        data = Dataset(self.frames, "labels")
        rest = LabelledFrames.of(remaining(data, self.springs, (ENERGY, FORCES)))
        kernel = most_likely(self.kernel, rest, NOISE, SCALES)
        solution = solve(kernel, rest, NOISE, posterior=True)
        self._alone = ForceField(solution.model, self.atoms.numbers, kernel, {}, solution.posterior)
        model = PotentialSum((self.springs.model, with_room(solution.model)))
        return ForceField(model, self.atoms.numbers, None, {}, solution.posterior)

    # -- on the surrogate ----------------------------------------------------------------------------------------------

    def _directions(self) -> np.ndarray:
        return internal_directions(self.atoms)

    def _modes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Curvatures of the surrogate where the search is, Cartesian modes as columns, and slopes along them."""
        basis = self._directions()
        gradient = -self.surrogate.forces(self.atoms.positions).ravel()
        values, vectors = np.linalg.eigh(basis.T @ self.surrogate.hessian(self.atoms.positions) @ basis)
        modes = basis @ vectors
        return values, modes, modes.T @ gradient

    def _look_around(self) -> None:
        """Labels beside the start, along the modes that may be the softest for all that is known."""
        here = self.atoms.positions.copy()
        for _ in range(LOOKS):
            values, modes, _ = self._modes()
            stds = self._curvature_stds(modes)
            softest = int(np.argmin(values - stds))
            if stds[softest] < KNOWN:
                break
            self.ask(here + _shifted(modes[:, softest]))
            self._at(here)

    def _walked(self, followed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Where a search on the surrogate comes to before it has to ask, and the mode that it follows there."""
        start = self.atoms.positions.copy()
        limit = max(UNSURE * self.force, self.fmax)
        labels = np.stack([frame.positions for frame in self.frames])
        for step in range(STEPS):
            values, modes, slope = self._modes()
            if step and np.abs(modes @ slope).max() < 0.1 * self.fmax:
                break
            if self.order:
                k = 0 if followed is None else int(np.argmax(np.abs(followed @ modes)))
                followed = None if followed is None else modes[:, k]
                values[k], slope[k] = -values[k], -slope[k]
            order = np.argsort(values)
            move = modes[:, order] @ trust_region_step(values[order], slope[order], RADIUS)
            before = self.atoms.positions.copy()
            self.atoms.set_positions(before + move.reshape(-1, 3), apply_constraint=False)
            away = np.linalg.norm((labels - self.atoms.positions).reshape(len(labels), -1), axis=1).min()
            if away > REACH or float(np.max(self.surrogate.std("forces", self.atoms.positions))) > limit:
                break
        where = self.atoms.positions.copy()
        self.atoms.set_positions(start, apply_constraint=False)
        return where, followed

    def _unstable(self) -> int:
        values, *_ = self._modes()
        return int(np.sum(values < 0.0))

    def _unlike(self) -> list[np.ndarray]:
        """Modes whose curvature has the wrong sign, or one that the surrogate does not know."""
        values, modes, _ = self._modes()
        expected = np.where(np.arange(len(values)) < self.order, -1.0, 1.0)
        count = min(len(values), self.order + 1)
        stds = self._curvature_stds(modes[:, :count])
        wrong = [modes[:, k] for k in range(count) if expected[k] * values[k] < stds[k]]
        return wrong + [modes[:, k] for k in range(count, len(values)) if values[k] < 0.0]

    def _curvature_stds(self, modes: np.ndarray) -> np.ndarray:
        """Standard deviations of v·H v."""
        directions = modes.T.reshape(-1, *self.atoms.positions.shape)
        products = self.surrogate.covariance("hessian_products", self.atoms.positions, arguments=(directions,))
        size = modes.shape[0]
        blocks = [products[k * size : (k + 1) * size, k * size : (k + 1) * size] for k in range(len(directions))]
        return np.array([np.sqrt(max(v @ block @ v, 0.0)) for v, block in zip(modes.T, blocks, strict=True)])

    def _result(self) -> Stationary:
        self.progress("calls", 1.0)
        roots = np.sqrt(np.repeat(self.atoms.get_masses(), 3))
        space = motions(self.atoms).internal.T
        weighted = self.surrogate.hessian(self.atoms.positions) / np.outer(roots, roots)
        values, vectors = np.linalg.eigh(space.T @ weighted @ space)
        mode = (space @ vectors[:, 0] / roots).reshape(-1, 3)
        atoms = self.atoms.copy()
        atoms.calc = Calculator(self.surrogate)
        return Stationary(
            atoms, float(self.label["energy"]), self.force, wavenumbers(values), mode / np.linalg.norm(mode),
            len(self.frames), self.surrogate, Dataset(self.frames, "labels"),
        )  # fmt: skip


def _shifted(direction: np.ndarray) -> np.ndarray:
    """A displacement along a direction, (n, 3), Å."""
    vectors = direction.reshape(-1, 3)
    return LOOK / np.linalg.norm(vectors, axis=1).max() * vectors


def _largest(basis: np.ndarray, forces: np.ndarray) -> float:
    """The largest force on an atom along internal directions."""
    return float(np.linalg.norm((basis @ (basis.T @ forces.ravel())).reshape(-1, 3), axis=1).max())
