"""Harmonic vibrations from exact Hessians, through ASE's `VibrationsData`."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.vibrations import VibrationsData

from mlff.units import INVERSE_CM

LINEAR = 1e-2  # of the largest: a rotation whose root moment of inertia is smaller is the bending of a linear molecule


def normal_modes(atoms: Atoms) -> VibrationsData:
    """Normal modes at the present geometry, from the calculator's exact Hessian.

    Arguments:
        atoms: with a calculator that has `get_hessian`; relaxed, where frequencies are meant to be physical.
            Atoms fixed by constraints (FixAtoms, FixCartesian) stay out.
    Returns:
        ASE's VibrationsData: `.get_frequencies()` in 1/cm, imaginary ones as complex numbers, modes, zero-point energy.
    Raises:
        ValueError: the calculator has no Hessian.
    """
    if not hasattr(atoms.calc, "get_hessian"):
        raise ValueError("atoms.calc: no calculator with get_hessian; attach mlff.Calculator(force_field)")
    hessian = atoms.calc.get_hessian(atoms)
    moving = VibrationsData.indices_from_constraints(atoms)
    rows = (3 * np.asarray(moving)[:, None] + np.arange(3)).ravel()
    return VibrationsData.from_2d(atoms, hessian[np.ix_(rows, rows)], indices=moving)


def frequencies(atoms: Atoms) -> np.ndarray:
    """Harmonic frequencies of the vibrations alone, 1/cm, ascending; imaginary ones negative.

    Translations and rotations are projected out of the mass-weighted Hessian, so that 3n − 6 numbers remain
    (3n − 5 for linear molecules, bent by less than some 0.02 Å).

    Raises:
        ValueError: atoms with constraints, whose rigid motions are no zero modes; `normal_modes` takes them.
    """
    if atoms.constraints:
        raise ValueError("atoms: frequencies takes a free molecule; use normal_modes for atoms with constraints")
    modes = normal_modes(atoms)
    masses = np.repeat(atoms.get_masses(), 3)
    rigid = rigid_motions(atoms) * np.sqrt(masses)
    u, singular, _ = np.linalg.svd(rigid.T, full_matrices=True)
    internal = u[:, np.sum(singular > LINEAR * singular[0]) :]
    weighted = modes.get_hessian_2d() / np.sqrt(masses[:, None] * masses)
    eigenvalues = np.linalg.eigvalsh(internal.T @ weighted @ internal)
    return np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * frequency_unit() / INVERSE_CM


def frequency_unit() -> float:
    """ħ times the unit √(eV/Å²/u), eV."""
    return units._hbar * 1e10 / np.sqrt(units._e * units._amu)


def rigid_motions(atoms: Atoms) -> np.ndarray:
    """Translations and infinitesimal rotations about the centre of mass, shape (6, 3n)."""
    centred = atoms.positions - atoms.get_center_of_mass()
    translations = [np.tile(axis, (len(atoms), 1)) for axis in np.eye(3)]
    rotations = [np.cross(axis, centred) for axis in np.eye(3)]
    return np.array([motion.ravel() for motion in translations + rotations])
