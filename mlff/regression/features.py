"""Labelled frames carried to descriptor space: the rows of the linear system, and what each does to the features."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.kernels.composed import Kernel
from mlff.kernels.exchange import feature_permutations
from mlff.kernels.jets import block_sizes, jets
from mlff.operators import find_operator
from mlff.regression.linalg.threads import map_threads
from mlff.regression.observations import Labels, Noise, carried_labels, measured_rows
from mlff.regression.rows import Rows
from mlff.regression.terms import Term


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
    progress("descriptors", 0.0)
    for batch in frames.batches:
        channels = [part.channels(batch.numbers) for part in kernel.parts]
        present = {op: level for op, level in operators.items() if op.name in batch.labels}
        coordinates = batch.positions[0].size + 9 * any(operator.strain for operator in present)
        for piece, (features, jacobians) in jets(kernel, batch, coordinates):
            _require_finite(kernel, batch.index[piece], features, jacobians)
            progress("descriptors", len(labels) / len(frames))
            found = measured_rows(batch, piece, present, coordinates)
            own = [[jacobian[k] for jacobian in jacobians] for k in range(piece.stop - piece.start)]

            def carried(k: int, piece=piece, found=found, own=own, batch=batch):
                return carried_labels(kernel, batch, piece.start + k, found[k], own[k])

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
    progress("descriptors", 1.0)
    for term in terms:
        if term.kernel.permutations_used is not None:
            term.rearranged = feature_permutations(term.kernel, frames.batches[0])
    return Carried(labels, terms, _sections(frames, split=any(term.computes_images for term in terms)))


def _sections(frames: LabelledFrames, split: bool) -> list[slice]:
    """Consecutive batches with the same labels; every batch by itself where images are computed batch by batch."""
    ends = np.cumsum([0, *(len(batch) for batch in frames.batches)])
    cuts = [0]
    for i in range(1, len(frames.batches)):
        if split or set(frames.batches[i].labels) != set(frames.batches[i - 1].labels):
            cuts.append(i)
    return [slice(int(ends[a]), int(ends[b])) for a, b in itertools.pairwise([*cuts, len(frames.batches)])]


def _require_finite(kernel: Kernel, index: np.ndarray, features, jacobians) -> None:
    for leaf_part, values, slopes in zip(kernel.parts, features, jacobians, strict=True):
        broken = ~(np.isfinite(values).all(axis=(1, 2)) & np.isfinite(slopes).all(axis=(1, 2, 3)))
        if broken.any():
            raise ValueError(
                f"descriptor {leaf_part.leaves[0].descriptor.name} or its first derivative is not finite at training frame "
                f"{index[int(np.argmax(broken))]}; guard its square roots, norms and divisions there"
            )
