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
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from descriptors.geometry import Environments, Neighbors
from mlff.batching import chunk_size
from mlff.compiling import UNOPTIMISED, jit
from mlff.data.batches import Batch, LabelledFrames
from mlff.data.cells import periodic_vectors
from mlff.data.neighbors import neighbor_lists
from mlff.kernels.jets import block_sizes, feature_values
from mlff.kernels.surroundings import reach_of, surrounded
from mlff.precision import Array, double_precision, doubled

_AGREEMENT = 1e-9  # of the size of the features
_COLUMNS = 12  # of a Jacobian at once: measured, SOAP of 54 atoms
_STEP = 8  # of the slots of blocks
_MEMORY = 48 * 2**20  # bytes of a block of Jacobians
_CANDIDATES = 512 * 2**20  # bytes of environments that are looked through at once
ENVIRONMENTS = 128  # whose frames are looked at together


def environment_features(
    part, centers: Integer[Array, " b"], seen: Environments, channel: int | None = None
) -> Float[Array, "b D"]:
    """φ/ℓ of environments, from the plain function of a geometry.

    Arguments:
        part: of a kernel, with elements.
        centers: atomic numbers of the atoms themselves, shape (b,).
        seen: vectors to the neighbours and their atomic numbers, 0 in empty slots, shapes (b, k, 3) and (b, k).
        channel: of all of them, where they are of one element.
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
    where = together, numbers, jnp.eye(3, dtype=seen.vectors.dtype), neighbors
    if channel is None:
        return part.features(*where)[:count]
    places = [np.arange(count if k == channel else 0) for k in range(blind)]
    return part.channel_features(places, *where)[channel]


@jit
def _features(part, centers, seen):
    return environment_features(part, centers, seen)


# looked at once, so compiled quickly
@functools.partial(jax.jit, compiler_options=UNOPTIMISED)
def _whole(part, positions, numbers, cell, neighbors):
    return part.features(positions, numbers, cell, neighbors)


@functools.partial(jax.jit, compiler_options=UNOPTIMISED)
def _apart(part, centers, seen):
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
    """The environments of all atoms of some frames, frame after frame.

    Attributes:
        centers: atomic numbers of the atoms, shape (e,).
        seen: what they see, shapes (e, k, 3) and (e, k).
        others: the neighbours, counted through all frames; −1 in empty slots; shape (e, k).
        sizes: how many atoms every frame has.
    """

    centers: Integer[np.ndarray, " e"]
    seen: Environments
    others: Integer[np.ndarray, "e k"]
    sizes: Integer[np.ndarray, " f"]

    @classmethod
    def of(cls, batches: Sequence[Batch], reach: float) -> Surrounded:
        """Of the frames of some batches.

        Raises:
            ValueError: cell vectors of periodic directions that are none.
        """
        return cls._joined([cls._of_one(batch, reach) for batch in batches])

    @classmethod
    def _of_one(cls, batch: Batch, reach: float) -> Surrounded:
        cells = periodic_vectors(batch.cells, batch.pbc, batch.index)
        lists = neighbor_lists(batch.positions, batch.cells, batch.pbc, reach)
        frames, atoms, slots = lists.indices.shape
        present = lists.indices >= 0
        index = np.maximum(lists.indices, 0)
        frame = np.arange(frames)[:, None, None]
        vectors = batch.positions[frame, index] - batch.positions[:, :, None] + lists.shifts @ cells[:, None]
        # as `descriptors.geometry.environments` has it: nobody is where the cutoff makes everything vanish
        vectors = np.where(present[..., None], vectors, [2.0 * reach, 0.0, 0.0])
        others = np.where(present, index + frame * atoms, -1)
        numbers = np.asarray(batch.numbers, dtype=np.int32)
        species = np.where(present, numbers[index], 0).reshape(-1, slots).astype(np.int32)
        seen = Environments(vectors.reshape(-1, slots, 3), species)
        return cls(np.tile(numbers, frames), seen, others.reshape(-1, slots), np.full(frames, atoms))

    @classmethod
    def _joined(cls, parts: Sequence[Surrounded]) -> Surrounded:
        if len(parts) == 1:
            return parts[0]
        width = max(part.width for part in parts)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        nobody = next(part.seen.vectors[:1, -1:] for part in parts if part.width == width)  # one slot is always empty
        vectors, numbers, others = [], [], []
        for part, start in zip(parts, starts, strict=False):
            wider = width - part.width
            filled = np.broadcast_to(nobody, (len(part), wider, 3))
            vectors.append(np.concatenate([part.seen.vectors, filled], axis=1))
            numbers.append(np.pad(part.seen.numbers, ((0, 0), (0, wider))))
            shifted = np.where(part.others >= 0, part.others + start, -1)
            others.append(np.pad(shifted, ((0, 0), (0, wider)), constant_values=-1))
        return cls(
            np.concatenate([part.centers for part in parts]),
            Environments(np.concatenate(vectors), np.concatenate(numbers)),
            np.concatenate(others),
            np.concatenate([part.sizes for part in parts]),
        )

    @functools.cached_property
    def frames(self) -> Integer[np.ndarray, " e"]:
        """The frame of every environment."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def __len__(self) -> int:
        return len(self.centers)

    @property
    def width(self) -> int:
        """Slots of every environment."""
        return self.others.shape[1]

    def blocks(
        self, size: int, chosen: Integer[np.ndarray, " c"] | None = None
    ) -> Iterator[tuple[Integer[np.ndarray, " b"], Integer[np.ndarray, " s"], Environments]]:
        """Some environments, or all, in blocks of one size: (which they are, centers, seen).

        Those with the fewest neighbours come first, and blocks have no more slots than theirs need, in steps of 8. The last one
        shows its last environment again where it has less.
        """
        chosen = np.arange(len(self)) if chosen is None else chosen
        counts = np.sum(self.others[chosen] >= 0, axis=1)
        order = np.argsort(counts, kind="stable") if len(chosen) > size else np.arange(len(chosen))
        for start in range(0, len(chosen), size):
            here = order[start : start + size]
            width = min(self.width, _STEP * (1 + int(counts[here].max()) // _STEP))
            index = chosen[here]
            filled = np.pad(index, (0, size - len(index)), mode="edge")
            yield (
                index,
                self.centers[filled],
                Environments(self.seen.vectors[filled, :width], self.seen.numbers[filled, :width]),
            )


def grouped(frames: LabelledFrames, atoms: int) -> Iterator[tuple[Batch, ...]]:
    """All frames in their order, in groups with about so many atoms, or of one frame."""
    group, filled = [], 0
    for batch in frames.batches:
        start, size = 0, len(batch.numbers)
        while start < len(batch):
            taken = min(len(batch) - start, max(1, (atoms - filled) // size))
            group.append(batch.take(slice(start, start + taken)))
            start, filled = start + taken, filled + taken * size
            if filled + size > atoms:
                yield tuple(group)
                group, filled = [], 0
    if group:
        yield tuple(group)


def block_size(width: int, features: int, most: int) -> int:
    """Environments of a block of Jacobians: a power of two, within memory, and no more than there are."""
    within = chunk_size(8 * 3 * width * features, _MEMORY)
    return min(within, 1 << max(0, most - 1).bit_length())


def environment_values(part, surrounded: Surrounded, size: int) -> Float[np.ndarray, "e D"]:
    """φ/ℓ of all environments, in blocks of a size."""
    found = None
    for index, centers, seen in surrounded.blocks(size):
        with doubled():
            values = np.asarray(_features(part, centers, seen))
        found = np.empty((len(surrounded), values.shape[1])) if found is None else found
        found[index] = values[: len(index)]
    return found


def features_in(
    part, batches: Sequence[Batch], alone: bool
) -> tuple[Float[np.ndarray, "e D"], Integer[np.ndarray, " e"]]:
    """φ/ℓ of all atoms of some frames, and the channels that they are of.

    Arguments:
        part: of a kernel, with elements.
        alone: whether it `sees_alone`.
    """
    if alone:
        values = environment_values(part, Surrounded.of(batches, reach_of(part.descriptors)), ENVIRONMENTS)
    else:
        of_batches = [feature_values(part, batch)[0] for batch in batches]
        values = np.concatenate([of_batch.reshape(-1, of_batch.shape[-1]) for of_batch in of_batches])
    return values, np.concatenate([np.tile(part.channels(batch.numbers), len(batch)) for batch in batches])


def environments_by_element(part, frames: LabelledFrames, alone: bool, generator) -> list[Float[np.ndarray, "_ D"]]:
    """φ/ℓ of the environments of every element in the frames; of a share of them, drawn, where all would take too much memory.

    Arguments:
        part: of a kernel, with elements.
        alone: whether it `sees_alone`.
        generator: NumPy's, of random numbers.
    """
    features = block_sizes(part, frames.batches[0])
    atoms = sum(len(batch) * len(batch.numbers) for batch in frames.batches)
    share = _CANDIDATES / (8 * sum(features) * atoms)
    found: list[list[np.ndarray]] = [[] for _ in range(part.channel_count)]
    for group in grouped(frames, ENVIRONMENTS):
        values, channels = features_in(part, group, alone)
        taken = generator.random(len(values)) < share
        for channel, of_channel in enumerate(found):
            of_channel.append(values[(channels == channel) & taken])
    return [np.concatenate(of_channel) for of_channel in found]


def environment_jets(part, surrounded: Surrounded, size: int) -> Iterator:
    """Features of environments and their derivatives with respect to the vectors to the neighbours, block by block.

    Yields:
        (which environments, (b,); φ/ℓ, (b, D); ∂φ/∂v/ℓ of the first of their slots, the others are empty, (3 k, b, D)).
    """
    for index, centers, seen in surrounded.blocks(size):
        with doubled():
            values, slopes = (np.asarray(array) for array in _jets(part, centers, seen))
        yield index, values[: len(index)], slopes[:, : len(index)]


@double_precision
def sees_alone(part, batch: Batch) -> bool:
    """Whether the features of an atom are of its own neighbours alone, looked at in the first frame of a batch; where they are
    of what neighbours have come to know themselves, as in networks that pass messages, they are not."""
    if not all("neighbors" in descriptor.uses for descriptor in part.descriptors):
        return False
    one = batch.take(slice(0, 1))
    reach = reach_of(part.descriptors)
    apart = Surrounded.of((one,), reach)
    alone = np.asarray(_apart(part, apart.centers, apart.seen))
    around = surrounded(one, reach, len(one.numbers)).frame(0)
    whole = np.asarray(_whole(part, one.positions[0], one.numbers, *around))
    return bool(np.abs(alone - whole).max() <= _AGREEMENT * np.abs(whole).max())
