"""Interatomic distances of a whole molecule, each passed through one decreasing function.

Invariant under translation, rotation and reflection; an exchange of atoms permutes the features.
"""

import jax.numpy as jnp
from jaxtyping import Float

from descriptors.geometry import Array, pair_distances


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


def exponential_distances(positions: Float[Array, "n 3"], *, decay: float | Array = 1.0) -> Float[Array, " pairs"]:
    """Exponentials of distances φ_ij = exp(−r_ij / decay) of all pairs i < j.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        decay: decay length, Å.
    Returns:
        shape (n(n−1)/2,), dimensionless.
    """
    return jnp.exp(-pair_distances(positions) / decay)
