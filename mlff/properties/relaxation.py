"""Relaxation by Newton's method with exact Hessians in a trust region: from anywhere downhill to a minimum."""

from __future__ import annotations

import dataclasses

import numpy as np
from ase import Atoms
from jaxtyping import Float
from scipy.optimize import brentq

from mlff.dynamics.motion import motions
from mlff.properties.vibrations import require_hessian
from mlff.rounding import COPIES, rounding_of

FIRST_RADIUS, LARGEST_RADIUS, SMALLEST_RADIUS = 0.2, 0.5, 1e-10  # Å, of the displacement of all atoms together
FMAX = 1e-8  # eV/Å, where none is given
DEVIATIONS = 5.0  # standard deviations of their rounding; forces that are smaller are none
NOISE = 1e-7  # eV; of smaller changes the energy's digits say nothing, then the forces must fall instead
SADDLE = 1e-3  # eV/Å²; a curvature below minus this is no minimum's


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """What a relaxation took and where it ended.

    steps: Newton steps, refused ones included; evaluations: of energy with forces; hessians: computed; largest_force: eV/Å;
    lowest_curvature: smallest eigenvalue of the Hessian without rigid motions, eV/Å².
    """

    steps: int
    evaluations: int
    hessians: int
    largest_force: float
    lowest_curvature: float


def relax(atoms: Atoms, fmax: float | None = None, steps: int = 200) -> Relaxation:
    """Move atoms to a minimum of their calculator's energy, cell and fixed atoms staying as they are.

    Each step minimises the quadratic model within the trust radius Δ, in directions other than rigid motions:

        min_s  g·s + ½ s·H s,  |s| ≤ Δ:    s = −(H + μ)⁻¹ g with the smallest μ ≥ 0 that does it

    A step that does not lower the energy by a tenth of what the model promised is taken back, and Δ shrinks. At a saddle
    point the step goes along the lowest mode. The end is quadratic: forces square from step to step.

    Arguments:
        atoms: with a calculator that has `get_hessian`; moved in place. Atoms fixed by constraints (FixAtoms,
            FixCartesian, FixedLine, FixedPlane) stay where they are; rigid motions that these leave free are left out.
        fmax: largest force on an atom at the end, eV/Å. Without it 1e-8, or the rounding of the force field's own forces
            where that is more: it is some 1e-10, of ill-conditioned fits up to 1e-6, and is measured where no step lowers
            the forces any further. One that is given is kept to.
        steps: how many at most.
    Raises:
        ValueError: no Hessian; constraints that are not of single atoms; not relaxed after `steps`; forces that do not fall further.
    Source: Nocedal, Wright, Numerical Optimization, chapter 4 (2006), doi 10.1007/978-0-387-40065-5.
    """
    require_hessian(atoms)
    surface, asked = _Surface(atoms), FMAX if fmax is None else fmax
    radius, count = FIRST_RADIUS, 0
    while True:
        values, vectors = surface.curvatures()
        slope = vectors.T @ surface.gradient
        lowest = float(values.min(initial=np.inf))  # a single atom has none
        if surface.largest_force < asked and lowest > -SADDLE:
            return Relaxation(count, surface.evaluations, surface.hessians, surface.largest_force, lowest)
        accepted = False
        while not accepted:
            if count == steps:
                raise ValueError(
                    f"atoms: not relaxed after steps={steps}, the largest force is {surface.largest_force:.1e} eV/Å; give "
                    "more steps, or start from atoms that the force field knows"
                )
            if radius < SMALLEST_RADIUS:
                if fmax is None and lowest > -SADDLE and surface.largest_force <= DEVIATIONS * surface.rounding():
                    return Relaxation(count, surface.evaluations, surface.hessians, surface.largest_force, lowest)
                raise ValueError(
                    f"fmax={asked:.1e}: forces do not fall below {surface.largest_force:.1e} eV/Å, where the lowest "
                    f"curvature is {lowest:.1e} eV/Å² and the forces' rounding is {surface.rounding():.1e}; ask for no "
                    "less, or fit the force field with more noise"
                )
            step = trust_region_step(values, slope, radius)
            promised = slope @ step + 0.5 * values @ step**2
            accepted, gained = surface.moved(vectors @ step, promised)
            count += 1
            length = np.linalg.norm(step)
            if not accepted:
                radius = 0.25 * length
            elif gained > 0.75 and length > 0.9 * radius:
                radius = min(2.0 * radius, LARGEST_RADIUS)
            elif gained < 0.25:
                radius = 0.5 * length


def internal_directions(atoms: Atoms) -> Float[np.ndarray, "coordinates m"]:
    """Orthonormal Cartesian directions that change the energy, shape (3n, m): all that constraints allow but the rigid
    motions among them.

    Raises:
        ValueError: constraints that are not of single atoms.
    """
    return motions(atoms, np.ones(len(atoms))).internal.T


def trust_region_step(
    values: Float[np.ndarray, " m"], slope: Float[np.ndarray, " m"], radius: float
) -> Float[np.ndarray, " m"]:
    """The minimiser of g·s + ½ Σ λ s² within |s| ≤ Δ, in the basis of eigenvectors.

    Arguments:
        values: λ, ascending, eV/Å².
        slope: g, the gradient in that basis, eV/Å.
        radius: Δ, Å.
    """
    least = max(0.0, -values[0]) + 1e-12 * np.abs(values).max()

    def step(shift: float) -> np.ndarray:
        return -slope / (values + shift)

    if values[0] > least and np.linalg.norm(step(0.0)) <= radius:
        return step(0.0)

    def excess(shift: float) -> float:
        return float(np.linalg.norm(step(shift)) - radius)

    if excess(least) > 0.0:
        return step(brentq(excess, least, least + 2.0 * np.linalg.norm(slope) / radius))
    result = step(least)  # no slope along a negative curvature: go along it as far as the radius allows
    if values[0] < 0.0:
        result[0] = np.copysign(np.sqrt(max(radius**2 - result[1:] @ result[1:], 0.0)), result[0])
    return result


class _Surface:
    """Energy, gradient and Hessian at the present positions, in internal directions, with counts."""

    def __init__(self, atoms: Atoms):
        self.atoms, self.evaluations, self.hessians = atoms, 0, 0
        self.directions = internal_directions(atoms)
        self._evaluate()

    def _evaluate(self) -> None:
        self.energy = self.atoms.get_potential_energy()
        self.gradient = -self.directions.T @ self.atoms.get_forces(apply_constraint=False).ravel()
        self.evaluations += 1

    @property
    def largest_force(self) -> float:
        return float(np.linalg.norm((self.directions @ self.gradient).reshape(-1, 3), axis=1).max())

    def rounding(self) -> float:
        """The rounding of the forces, eV/Å, measured at the present positions, where the atoms are left."""
        original = self.atoms.positions.copy()

        def forces(positions: np.ndarray) -> np.ndarray:
            self.atoms.set_positions(positions, apply_constraint=False)
            return self.atoms.get_forces(apply_constraint=False)

        rounding = rounding_of(forces, original, np.random.default_rng(0))
        self.evaluations += COPIES
        self.atoms.set_positions(original, apply_constraint=False)
        return rounding

    def curvatures(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of the Hessian, in internal directions."""
        self.hessians += 1
        return np.linalg.eigh(self.directions.T @ self.atoms.calc.get_hessian(self.atoms) @ self.directions)

    def moved(self, step: np.ndarray, promised: float) -> tuple[bool, float]:
        """Try a step, and say whether it was taken, and the gain in energy relative to what was promised."""
        before = self.atoms.positions.copy(), self.energy, self.gradient, self.directions
        where = before[0] + (self.directions @ step).reshape(-1, 3)
        self.atoms.set_positions(where, apply_constraint=False)
        self.directions = internal_directions(self.atoms)
        self._evaluate()
        gained = (self.energy - before[1]) / promised
        blind = -promised < NOISE
        if gained > 0.1 or (blind and np.linalg.norm(self.gradient) < np.linalg.norm(before[2])):
            return True, 1.0 if blind else gained
        self.atoms.set_positions(before[0], apply_constraint=False)
        _, self.energy, self.gradient, self.directions = before
        return False, gained
