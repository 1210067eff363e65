"""Thermochemistry of a stationary geometry, through ASE: what its calculator's Hessian and its shape say is filled in."""

from __future__ import annotations

import itertools
import numbers

import numpy as np
from ase import Atoms
from ase.thermochemistry import HarmonicThermo, IdealGasThermo
from scipy.spatial.distance import cdist

from mlff.arguments import is_number
from mlff.data.frames import stated_charge
from mlff.dynamics.motion import motions
from mlff.properties.relaxation import internal_directions
from mlff.properties.vibrations import constrained_frequencies
from mlff.units import INVERSE_CM, formula

STATIONARY = 1e-2  # eV/Å; with larger forces frequencies are not those of a stationary point
SAME_PLACE = 0.05  # Å, between an atom and where a rotation puts one like it


def ideal_gas(
    atoms: Atoms, imaginary: int = 0, spin: float | None = None, symmetry_number: int | None = None
) -> IdealGasThermo:
    """Ideal gas, rigid rotor, harmonic oscillator: `.get_gibbs_energy(temperature, pressure)` in eV, K and Pa.

    Arguments:
        atoms: a molecule at a minimum, or at a saddle point, with a calculator that has `get_hessian`.
        imaginary: how many imaginary frequencies there are to be: 0 at a minimum, 1 at a transition state, where the
            motion along it stays out.
        spin: total electronic spin S, a multiple of ½ that the number of electrons allows (by the charge that the atoms state);
            left out, 0 of an even number and ½ of an odd one. O₂ and other triplets have S = 1.
        symmetry_number: of rotations, a positive integer; left out, it is counted (see `rotations_onto_itself`).
    Returns:
        ASE's IdealGasThermo with energy, vibrations, whether the molecule is linear, symmetry number and spin.
    Raises:
        ValueError: periodic or constrained atoms; forces that are not zero; another number of imaginary frequencies; a spin or
            a symmetry number that none of this molecule can be.
    """
    if atoms.pbc.any():
        raise ValueError("atoms: periodic, and no ideal gas; set atoms.pbc = False for an isolated molecule")
    if atoms.constraints:
        raise ValueError("atoms: fixed atoms, which no gas has; remove the constraints, or use mlff.harmonic")
    spin = _spin(atoms, spin)
    if symmetry_number is not None and not (isinstance(symmetry_number, numbers.Integral) and symmetry_number > 0):
        raise ValueError(f"symmetry_number={symmetry_number!r} must be a positive integer, or None to have it counted")
    energies = _vibrational_energies(atoms, imaginary)
    geometry = {3: "monatomic", 5: "linear", 6: "nonlinear"}[len(motions(atoms).rigid)]
    return IdealGasThermo(
        energies,
        geometry,
        potentialenergy=atoms.get_potential_energy(),
        atoms=atoms,
        symmetrynumber=rotations_onto_itself(atoms) if symmetry_number is None else symmetry_number,
        spin=spin,
        vib_selection="all",  # rigid motions and the imaginary frequencies are left out already
    )


def harmonic(atoms: Atoms, imaginary: int = 0) -> HarmonicThermo:
    """Harmonic vibrations alone: `.get_helmholtz_energy(temperature)` in eV and K, for adsorbates and defects whose
    surroundings are held by FixAtoms, and the vibrations of a molecule.

    Arguments:
        atoms: at a minimum, or at a saddle point, with a calculator that has `get_hessian`.
        imaginary: as of `ideal_gas`.
    Raises:
        ValueError: periodic atoms none of which is fixed; forces that are not zero; another number of imaginary frequencies.
    """
    if atoms.pbc.any() and not atoms.constraints:
        raise ValueError("atoms: periodic, and none is fixed: that is a crystal, with phonons; fix atoms with FixAtoms")
    energies = _vibrational_energies(atoms, imaginary)
    if not len(energies):
        raise ValueError(f"atoms: {formula(atoms.numbers)} has no vibrations here; a lone atom is an mlff.ideal_gas")
    return HarmonicThermo(energies, atoms.get_potential_energy())


def _spin(atoms: Atoms, spin: float | None) -> float:
    """The spin of a molecule: the lowest that its number of electrons allows, or the one that is given if they allow it."""
    electrons = round(float(atoms.numbers.sum()) - (stated_charge(atoms) or 0.0))
    if spin is None:
        return 0.5 * (electrons % 2)
    if not (is_number(spin) and spin >= 0 and (2 * spin - electrons) % 2 == 0):
        parity = "0, 1, 2, …" if electrons % 2 == 0 else "½, 3/2, …"
        raise ValueError(f"spin={spin!r}: {formula(atoms.numbers)} with {electrons} electrons can have {parity}")
    return float(spin)


def rotations_onto_itself(atoms: Atoms, tolerance: float = SAME_PLACE) -> int:
    """The rotational symmetry number: how many rotations put the molecule where it was, atoms of equal mass exchanged.

    A rotation about the centre of mass is fixed by where it puts two atoms that are not on a line with the centre, so all
    places of such a pair are tried. A linear molecule counts 2 if its ends are alike, else 1.

    Arguments:
        atoms: the molecule.
        tolerance: within which an atom is in the place of another, Å.
    Source: Cramer, Essentials of Computational Chemistry, 2nd edition, table 10.1 and appendix B (2004).
    """
    x = atoms.positions - atoms.get_center_of_mass()
    kinds = np.unique([atoms.numbers, atoms.get_masses()], axis=1, return_inverse=True)[1].ravel()
    radii = np.linalg.norm(x, axis=1)
    first, second = _pair(x, kinds)
    if second is None:
        return 2 if len(x) > 1 and _same(-x, x, kinds, tolerance) else 1
    apart = np.linalg.norm(x[first] - x[second])
    images = [np.flatnonzero((kinds == kinds[i]) & (np.abs(radii - radii[i]) < tolerance)) for i in (first, second)]
    frame, count = _frame(x[first], x[second]), 0
    for i, j in itertools.product(*images):
        if i == j or abs(np.linalg.norm(x[i] - x[j]) - apart) > 2 * tolerance:
            continue
        count += _same(x @ frame @ _frame(x[i], x[j]).T, x, kinds, tolerance)
    return count


def _pair(x: np.ndarray, kinds: np.ndarray) -> tuple[int, int | None]:
    """Two atoms far from a line with the centre, of the kinds and radii of which there are fewest."""
    radii = np.linalg.norm(x, axis=1)
    alike = (kinds[:, None] == kinds) & (np.abs(radii[:, None] - radii) < SAME_PLACE)
    sines = np.linalg.norm(np.cross(x[:, None], x), axis=-1) / np.maximum(np.outer(radii, radii), 1e-12)
    wide = (sines > 0.1) & (np.minimum.outer(radii, radii) > 2 * SAME_PLACE)
    if not wide.any():
        return 0, None
    tries = np.where(wide, np.outer(alike.sum(axis=1), alike.sum(axis=1)), len(x) ** 2 + 1)
    first, second = np.unravel_index(np.argmin(tries), tries.shape)
    return int(first), int(second)


def _frame(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Right-handed orthonormal columns: the middle direction of two vectors, across it in their plane, the normal."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    middle, normal = a + b, np.cross(a, b)
    middle, normal = middle / np.linalg.norm(middle), normal / np.linalg.norm(normal)
    return np.stack([middle, np.cross(normal, middle), normal], axis=1)


def _same(moved: np.ndarray, x: np.ndarray, kinds: np.ndarray, tolerance: float) -> bool:
    near = (cdist(moved, x) < tolerance) & (kinds[:, None] == kinds)
    return bool(near.any(axis=1).all() and near.any(axis=0).all())


def _vibrational_energies(atoms: Atoms, imaginary: int) -> np.ndarray:
    """Energies ħω of the real vibrations, eV, after the checks that there is a stationary point of the wanted kind."""
    if isinstance(imaginary, bool) or not isinstance(imaginary, numbers.Integral) or imaginary < 0:
        raise ValueError(
            f"imaginary={imaginary!r} must be how many frequencies are to be imaginary: 0, or 1 at a saddle"
        )
    if len(atoms) == 1 and not atoms.constraints:
        return np.zeros(0)
    directions = internal_directions(atoms)
    forces = directions @ (directions.T @ atoms.get_forces(apply_constraint=False).ravel())
    if not np.abs(forces).max() < STATIONARY:
        raise ValueError(
            f"atoms: not at a stationary point, the largest force component is {np.abs(forces).max():.1e} eV/Å; "
            "relax them first: mlff.relax(atoms)"
        )
    energies = constrained_frequencies(atoms) * INVERSE_CM
    if (count := int(np.sum(~(energies >= 0)))) != imaginary:
        lowest = ", ".join(f"{value:.3g}" for value in energies[: max(count, 1)] / INVERSE_CM)
        raise ValueError(
            f"atoms: {formula(atoms.numbers)} has {count} imaginary frequencies here where imaginary={imaginary} "
            f"(lowest, 1/cm: {lowest}); relax to a minimum, or say imaginary=1 at a transition state"
        )
    return energies[imaginary:]
