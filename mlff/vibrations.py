"""Harmonic vibrations from exact Hessians, through ASE's `VibrationsData`."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.vibrations import VibrationsData
from jaxtyping import Float

from mlff.calculator import Calculator
from mlff.units import INVERSE_CM

FREQUENCY_UNIT = units._hbar * 1e10 / np.sqrt(units._e * units._amu)  # ħ √(eV/Å²/u), eV
RELAXED = 1e-3  # eV/Å, the largest force at what passes for a minimum
LINEAR = 1e-2  # of the largest: a rotation whose root moment of inertia is smaller is the bending of a linear molecule


def normal_modes(atoms: Atoms) -> VibrationsData:
    """Normal modes at the present geometry, from the calculator's exact Hessian.

    Arguments:
        atoms: with a calculator that has `get_hessian`; relaxed, where frequencies are meant to be physical.
            Atoms fixed by constraints (FixAtoms, FixCartesian) stay out; of our force fields, so do their columns of
            the Hessian.
    Returns:
        ASE's VibrationsData: `.get_frequencies()` in 1/cm, imaginary ones as complex numbers, modes, zero-point energy.
    Raises:
        ValueError: the calculator has no Hessian.
    """
    require_hessian(atoms)
    moving = VibrationsData.indices_from_constraints(atoms)
    if isinstance(atoms.calc, Calculator) and len(moving) < len(atoms):
        return VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms, moving=moving), indices=moving)
    rows = (3 * np.asarray(moving)[:, None] + np.arange(3)).ravel()
    return VibrationsData.from_2d(atoms, atoms.calc.get_hessian(atoms)[np.ix_(rows, rows)], indices=moving)


def frequencies(atoms: Atoms) -> np.ndarray:
    """Harmonic frequencies of the vibrations alone, 1/cm, ascending; imaginary ones negative.

    Translations and rotations are projected out of the mass-weighted Hessian, so that 3n − 6 numbers remain
    (3n − 5 for linear molecules, bent by less than some 0.02 Å; 3n − 3 for periodic cells).

    Raises:
        ValueError: atoms with constraints, whose rigid motions are no zero modes; `normal_modes` takes them.
    """
    if atoms.constraints:
        raise ValueError("atoms: frequencies takes a free molecule; use normal_modes for atoms with constraints")
    modes = normal_modes(atoms)
    masses = np.repeat(atoms.get_masses(), 3)
    _, internal = motions(atoms)
    weighted = modes.get_hessian_2d() / np.sqrt(masses[:, None] * masses)
    return wavenumbers(np.linalg.eigvalsh(internal @ weighted @ internal.T))


def wavenumbers(eigenvalues: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Frequencies, 1/cm, of eigenvalues of the mass-weighted Hessian, eV/Å²/u; imaginary ones negative."""
    return np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * FREQUENCY_UNIT / INVERSE_CM


def motions(atoms: Atoms) -> tuple[Float[np.ndarray, "r coordinates"], Float[np.ndarray, "k coordinates"]]:
    """Orthonormal rigid and internal motions in mass-weighted coordinates √m x.

    Translations, and for atoms that are not periodic rotations about the centre of mass: 6 rigid motions, 5 of linear
    molecules, 3 of periodic cells.
    """
    return split(rigid_motions(atoms) * np.sqrt(np.repeat(atoms.get_masses(), 3)))


def rigid_motions(atoms: Atoms) -> Float[np.ndarray, "r coordinates"]:
    """Translations and, of atoms that are not periodic, infinitesimal rotations about the centre of mass, Cartesian."""
    centred = atoms.positions - atoms.get_center_of_mass()
    motions = [np.tile(axis, (len(atoms), 1)) for axis in np.eye(3)]
    if not atoms.pbc.any():
        motions += [np.cross(axis, centred) for axis in np.eye(3)]
    return np.array([motion.ravel() for motion in motions])


def split(
    rigid: Float[np.ndarray, "r coordinates"],
) -> tuple[Float[np.ndarray, "s coordinates"], Float[np.ndarray, "k coordinates"]]:
    """Orthonormal bases of the motions given and of all that are orthogonal to them."""
    u, singular, _ = np.linalg.svd(rigid.T, full_matrices=True)
    count = np.sum(singular > LINEAR * singular[0])
    return u[:, :count].T, u[:, count:].T


def require_hessian(atoms: Atoms) -> None:
    """Refuse atoms whose calculator has no `get_hessian`."""
    if not hasattr(atoms.calc, "get_hessian"):
        raise ValueError("atoms.calc: no calculator with get_hessian; attach mlff.Calculator(force_field)")


def require_relaxed(atoms: Atoms, what: str) -> None:
    """Refuse atoms on which forces act.

    Raises:
        ValueError: naming the largest force.
    """
    largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
    if largest > RELAXED:
        raise ValueError(
            f"atoms: {what} needs a minimum of the energy, and the largest force is {largest:.2g} eV/Å; relax them until it "
            f"is below {RELAXED} eV/Å (ase.optimize)"
        )
