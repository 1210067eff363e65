"""Force constants for phonopy, from exact Hessians in place of displaced supercells."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from jaxtyping import Float

from mlff.dynamics.calculator import located


def phonon_force_constants(atoms: Atoms, supercell) -> Float[np.ndarray, "s s 3 3"]:
    """Force constants Φ_aα,bβ = ∂²E/∂x_aα∂x_bβ of a supercell in phonopy's form and order of atoms.

    Arguments:
        atoms: the unit cell, with `mlff.Calculator` of a force field that takes any number of atoms.
        supercell: how often the cell is repeated, shape (3,), or phonopy's supercell matrix, shape (3, 3).
    Returns:
        shape (s, s, 3, 3), eV/Å², for the s atoms of `Phonopy(…).supercell`.
    Raises:
        ValueError: phonopy is not installed, no calculator of ours, no periodic crystal, or a kernel without Hessian.
    """
    crystal = _crystal(atoms, supercell)
    repeated = _repeated(atoms, crystal)
    force_field, geometry = located(repeated, "phonon_force_constants")
    count = len(repeated)
    return force_field.hessian(**geometry).reshape(count, 3, count, 3).transpose(0, 2, 1, 3).copy()


def phonopy_of(atoms: Atoms, supercell, primitive_matrix="P"):
    """A `phonopy.Phonopy` with the force constants of the force field, ready for bands, densities of states, free energies.

    Only the columns of the Hessian that belong to atoms of the primitive cell are computed; phonopy's compact form of
    force constants, shape (p, s, 3, 3), is all that these are.

    Arguments:
        atoms, supercell: as for `phonon_force_constants`.
        primitive_matrix: phonopy's; "P" when `atoms` are the primitive cell, "F" for a face-centred cube, or a matrix.
    Raises:
        ValueError: as for `phonon_force_constants`.
    """
    crystal = _crystal(atoms, supercell, primitive_matrix)
    repeated = _repeated(atoms, crystal)
    force_field, geometry = located(repeated, "phonopy_of")
    first, count = crystal.primitive.p2s_map, len(repeated)
    displacements = np.zeros((len(first), 3, count, 3))
    for row, atom in enumerate(first):
        displacements[row, :, atom] = np.eye(3)
    products = force_field.hessian_vector_product(vectors=displacements.reshape(-1, count, 3), **geometry)
    crystal.force_constants = products.reshape(len(first), 3, count, 3).transpose(0, 2, 1, 3).copy()
    return crystal


def _crystal(atoms: Atoms, supercell, primitive_matrix="P"):
    """A Phonopy object of the unit cell, without force constants."""
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError as error:
        raise ValueError('phonopy is not installed: pip install "mlff[phonons]"') from error
    if not atoms.pbc.all():
        raise ValueError(
            f"atoms: phonons are of crystals periodic in all directions, received pbc={atoms.pbc.tolist()}"
        )
    located(atoms, "phonopy_of")
    repeats = np.asarray(supercell)
    unit = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),
    )
    matrix = np.diag(repeats) if repeats.ndim == 1 else repeats
    return Phonopy(unit, supercell_matrix=matrix, primitive_matrix=primitive_matrix)


def _repeated(atoms: Atoms, crystal) -> Atoms:
    """Phonopy's supercell with the calculator of the unit cell."""
    cell = crystal.supercell
    repeated = Atoms(cell.numbers, cell.positions, cell=cell.cell, pbc=True)
    repeated.calc = atoms.calc
    return repeated
