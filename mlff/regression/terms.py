"""One part of the kernel with the training frames under it: sides of kernel blocks, and the expansion of a solution."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlff.data.batches import Batch
from mlff.kernels.composed import Kernel
from mlff.kernels.jets import bends, image_tangents
from mlff.potentials.expansion import Channel, Part
from mlff.regression.gram import Side
from mlff.regression.observations import Labels
from mlff.regression.rows import pack, pairs


@dataclasses.dataclass
class Term:
    """One part of the kernel with the training frames' features under it, a list entry a frame.

    Attributes:
        kernel: the part.
        points: φ/ℓ of the environments, (e, D) each.
        tangents: t of every row of the frame, (e, r, D) each.
        curved: first derivatives along the coordinates that second-order labels see, (e, s, D) each.
        channels: the species channel of each environment, (e,) each.
        sizes: features of every block.
        rearranged: how an exchange of atoms rearranges features, (P, D); None where images are computed anew.
        batches: the frames themselves, for images computed anew.
    """

    kernel: Kernel
    points: list[np.ndarray]
    tangents: list[np.ndarray]
    curved: list[np.ndarray]
    channels: list[np.ndarray]
    sizes: tuple[int, ...]
    rearranged: np.ndarray | None
    batches: tuple[Batch, ...]

    @property
    def channel_count(self) -> int:
        return self.kernel.channel_count

    @property
    def _order(self) -> int:
        """Of the group of permutations; 1 for local kernels, whose sum over environments is symmetric as it is."""
        group = self.kernel.permutations_used
        return 1 if group is None else len(group)

    @property
    def computes_images(self) -> bool:
        return self._order > 1 and self.rearranged is None

    def row(self, labels: list[Labels], group: slice, channel: int) -> Side:
        """A group of frames as rows of the matrix."""
        points, values, tangents, curved = [], [], [], []
        for i in range(*group.indices(len(labels))):
            own = self.channels[i] == channel
            points.append(self.points[i][own])
            values.append(np.broadcast_to(labels[i].rows.values, (own.sum(), labels[i].size)))
            tangents.append(self.tangents[i][own])
            curved.append(self.curved[i][own])
        weights = [label.weights for label in labels[group]]
        return Side(
            _pad(points),
            _pad(values),
            _pad(tangents),
            _pad(curved),
            _pad_pairs(weights, [part.shape[1] for part in curved]),
        )

    def columns(self, labels: list[Labels], group: slice) -> list[Side]:
        """A group of frames as columns, a side for every channel; of a molecule, all its images, their mean taken."""
        own = [self.row(labels, group, channel) for channel in range(self.channel_count)]
        if self._order == 1:
            return own
        (side,) = own
        if self.computes_images:
            rows = [label.rows for label in labels[group]]
            directions, matrices = (_pad([getattr(row, name) for row in rows]) for name in ("directions", "matrices"))
            points, tangents, curved = self._images(labels, group, directions, matrices)
        else:
            points = side.points[:, 0, self.rearranged]
            tangents, curved = (
                array[:, 0][:, :, self.rearranged].transpose(0, 2, 1, 3) for array in (side.tangents, side.curved)
            )
        values = np.broadcast_to(side.values / self._order, (*points.shape[:2], side.values.shape[2]))
        return [Side(points, values, tangents / self._order, curved, side.weights / self._order)]

    def _images(self, labels: list[Labels], group: slice, directions, matrices) -> tuple[np.ndarray, ...]:
        """The images of frames that lie in one batch, (m, P, D), with the tangents of functionals d·∇ + W:∇∇ there,
        (m, P, r, D), and the derivatives that their second-order labels see, (m, P, s, D)."""
        start, stop, _ = group.indices(len(labels))
        batch, first = self._place(start)
        some = batch.take(slice(first, first + stop - start))
        outer = _pad([label.inner @ label.basis for label in labels[group]])
        points, slopes = image_tangents(self.kernel, some, np.concatenate([directions, outer], axis=1))
        tangents, curved = np.split(slopes, [directions.shape[1]], axis=2)
        for i, label in enumerate(labels[group]):
            if len(label.basis):
                k = len(label.basis)
                folded = pack(matrices[i][:, :k, :k], 2.0)
                for image, permutation in enumerate(self.kernel.group(len(batch.numbers))):
                    tangents[i, image] += folded @ bends(self.kernel, some, i, label.basis, permutation)[0].T
        return points, tangents, curved

    def _place(self, i: int) -> tuple[Batch, int]:
        """The batch of a frame, and its place there."""
        for batch in self.batches:
            if i < len(batch):
                return batch, i
            i -= len(batch)
        raise IndexError(i)

    def expand(self, labels: list[Labels], weights: np.ndarray) -> Part:
        """Contract the weights of each frame's rows into one value weight, tangent and matrix S per point."""
        own = np.split(weights, np.cumsum([label.size for label in labels])[:-1])
        kernel, order = self.kernel.bare(), self._order
        values = np.array([w @ label.rows.values for w, label in zip(own, labels, strict=True)])
        if self.computes_images:
            points, tangents, bent = self._expanded_images(labels, own)
            count = np.full(len(labels), order)
            species = np.zeros(len(points), dtype=int)
        else:
            points = np.concatenate(self.points)
            tangents = np.concatenate(
                [np.einsum("r,erd->ed", w, tangent) for w, tangent in zip(own, self.tangents, strict=True)]
            )
            bent = [_curvature(w, label, curved) for w, label, curved in zip(own, labels, self.curved, strict=True)]
            count = np.array([len(frame) for frame in self.points])
            species = np.concatenate(self.channels)
        values = np.repeat(values, count)
        owner = np.repeat(np.arange(len(labels)), count)
        curved = np.array([len(own) > 0 for _, own in bent])[owner]
        ends = np.concatenate([[0], np.cumsum(count)])
        channels = []
        for channel in range(self.channel_count):
            # points with curvature first: the expansion takes them from the front
            chosen = np.concatenate(
                [np.flatnonzero((species == channel) & (curved == first)) for first in (True, False)]
            )
            vectors, strengths = _together([(bent[owner[i]], int(i - ends[owner[i]])) for i in chosen if curved[i]])
            channels.append(
                Channel.build(
                    points[chosen],
                    tangents[chosen] / order,
                    values[chosen] / order,
                    self.sizes,
                    vectors,
                    None if strengths is None else strengths / order,
                )
            )
        images = self.rearranged if order > 1 and not self.computes_images else None
        return Part(kernel, tuple(channels), images, self.sizes)

    def _expanded_images(self, labels: list[Labels], own: list[np.ndarray]):
        """Points and tangents of all images of all frames, (m·P, D), and for every frame its images' curvature."""
        points, tangents, bent, start = [], [], [], 0
        for batch in self.batches:
            group = slice(start, start + len(batch))
            start = group.stop
            some = list(zip(own[group], labels[group], strict=True))
            directions = np.stack([w @ label.rows.directions for w, label in some])[:, None]
            matrices = _pad([np.tensordot(w, label.rows.matrices, 1)[None] for w, label in some])
            at, along, curved = self._images(labels, group, directions, matrices)
            points.append(at.reshape(-1, at.shape[-1]))
            tangents.append(along.reshape(-1, at.shape[-1]))
            bent += [
                _curvature(w, label, part[:, : len(label.inner)]) for (w, label), part in zip(some, curved, strict=True)
            ]
        return np.concatenate(points), np.concatenate(tangents), bent


def _curvature(weights: np.ndarray, labels: Labels, curved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S of every point of a frame as Σ_i σ_i u_i u_iᵀ: vectors u of shape (points, s, D), weights σ of shape (s,)."""
    s = len(labels.inner)
    matrix = np.zeros((s, s))
    first, second = pairs(s)
    matrix[first, second] = matrix[second, first] = (weights @ labels.weights) * np.where(first == second, 1.0, 0.5)
    values, vectors = np.linalg.eigh(matrix)
    return vectors.T @ curved, values


def _together(
    bent: list[tuple[tuple[np.ndarray, np.ndarray], int]],
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Vectors and weights of some points below each other, each given with its frame's and its place there."""
    if not bent:
        return None, None
    return _pad([vectors[i] for (vectors, _), i in bent]), _pad([own for (_, own), _ in bent])


def _pad(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays below each other, zeros where one is smaller than the largest."""
    shape = np.max([array.shape for array in arrays], axis=0)
    if all(array.shape == tuple(shape) for array in arrays):
        return np.stack(arrays)
    padded = np.zeros((len(arrays), *shape))
    for target, array in zip(padded, arrays, strict=True):
        target[tuple(slice(size) for size in array.shape)] = array
    return padded


def _pad_pairs(weights: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Packed symmetric matrices below each other, as the upper triangles of the largest."""
    largest, rows = max(sizes), max(len(array) for array in weights)
    padded = np.zeros((len(weights), rows, largest, largest))
    for target, array, size in zip(padded, weights, sizes, strict=True):
        first, second = pairs(size)
        target[: len(array), first, second] = array
    first, second = pairs(largest)
    return padded[..., first, second]
