"""Interatomic distances of a whole molecule or cell, each passed through one monotonic function.

Invariant under translation, rotation and reflection; an exchange of atoms permutes the features.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from descriptors.geometry import Array, Neighbors, environments, lengths, pair_distances, smooth_cutoff


def inverse_distances(positions: Float[Array, "n 3"]) -> Float[Array, " pairs"]:
    """Inverse distances φ_ij = 1/r_ij of all pairs i < j.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
    Returns:
        shape (n(n−1)/2,), 1/Å.
    Source: Chmiela et al., Sci. Adv. 3, e1603015 (2017), doi 10.1126/sciadv.1603015.
    """
    return 1.0 / pair_distances(positions)


def powered_distances(positions: Float[Array, "n 3"], *, power: float | Array = -1.0) -> Float[Array, " pairs"]:
    """Powers of distances φ_ij = (r_ij / Å)^power of all pairs i < j; `power` −1 are inverse distances.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        power: the exponent; negative ones resolve short distances.
    Returns:
        shape (n(n−1)/2,), dimensionless.
    """
    return pair_distances(positions) ** power


def logarithmic_distances(positions: Float[Array, "n 3"]) -> Float[Array, " pairs"]:
    """Logarithms of distances φ_ij = ln(r_ij / Å) of all pairs i < j: a stretch counts by its share of the distance.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
    Returns:
        shape (n(n−1)/2,), dimensionless.
    """
    return jnp.log(pair_distances(positions))


def exponential_distances(positions: Float[Array, "n 3"], *, decay: float | Array = 1.0) -> Float[Array, " pairs"]:
    """Exponentials of distances φ_ij = exp(−r_ij / decay) of all pairs i < j.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        decay: decay length, Å.
    Returns:
        shape (n(n−1)/2,), dimensionless.
    """
    return jnp.exp(-pair_distances(positions) / decay)


def periodic_distances(
    positions: Float[Array, "n 3"],
    cell: Float[Array, "3 3"] | None = None,
    neighbors: Neighbors | None = None,
    *,
    cutoff: float | Array,
    power: float | Array = -1.0,
) -> Float[Array, " pairs"]:
    """Powers of distances in a crystal, of every pair summed over the images within the cutoff.

        φ_ij = Σ_L (r_ijL / Å)^power f_c(r_ijL),   r_ijL = |x_j + L − x_i|,   i < j

    The sum has no seam where another image becomes the nearest, in cells of any size and shape, periodic in any of
    their directions. Energies of it have three continuous derivatives. Pairs of an atom with its own images, which only
    the cell moves, are left out.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        cell: cell vectors as rows, Å.
        neighbors: neighbour list; without it every atom sees all others, at their nearest images.
        cutoff: r_c, Å.
        power: the exponent; negative ones resolve short distances.
    Returns:
        shape (n(n−1)/2,), dimensionless; 0 for pairs further apart than the cutoff.
    """
    atoms = positions.shape[0]
    # atoms numbered by their index, as what comes back are the numbers of the neighbours; empty slots add zeros to atom 0
    vectors, other = environments(positions, np.arange(atoms), cell, neighbors, cutoff)
    r = lengths(vectors)
    terms = r**power * smooth_cutoff(r, cutoff)
    sums = jnp.zeros((atoms, atoms), dtype=terms.dtype).at[np.arange(atoms)[:, None], other].add(terms)
    return sums[np.triu_indices(atoms, k=1)]
