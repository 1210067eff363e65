"""Geometry that descriptors share: which pairs there are, and how far apart."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

Array = jax.Array | np.ndarray


def pair_distances(positions: Float[Array, "n 3"]) -> Float[Array, " pairs"]:
    """Distances r_ij = |x_i − x_j| of all pairs i < j, in the order (0,1), (0,2), …, (n−2,n−1).

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
    Returns:
        shape (n(n−1)/2,), Å. Only pairs of different atoms enter, so that the square root is smooth
        wherever no two atoms coincide.
    """
    first, second = np.triu_indices(positions.shape[0], k=1)
    difference = positions[first] - positions[second]
    return jnp.sqrt(jnp.sum(difference**2, axis=-1))
