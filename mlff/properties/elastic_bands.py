"""Paths of a reaction, and nudged elastic bands between two minima through ASE."""

from __future__ import annotations

import dataclasses

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.mep import NEB
from ase.optimize import FIRE

RELAXED = 0.05  # eV/Å; ends of a band with larger forces are no minima
APART = 0.01  # Å; geometries that differ less are the same
FIRST_FMAX = 5.0  # times fmax: where a band starts to climb


@dataclasses.dataclass(frozen=True)
class Path:
    """Geometries along a reaction, and what they took: evaluations of energy with forces, exact Hessians.

    `images` are ASE Atoms that hold their energies and forces, so that ASE's writers and `ase.mep.NEBTools` take them.
    """

    images: tuple[Atoms, ...]
    evaluations: int
    hessians: int

    @property
    def energies(self) -> np.ndarray:
        """Of the images, eV, shape (k,)."""
        return np.array([image.get_potential_energy() for image in self.images])

    @property
    def coordinate(self) -> np.ndarray:
        """Mass-weighted length of the path up to each image, Å √u, shape (k,): s = Σ √(Σ_a m_a |Δx_a|²)."""
        x = np.array([image.positions for image in self.images])
        steps = np.sqrt(np.einsum("kax,a->k", np.diff(x, axis=0) ** 2, self.images[0].get_masses()))
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def barrier(self) -> float:
        """Energy of the highest image above the first, eV."""
        return float(self.energies.max() - self.energies[0])

    @property
    def highest(self) -> Atoms:
        """A copy of the highest image, without calculator."""
        return self.images[int(np.argmax(self.energies))].copy()


def band(initial: Atoms, final: Atoms, images: int = 9, fmax: float = 0.02, steps: int = 500) -> Path:
    """A climbing-image nudged elastic band between two minima, by ASE.

    The images start from the image-dependent pair potential, relax along the improved tangent, and from five times
    `fmax` on the highest one climbs to the saddle point.

    Arguments:
        initial: a relaxed geometry with a calculator.
        final: another one of the same atoms in the same order; turned and shifted onto the first, of a molecule.
        images: how many, with both ends.
        fmax: largest force on an image, perpendicular to the band, eV/Å.
        steps: of the optimiser (FIRE), at most.
    Raises:
        ValueError: fewer than three images; ends of different atoms, not relaxed, or equal; not converged.
    Source: Henkelman, Uberuaga, Jónsson, J. Chem. Phys. 113, 9901 (2000), doi 10.1063/1.1329672; Smidstrup, Pedersen,
        Stokbro, Jónsson, J. Chem. Phys. 140, 214106 (2014), doi 10.1063/1.4878664.
    """
    if images < 3:
        raise ValueError(f"images={images}: a band has at least one between its ends; give 3 or more")
    calculator = Counted(initial.calc)
    chain = [initial.copy() for _ in range(images - 1)] + [final.copy()]
    for image in chain:
        image.calc = calculator
    _require_ends(chain[0], chain[-1])
    free = not initial.pbc.any() and not initial.constraints
    elastic = NEB(
        chain, method="improvedtangent", remove_rotation_and_translation=free, allow_shared_calculator=True
    )  # fmt: skip
    elastic.interpolate("idpp", mic=bool(initial.pbc.any()))
    optimizer = FIRE(elastic, logfile=None)
    optimizer.run(fmax=FIRST_FMAX * fmax, steps=steps)
    elastic.climb = True
    if not optimizer.run(fmax=fmax, steps=steps - optimizer.nsteps):
        raise ValueError(
            f"band: not converged after steps={steps}, the largest force is {elastic.get_residual():.2g} eV/Å; give more "
            "steps or images, or look whether the force field knows what lies between the ends"
        )
    return Path(tuple(held(image) for image in chain), calculator.evaluations, 0)


def _require_ends(initial: Atoms, final: Atoms) -> None:
    if not np.array_equal(initial.numbers, final.numbers):
        raise ValueError("final: not the atoms of initial in the same order; reorder them")
    for name, end in (("initial", initial), ("final", final)):
        if not (largest := np.linalg.norm(end.get_forces(), axis=1).max()) <= RELAXED:
            raise ValueError(
                f"{name}: not relaxed, the largest force is {largest:.2g} eV/Å; relax it first: mlff.relax(atoms)"
            )
    turned = final.copy()
    minimize_rotation_and_translation(initial, turned)
    if not np.linalg.norm(turned.positions - initial.positions, axis=1).max() >= APART:
        raise ValueError("final: the geometry of initial, so there is nothing between them; give another minimum")


def held(atoms: Atoms) -> Atoms:
    """A copy that holds its energy and forces."""
    copy = atoms.copy()
    forces = atoms.get_forces(apply_constraint=False)
    copy.calc = SinglePointCalculator(copy, energy=atoms.get_potential_energy(), forces=forces)
    return copy


class Counted(ASECalculator):
    """Another calculator's energies, forces and Hessians, with counts of how many geometries they were computed at."""

    implemented_properties = ("energy", "forces", "hessian")

    def __init__(self, inner):
        super().__init__()
        self.inner, self.evaluations, self.hessians = inner, 0, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        if "hessian" in properties:
            self.hessians += 1
            self.results["hessian"] = self.inner.get_hessian(self.atoms)
        else:
            self.evaluations += 1
            self.results["energy"] = self.inner.get_potential_energy(self.atoms)
            self.results["forces"] = self.inner.get_forces(self.atoms)

    def get_hessian(self, atoms: Atoms) -> np.ndarray:
        return self.get_property("hessian", atoms)
