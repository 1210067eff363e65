"""From derivatives by features and their Jacobians back to those by the arguments of descriptors."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.batching import chunk_size, map_chunks
from mlff.compiling import jit
from mlff.data.batches import Batch
from mlff.kernels.jets import column_bytes, displaced
from mlff.kernels.surroundings import surroundings

REVERSED = 4  # times what a column of a Jacobian holds, to be differentiated in reverse
FRAMES_MEMORY = 64 * 2**20  # bytes of frames that are differentiated at once
COLUMNS_MEMORY = 256 * 2**20  # of the directions of one frame


def argument_slopes(
    part,
    names: tuple[tuple[int, str], ...],
    batch: Batch,
    directions: Float[np.ndarray, "m r coordinates"],
    points: Float[np.ndarray, "m e D"],
    tangents: Float[np.ndarray, "m e r D"],
    reach: float = 0.0,
) -> list[np.ndarray]:
    """Derivatives by arguments of descriptors of a number that depends on φ/ℓ and d·∂φ/∂q/ℓ of frames: one reverse pass a frame.

    Arguments:
        part: of a kernel, a term of the sum.
        names: of the arguments: which leaf of the part, and the name that `Descriptor.named_arguments` has.
        directions: d in the coordinates of the frames.
        points, tangents: the number's derivatives by φ/ℓ and by d·∂φ/∂q/ℓ.
        reach: as of `jets`.
    """
    bare, around = part.bare(), surroundings(part.descriptors, batch, reach)
    values = tuple(bare.leaves[leaf].descriptor.named_arguments[name] for leaf, name in names)
    column = REVERSED * column_bytes((bare,), batch.numbers, batch.positions[0], around.frame(0))
    at_once = min(chunk_size(column, COLUMNS_MEMORY), 1 << (directions.shape[1] - 1).bit_length())
    size = chunk_size(column * directions.shape[1], FRAMES_MEMORY)
    function = functools.partial(_argument_slopes, bare, names, values, batch.numbers, at_once=at_once)
    sums = [np.zeros(np.shape(value)) for value in values]
    for _, slopes in map_chunks(function, (batch.positions, around, directions, points, tangents.swapaxes(1, 2)), size):
        for total, of_frames in zip(sums, slopes, strict=True):
            total += of_frames.sum(axis=0)
    return sums


@functools.partial(jit, static_argnames=("names", "at_once"))
def _argument_slopes(part, names, values, numbers, positions, around, directions, points, tangents, at_once: int):
    def number(values, x, a, bar, few, bars):
        """Of some of the directions."""
        replaced = _with_arguments(part, names, values)
        origin = jnp.zeros(few.shape[-1], x.dtype)

        def features(q):
            return displaced(replaced, numbers, x, a, q)

        along = jax.vmap(lambda direction: jax.jvp(features, (origin,), (direction,))[1])(few)
        return jnp.vdot(features(origin), bar) + jnp.vdot(along, bars)

    def single(x, a, ways, bar, bars):
        pieces = -(-len(ways) // at_once)
        split = [
            jnp.pad(each, [(0, pieces * at_once - len(each))] + [(0, 0)] * (each.ndim - 1)).reshape(
                pieces, at_once, *each.shape[1:]
            )
            for each in (ways, bars)
        ]
        slopes = jax.lax.map(lambda pair: jax.grad(number)(values, x, a, bar / pieces, *pair), tuple(split))
        return jax.tree.map(lambda each: jnp.sum(each, axis=0), slopes)

    return jax.vmap(single)(positions, around, directions, points, tangents)


def _with_arguments(part, names: tuple[tuple[int, str], ...], values: tuple):
    """The part with other values of arguments of its descriptors."""
    leaves = list(part.leaves)
    for (leaf, name), value in zip(names, values, strict=True):
        leaves[leaf] = leaves[leaf].replace(descriptor=leaves[leaf].descriptor.with_arguments({name: value}))
    return part.with_leaves(leaves)
