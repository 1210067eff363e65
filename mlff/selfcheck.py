"""Self-check of a fitted force field: what must hold whatever it was trained on, measured."""

from __future__ import annotations

import dataclasses

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

from mlff import md
from mlff.calculator import Calculator
from mlff.force_field import ForceField

STEP = 1e-3  # Å, of the central differences
FORCE_TOLERANCE = 1e-5  # relative; central differences leave about 1e-6
INVARIANCE_TOLERANCE = 1e-8  # eV
DRIFT_TOLERANCE = 1.0  # meV/atom/ps over a short run, whose fluctuations alone give a few tenths


@dataclasses.dataclass(frozen=True)
class Check:
    """One property: its name, what was measured, the bound, the unit."""

    name: str
    value: float
    bound: float
    unit: str

    @property
    def passed(self) -> bool:
        return bool(abs(self.value) <= self.bound)


def self_check(
    force_field: ForceField, positions: np.ndarray, cell=None, temperature: float = 300.0, seed: int = 0
) -> list[Check]:
    """Forces against energy differences, invariances, and energy drift of a short NVE run (1 ps, 0.5 fs).

    Arguments:
        positions: a geometry to start from, such as a training frame, shape (n, 3), Å.
        temperature: of the NVE run's initial velocities, K.
    """
    rng = np.random.default_rng(seed)
    energy = force_field.energy(positions, cell)
    checks = [_force_check(force_field, positions, cell, rng)]
    turned = Rotation.random(rng=rng)
    moved_cell = None if cell is None else turned.apply(cell)
    for name, changed, changed_cell in (
        ("rotation", turned.apply(positions), moved_cell),
        ("translation by 10 Å", positions + np.array([10.0, -10.0, 10.0]), cell),
    ):
        checks.append(
            Check(
                f"energy under {name}", force_field.energy(changed, changed_cell) - energy, INVARIANCE_TOLERANCE, "eV"
            )
        )
    used = force_field.kernel.permutations_used
    group = np.arange(len(positions))[None] if used is None else used.indices
    worst = np.max(np.abs(force_field.energy(positions[group], cell) - energy))
    checks.append(Check(f"energy under {len(group)} permutations", float(worst), INVARIANCE_TOLERANCE, "eV"))
    atoms = Atoms(force_field.numbers, positions, cell=cell, pbc=cell is not None)
    atoms.calc = Calculator(force_field)
    md.thermalise(atoms, temperature, rng)
    try:
        drift = md.run(atoms, 2000).drift
    except ValueError:  # the molecule flew apart
        drift = np.inf
    checks.append(Check("energy drift, 1 ps NVE", drift, DRIFT_TOLERANCE, "meV/atom/ps"))
    return checks


def _force_check(force_field: ForceField, positions: np.ndarray, cell, rng: np.random.Generator) -> Check:
    """Largest difference of F·d from central energy differences along random unit directions, relative to |F|.

    Fourth-order differences, so that the check's own error lies below its bound.
    """
    forces = force_field.forces(positions, cell)
    differences = []
    for _ in range(5):
        direction = rng.standard_normal(positions.shape)
        direction /= np.linalg.norm(direction)
        near, far = (
            force_field.energy(positions + k * STEP * direction, cell)
            - force_field.energy(positions - k * STEP * direction, cell)
            for k in (1, 2)
        )
        differences.append(abs((8 * near - far) / (12 * STEP) + np.sum(forces * direction)))
    return Check("forces against energy differences", max(differences) / np.linalg.norm(forces), FORCE_TOLERANCE, "")
