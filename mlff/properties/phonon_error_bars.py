"""Error bars of phonons: to first order a frequency changes with the energy by a linear operator, whose variance the posterior gives.

An eigenvalue λ = e†D(q)e of the dynamical matrix is linear in the force constants of a supercell, and so in the energy,

    λ[u] = Σ_a Σ_b C_ab·Φ_ab[u],   C_aα,bβ = Re(e*_aα e_bβ ⟨exp 2πi q·(r_b − r_a)⟩)/√(m_a m_b)

over atoms a of the primitive cell and b of the supercell; ⟨⟩ is the mean over their nearest images. Atoms that symmetry does not hold
move with the energy, δx* = −H⁺∇δu, and the force constants with them: δλ = λ[δu] + D³E[C, δx*].

Source: Togo, J. Phys. Soc. Jpn. 92, 012001 (2023), doi 10.7566/JPSJ.92.012001 (dynamical matrix); Blondel et al., Advances in Neural
    Information Processing Systems 35 (2022), arXiv 2105.15183 (implicit derivatives).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Float

from mlff.operators import Operator
from mlff.properties.error_bars import Estimate, stationary_modes
from mlff.properties.phonons import phonopy_of
from mlff.properties.responses import FLAT
from mlff.properties.vibrations import wavenumbers
from mlff.units import INVERSE_CM, TERAHERTZ


def phonon_error_bars(atoms: Atoms, supercell, points, primitive_matrix="P") -> Estimate:
    """Phonon frequencies of a relaxed crystal with their error bars, THz, shape (3 p q,): points one after another, ascending in each.

        found = mlff.phonon_error_bars(atoms, [3, 3, 3], [[0.5, 0.0, 0.0]]);  print(found.value, found.std)

    p atoms of the primitive cell; imaginary frequencies are negative. Those of the three motions of the whole at Γ, known to be zero,
    have no error bars. The cell is the present one. Of degenerate modes the error bars are those of the modes as they come.

    Arguments:
        atoms, supercell, primitive_matrix: as for `phonopy_of`; relaxed, of a force field that has a posterior.
        points: q, in units of the reciprocal vectors of the primitive cell, as phonopy takes them, shape (q, 3).
    Raises:
        ValueError: as for `phonopy_of`; no points, not relaxed, constraints, no posterior, or a kernel without third derivatives.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"points: expected shape (q, 3) with q from 1, received {points.shape}")
    crystal = phonopy_of(atoms, supercell, primitive_matrix)
    force_field, _, modes, curvatures = stationary_modes(atoms, "phonon_error_bars")
    cell, found = crystal.supercell, [_modes_at(crystal, q) for q in points]
    where = {"positions": cell.positions, "cell": cell.cell, "pbc": np.ones(3, dtype=bool)}
    where["numbers"] = cell.numbers if force_field.transferable else None
    values, coefficients = (np.concatenate(each) for each in zip(*found, strict=True))
    moved = np.zeros(coefficients.shape[1:])
    moved[np.arange(len(moved)), np.repeat(crystal.primitive.p2s_map, 3), np.tile(range(3), len(moved) // 3)] = 1.0
    basis = modes.T.reshape(-1, len(atoms), 3)[:, [cell.u2u_map[j] for j in cell.s2u_map]]
    slopes = np.zeros((len(values), len(cell), 3))
    if len(basis):  # of one atom a cell nothing moves
        cubic = force_field.apply(_SHIFTS, **where, arguments=(moved, coefficients, basis))
        slopes = np.tensordot(cubic * len(atoms) / len(cell) / curvatures, basis, axes=1)
    covariance = force_field.covariance(_EIGENVALUES, arguments=(moved, coefficients, slopes), **where)
    frequencies = wavenumbers(values) * INVERSE_CM / TERAHERTZ
    known = np.abs(values) <= FLAT * np.abs(values).max()
    scales = np.diag(np.where(known, 0.0, frequencies / (2.0 * np.where(known, 1.0, values))))
    return Estimate(frequencies, scales @ covariance @ scales)


def _modes_at(crystal, q: np.ndarray) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m s 3"]]:
    """Eigenvalues of the dynamical matrix, eV/Å²/u, and what the columns of the Hessian are multiplied by in them."""
    primitive, constants = crystal.primitive, crystal.force_constants
    own = np.array([primitive.p2p_map[j] for j in primitive.s2p_map])  # of an atom, the one of the primitive cell
    phases = _phases(primitive, q)
    roots = np.sqrt(np.outer(primitive.masses, primitive.masses[own]))
    lattice = np.eye(len(primitive))[own]  # (s, p)
    dynamical = np.einsum("asij,as,sb->aibj", constants, phases / roots, lattice)
    dynamical = dynamical.reshape(3 * len(primitive), -1)
    values, vectors = np.linalg.eigh((dynamical + dynamical.conj().T) / 2.0)
    of_modes = vectors.T.reshape(-1, len(primitive), 3)
    coefficients = np.einsum("mai,msj,as->maisj", of_modes.conj(), of_modes[:, own], phases / roots).real
    return values, coefficients.reshape(len(values), len(values), len(own), 3)


def _phases(primitive, q: np.ndarray) -> np.ndarray:
    """⟨exp 2πi q·(r_b − r_a)⟩ over the nearest images of atoms b of the supercell, shape (p, s)."""
    vectors, places = primitive.get_smallest_vectors()  # (count, first) of every pair (b, a)
    waves = np.exp(2j * np.pi * (vectors @ q))
    return np.array([[waves[first : first + count].mean() for count, first in of_atom] for of_atom in places]).T


def _contracted(u, x, moved, coefficients):
    """Σ C·H v over displacements v of single atoms, of every mode."""
    columns = jax.vmap(lambda v: jax.jvp(jax.grad(u), (x,), (v,))[1])(moved)
    return jnp.tensordot(coefficients, columns, axes=3)


def _eigenvalues(u, x, moved, coefficients, slopes):
    """Σ C·H v − c·∇u of every mode."""
    return _contracted(u, x, moved, coefficients) - jnp.tensordot(slopes, jax.grad(u)(x), axes=2)


def _shifts(u, x, moved, coefficients, basis):
    """How the eigenvalues change along displacements, shape (m, k)."""
    along = jax.vmap(lambda b: jax.jvp(lambda y: _contracted(u, y, moved, coefficients), (x,), (b,))[1])
    return along(basis).T


_EIGENVALUES = Operator("phonon_eigenvalues", _eigenvalues, "eV/Å²/u", ("moved", "coefficients", "slopes"))
_SHIFTS = Operator("phonon_shifts", _shifts, "eV/Å³/u", ("moved", "coefficients", "basis"))
