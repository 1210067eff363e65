"""Labelled frames carried to descriptor space: the rows of the linear system, and what each does to the features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from mlff.exchange import feature_permutations
from mlff.expansion import Channel, Part
from mlff.gram import Side
from mlff.images import block_sizes, image_tangents, jets
from mlff.kernels import Kernel
from mlff.labelled import Batch, LabelledFrames
from mlff.linalg.threads import map_threads
from mlff.operators import Rows, energy_rows, force_rows, stack


@dataclasses.dataclass
class Term:
    """One part of the kernel with the training frames' features under it, a list entry a frame.

    Attributes:
        kernel: the part.
        points: φ/ℓ of the environments, (e, D) each.
        tangents: what each row of the frame does to them, (e, r, D) each.
        channels: the species channel of each environment, (e,) each.
        sizes: features of every block.
        rearranged: how an exchange of atoms rearranges features, (P, D); None where images are computed anew.
        batches: the frames themselves, for images computed anew.
    """

    kernel: Kernel
    points: list[np.ndarray]
    tangents: list[np.ndarray]
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
    def _computes_images(self) -> bool:
        return self._order > 1 and self.rearranged is None

    def row(self, rows: list[Rows], group: slice, channel: int) -> Side:
        """A group of frames as rows of the matrix."""
        points, values, tangents = [], [], []
        for i in range(*group.indices(len(rows))):
            own = self.channels[i] == channel
            points.append(self.points[i][own])
            values.append(np.broadcast_to(rows[i].values, (own.sum(), len(rows[i].values))))
            tangents.append(self.tangents[i][own])
        return Side(_pad(points), _pad(values), _pad(tangents))

    def columns(self, rows: list[Rows], group: slice) -> list[Side]:
        """A group of frames as columns, a side for every channel; of a molecule, all its images, their mean taken."""
        own = [self.row(rows, group, channel) for channel in range(self.channel_count)]
        if self._order == 1:
            return own
        ((points, values, tangents),) = own
        if self._computes_images:
            points, tangents = self._images(group, _pad([row.directions for row in rows[group]]))
        else:
            points = points[:, 0, self.rearranged]
            tangents = tangents[:, 0][:, :, self.rearranged].transpose(0, 2, 1, 3)
        values = np.broadcast_to(values / self._order, (*points.shape[:2], values.shape[2]))
        return [Side(points, values, tangents / self._order)]

    def _images(self, group: slice, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Global kernels take frames of one composition, so there is one batch."""
        (batch,) = self.batches
        return image_tangents(self.kernel, batch.take(group), directions)

    def expand(self, rows: list[Rows], weights: np.ndarray) -> Part:
        """Contract the weights of each frame's rows into one value weight and one tangent per point."""
        per_frame = np.split(weights, np.cumsum([len(row.labels) for row in rows])[:-1])
        values = np.array([w @ row.values for w, row in zip(per_frame, rows, strict=True)])
        kernel = self.kernel.bare()
        if self._computes_images:
            directions = np.stack([w @ row.directions for w, row in zip(per_frame, rows, strict=True)])[:, None]
            points, tangents = self._images(slice(None), directions)
            flat = [array.reshape(-1, points.shape[-1]) for array in (points, tangents / self._order)]
            channel = Channel.build(*flat, np.repeat(values / self._order, self._order), self.sizes)
            return Part(kernel, (channel,), None, self.sizes)
        points = np.concatenate(self.points)
        tangents = np.concatenate(
            [np.einsum("r,erd->ed", w, tangent) for w, tangent in zip(per_frame, self.tangents, strict=True)]
        )
        values = np.repeat(values, [len(points) for points in self.points])
        species = np.concatenate(self.channels)
        channels = tuple(
            Channel.build(points[own], tangents[own] / self._order, values[own] / self._order, self.sizes)
            for own in (species == channel for channel in range(self.channel_count))
        )
        counts = (0,) * len(channels) if hasattr(kernel, "elements") and kernel.elements is not None else None
        return Part(kernel, channels, self.rearranged if self._order > 1 else None, self.sizes, counts)


@dataclasses.dataclass
class Carried:
    """The rows of all frames, in the order of the batches, and the terms of the kernel."""

    rows: list[Rows]
    terms: list[Term]


def carry(
    kernel: Kernel, frames: LabelledFrames, noise: Mapping[str, float], progress: Callable[[str, float], None]
) -> Carried:
    """Features, tangents and rows of all frames.

    Raises:
        ValueError: a descriptor or its first derivative is not finite.
    """
    terms = [
        Term(part, [], [], [], block_sizes(part, frames.batches[0]), None, frames.batches) for part in kernel.parts
    ]
    rows: list[Rows] = []
    for batch in frames.batches:
        channels = [part.channels(batch.numbers) for part in kernel.parts]
        for piece, (features, jacobians) in jets(kernel, batch):
            _require_finite(kernel, batch.index[piece], features, jacobians)
            progress("descriptors", (len(rows) + piece.stop - piece.start) / len(frames))

            def rows_and_tangents(k: int, piece=piece, jacobians=jacobians, batch=batch):
                own = [jacobian[k] for jacobian in jacobians]
                found = _rows(batch, piece.start + k, noise, own)
                return found, [found.directions @ jacobian.transpose(0, 2, 1) for jacobian in own]

            for k, (found, tangents) in enumerate(map_threads(rows_and_tangents, range(piece.stop - piece.start))):
                rows.append(found)
                for term, tangent, feature, channel in zip(terms, tangents, features, channels, strict=True):
                    term.points.append(feature[k])
                    term.tangents.append(tangent)
                    term.channels.append(channel)
    for term in terms:
        if term.kernel.permutations_used is not None:
            term.rearranged = feature_permutations(term.kernel, frames.batches[0])
    return Carried(rows, terms)


def _rows(batch: Batch, i: int, noise: Mapping[str, float], jacobians: list[np.ndarray]) -> Rows:
    """The labels of one frame as rows."""
    coordinates, parts = batch.positions[i].size, []
    if "energy" in noise:
        parts.append(energy_rows(batch.labels["energy"][i], noise["energy"], coordinates))
    if "forces" in noise:
        stacked = np.concatenate([jacobian.reshape(-1, coordinates) for jacobian in jacobians])
        parts.append(force_rows(batch.labels["forces"][i], noise["forces"], stacked))
    return stack(parts)


def _require_finite(kernel: Kernel, index: np.ndarray, features, jacobians) -> None:
    for leaf_part, values, slopes in zip(kernel.parts, features, jacobians, strict=True):
        broken = ~(np.isfinite(values).all(axis=(1, 2)) & np.isfinite(slopes).all(axis=(1, 2, 3)))
        if broken.any():
            raise ValueError(
                f"descriptor {leaf_part.leaves[0].descriptor.name} or its first derivative is not finite at training frame "
                f"{index[int(np.argmax(broken))]}; guard its square roots, norms and divisions there"
            )


def _pad(arrays: list[np.ndarray]) -> np.ndarray:
    """Arrays below each other, zeros where one is smaller than the largest."""
    shape = np.max([array.shape for array in arrays], axis=0)
    if all(array.shape == tuple(shape) for array in arrays):
        return np.stack(arrays)
    padded = np.zeros((len(arrays), *shape))
    for target, array in zip(padded, arrays, strict=True):
        target[tuple(slice(size) for size in array.shape)] = array
    return padded
