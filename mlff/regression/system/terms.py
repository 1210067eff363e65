"""One part of the kernel with the training frames under it: sides of kernel blocks, and the expansion of a solution."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mlff.data.batches import Batch
from mlff.kernels.jets import bends, image_tangents
from mlff.kernels.kernels import Kernel
from mlff.potentials.expansion import Channel, Part
from mlff.regression.system.gram import Side
from mlff.regression.system.observations import FrameObservations
from mlff.regression.system.rows import pack, pairs


@dataclasses.dataclass(frozen=True)
class Term:
    """One part of the kernel with the training frames' features under it, a list entry a frame.

    Attributes:
        kernel: the part.
        points: φ/ℓ of the environments, (e, D) each, up to `factors`.
        tangents: t of every row of the frame, (e, r, D) each, likewise.
        curved: first derivatives along the coordinates that second-order labels see, (e, s, D) each, likewise.
        channels: the species channel of each environment, (e,) each.
        sizes: features of every block.
        batches: the frames themselves, for images computed anew.
        rearranged: how an exchange of atoms rearranges features, (P, D); None where images are computed anew.
        factors: what features and derivatives are multiplied by: the length scale that they were computed with over that
            of `kernel`, (D,).
    """

    kernel: Kernel
    points: list[np.ndarray]
    tangents: list[np.ndarray]
    curved: list[np.ndarray]
    channels: list[np.ndarray]
    sizes: tuple[int, ...]
    batches: tuple[Batch, ...]
    rearranged: np.ndarray | None = None
    factors: Float[np.ndarray, " D"] | None = None

    @classmethod
    def empty(cls, kernel: Kernel, sizes: tuple[int, ...], batches: tuple[Batch, ...]) -> Term:
        """Without a frame yet."""
        return cls(kernel, [], [], [], [], sizes, batches)

    def append(self, points, tangents, curved, channels) -> None:
        """One frame more."""
        self.points.append(points)
        self.tangents.append(tangents)
        self.curved.append(curved)
        self.channels.append(channels)

    def take(self, places: Sequence[int] | np.ndarray, batches: tuple[Batch, ...]) -> Term:
        """With some of the frames, which are given as batches too."""
        lists = (self.points, self.tangents, self.curved, self.channels)
        points, tangents, curved, channels = ([array[i] for i in places] for array in lists)
        return dataclasses.replace(
            self, points=points, tangents=tangents, curved=curved, channels=channels, batches=batches
        )

    def followed_by(self, other: Term, batches: tuple[Batch, ...]) -> Term:
        """With other frames after these, computed with the length scales of `kernel`; given are the batches of all."""
        lists = [
            [*ours, *(theirs if self.factors is None else [array / self.factors for array in theirs])]
            for ours, theirs in zip(
                (self.points, self.tangents, self.curved), (other.points, other.tangents, other.curved), strict=True
            )
        ]
        points, tangents, curved = lists
        channels = [*self.channels, *other.channels]
        return dataclasses.replace(
            self, points=points, tangents=tangents, curved=curved, channels=channels, batches=batches
        )

    def scaled(self, kernel: Kernel) -> Term:
        """Under the same kernel with other length scales."""
        ratios = [
            np.broadcast_to(np.asarray(old.radial.lengthscale) / np.asarray(new.radial.lengthscale), size)
            for old, new, size in zip(self.kernel.leaves, kernel.leaves, self.sizes, strict=True)
        ]
        factors = np.concatenate(ratios) * (1.0 if self.factors is None else self.factors)
        return dataclasses.replace(self, kernel=kernel, factors=None if (factors == 1.0).all() else factors)

    def _in_lengthscales(self, array: np.ndarray) -> np.ndarray:
        """Features, or their derivatives, in units of the kernel's length scale."""
        return array if self.factors is None else array * self.factors

    @property
    def channel_count(self) -> int:
        return self.kernel.channel_count

    @property
    def order(self) -> int:
        """Of the group of permutations; 1 for local kernels, whose sum over environments is symmetric as it is."""
        group = self.kernel.permutations_used
        return 1 if group is None else len(group)

    @property
    def computes_images(self) -> bool:
        return self.order > 1 and self.rearranged is None

    def row(self, observations: list[FrameObservations], group: slice, channel: int) -> Side:
        """A group of frames as rows of the matrix."""
        points, values, tangents, curved = [], [], [], []
        for i in range(*group.indices(len(observations))):
            chosen = self.channels[i] == channel
            points.append(self.points[i][chosen])
            values.append(np.broadcast_to(observations[i].rows.values, (chosen.sum(), observations[i].size)))
            tangents.append(self.tangents[i][chosen])
            curved.append(self.curved[i][chosen])
        weights = [frame.weights for frame in observations[group]]
        return Side(
            self._in_lengthscales(_pad(points)),
            _pad(values),
            self._in_lengthscales(_pad(tangents)),
            self._in_lengthscales(_pad(curved)),
            _pad_pairs(weights, [part.shape[1] for part in curved]),
        )

    def columns(
        self,
        observations: list[FrameObservations],
        group: slice,
        sums: Float[np.ndarray, "n r v"] | None = None,
    ) -> list[Side]:
        """A group of frames as columns, a side for every channel; of a molecule, all its images, their mean taken.

        Arguments:
            sums: weights of the labels of every frame, whose sums are the columns in place of the labels.
        """
        sides = [self.row(observations, group, channel) for channel in range(self.channel_count)]
        if sums is not None:
            sides = [side.summed(sums) for side in sides]
        if self.order == 1:
            return sides
        (side,) = sides
        if self.computes_images:
            rows = [frame.rows for frame in observations[group]]
            directions, matrices = (_pad([getattr(row, name) for row in rows]) for name in ("directions", "matrices"))
            if sums is not None:
                directions, matrices = (np.einsum("nrv,nr...->nv...", sums, a) for a in (directions, matrices))
            points, tangents, curved = self._images(observations, group, directions, matrices)
        else:
            points = side.points[:, 0, self.rearranged]
            tangents, curved = (
                array[:, 0][:, :, self.rearranged].transpose(0, 2, 1, 3) for array in (side.tangents, side.curved)
            )
        values = np.broadcast_to(side.values / self.order, (*points.shape[:2], side.values.shape[2]))
        return [Side(points, values, tangents / self.order, curved, side.weights / self.order)]

    def _images(self, observations: list[FrameObservations], group: slice, directions, matrices) -> tuple:
        """The images of frames that lie in one batch, (m, P, D), with the tangents of functionals d·∇ + W:∇∇ there,
        (m, P, r, D), and the derivatives that their second-order labels see, (m, P, s, D)."""
        start, stop, _ = group.indices(len(observations))
        batch, first = self._place(start)
        members = batch.take(slice(first, first + stop - start))
        outer = _pad([frame.inner @ frame.basis for frame in observations[group]])
        points, slopes = image_tangents(self.kernel, members, np.concatenate([directions, outer], axis=1))
        tangents, curved = np.split(slopes, [directions.shape[1]], axis=2)
        for i, frame in enumerate(observations[group]):
            if len(frame.basis):
                k = len(frame.basis)
                folded = pack(matrices[i][:, :k, :k], 2.0)
                for image, permutation in enumerate(self.kernel.group(len(batch.numbers))):
                    tangents[i, image] += folded @ bends(self.kernel, members, i, frame.basis, permutation)[0].T
        return points, tangents, curved

    def _place(self, i: int) -> tuple[Batch, int]:
        """The batch of a frame, and its place there."""
        for batch in self.batches:
            if i < len(batch):
                return batch, i
            i -= len(batch)
        raise IndexError(i)

    def expand(self, observations: list[FrameObservations], weights: np.ndarray) -> Part:
        """Contract the weights of each frame's rows into one value weight, tangent and matrix S per point."""
        of_frames = np.split(weights, np.cumsum([frame.size for frame in observations])[:-1])
        kernel, order = self.kernel.bare(), self.order
        values = np.array([w @ frame.rows.values for w, frame in zip(of_frames, observations, strict=True)])
        if self.computes_images:
            points, tangents, curvatures = self._expanded_images(observations, of_frames)
            count = np.full(len(observations), order)
            species = np.zeros(len(points), dtype=int)
        else:
            points = self._in_lengthscales(np.concatenate(self.points))
            contracted = [np.einsum("r,erd->ed", w, t) for w, t in zip(of_frames, self.tangents, strict=True)]
            tangents = self._in_lengthscales(np.concatenate(contracted))
            curvatures = [
                _curvature(w, frame, self._in_lengthscales(curved))
                for w, frame, curved in zip(of_frames, observations, self.curved, strict=True)
            ]
            count = np.array([len(frame) for frame in self.points])
            species = np.concatenate(self.channels)
        values = np.repeat(values, count)
        owner = np.repeat(np.arange(len(observations)), count)
        curved = np.array([len(strengths) > 0 for _, strengths in curvatures])[owner]
        ends = np.concatenate([[0], np.cumsum(count)])
        channels = []
        for channel in range(self.channel_count):
            # points with curvature first: the expansion takes them from the front
            chosen = np.concatenate(
                [np.flatnonzero((species == channel) & (curved == first)) for first in (True, False)]
            )
            vectors, strengths = _together(
                [(curvatures[owner[i]], int(i - ends[owner[i]])) for i in chosen if curved[i]]
            )
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

    def _expanded_images(self, observations: list[FrameObservations], weights: list[np.ndarray]):
        """Points and tangents of all images of all frames, (m·P, D), and for every frame its images' curvature."""
        points, tangents, curvatures, start = [], [], [], 0
        for batch in self.batches:
            group = slice(start, start + len(batch))
            start = group.stop
            members = list(zip(weights[group], observations[group], strict=True))
            directions = np.stack([w @ frame.rows.directions for w, frame in members])[:, None]
            matrices = _pad([np.tensordot(w, frame.rows.matrices, 1)[None] for w, frame in members])
            at, along, curved = self._images(observations, group, directions, matrices)
            points.append(at.reshape(-1, at.shape[-1]))
            tangents.append(along.reshape(-1, at.shape[-1]))
            curvatures += [
                _curvature(w, frame, part[:, : len(frame.inner)])
                for (w, frame), part in zip(members, curved, strict=True)
            ]
        return np.concatenate(points), np.concatenate(tangents), curvatures


def _curvature(
    weights: np.ndarray, observations: FrameObservations, curved: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """S of every point of a frame as Σ_i σ_i u_i u_iᵀ: vectors u of shape (points, s, D), weights σ of shape (s,)."""
    s = len(observations.inner)
    matrix = np.zeros((s, s))
    first, second = pairs(s)
    packed = weights @ observations.weights
    matrix[first, second] = matrix[second, first] = packed * np.where(first == second, 1.0, 0.5)
    values, vectors = np.linalg.eigh(matrix)
    return vectors.T @ curved, values


def _together(
    curvatures: list[tuple[tuple[np.ndarray, np.ndarray], int]],
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Vectors and weights of some points below each other, each given with its frame's and its place there."""
    if not curvatures:
        return None, None
    return _pad([vectors[i] for (vectors, _), i in curvatures]), _pad([strengths for (_, strengths), _ in curvatures])


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
