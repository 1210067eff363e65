"""Local descriptors as functions of one environment: what an atom sees, wherever it is.

A descriptor of atoms is written as a function of a whole geometry. If all that it makes of an atom is of the atom's own row of
the neighbour list, its features are a function of the vectors to the neighbours and of their elements alone,

    φ_i = φ(z_i; v_i1, z_1; v_i2, z_2; …),      v_ik = x_j − x_i + S_ik·cell

and environments of any frames can be worked off together, in blocks of one shape. All slots k of a list have their derivative
taken at once, of every atom of a block: 3 k columns of a Jacobian in place of the 3 n of a geometry. Such a function is obtained
from the plain one by showing it a geometry in which all atoms are in one place, and the shifts of the list are the vectors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from descriptors.geometry import Environments, Neighbors
from mlff.batching import chunk_size
from mlff.compiling import jit
from mlff.data.batches import Batch
from mlff.data.cells import periodic_vectors
from mlff.data.neighbors import neighbor_lists
from mlff.kernels.surroundings import reach_of
from mlff.precision import Array, double_precision, doubled

_AGREEMENT = 1e-9  # of the size of the features
_COLUMNS = 12  # of a Jacobian at once: measured, SOAP of 54 atoms
_MEMORY = 48 * 2**20  # bytes of a block of Jacobians


def environment_features(part, centers: Integer[Array, " b"], seen: Environments) -> Float[Array, "b D"]:
    """φ/ℓ of environments, from the plain function of a geometry.

    Arguments:
        part: of a kernel, with elements.
        centers: atomic numbers of the atoms themselves, shape (b,).
        seen: vectors to the neighbours and their atomic numbers, 0 in empty slots, shapes (b, k, 3) and (b, k).
    """
    elements = jnp.asarray(part.elements, centers.dtype)
    count, slots = seen.numbers.shape
    # behind the environments stand as many atoms as there are elements, which see nobody: what a neighbour is, is read off them
    blind = len(part.elements)
    indices = jnp.where(seen.numbers > 0, count + jnp.searchsorted(elements, seen.numbers), -1)
    neighbors = Neighbors(
        jnp.concatenate([indices, jnp.full((blind, slots), -1, indices.dtype)]),
        jnp.concatenate([seen.vectors, jnp.zeros((blind, slots, 3), seen.vectors.dtype)]),
    )
    together = jnp.zeros((count + blind, 3), seen.vectors.dtype)
    numbers = jnp.concatenate([centers, elements])
    return part.features(together, numbers, jnp.eye(3, dtype=seen.vectors.dtype), neighbors)[:count]


@jit
def _features(part, centers, seen):
    return environment_features(part, centers, seen)


@jit
def _jets(part, centers, seen):
    def features(vectors):
        return environment_features(part, centers, seen._replace(vectors=vectors))

    values, along = jax.linearize(features, seen.vectors)
    columns = seen.vectors.shape[1] * 3

    def column(index):
        direction = jax.nn.one_hot(index, columns, dtype=seen.vectors.dtype).reshape(1, -1, 3)
        return along(jnp.broadcast_to(direction, seen.vectors.shape))

    return values, jax.lax.map(column, jnp.arange(columns), batch_size=_COLUMNS)


@dataclasses.dataclass(frozen=True)
class Surrounded:
    """The environments of all atoms of some frames of one composition, frame after frame.

    Attributes:
        centers: atomic numbers of the atoms, shape (e,).
        seen: what they see, shapes (e, k, 3) and (e, k).
        others: the neighbours as atoms of the frames, counted through; −1 in empty slots; shape (e, k).
        atoms: how many there are in a frame.
    """

    centers: Integer[np.ndarray, " e"]
    seen: Environments
    others: Integer[np.ndarray, "e k"]
    atoms: int

    @classmethod
    def of(cls, batch: Batch, reach: float, width: int = 0) -> Surrounded:
        """Of the frames of a batch, in lists of at least some width.

        Raises:
            ValueError: cell vectors of periodic directions that are none.
        """
        cells = periodic_vectors(batch.cells, batch.pbc, batch.index)
        lists = neighbor_lists(batch.positions, batch.cells, batch.pbc, reach, width)
        frames, atoms, slots = lists.indices.shape
        present = lists.indices >= 0
        index = np.maximum(lists.indices, 0)
        frame = np.arange(frames)[:, None, None]
        vectors = batch.positions[frame, index] - batch.positions[:, :, None] + lists.shifts @ cells[:, None]
        # as `descriptors.geometry.environments` has it: nobody is where the cutoff makes everything vanish
        vectors = np.where(present[..., None], vectors, [2.0 * reach, 0.0, 0.0])
        others = np.where(present, index + frame * atoms, -1)
        numbers = np.asarray(batch.numbers, dtype=np.int32)
        return cls(
            np.tile(numbers, frames),
            Environments(
                vectors.reshape(-1, slots, 3), np.where(present, numbers[index], 0).reshape(-1, slots).astype(np.int32)
            ),
            others.reshape(-1, slots),
            atoms,
        )

    def __len__(self) -> int:
        return len(self.centers)

    @property
    def width(self) -> int:
        """Slots of every environment."""
        return self.others.shape[1]

    def blocks(self, size: int) -> Iterator[tuple[slice, Integer[np.ndarray, " b"], Environments]]:
        """Environments in blocks of one size, with what is there of each: (which they are, centers, seen). The last block shows
        its last environment again where it has less."""
        for start in range(0, len(self), size):
            chosen = slice(start, min(start + size, len(self)))
            index = np.minimum(np.arange(start, start + size), len(self) - 1)
            yield chosen, self.centers[index], Environments(self.seen.vectors[index], self.seen.numbers[index])


def block_size(width: int, features: int, most: int) -> int:
    """Environments of a block of Jacobians: a power of two, within memory, and no more than there are."""
    within = chunk_size(8 * 3 * width * features, _MEMORY)
    return min(within, 1 << max(0, most - 1).bit_length())


def environment_values(part, surrounded: Surrounded, size: int) -> Float[np.ndarray, "e D"]:
    """φ/ℓ of all environments, in blocks of a size."""
    pieces = []
    with doubled():
        for chosen, centers, seen in surrounded.blocks(size):
            pieces.append(np.asarray(_features(part, centers, seen))[: chosen.stop - chosen.start])
    return np.concatenate(pieces)


def environment_jets(part, surrounded: Surrounded, size: int) -> Iterator:
    """Features of environments and their derivatives with respect to the vectors to the neighbours, block by block.

    Yields:
        (slice of the environments, φ/ℓ of shape (b, D), ∂φ/∂v/ℓ of shape (3 k, b, D)).
    """
    for chosen, centers, seen in surrounded.blocks(size):
        with doubled():
            values, slopes = (np.asarray(array) for array in _jets(part, centers, seen))
        there = chosen.stop - chosen.start
        yield chosen, values[:there], slopes[:, :there]


@double_precision
def sees_alone(part, batch: Batch) -> bool:
    """Whether the features of an atom are of its own neighbours alone, looked at in the first frame of a batch; where they are
    of what neighbours have come to know themselves, as in networks that pass messages, they are not."""
    if not all("neighbors" in descriptor.uses for descriptor in part.descriptors):
        return False
    one = batch.take(slice(0, 1))
    reach = reach_of(part.descriptors)
    surrounded = Surrounded.of(one, reach)
    alone = environment_values(part, surrounded, len(surrounded))
    lists = neighbor_lists(one.positions, one.cells, one.pbc, reach)
    cells = periodic_vectors(one.cells, one.pbc, one.index)
    neighbors = Neighbors(jnp.asarray(lists.indices[0]), jnp.asarray(lists.shifts[0]))
    whole = np.asarray(part.features(jnp.asarray(one.positions[0]), jnp.asarray(one.numbers), cells[0], neighbors))
    return bool(np.abs(alone - whole).max() <= _AGREEMENT * np.abs(whole).max())
