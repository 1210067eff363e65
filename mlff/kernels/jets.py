"""Training frames carried to descriptor space: features, their first and second derivatives, at every permuted image.

The coordinates q of a frame are the displacements of its atoms and, where stresses are wanted, the nine entries of a strain:
x → (x + q) (1 + ε), cell → cell (1 + ε).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.batching import chunk_size, map_chunks, working_bytes
from mlff.compiling import jit
from mlff.data.batches import Batch
from mlff.kernels.kernels import GlobalKernel, Kernel
from mlff.kernels.radial import RBF
from mlff.kernels.surroundings import Surroundings, surroundings
from mlff.precision import double_precision

_MEMORY = 64 * 2**20
_UNIT = 1e-9  # of the length of features
_COLUMNS_MEMORY = 512 * 2**20  # of the arrays inside of one descriptor, for all columns of a Jacobian at once


def _shapes(part, numbers, positions, around: Surroundings) -> tuple[tuple[int, int], ...]:
    """Of the features of every block of one part: (environments, features)."""
    return _traced_shapes(*_abstract((part, numbers, positions[0], around.frame(0))))


@functools.lru_cache(maxsize=256)
@double_precision
def _traced_shapes(structure, leaves: tuple) -> tuple[tuple[int, int], ...]:
    def blocks(*arrays):
        part, numbers, x, around = jax.tree.unflatten(structure, arrays)
        return part.feature_blocks(x, numbers, *around)

    return tuple(result.shape for result in jax.eval_shape(blocks, *leaves))


def _abstract(tree) -> tuple:
    """Structure, and shapes and types of the arrays: what a trace depends on."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.ShapeDtypeStruct(np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves)


@double_precision
def feature_shape(descriptor, batch: Batch) -> tuple[int, ...]:
    """The shape of what a descriptor returns for the first frame of a batch."""
    leaf = GlobalKernel(descriptor, RBF(lengthscale=1.0)).completed(batch.numbers)
    first = surroundings(leaf.descriptors, batch.take(slice(0, 1))).frame(0)
    return jax.eval_shape(lambda x: leaf.descriptor(x, batch.numbers, *first), batch.positions[0]).shape


def block_sizes(part, batch: Batch) -> tuple[int, ...]:
    """How many features each block of one part has: one block, or one for every factor of a product."""
    one = batch.take(slice(0, 1))
    return tuple(shape[1] for shape in _shapes(part, one.numbers, one.positions, surroundings(part.descriptors, one)))


def displaced(part, numbers, x, around: Surroundings, q, permutation=None):
    """Features at the coordinates q of a frame, of its image where a permutation is given."""
    moved = x + q[: x.size].reshape(x.shape)
    if q.size > x.size:
        deformation = jnp.eye(3) + q[x.size :].reshape(3, 3)
        moved, around = moved @ deformation, around.strained(deformation)
    if permutation is None:
        return part.features(moved, numbers, *around)
    return part.features(moved[permutation], numbers, *around.exchanged(permutation))


@jit
def _values(parts, numbers, positions, around):
    return jax.vmap(lambda x, a: tuple(part.features(x, numbers, *a) for part in parts))(positions, around)


def feature_values(kernel: Kernel, batch: Batch) -> tuple[Float[np.ndarray, "m e D"], ...]:
    """Features φ/ℓ of all frames of a batch, without derivatives: an array for every part of the kernel."""
    parts = tuple(part.bare() for part in kernel.parts)
    around = surroundings(kernel.descriptors, batch)
    size = chunk_size(column_bytes(parts, batch.numbers, batch.positions[0], around.frame(0)), _MEMORY)
    function = functools.partial(_values, parts, batch.numbers)
    pieces = [piece for _, piece in map_chunks(function, (batch.positions, around), size)]
    return tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))


def require_unit_length(kernel: Kernel, batch: Batch) -> None:
    """Refuse features that are not of length 1 under radial functions that take no others, as the first of some frames has them.

    Raises:
        ValueError: naming the descriptor.
    """
    for leaf in kernel.leaves:
        if leaf.radial.of_unit_length:
            bare = leaf.replace(radial=leaf.radial.replace(lengthscale=1.0), amplitude=None)
            (features,) = feature_values(bare, batch.take(slice(0, 1)))
            lengths = np.linalg.norm(features, axis=-1)
            if not np.allclose(lengths, 1.0, rtol=0.0, atol=_UNIT):
                raise ValueError(
                    f"descriptor {leaf.descriptor.name} has features of length {lengths.min():.3g} to {lengths.max():.3g}, "
                    f"{leaf.radial.label} takes length 1 alone; divide them by their norm (soap: normalised=True), or take RBF()"
                )


@functools.partial(jit, static_argnames=("coordinates", "forward", "at_once"))
def _jets(parts, numbers, positions, around, coordinates: int, forward: bool, at_once: int):
    def single(x, a):
        def features(q):
            return tuple(displaced(part, numbers, x, a, q) for part in parts)

        origin = jnp.zeros(coordinates, x.dtype)
        if forward and at_once < coordinates:
            return features(origin), _by_columns(features, origin, at_once)
        return features(origin), (jax.jacfwd if forward else jax.jacrev)(features)(origin)

    return jax.vmap(single)(positions, around)


def _by_columns(features, origin, at_once: int):
    """The Jacobian, some columns after the other: what lies between is as large as the descriptor's own arrays for each."""

    def column(direction):
        return jax.jvp(features, (origin,), (direction,))[1]

    columns = jax.lax.map(column, jnp.eye(len(origin), dtype=origin.dtype), batch_size=at_once)
    return tuple(jnp.moveaxis(part, 0, -1) for part in columns)


def column_bytes(parts, numbers, x, around) -> int:
    """Of the arrays between the coordinates of a frame and its features' derivatives along one of them."""
    return _traced_column_bytes(*_abstract((parts, numbers, x, around)))


@functools.lru_cache(maxsize=256)
@double_precision
def _traced_column_bytes(structure, leaves: tuple) -> int:
    def column(*arrays):
        parts, numbers, x, around = jax.tree.unflatten(structure, arrays)

        def features(q):
            return tuple(displaced(part, numbers, x, around, q) for part in parts)

        return jax.jvp(features, (jnp.zeros(x.size),), (jnp.ones(x.size),))

    return working_bytes(column, *leaves)


def jets(kernel: Kernel, batch: Batch, coordinates: int | None = None, reach: float = 0.0) -> Iterator:
    """Features and Jacobians of frames, chunk by chunk, by whichever mode of differentiation costs less.

    Arguments:
        coordinates: 3n (without it), or 3n + 9 with the strain.
        reach: of the neighbour lists, where they are to hold more than the descriptors see, Å.
    Yields:
        (slice of frames, (φ/ℓ of shape (frames, e, D), ∂φ/∂q/ℓ of shape (frames, e, D, coordinates)), each a tuple over
        the parts of the kernel with its e environments).
    """
    parts = tuple(part.bare() for part in kernel.parts)
    around = surroundings(kernel.descriptors, batch, reach)
    coordinates = coordinates or batch.positions[0].size
    shapes = [_shapes(part, batch.numbers, batch.positions, around) for part in parts]
    outputs = sum(e * size for part in shapes for e, size in part)
    forward = coordinates <= outputs
    first = around.frame(0)
    at_once = chunk_size(column_bytes(parts, batch.numbers, batch.positions[0], first), _COLUMNS_MEMORY)
    size = chunk_size(8 * 4 * outputs * coordinates, _MEMORY) if at_once >= coordinates else 1
    function = functools.partial(
        _jets, parts, batch.numbers, coordinates=coordinates, forward=forward, at_once=min(at_once, coordinates)
    )
    yield from map_chunks(function, (batch.positions, around), size)


@jit
def _image_tangents(part, group, numbers, positions, around, directions):
    def image(permutation, x, a, displacements):
        def features(q):
            return displaced(part, numbers, x, a, q, permutation)[0]

        origin = jnp.zeros(displacements.shape[-1], x.dtype)
        along = jax.vmap(lambda displacement: jax.jvp(features, (origin,), (displacement,))[1])
        return features(origin), along(displacements)

    over_group = jax.vmap(image, in_axes=(0, None, None, None))
    return jax.vmap(over_group, in_axes=(None, 0, 0, 0))(group, positions, around, directions)


def image_tangents(
    part, batch: Batch, directions: Float[np.ndarray, "m rows coordinates"]
) -> tuple[Float[np.ndarray, "m P D"], Float[np.ndarray, "m P rows D"]]:
    """Features of all permuted images of frames under a global kernel, and their derivatives along directions.

    Arguments:
        directions: in the coordinates of the frames themselves, shape (m, rows, coordinates).
    Returns:
        φ(p x)/ℓ, shape (m, P, D); d·∂φ(p x)/∂q/ℓ, shape (m, P, rows, D).
    """
    group = part.group(len(batch.numbers))
    bare, around = part.bare(), surroundings(part.descriptors, batch)
    features = sum(size for _, size in _shapes(bare, batch.numbers, batch.positions, around))
    size = chunk_size(8 * 2 * len(group) * features * directions.shape[1], _MEMORY)
    function = functools.partial(_image_tangents, bare, group, batch.numbers)
    points = np.empty((len(batch), len(group), features))
    tangents = np.empty((len(batch), len(group), directions.shape[1], features))
    for piece, result in map_chunks(function, (batch.positions, around, directions), size):
        points[piece], tangents[piece] = result
    return points, tangents


@functools.partial(jit, static_argnames="at_once")
def _bends(part, numbers, x, around, basis, first, second, permutation, at_once: int):
    def features(q):
        return displaced(part, numbers, x, around, q, permutation)

    def bend(pair):
        def slope(q):
            return jax.jvp(features, (q,), (basis[pair[0]],))[1]

        return jax.jvp(slope, (jnp.zeros(basis.shape[1], x.dtype),), (basis[pair[1]],))[1]

    return jax.lax.map(bend, (first, second), batch_size=at_once)


@double_precision
def bends(
    part, batch: Batch, i: int, basis: Float[np.ndarray, "k coordinates"], permutation: np.ndarray | None = None
) -> Float[np.ndarray, "e D pairs"]:
    """Second derivatives ∂²φ/∂q²/ℓ of one frame along all pairs of a basis of its coordinates, forward over forward.

    Arguments:
        basis: directions, shape (k, coordinates).
        permutation: of the image of the frame, shape (n,); None for the frame itself.
    Returns:
        shape (e, D, k(k+1)/2), pairs as the upper triangle of a matrix, row by row.
    """
    bare, one = part.bare(), batch.take([i])
    around = surroundings(part.descriptors, one)
    outputs = sum(e * size for e, size in _shapes(bare, one.numbers, one.positions, around))
    first, second = np.triu_indices(len(basis))
    at_once = min(len(first), chunk_size(8 * 8 * outputs, _MEMORY))
    first_frame = around.frame(0)
    permutation = None if permutation is None else jnp.asarray(permutation)
    result = _bends(bare, one.numbers, one.positions[0], first_frame, basis, first, second, permutation, at_once)
    return np.asarray(result).transpose(1, 2, 0)
