"""Geometry that descriptors share: pairs, environments of atoms, and cutoff functions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

Array = jax.Array | np.ndarray


def pair_distances(positions: Float[Array, "n 3"], cell: Float[Array, "3 3"] | None = None) -> Float[Array, " pairs"]:
    """Distances r_ij = |x_i − x_j| of all pairs i < j, in the order (0,1), (0,2), …, (n−2,n−1).

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        cell: cell vectors as rows; distances are then those to the nearest image. Zeros mean no cell.
    Returns:
        shape (n(n−1)/2,), Å. Only pairs of different atoms enter, so that the square root is smooth
        wherever no two atoms coincide.
    """
    first, second = np.triu_indices(positions.shape[0], k=1)
    difference = positions[first] - positions[second]
    if cell is not None:
        difference = nearest_image(difference, cell)
    return jnp.sqrt(jnp.sum(difference**2, axis=-1))


def nearest_image(vectors: Float[Array, "*shape 3"], cell: Float[Array, "3 3"]) -> Float[Array, "*shape 3"]:
    """Vectors less the cell vectors that bring their fractional coordinates into [−½, ½].

    For vectors shorter than half the smallest height of the cell that is the nearest image; longer
    ones may have a nearer one in a skewed cell. A cell of zeros leaves them as they are.
    """
    periodic = jnp.linalg.det(cell) != 0.0
    invertible = jnp.where(periodic, cell, jnp.eye(3, dtype=cell.dtype))
    shifts = jnp.where(periodic, jnp.round(vectors @ jnp.linalg.inv(invertible)), 0.0)
    return vectors - jax.lax.stop_gradient(shifts) @ cell


class Neighbors(NamedTuple):
    """Neighbour list of fixed width: every image of an atom within the cutoff is an entry of its own.

    indices: of the neighbours, shape (n, k); −1 in empty slots.
    shifts: whole numbers of cell vectors that carry the neighbour to its image, shape (n, k, 3).
    """

    indices: Integer[Array, "*batch n k"]
    shifts: Float[Array, "*batch n k 3"]


class Environments(NamedTuple):
    """What every atom sees. Empty slots hold a vector of twice the cutoff and the number 0, which is no element:
    cutoff functions make them vanish with all derivatives, and no distance is zero.

    vectors: from the atom to its neighbours, shape (n, k, 3), Å.
    numbers: atomic numbers of the neighbours, shape (n, k).
    """

    vectors: Float[Array, "n k 3"]
    numbers: Integer[Array, "n k"]


def environments(
    positions: Float[Array, "n 3"],
    numbers: Integer[Array, " n"],
    cell: Float[Array, "3 3"] | None,
    neighbors: Neighbors | None,
    cutoff: float | Float[Array, ""],
) -> Environments:
    """The neighbours of every atom: those of the list, or without one all other atoms at their nearest image.

    Without a list, `cutoff` must not exceed half the smallest height of the cell.
    """
    numbers = jnp.asarray(numbers)
    atoms = positions.shape[0]
    if neighbors is None:
        others = np.array([[j for j in range(atoms) if j != i] for i in range(atoms)], dtype=int).reshape(atoms, -1)
        vectors = positions[others] - positions[:, None]
        return Environments(vectors if cell is None else nearest_image(vectors, cell), numbers[others])
    present = neighbors.indices >= 0
    index = jnp.maximum(neighbors.indices, 0)
    vectors = positions[index] - positions[:, None]
    if cell is not None:
        vectors = vectors + neighbors.shifts.astype(vectors.dtype) @ cell
    beyond = 2.0 * jnp.asarray(cutoff, dtype=vectors.dtype) * jnp.eye(3, dtype=vectors.dtype)[0]
    return Environments(jnp.where(present[..., None], vectors, beyond), jnp.where(present, numbers[index], 0))


def lengths(vectors: Float[Array, "*shape 3"]) -> Float[Array, "*shape"]:
    """Euclidean norms of vectors none of which is zero."""
    return jnp.sqrt(jnp.sum(vectors**2, axis=-1))


class Triangles(NamedTuple):
    """The triangles of an atom i with its pairs of neighbours j < k. Those with an empty slot have r_jk = 1 Å, as empty slots
    are all in the same place: whatever a cutoff function makes vanish is then finite with all derivatives.

    j, k: slots of the two neighbours, shape (pairs,).
    opposite: r_jk², shape (pairs,), Å².
    squares: (r_ij r_ik r_jk)², shape (pairs,), Å⁶.
    cosine: cos θ_i, shape (pairs,).
    far_cosines: cos θ_j cos θ_k, shape (pairs,).
    """

    j: Integer[np.ndarray, " pairs"]
    k: Integer[np.ndarray, " pairs"]
    opposite: Float[Array, " pairs"]
    squares: Float[Array, " pairs"]
    cosine: Float[Array, " pairs"]
    far_cosines: Float[Array, " pairs"]


def triangles(environment: Environments, r: Float[Array, " k"]) -> Triangles:
    """Every pair of neighbours of an atom, once; the cosines from the scalar product d = r_ij·r_ik,

        cos θ_i = d/(r_ij r_ik),    cos θ_j = (r_ij² − d)/(r_ij r_jk),    cos θ_k = (r_ik² − d)/(r_ik r_jk)

    Arguments:
        environment: of one atom, shapes (k, 3) and (k,).
        r: distances of the neighbours, shape (k,), Å.
    """
    vectors, numbers = environment
    j, k = np.triu_indices(len(r), k=1)
    present = (numbers[j] != 0) & (numbers[k] != 0)
    opposite = jnp.where(present, jnp.sum((vectors[j] - vectors[k]) ** 2, axis=-1), 1.0)
    product, sides = jnp.sum(vectors[j] * vectors[k], axis=-1), r[j] * r[k]
    far_cosines = (r[j] ** 2 - product) * (r[k] ** 2 - product) / (sides * opposite)
    return Triangles(j, k, opposite, sides**2 * opposite, product / sides, far_cosines)


def one_hot(numbers: Integer[Array, "*shape"], elements: tuple[int, ...], dtype=float) -> Float[Array, "*shape z"]:
    """1 in the channel of each atom's element, shape (…, len(elements)); zeros for elements that are not listed."""
    numbers = jnp.asarray(numbers)
    return (numbers[..., None] == jnp.asarray(elements, numbers.dtype)).astype(dtype)


def pair_channels(channels: Float[Array, "k z"]) -> Float[Array, "pairs zz"]:
    """1 in the channel of the two elements of each pair j < k, whichever of them comes first."""
    j, k = np.triu_indices(channels.shape[0], k=1)
    p, q = np.triu_indices(channels.shape[1])
    first, second = channels[j], channels[k]
    ordered = first[:, p] * second[:, q]
    return ordered + jnp.where(p == q, 0.0, first[:, q] * second[:, p])


def smooth_cutoff(r: Float[Array, "*shape"], cutoff: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """f = 1 − 35x⁴ + 84x⁵ − 70x⁶ + 20x⁷ with x = r/r_c, 0 beyond r_c; three continuous derivatives everywhere."""
    x = jnp.minimum(r / cutoff, 1.0)
    return 1.0 + x**4 * (-35.0 + x * (84.0 + x * (-70.0 + 20.0 * x)))


def cosine_cutoff(r: Float[Array, "*shape"], cutoff: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """f = ½(1 + cos πr/r_c), 0 beyond r_c; its second derivative jumps there, so a Hessian does too.

    Source: Behler, J. Chem. Phys. 134, 074106 (2011), doi 10.1063/1.3553717.
    """
    return 0.5 * (1.0 + jnp.cos(np.pi * jnp.minimum(r / cutoff, 1.0)))


CUTOFFS = {"smooth": smooth_cutoff, "cosine": cosine_cutoff}
