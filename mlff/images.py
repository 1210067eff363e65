"""Training frames carried to descriptor space: features, Jacobians, and tangents at every permuted image."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float

from mlff.batching import chunk_size, map_chunks
from mlff.kernels import GlobalKernel
from mlff.precision import double_precision

_MEMORY = 64 * 2**20


@double_precision
def _feature_shape(kernel: GlobalKernel, positions, numbers, cells) -> tuple[int, ...]:
    return jax.eval_shape(kernel.features, positions[0], numbers, cells[0]).shape


@functools.partial(jax.jit, static_argnames="forward")
def _jets(kernel: GlobalKernel, numbers, positions, cells, forward: bool):
    def single(x, cell):
        def features(flat):
            return kernel.features(flat.reshape(x.shape), numbers, cell)

        return features(x.ravel()), (jax.jacfwd if forward else jax.jacrev)(features)(x.ravel())

    return jax.vmap(single)(positions, cells)


def jets(kernel: GlobalKernel, positions: Float[np.ndarray, "m n 3"], numbers, cells) -> Iterator:
    """Features and Jacobians of frames, chunk by chunk, by whichever mode of differentiation costs less.

    Yields:
        (slice of frames, (φ/ℓ of shape (frames, D), ∂φ/∂x/ℓ of shape (frames, D, 3n))).
    """
    coordinates = positions[0].size
    features = _feature_shape(kernel, positions, numbers, cells)
    if len(features) != 1:
        raise ValueError(
            f"descriptor {kernel.descriptor.name} returns an array of shape {features}; "
            "a global kernel takes one vector for the whole molecule, shape (D,)"
        )
    forward = coordinates <= features[0]
    size = chunk_size(8 * 4 * features[0] * coordinates, _MEMORY)
    function = functools.partial(_jets, kernel.bare(), numbers, forward=forward)
    yield from map_chunks(function, (positions, cells), size)


@jax.jit
def _image_tangents(kernel: GlobalKernel, group, numbers, positions, cells, directions):
    def image(permutation, x, cell, displacements):
        def features(y):
            return kernel.features(y[permutation], numbers, cell)

        def along(displacement):
            return jax.jvp(features, (x,), (displacement.reshape(x.shape),))[1]

        return features(x), jax.vmap(along)(displacements)

    over_group = jax.vmap(image, in_axes=(0, None, None, None))
    return jax.vmap(over_group, in_axes=(None, 0, 0, 0))(group, positions, cells, directions)


def image_tangents(
    kernel: GlobalKernel,
    positions: Float[np.ndarray, "m n 3"],
    numbers,
    cells,
    directions: Float[np.ndarray, "m rows coordinates"],
) -> tuple[Float[np.ndarray, "m P D"], Float[np.ndarray, "m P rows D"]]:
    """Features of all permuted images of frames, and their derivatives along directions of the frames.

    Arguments:
        directions: in the coordinates of the frames themselves, shape (m, rows, 3n).
    Returns:
        φ(p x)/ℓ, shape (m, P, D); d·∂φ(p x)/∂x/ℓ, shape (m, P, rows, D).
    """
    group = kernel.group(positions.shape[1])
    (features,) = _feature_shape(kernel, positions, numbers, cells)
    size = chunk_size(8 * 2 * len(group) * features * directions.shape[1], _MEMORY)
    function = functools.partial(_image_tangents, kernel.bare(), group, numbers)
    points = np.empty((len(positions), len(group), features))
    tangents = np.empty((len(positions), len(group), directions.shape[1], features))
    for piece, result in map_chunks(function, (positions, cells, directions), size):
        points[piece], tangents[piece] = result
    return points, tangents
