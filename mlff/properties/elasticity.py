"""Elastic constants of crystals from the force field's second derivatives."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from jaxtyping import Float

from mlff.dynamics.calculator import located
from mlff.dynamics.motion import motions
from mlff.properties.vibrations import require_relaxed

FLOPPY = 1e-8  # of the stiffest motion: what is softer moves at no cost, and no second derivative tells where to


def elastic_constants(atoms: Atoms, relaxed: bool = True) -> Float[np.ndarray, "6 6"]:
    """Elastic constants: second derivatives of the energy by symmetric strain at the present cell.

        C_IJ = (∂²E/∂η_I∂η_J − ∂²E/∂η_I∂x H⁺ ∂²E/∂x∂η_J)/V

    η are the Voigt components xx yy zz yz xz xy of the strain ε, shears doubled; cell and atoms deform by 1 + ε. The second
    term lets the atoms relax in the strained cell, H⁺ being the inverse of the Hessian on motions other than translations;
    without it, atoms are clamped to the cell. Where the stress is zero this is the derivative of the stress by the strain,
    as others define it; otherwise the two differ by terms of the size of the stress.

    Arguments:
        atoms: with `mlff.Calculator` of a periodic force field; with relaxed positions, and where the constants of the
            crystal at zero pressure are meant, relaxed cell.
        relaxed: whether atoms relax as the cell deforms.
    Returns:
        symmetric, shape (6, 6), eV/Å³; in GPa divided by `ase.units.GPa`.
    Raises:
        ValueError: no cell, a kernel without second derivatives, atoms fixed by constraints, or forces on the atoms, or an
            unstable structure, where they are to relax.
    """
    force_field, geometry = located(atoms, "elastic_constants")
    if atoms.constraints:
        raise ValueError("atoms: elastic_constants moves all of them; remove the constraints")
    pure, mixed = force_field.strain_derivatives(**geometry)
    mixed = mixed.reshape(6, -1)
    if relaxed:
        require_relaxed(atoms, "elastic_constants")
        internal = motions(atoms, np.ones(len(atoms))).internal
        pure = pure - mixed @ _response(force_field.hessian(**geometry), mixed, internal)
    return 0.5 * (pure + pure.T) / atoms.get_volume()


def _response(hessian: np.ndarray, mixed: np.ndarray, internal: np.ndarray) -> np.ndarray:
    """H⁺ applied to the forces that strains exert, in directions other than translations, shape (3n, 6)."""
    values, vectors = np.linalg.eigh(internal @ hessian @ internal.T)
    if not len(values):
        return np.zeros(mixed.T.shape)
    if not values[0] > FLOPPY * values[-1]:
        raise ValueError(
            f"atoms: the lowest curvature of the energy is {values[0]:.2g} eV/Å², so the atoms are at no minimum; relax them, "
            "or use relaxed=False"
        )
    modes = vectors.T @ internal
    return modes.T @ ((modes @ mixed.T) / values[:, None])
