"""Self-check of a fitted force field: what must hold whatever it was trained on, measured."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from mlff.arguments import checked_seed
from mlff.data.frames import Frame
from mlff.data.system import System
from mlff.dynamics import md
from mlff.dynamics.calculator import Calculator
from mlff.potentials.force_field import ForceField
from mlff.rounding import rounding_of

STEP = 1e-3  # Å, of the central differences
SHAKEN = 0.05  # Å, by which coordinates are displaced so that forces are of the size that they usually have
FORCE_TOLERANCE = 1e-5  # relative; central differences leave about 1e-6
INVARIANCE_TOLERANCE = 1e-8  # eV
DEVIATIONS = 5.0  # standard deviations of the rounding that a sound force field stays within
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
    force_field: ForceField, system: System | Frame, temperature: float = 300.0, seed: int = 0
) -> list[Check]:
    """Compare forces with energy differences, and measure invariances and the energy drift of a short NVE run (1 ps, 0.5 fs).

    Bounds hold the force field's own rounding, which is measured: with the standard deviation η of its energy among
    geometries 1e-13 Å apart, energies may differ by 1e-8 eV + 5 √2 η, and forces from differences over h = 1e-3 Å by 1e-5 |F|
    + 5 η/h. |F| is that of the atoms displaced by 0.05 Å, so that a relaxed geometry is no special case.

    Arguments:
        system: a geometry to start from, such as a training frame, or its system.
        temperature: of the NVE run's initial velocities, K.
    """
    rng = np.random.default_rng(checked_seed(seed))
    system = system.system if isinstance(system, Frame) else system
    positions, cell, pbc = system.positions, system.cell, system.pbc
    numbers = system.numbers if force_field.transferable else None

    def predict(x, vectors=cell):
        return force_field.energy_and_forces(x, vectors, pbc, numbers)

    energy, rounding = predict(positions)[0], rounding_of(lambda x: predict(x)[0], positions, rng)
    checks = [_force_check(predict, positions, rounding, rng)]
    turned = Rotation.random(rng=rng)
    for name, changed, changed_cell in (
        ("rotation", turned.apply(positions), turned.apply(cell)),
        ("translation by 10 Å", positions + np.array([10.0, -10.0, 10.0]), cell),
    ):
        changed_rounding = rounding_of(lambda x, vectors=changed_cell: predict(x, vectors)[0], changed, rng)
        change = predict(changed, changed_cell)[0] - energy
        checks.append(Check(f"energy under {name}", change, _bound(max(rounding, changed_rounding)), "eV"))
    group = _exchanges(force_field, system.numbers, rng)
    worst = max(abs(predict(positions[p])[0] - energy) for p in group)
    checks.append(Check(f"energy under {len(group)} permutations", float(worst), _bound(rounding), "eV"))
    atoms = system.to_ase()
    atoms.calc = Calculator(force_field)
    md.thermalise(atoms, temperature, rng)
    try:
        drift = md.run(atoms, 2000).drift
    except ValueError:  # the molecule flew apart
        drift = np.inf
    checks.append(Check("energy drift, 1 ps NVE", drift, DRIFT_TOLERANCE, "meV/atom/ps"))
    return checks


def _exchanges(force_field: ForceField, numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permutations that leave the energy unchanged: those of the kernel, and of like atoms at will for a local one."""
    if force_field.permutations is not None:
        return force_field.permutations.indices
    exchange = np.arange(len(numbers))
    if force_field.transferable:
        for z in np.unique(numbers):
            exchange[numbers == z] = rng.permutation(exchange[numbers == z])
    return exchange[None]


def _bound(rounding: float) -> float:
    """The bound within which two energies that should be equal may differ, eV."""
    return INVARIANCE_TOLERANCE + DEVIATIONS * float(np.sqrt(2.0)) * rounding


def _force_check(predict, positions: np.ndarray, rounding: float, rng: np.random.Generator) -> Check:
    """Largest difference of F·d from central energy differences along random unit directions, relative to |F| of a
    displaced geometry, at which they are compared as well.

    Fourth-order differences, so that the check's own error lies below its bound.
    """
    shaken = positions + SHAKEN * rng.standard_normal(positions.shape)
    typical = float(np.linalg.norm(predict(shaken)[1]))
    differences = []
    for x in (positions, shaken):
        forces = predict(x)[1]
        for _ in range(5):
            direction = rng.standard_normal(x.shape)
            direction /= np.linalg.norm(direction)
            near, far = (predict(x + k * STEP * direction)[0] - predict(x - k * STEP * direction)[0] for k in (1, 2))
            differences.append(abs((8 * near - far) / (12 * STEP) + np.sum(forces * direction)))
    bound = FORCE_TOLERANCE + DEVIATIONS * rounding / STEP / typical
    return Check("forces against energy differences", max(differences) / typical, bound, "")
