"""Labelled frames carried to descriptor space: the rows of the linear system, and what each does to the features."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from mlff.exchange import feature_permutations
from mlff.expansion import Channel, Part
from mlff.gram import Side
from mlff.images import bends, block_sizes, image_tangents, jets
from mlff.kernels import Kernel
from mlff.labelled import Batch, LabelledFrames
from mlff.linalg.threads import map_threads
from mlff.operators import Operator, find_operator, functionals, order_of
from mlff.rows import Rows, measured, pack, pairs, restricted, seen, span, stack, visible

Noise = Mapping[str | Operator, float]


@dataclasses.dataclass
class Labels:
    """The labels of one frame as rows, and how they see its coordinates.

    Attributes:
        rows: the functionals, with their matrices in a basis of the frame's coordinates.
        basis: that basis, (k, c); without labels of second order k = 0.
        inner: combinations of it that the first derivatives of descriptors see, (s, k).
        weights: W of every row in those, packed, off-diagonal entries doubled, (rows, s(s+1)/2).
        unseen: share of the squared forces that no direction of the descriptor can express.
    """

    rows: Rows
    basis: np.ndarray
    inner: np.ndarray
    weights: np.ndarray
    unseen: float

    @property
    def size(self) -> int:
        return len(self.rows.labels)


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
    def _computes_images(self) -> bool:
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
        if self._computes_images:
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
        if self._computes_images:
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
        images = self.rearranged if order > 1 and not self._computes_images else None
        counts = (0,) * len(channels) if hasattr(kernel, "elements") and kernel.elements is not None else None
        return Part(kernel, tuple(channels), images, self.sizes, counts)

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


@dataclasses.dataclass
class Carried:
    """The labels of all frames, in the order of the batches, and the terms of the kernel.

    `sections` holds the frames that may share a tile of the matrix, as slices: those with the same kinds of labels.
    """

    labels: list[Labels]
    terms: list[Term]
    sections: list[slice]

    @property
    def rows(self) -> list[Rows]:
        """The rows of every frame."""
        return [label.rows for label in self.labels]


def carry(kernel: Kernel, frames: LabelledFrames, noise: Noise, progress: Callable[[str, float], None]) -> Carried:
    """Features, their derivatives and the rows of all frames.

    Arguments:
        noise: standard deviation of every kind of label that enters, by name or operator.
    Raises:
        ValueError: a descriptor or its derivative is not finite, or an operator is no label operator.
    """
    operators = {find_operator(label): level for label, level in noise.items()}
    terms = [
        Term(part, [], [], [], [], block_sizes(part, frames.batches[0]), None, frames.batches) for part in kernel.parts
    ]
    labels: list[Labels] = []
    for batch in frames.batches:
        channels = [part.channels(batch.numbers) for part in kernel.parts]
        present = {op: level for op, level in operators.items() if op.name in batch.labels}
        coordinates = batch.positions[0].size + 9 * any(operator.strain for operator in present)
        for piece, (features, jacobians) in jets(kernel, batch, coordinates):
            _require_finite(kernel, batch.index[piece], features, jacobians)
            progress("descriptors", (len(labels) + piece.stop - piece.start) / len(frames))
            found = _measured(batch, piece, present, coordinates)
            own = [[jacobian[k] for jacobian in jacobians] for k in range(piece.stop - piece.start)]

            def carried(k: int, piece=piece, found=found, own=own, batch=batch):
                return _carried(kernel, batch, piece.start + k, found[k], own[k])

            # derivatives of second order are JAX's own work, threads would only wait for it
            second = any(part.matrices.shape[1] for part in found[0])
            each = map(carried, range(len(found))) if second else map_threads(carried, range(len(found)))
            for k, (label, tangents, curved) in enumerate(each):
                labels.append(label)
                for i, term in enumerate(terms):
                    term.points.append(features[i][k])
                    term.tangents.append(tangents[i])
                    term.curved.append(curved[i])
                    term.channels.append(channels[i])
    for term in terms:
        if term.kernel.permutations_used is not None:
            term.rearranged = feature_permutations(term.kernel, frames.batches[0])
    return Carried(labels, terms, _sections(frames, split=any(term._computes_images for term in terms)))


def _sections(frames: LabelledFrames, split: bool) -> list[slice]:
    """Consecutive batches with the same labels; every batch by itself where images are computed batch by batch."""
    ends = np.cumsum([0, *(len(batch) for batch in frames.batches)])
    cuts = [0]
    for i in range(1, len(frames.batches)):
        if split or set(frames.batches[i].labels) != set(frames.batches[i - 1].labels):
            cuts.append(i)
    return [slice(int(ends[a]), int(ends[b])) for a, b in itertools.pairwise([*cuts, len(frames.batches)])]


def _measured(batch: Batch, piece: slice, operators: dict[Operator, float], coordinates: int) -> list[list[Rows]]:
    """The labels of some frames of a batch, operator by operator, in the coordinates of the frame."""
    rows: list[list[Rows]] = [[] for _ in range(piece.stop - piece.start)]
    for operator, level in operators.items():
        arguments = tuple(argument[piece] for argument in arguments_of(batch, operator))
        positions = batch.positions[piece]
        order = order_of(operator, positions[0], tuple(argument[0] for argument in arguments))
        # of second order, a frame has (3n)⁴ coefficients at most: one at a time
        step = len(positions) if order < 2 else 1
        for start in range(0, len(positions), step):
            some = slice(start, start + step)
            own = tuple(argument[some] for argument in arguments)
            found = functionals(operator, order, coordinates, positions[some], own)
            values = batch.labels[operator.name][piece][some].reshape(len(found.values), -1)
            if found.values.shape != values.shape:
                raise ValueError(
                    f"labels: operator {operator.name} returns {found.values.shape[1]} numbers for frame "
                    f"{batch.index[piece][start]}, its label {operator.name} has {values.shape[1]}"
                )
            for k, value in enumerate(values):
                own = measured(found, k, value, level)
                if len(own.labels):
                    rows[start + k].append(own)
    for i, own in zip(batch.index[piece], rows, strict=True):
        if not own:
            raise ValueError(f"labels: frame {i} has none of {', '.join(op.name for op in operators)}; leave it out")
    return rows


def arguments_of(batch: Batch, operator: Operator) -> tuple[np.ndarray, ...]:
    """What an operator is given beside the energy and the positions, each with one entry a frame.

    Raises:
        ValueError: frames lack an entry, naming the first of them.
    """
    known = {**batch.labels, "cell": batch.cells, "numbers": np.tile(batch.numbers, (len(batch), 1))}
    for name in operator.arguments:
        if name not in known:
            raise ValueError(
                f"labels: {operator.name} needs {name} beside it; frame {batch.index[0]} has {', '.join(batch.labels)}"
            )
    return tuple(known[name] for name in operator.arguments)


def _carried(kernel: Kernel, batch: Batch, i: int, parts: list[Rows], jacobians: list[np.ndarray]):
    """One frame: its labels in the basis of those that descriptors see, and for every part of the kernel the tangents of
    their rows and the first derivatives that second-order labels see."""
    basis = span(parts)
    bent = [bends(part, batch, i, basis) for part in kernel.parts] if len(basis) else None
    along = [(jacobian @ basis.T).transpose(0, 2, 1) for jacobian in jacobians]  # (e, k, D)
    inner = seen(along)
    kept, tangents, unseen = [], [[] for _ in jacobians], 0.0
    for part in parts:
        rows = restricted(part, basis)
        folded = pack(rows.matrices, 2.0)
        own = [rows.directions @ jacobian.transpose(0, 2, 1) for jacobian in jacobians]  # (e, r, D)
        if bent is not None:
            own = [t + folded @ second.transpose(0, 2, 1) for t, second in zip(own, bent, strict=True)]
        mixing = visible(rows, own, inner)
        kept.append(rows.mixed(mixing))
        for target, t in zip(tangents, own, strict=True):
            target.append(mixing @ t)
        unseen = max(unseen, _unseen(rows, kept[-1]))
    rows = stack(kept)
    weights = pack(inner @ rows.matrices @ inner.T, 2.0)
    curved = [inner @ part for part in along]
    return Labels(rows, basis, inner, weights, unseen), [np.concatenate(part, axis=1) for part in tangents], curved


def _unseen(rows: Rows, kept: Rows) -> float:
    """The share of squared labels of first order that left with the rows that are no longer there."""
    total = float(rows.labels @ rows.labels)
    if rows.values.any() or rows.matrices.any() or not total > 0:
        return 0.0
    return max(0.0, 1.0 - float(kept.labels @ kept.labels) / total)


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


def _pad_pairs(weights: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Packed symmetric matrices below each other, as the upper triangles of the largest."""
    largest, rows = max(sizes), max(len(array) for array in weights)
    padded = np.zeros((len(weights), rows, largest, largest))
    for target, array, size in zip(padded, weights, sizes, strict=True):
        first, second = pairs(size)
        target[: len(array), first, second] = array
    first, second = pairs(largest)
    return padded[..., first, second]
