"""Labelled frames in descriptor space: their features, and what every row of the linear system does to these."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from mlff.data.batches import Batch, LabelledFrames
from mlff.kernels.exchange import feature_permutations
from mlff.kernels.jets import block_sizes, jets
from mlff.kernels.kernels import Kernel
from mlff.kernels.radial import require_order
from mlff.operators import Operator, find_operator
from mlff.regression.system.observations import FrameObservations, Noise, observe, rows_asked, rows_of_frames
from mlff.regression.system.rows import Rows, orders
from mlff.regression.system.terms import Term
from mlff.threads import map_threads


@dataclasses.dataclass(frozen=True)
class Features:
    """Labelled frames in descriptor space. Neither the choice of rows nor anything else but a factor depends on a length scale.

    Attributes:
        frames: the frames themselves.
        observations: of every frame, in the order of the batches.
        terms: the parts of the kernel, each with the features of all frames under it.
    """

    frames: LabelledFrames
    observations: list[FrameObservations]
    terms: list[Term]

    @functools.cached_property
    def row_counts(self) -> np.ndarray:
        """How many rows of the linear system every frame has."""
        return np.array([frame.size for frame in self.observations])

    @property
    def ends(self) -> np.ndarray:
        """The row after the last of every frame."""
        return np.cumsum(self.row_counts)

    @functools.cached_property
    def places(self) -> dict[str, Int[np.ndarray, " some"]]:
        """Which of all rows are of which operator, by its name."""
        found: dict[str, list[np.ndarray]] = {}
        for end, frame in zip(self.ends, self.observations, strict=True):
            for name, rows in frame.places.items():
                found.setdefault(name, []).append(np.arange(rows.start, rows.stop) + end - frame.size)
        return {name: np.concatenate(rows) for name, rows in found.items()}

    @property
    def labels(self) -> Float[np.ndarray, " rows"]:
        """The labels of all rows."""
        return np.concatenate([frame.rows.labels for frame in self.observations])

    @property
    def noise(self) -> Float[np.ndarray, " rows"]:
        """The standard deviations of all labels."""
        return np.concatenate([frame.rows.noise for frame in self.observations])

    @functools.cached_property
    def sections(self) -> list[slice]:
        """The frames that may share a tile of the matrix: those with the same kinds of labels; of one batch where images are
        computed batch by batch."""
        batches = self.frames.batches
        split = any(term.computes_images for term in self.terms)
        ends = np.cumsum([0, *(len(batch) for batch in batches)])
        cuts = [0]
        for i in range(1, len(batches)):
            if split or set(batches[i].labels) != set(batches[i - 1].labels):
                cuts.append(i)
        return [slice(int(ends[a]), int(ends[b])) for a, b in itertools.pairwise([*cuts, len(batches)])]

    def take(self, places: Sequence[int] | np.ndarray) -> Features:
        """Those of some frames, by their places in ascending order; nothing is copied."""
        frames = self.frames.take(self.frames.index[np.asarray(places, dtype=int)])
        terms = [term.take(places, frames.batches) for term in self.terms]
        return Features(frames, [self.observations[i] for i in places], terms)

    def followed_by(self, other: Features) -> Features:
        """With other frames after these, computed with the length scales that these have now."""
        frames = self.frames.followed_by(other.frames)
        terms = [a.followed_by(b, frames.batches) for a, b in zip(self.terms, other.terms, strict=True)]
        return Features(frames, self.observations + other.observations, terms)

    def with_noise(self, factors: Mapping[str, float]) -> Features:
        """With the standard deviations of some kinds of label, by name, times a factor."""
        observations = [frame.with_noise(factors) for frame in self.observations] if factors else self.observations
        return Features(self.frames, observations, self.terms)

    def scaled(self, kernel: Kernel) -> Features:
        """Under the same kernel with other length scales; nothing is computed or copied."""
        terms = [term.scaled(part) for term, part in zip(self.terms, kernel.parts, strict=True)]
        return Features(self.frames, self.observations, terms)


def compute_features(
    kernel: Kernel,
    frames: LabelledFrames,
    noise: Noise,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> Features:
    """Features, their derivatives and the rows of all frames.

    Arguments:
        kernel: with length scales and elements.
        noise: standard deviation of every kind of label that enters, by name or operator.
    Raises:
        ValueError: a descriptor or its derivative is not finite, or an operator is no label operator.
    """
    operators = {find_operator(label): level for label, level in noise.items()}

    def rows_of(batch: Batch) -> tuple[Iterator[dict[str, Rows]], int]:
        present = {op: level for op, level in operators.items() if op.name in batch.labels}
        coordinates = batch.positions[0].size + 9 * any(operator.strain for operator in present)
        return rows_of_frames(batch, present, coordinates), coordinates

    return _features(kernel, frames, rows_of, False, progress)


def features_asked(kernel: Kernel, frames: LabelledFrames, operator: Operator) -> Features:
    """Features of frames, with all answers of an operator there as rows, in their order; nothing is left out or mixed.

    Raises:
        ValueError: a descriptor or its derivative is not finite, the operator is no label operator, or the kernel is not smooth
            enough for these answers to have a variance.
    """

    def rows_of(batch: Batch) -> tuple[Iterator[dict[str, Rows]], int]:
        coordinates = batch.positions[0].size + 9 * operator.strain
        return rows_asked(batch, operator, coordinates), coordinates

    features = _features(kernel, frames, rows_of, True)
    order = max(int(orders(frame.rows).max()) for frame in features.observations)
    for radial in kernel.radials:
        require_order(radial, order, order, f"the variance of {operator.name}")
    return features


def _features(
    kernel: Kernel,
    frames: LabelledFrames,
    rows_of: Callable[[Batch], tuple[Iterator[dict[str, Rows]], int]],
    whole: bool,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> Features:
    """Features with rows, which are given for every batch frame by frame, with the number of a frame's coordinates."""
    terms = [Term.empty(part, block_sizes(part, frames.batches[0]), frames.batches) for part in kernel.parts]
    observations: list[FrameObservations] = []
    progress("descriptors", 0.0)
    for batch in frames.batches:
        channels = [part.channels(batch.numbers) for part in kernel.parts]
        rows, coordinates = rows_of(batch)
        for piece, (features, jacobians) in jets(kernel, batch, coordinates):
            _require_finite(kernel, batch.index[piece], features, jacobians)
            progress("descriptors", len(observations) / len(frames))
            of_piece = list(itertools.islice(rows, piece.stop - piece.start))

            def frame(k: int, batch=batch, start=piece.start, of_piece=of_piece, jacobians=jacobians):
                return observe(kernel, batch, start + k, of_piece[k], [jacobian[k] for jacobian in jacobians], whole)

            # derivatives of second order are JAX's own work, threads would only wait for it
            second = any(part.matrices.shape[1] for part in of_piece[0].values())
            observed = map(frame, range(len(of_piece))) if second else map_threads(frame, range(len(of_piece)))
            for k, (of_frame, tangents, curved) in enumerate(observed):
                observations.append(of_frame)
                for i, term in enumerate(terms):
                    term.append(features[i][k], tangents[i], curved[i], channels[i])
    progress("descriptors", 1.0)
    return Features(frames, observations, [_with_exchange(term) for term in terms])


def _with_exchange(term: Term) -> Term:
    """The term with what an exchange of atoms does to its features, where that is a rearrangement."""
    if term.kernel.permutations_used is None:
        return term
    return dataclasses.replace(term, rearranged=feature_permutations(term.kernel, term.batches[0]))


def _require_finite(kernel: Kernel, index: np.ndarray, features, jacobians) -> None:
    for part, values, slopes in zip(kernel.parts, features, jacobians, strict=True):
        broken = ~(np.isfinite(values).all(axis=(1, 2)) & np.isfinite(slopes).all(axis=(1, 2, 3)))
        if broken.any():
            raise ValueError(
                f"descriptor {part.leaves[0].descriptor.name} or its first derivative is not finite at training frame "
                f"{index[int(np.argmax(broken))]}; guard its square roots, norms and divisions there"
            )
