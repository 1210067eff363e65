"""Springs between all pairs of atoms, as stiff as elements and distances let expect: what is known of a molecule before a calculation.

    E(x) = ½ Σ_{i<j} K_ij (r_ij − r⁰_ij)²,     K_ij = 0.45 ρ_ij + 0.03 Σ_m ρ_im ρ_mj,     ρ_ij = exp(α_ij (R_ij² − r⁰_ij²))

in Hartree and bohr, with α and R by the rows of the periodic system. The first term are Lindh's bonds, the second stands for his
angles: the distance across an atom m that both are bound to.

Source: Lindh, Bernhardsson, Karlström, Malmqvist, Chem. Phys. Lett. 241, 423 (1995), doi 10.1016/0009-2614(95)00646-L.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from descriptors.geometry import pair_distances
from mlff.potentials.force_field import ForceField
from mlff.precision import Array
from mlff.units import ENERGIES, LENGTHS

BONDS, ACROSS = 0.45, 0.03  # Hartree/bohr²
DECAY = np.array([[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]])  # α, 1/bohr²
LENGTH = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]])  # R, bohr
ROWS = (2, 10)  # atomic numbers of the last elements of the first two rows


def springs(
    positions: Float[Array, "n 3"], *, strengths: Float[Array, " pairs"], lengths: Float[Array, " pairs"]
) -> Float[Array, ""]:
    """½ Σ K_ij (r_ij − r⁰_ij)², eV.

    Arguments:
        positions: shape (n, 3), Å.
        strengths: K of all pairs i < j, eV/Å²; lengths: r⁰, Å.
    """
    return 0.5 * jnp.sum(strengths * (pair_distances(positions) - lengths) ** 2)


def springs_around(positions: Float[np.ndarray, "n 3"], numbers) -> ForceField:
    """The springs that are at rest in a geometry, as a force field.

    Arguments:
        positions: of a molecule, Å.
        numbers: atomic numbers, shape (n,).
    """
    distances = cdist(positions, positions)
    rows = np.searchsorted(ROWS, np.asarray(numbers))
    decay, length = DECAY[np.ix_(rows, rows)], LENGTH[np.ix_(rows, rows)]
    near = np.exp(decay * (length**2 - (distances / LENGTHS["bohr"]) ** 2))
    np.fill_diagonal(near, 0.0)
    first, second = np.triu_indices(len(distances), 1)
    strengths = (BONDS * near + ACROSS * near @ near.copy()) * ENERGIES["hartree"] / LENGTHS["bohr"] ** 2
    spring = functools.partial(springs, strengths=strengths[first, second], lengths=distances[first, second])
    return ForceField.of(spring, numbers)
