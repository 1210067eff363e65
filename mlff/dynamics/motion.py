"""Degrees of freedom: which motions constraints allow, which of them move the whole without changing its energy."""

from __future__ import annotations

import dataclasses

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixedLine, FixedPlane
from jaxtyping import Float
from scipy.sparse import csr_array

WITHIN_ATOMS = (FixAtoms, FixCartesian, FixedLine, FixedPlane)  # each holds directions of single atoms
THIN = (
    1e-2  # Å; a molecule whose radius of gyration about an axis is smaller is linear, and turning about it its bending
)
HELD = 1e-6  # the share of a motion that constraints hold, below which it is free of them


@dataclasses.dataclass(frozen=True)
class Motions:
    """How atoms may move, in coordinates √w x of weights w (masses, or ones for Cartesian coordinates).

    allowed: orthonormal columns of the motions that constraints allow, sparse, shape (3n, m).
    rigid: orthonormal rows of the motions of the whole among them, shape (r, 3n): translations, and of atoms that are
        periodic in no direction rotations. 6 of a free molecule, 5 of a linear one, 3 of a cell, 0 where enough is fixed.
    """

    allowed: csr_array
    rigid: Float[np.ndarray, "r coordinates"]

    @property
    def degrees(self) -> int:
        """Internal degrees of freedom, m − r."""
        return self.allowed.shape[1] - len(self.rigid)

    @property
    def internal(self) -> Float[np.ndarray, "k coordinates"]:
        """Orthonormal rows of the internal motions: allowed, and orthogonal to the rigid ones."""
        if not len(self.rigid):
            return self.allowed.toarray().T
        complement = np.linalg.svd((self.rigid @ self.allowed).T)[0][:, len(self.rigid) :]
        return (self.allowed @ complement).T

    def internal_part(self, vector: Float[np.ndarray, " coordinates"]) -> Float[np.ndarray, " coordinates"]:
        """Projection of a vector on the internal motions."""
        inside = self.allowed @ (self.allowed.T @ vector)
        return inside - self.rigid.T @ (self.rigid @ inside)


def motions(atoms: Atoms, weights: Float[np.ndarray, " n"] | None = None) -> Motions:
    """The motions of atoms at their present positions.

    A rigid motion counts by what it displaces: a rotation whose radius of gyration √(I/M) is below 0.01 Å is none, however
    large the molecule is. Where constraints hold atoms, those combinations of rigid motions are left that move no held one
    (a molecule with one fixed atom still turns about it). Atoms that are periodic in any direction do not turn.

    Arguments:
        weights: of the coordinates, shape (n,); left out, the masses, u.
    Raises:
        ValueError: a constraint that is none of single atoms (FixAtoms, FixCartesian, FixedLine, FixedPlane); weights that
            are not positive.
    """
    weights = atoms.get_masses() if weights is None else weights
    if not (weights > 0).all():
        atom = int(np.argmin(weights > 0))
        raise ValueError(f"atoms: the mass of atom {atom} is {weights[atom]} u; give one that is positive")
    allowed = _allowed(atoms)
    basis = _rigid_basis(atoms, weights)
    if allowed.shape[1] < allowed.shape[0]:
        held = basis - (allowed @ (allowed.T @ basis.T)).T
        mixtures, shares, _ = np.linalg.svd(held, full_matrices=False)
        basis = np.linalg.qr(basis.T @ mixtures[:, shares < HELD])[0].T
    return Motions(allowed, basis)


def rigid_motions(atoms: Atoms, weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, "r coordinates"]:
    """Translations and, of atoms that are periodic in no direction, infinitesimal rotations about the centre, Cartesian.

    They are neither of unit length nor, of linear molecules, independent.

    Arguments:
        weights: by which the centre is the mean of the positions, shape (n,).
    """
    centred = atoms.positions - weights @ atoms.positions / weights.sum()
    displaced = [np.tile(axis, (len(atoms), 1)) for axis in np.eye(3)]
    if not atoms.pbc.any():
        displaced += [np.cross(axis, centred) for axis in np.eye(3)]
    return np.array([motion.ravel() for motion in displaced])


def moving_atoms(atoms: Atoms, what: str) -> np.ndarray:
    """Indices of the atoms that no constraint holds.

    Arguments:
        what: is asked for, for the message.
    Raises:
        ValueError: an atom that is held in some directions only.
    """
    free = _projectors(atoms).trace(axis1=1, axis2=2).round(6)
    if len(partly := np.flatnonzero((free > 0) & (free < 3))):
        raise ValueError(
            f"atoms: atom {partly[0]} is fixed in some directions only, which {what} does not take; fix it whole (FixAtoms), or "
            "use mlff.lowest_modes"
        )
    return np.flatnonzero(free)


def _rigid_basis(atoms: Atoms, weights: np.ndarray) -> np.ndarray:
    """Orthonormal rows, in coordinates √w x, of what rigid motions there are without constraints."""
    weighted = rigid_motions(atoms, weights) * np.sqrt(np.repeat(weights, 3))
    _, sizes, rows = np.linalg.svd(weighted, full_matrices=False)
    return rows[sizes > THIN * np.sqrt(weights.sum())]  # a translation by 1 Å is of size √M, a rotation by 1 rad of √I


def _projectors(atoms: Atoms) -> np.ndarray:
    """Of each atom, the projector on the directions in which constraints let it move, shape (n, 3, 3)."""
    if unsupported := [type(c).__name__ for c in atoms.constraints if not isinstance(c, WITHIN_ATOMS)]:
        supported = ", ".join(kind.__name__ for kind in WITHIN_ATOMS)
        raise ValueError(
            f"atoms: a constraint {unsupported[0]}, of which degrees of freedom are not known; use {supported}"
        )
    blocks = np.empty((len(atoms), 3, 3))
    for axis in range(3):
        moved = np.tile(np.eye(3)[axis], (len(atoms), 1))
        for constraint in atoms.constraints:
            constraint.adjust_forces(atoms, moved)
        blocks[:, :, axis] = moved
    if (uneven := np.abs(blocks - blocks.transpose(0, 2, 1)).max(axis=(1, 2))).max(initial=0.0) > HELD:
        raise ValueError(
            f"atoms: constraints that hold atom {int(np.argmax(uneven))} in directions neither parallel nor across each "
            "other; give one constraint for it"
        )
    return blocks


def _allowed(atoms: Atoms) -> csr_array:
    directions, kept, _ = np.linalg.svd(_projectors(atoms))
    atom, direction = np.nonzero(kept > 0.5)
    rows = 3 * atom[:, None] + np.arange(3)
    columns = np.broadcast_to(np.arange(len(atom))[:, None], rows.shape)
    entries = directions[atom, :, direction]
    return csr_array((entries.ravel(), (rows.ravel(), columns.ravel())), shape=(3 * len(atoms), len(atom)))
