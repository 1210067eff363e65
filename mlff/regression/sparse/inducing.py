"""Inducing functionals: a few of the many, in whose span a sparse model lives.

Values of environments, as GAP has them, for sums of local kernels; or all labels of some frames, for every kernel. With the labels
of all frames the model is the exact one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from mlff.batching import chunk_size
from mlff.data.batches import Batch, LabelledFrames
from mlff.data.cells import volume
from mlff.kernels.environments import ENVIRONMENTS, Surrounded, environments_by_element, grouped, sees_alone
from mlff.kernels.jets import block_sizes, feature_values
from mlff.kernels.kernels import Kernel
from mlff.kernels.surroundings import reach_of
from mlff.potentials.expansion import Channel, Part, composition, constant_elements
from mlff.potentials.record import LABELS, VALUES, start_frame
from mlff.potentials.waves import RandomFunction
from mlff.regression.sparse.cur import cur_points
from mlff.regression.sparse.environment_rows import TAKEN, VOIGT, Points, kernel_rows
from mlff.regression.sparse.farthest import SAME, farthest_points
from mlff.regression.sparse.whitening import Whitening
from mlff.regression.system.coefficients import Weights, expand, highest_order
from mlff.regression.system.features import Features, compute_features
from mlff.regression.system.gram import feature_slices, radial_derivatives, squares, value_columns
from mlff.regression.system.kernel_blocks import kernel_between, row_sides, unpadded_rows
from mlff.regression.system.linear_system import LinearSystem, constants_design
from mlff.regression.system.observations import Noise
from mlff.regression.waves import Drawn, label_values, values_at
from mlff.units import symbols

Progress = Callable[[str, float], None]
FARTHEST, CUR = "farthest", "cur"  # ways to choose environments
CHUNK = 64 * 2**20  # bytes of Jacobians of frames that are looked at together, where these are taken whole
SYMMETRIC = np.sqrt([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])  # of the entries of a symmetric matrix, of which six are two


class LabelRows(NamedTuple):
    """Labels of one operator and frame: the kernel between them and all inducing functionals, (r, M), the labels, (r,), and what
    they would be of constant energies of 1, (r, z)."""

    kernel: Float[np.ndarray, "r M"]
    labels: Float[np.ndarray, " r"]
    design: Float[np.ndarray, "r z"]


FrameRows = tuple[int, dict[str, LabelRows]]  # the frame, and its labels by the names of their operators


@dataclasses.dataclass(frozen=True)
class EnvironmentValues:
    """Values of environments, for a sum of local kernels.

    Attributes:
        kernel: with length scales and elements.
        points: the environments, for every part of the kernel.
        same: how many environments of the frames are a point's own to rounding.
        alone: whether the descriptors make of an atom what its neighbours tell, and no more.
        whitening: of the values; every part of the kernel has its own variance, 1.
    """

    kernel: Kernel
    points: tuple[Points, ...]
    same: int
    alone: bool
    whitening: Whitening

    @classmethod
    def choose(
        cls,
        kernel: Kernel,
        frames: LabelledFrames,
        count: int,
        seed: int,
        progress: Progress = lambda stage, share: None,
        selection: str = FARTHEST,
    ) -> EnvironmentValues:
        """Some of the environments of frames, as many for every part of the kernel: farthest points, or CUR points.

        The first is one of the frame that simulations start from: when a model is read, its descriptors are held against it.
        Where all environments would not fit into memory, points are chosen from some that are drawn.
        """
        generator = np.random.default_rng(seed)
        alone = all(sees_alone(part, batch) for part in kernel.parts for batch in frames.batches[:1])
        share, points, same = -(-count // len(kernel.parts)), [], 0
        for i, part in enumerate(kernel.parts):

            def tell(done: float, i=i) -> None:
                progress("inducing points", (i + done) / len(kernel.parts))

            tell(0.0)
            candidates = environments_by_element(part, frames, alone, generator)
            started = environments_by_element(part, LabelledFrames((start_frame(frames),)), alone, generator)
            pairs = zip(started, candidates, strict=True)
            candidates, first = zip(*(_beginning_with(own, seen, generator) for own, seen in pairs), strict=True)
            if selection == CUR:
                found = cur_points(candidates, share, first, generator, tell)
            else:
                found = farthest_points(candidates, share, first, tell)
            chosen = [seen[places] for seen, places in zip(candidates, found.places, strict=True)]
            points.append(Points(part, chosen, block_sizes(part, frames.batches[0])))
            same += found.same
        progress("inducing points", 1.0)
        return cls(kernel, tuple(points), same, alone, Whitening.of(_gram(points)))

    @property
    def owners(self) -> Integer[np.ndarray, " m"]:
        """The part of the kernel that every whitened coordinate belongs to."""
        return np.repeat(np.arange(len(self.points)), [len(part) for part in self.points])[self.whitening.order]

    def rows(self, frames: LabelledFrames, noise: Noise) -> Iterator[FrameRows]:
        """The labels of frames, frame by frame."""
        if self.alone and all(operator in TAKEN for operator in noise):
            yield from self._rows_of_environments(frames, noise)
        else:
            yield from _rows_of_features(self.kernel, frames, noise, self.between)

    def _rows_of_environments(self, frames: LabelledFrames, noise: Noise) -> Iterator[FrameRows]:
        for group in grouped(frames, ENVIRONMENTS):
            wanted = [op for op in noise if any(op.name in batch.labels for batch in group)]
            surrounded = [Surrounded.of(group, reach_of(points.part.descriptors)) for points in self.points]
            kernels = kernel_rows(self.points, surrounded, wanted)
            members = ((batch, k) for batch in group for k in range(len(batch)))
            for place, (batch, k) in enumerate(members):
                of_frame = {name: found[place] for name, found in kernels.items() if name in batch.labels}
                yield int(batch.index[k]), _labelled(self.kernel.parts[0].elements, batch, k, of_frame)

    def between(self, features: Features) -> Float[np.ndarray, "rows M"]:
        """The kernel between all labels of frames in descriptor space and the points."""
        columns, everything = [], slice(0, len(features.observations))
        for term, points in zip(features.terms, self.points, strict=True):
            for side, there in zip(row_sides(term, features, everything), points.channels, strict=True):
                block = value_columns(term.kernel.radial, side, there, term.sizes)  # (m, r, M)
                columns.append(unpadded_rows(block, features.row_counts))
        return np.concatenate(columns, axis=1)

    def expand(self, weights: Float[np.ndarray, " M"]) -> tuple[Part, ...]:
        """The terms of the model, from what every point's value is multiplied by."""
        pieces = iter(np.split(weights, np.cumsum([len(c) for part in self.points for c in part.channels])[:-1]))
        parts = []
        for points in self.points:
            channels = [Channel.build(there, None, next(pieces), points.sizes) for there in points.channels]
            parts.append(Part(points.part.bare(), tuple(channels), None, points.sizes, self.alone))
        return tuple(parts)

    def drawn(self, amplitudes: Sequence[float]) -> list[Drawn]:
        """What random functions of the prior are drawn of."""
        return [
            Drawn(points.part, amplitude, None, points.sizes)
            for points, amplitude in zip(self.points, amplitudes, strict=True)
        ]

    def values_of(self, function: RandomFunction) -> Float[np.ndarray, " M"]:
        """What all functionals say of a random function."""
        pairs = zip(self.points, function.parts, strict=True)
        channels = [pair for points, part in pairs for pair in zip(points.channels, part.channels, strict=True)]
        return np.concatenate([values_at(channel, there) for there, channel in channels])

    @property
    def label_order(self) -> int:
        """Derivatives that the model's functionals took: none, whatever the labels are."""
        return 0

    def amplitudes(self, found: Float[np.ndarray, " p"]) -> tuple[float, ...]:
        """A of every part of the kernel, from those of `owners`."""
        return tuple(map(float, found))

    def given_amplitudes(self, of_parts: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        """A of every one of `owners`, where those of the parts are given."""
        return of_parts

    def summary(self) -> dict:
        """What the record says."""
        elements = self.kernel.parts[0].elements
        counts = [[len(there) for there in part.channels] for part in self.points]
        of_elements = {symbol: sum(n) for symbol, n in zip(symbols(elements), zip(*counts, strict=True), strict=True)}
        return {"kind": VALUES, "points": of_elements, "same": self.same}


@dataclasses.dataclass(frozen=True)
class FrameLabels:
    """All labels of some frames, for any kernel.

    Attributes:
        system: the linear system of these frames.
        whitening: of the labels.
    """

    system: LinearSystem
    whitening: Whitening

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        frames: LabelledFrames,
        noise: Noise,
        progress: Progress = lambda stage, share: None,
    ) -> FrameLabels:
        """All labels of frames, of the kinds that have a noise."""
        system = LinearSystem.of(kernel, compute_features(kernel, frames, noise, progress), noise)
        gram = kernel_between(system.features, system.features, system.shares)
        return cls(system, Whitening.of(np.asfortranarray(gram)))

    @property
    def owners(self) -> Integer[np.ndarray, " m"]:
        """One for all: the terms of the kernel have their shares already."""
        return np.zeros(len(self.whitening), dtype=int)

    def rows(self, frames: LabelledFrames, noise: Noise) -> Iterator[FrameRows]:
        """The labels of frames, frame by frame."""
        yield from _rows_of_features(self.system.kernel, frames, noise, self.between)

    def between(self, features: Features) -> Float[np.ndarray, "rows M"]:
        """The kernel between all labels of frames in descriptor space and those of the functionals."""
        return kernel_between(features, self.system.features, self.system.shares)

    def expand(self, weights: Float[np.ndarray, " M"]) -> tuple[Part, ...]:
        """The terms of the model, from what every label is multiplied by."""
        return expand(self.system, Weights(weights, np.zeros(0), None)).parts

    def drawn(self, amplitudes: Sequence[float]) -> list[Drawn]:
        """What random functions of the prior are drawn of."""
        return [Drawn.of(term, a) for term, a in zip(self.system.features.terms, amplitudes, strict=True)]

    def values_of(self, function: RandomFunction) -> Float[np.ndarray, " M"]:
        """What all functionals say of a random function."""
        return label_values(function, self.system.features)

    @property
    def label_order(self) -> int:
        """The highest derivative among the labels."""
        return highest_order(self.system)

    def amplitudes(self, found: Float[np.ndarray, " 1"]) -> tuple[float, ...]:
        """A of every term of the kernel, from the one of all."""
        return tuple(float(found[0] * share) for share in self.system.shares)

    def given_amplitudes(self, of_parts: Float[np.ndarray, " p"]) -> Float[np.ndarray, " 1"]:
        """A of all, where those of the terms are given: they are in their shares."""
        return np.ones(1)

    def summary(self) -> dict:
        """What the record says."""
        return {"kind": LABELS, "frames": [int(i) for i in self.system.features.frames.index]}


Inducing = EnvironmentValues | FrameLabels


def farthest_frames(kernel: Kernel, frames: LabelledFrames, labels: int, seed: int) -> Integer[np.ndarray, " k"]:
    """Frames that differ as much as can be, with about so many labels in all; by their indices, ascending."""
    features, index, sizes = [], [], []
    for batch in frames.batches:
        (values, *_) = feature_values(kernel, batch)
        features.append(values.reshape(len(batch), -1))
        index.append(batch.index)
        sizes += [sum(batch.labels[name][0].size for name in batch.labels)] * len(batch)
    if len({values.shape[1] for values in features}) > 1:
        raise ValueError("inducing: frames of different molecules have no distance; give the indices of frames")
    index, sizes = np.concatenate(index), np.array(sizes)
    first = int(np.random.default_rng(seed).integers(len(index)))
    (places,), _ = farthest_points([np.concatenate(features)], max(1, round(labels / sizes.mean())), [first])
    return np.sort(index[places])


def _beginning_with(
    wanted: Float[np.ndarray, "w D"], candidates: Float[np.ndarray, "e D"], generator
) -> tuple[Float[np.ndarray, "e D"], int | None]:
    """Candidates and the place of the first choice among them: the first of the wanted, which is added where it was not drawn; of
    none wanted, any."""
    if not len(candidates):
        return wanted[:1], 0 if len(wanted) else None
    if not len(wanted):
        return candidates, int(generator.integers(len(candidates)))
    away = np.sum((candidates - wanted[0]) ** 2, axis=1)
    if away.min() > SAME**2 * np.sum(wanted[0] ** 2):
        return np.concatenate([wanted[:1], candidates]), 0
    return candidates, int(np.argmin(away))


def _gram(points: Sequence[Points]) -> Float[np.ndarray, "M M"]:
    """The kernel between the values of points; between those of different channels or parts it is zero."""
    total, start = sum(map(len, points)), 0
    gram = np.zeros((total, total), order="F")
    for part in points:
        for there in part.channels:
            here = slice(start, start + len(there))
            start = here.stop
            if len(there):
                s = squares(there[None], there[None], feature_slices(part.sizes))[:, 0, :, 0]
                gram[here, here] = radial_derivatives(part.part.radial, s, 0)[0]
    return gram


def _labelled(elements: tuple[int, ...], batch: Batch, k: int, kernels: dict[str, np.ndarray]) -> dict[str, LabelRows]:
    """The labels of a frame of a batch, beside the kernel of its energy, forces and strain derivatives."""
    rows = {}
    if "energy" in kernels:
        energy, counts = np.atleast_1d(batch.labels["energy"][k]), composition(elements, batch.numbers)[None]
        rows["energy"] = LabelRows(kernels["energy"], energy, counts)
    if "forces" in kernels:
        forces = batch.labels["forces"][k].ravel()
        rows["forces"] = LabelRows(kernels["forces"], forces, np.zeros((len(forces), len(elements))))
    if "stress" in kernels:
        stress = batch.labels["stress"][k]
        six = np.array([0.5 * (stress[a, b] + stress[b, a]) for a, b in VOIGT])
        kernel = kernels["stress"] * (SYMMETRIC / volume(batch.cells[k]))[:, None]
        rows["stress"] = LabelRows(kernel, SYMMETRIC * six, np.zeros((6, len(elements))))
    return rows


def _rows_of_features(kernel: Kernel, frames: LabelledFrames, noise: Noise, between) -> Iterator[FrameRows]:
    """The labels of frames through their features and whole Jacobians, some frames at a time."""
    for batch in frames.batches:
        shapes = sum(
            sum(block_sizes(part, batch)) * (len(batch.numbers) if part.transferable else 1) for part in kernel.parts
        )
        step = chunk_size(8 * shapes * (batch.positions[0].size + 9), CHUNK)
        present = {operator: level for operator, level in noise.items() if operator.name in batch.labels}
        for start in range(0, len(batch), step):
            piece = batch.take(slice(start, start + step))
            features = compute_features(kernel, LabelledFrames((piece,)), present)
            columns, design = between(features), constants_design(features, constant_elements(kernel.parts))
            for i, frame, first in zip(
                piece.index, features.observations, features.ends - features.row_counts, strict=True
            ):
                of_frame = {}
                for name, places in frame.places.items():
                    here = slice(first + places.start, first + places.stop)
                    of_frame[name] = LabelRows(columns[here], frame.rows.labels[places], design[here])
                yield int(i), of_frame
