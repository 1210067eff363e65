"""Harmonic vibrations from exact Hessians, through ASE's `VibrationsData`."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.vibrations import VibrationsData
from jaxtyping import Float

from mlff.dynamics.calculator import Calculator
from mlff.dynamics.motion import motions, moving_atoms
from mlff.units import INVERSE_CM

FREQUENCY_UNIT = units._hbar * 1e10 / np.sqrt(units._e * units._amu)  # ħ √(eV/Å²/u), eV
RELAXED = 1e-3  # eV/Å, the largest force at what passes for a minimum


def normal_modes(atoms: Atoms) -> VibrationsData:
    """Normal modes at the present geometry, from the calculator's exact Hessian.

    Arguments:
        atoms: with a calculator that has `get_hessian`; relaxed, where frequencies are meant to be physical.
            Atoms fixed by constraints stay out; of our force fields, so do their columns of the Hessian.
    Returns:
        ASE's VibrationsData: `.get_frequencies()` in 1/cm, imaginary ones as complex numbers, modes, zero-point energy.
    Raises:
        ValueError: the calculator has no Hessian; constraints other than whole fixed atoms.
    """
    require_hessian(atoms)
    moving = moving_atoms(atoms, "normal_modes").tolist()
    return VibrationsData.from_2d(atoms, _block(atoms, moving), indices=moving)


def frequencies(atoms: Atoms) -> np.ndarray:
    """Harmonic frequencies of the vibrations alone, 1/cm, ascending; imaginary ones negative.

    Translations and rotations are projected out of the mass-weighted Hessian, so that 3n − 6 numbers remain
    (3n − 5 for linear molecules, bent by less than some 0.02 Å; 3n − 3 for periodic cells): see `mlff.dynamics.motion`.

    Raises:
        ValueError: atoms with constraints, whose rigid motions are no zero modes; `normal_modes` takes them.
    """
    if atoms.constraints:
        raise ValueError("atoms: frequencies takes a free molecule; use normal_modes for atoms with constraints")
    return constrained_frequencies(atoms)


def constrained_frequencies(atoms: Atoms) -> np.ndarray:
    """Harmonic frequencies of the internal motions that constraints leave, 1/cm, ascending; imaginary ones negative.

    Raises:
        ValueError: the calculator has no Hessian; constraints that are not of single atoms.
    """
    require_hessian(atoms)
    free = motions(atoms)
    coordinates = _coordinates(moving := np.unique(free.allowed.nonzero()[0] // 3).tolist())
    weighted = free.internal[:, coordinates] / np.sqrt(np.repeat(atoms.get_masses()[moving], 3))
    return wavenumbers(np.linalg.eigvalsh(weighted @ _block(atoms, moving) @ weighted.T))


def _block(atoms: Atoms, moving: list[int]) -> np.ndarray:
    """The block of the Hessian that belongs to some atoms; our calculator computes no more."""
    if isinstance(atoms.calc, Calculator) and len(moving) < len(atoms):
        return atoms.calc.get_hessian(atoms, moving=moving)
    coordinates = _coordinates(moving)
    return atoms.calc.get_hessian(atoms)[np.ix_(coordinates, coordinates)]


def _coordinates(moving: list[int]) -> np.ndarray:
    return (3 * np.asarray(moving, dtype=int)[:, None] + np.arange(3)).ravel()


def wavenumbers(eigenvalues: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Frequencies, 1/cm, of eigenvalues of the mass-weighted Hessian, eV/Å²/u; imaginary ones negative."""
    return np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * FREQUENCY_UNIT / INVERSE_CM


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
    if not largest <= RELAXED:
        raise ValueError(
            f"atoms: {what} needs a minimum of the energy, and the largest force is {largest:.2g} eV/Å; relax them until it "
            f"is below {RELAXED} eV/Å (ase.optimize)"
        )
