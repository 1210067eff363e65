"""A pilot of a fit: what a few of the frames take, measured, of which follows what all will take."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
from jaxtyping import Float
from scipy.linalg import cholesky, solve_triangular

from mlff.data.batches import LabelledFrames
from mlff.kernels.jets import block_sizes
from mlff.kernels.kernels import Kernel
from mlff.regression.iterative import ROUNDING
from mlff.regression.requests import Request
from mlff.regression.system.features import Features, compute_features
from mlff.regression.system.kernel_blocks import kernel_between
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.validation import data_scales, with_lengthscales

ROWS = 3000  # of the frames of a pilot at most
FEWEST, COPIES = 300, 3  # rows, where memory is scarce; of tangents that are held at once
HELD = 0.1  # of these frames, on which is seen what the others tell
GEMM = 1536  # rows of the square matrices whose product tells the machine's speed
REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Work:
    """How much the frames are, in units that a pilot's measurements are counted in.

    Attributes:
        frames: how many.
        labels: how many numbers.
        tangents: how many numbers, of labels at environments in descriptor space.
        environments: of all frames.
        compared: how many numbers, of environments that are compared with each other, images of molecules each by itself.
    """

    frames: int
    labels: int
    tangents: int
    environments: int
    compared: int

    @classmethod
    def of(cls, kernel: Kernel, frames: LabelledFrames, names) -> Work:
        """Of labelled frames under a kernel; nothing is computed."""
        labels = tangents = environments = 0
        parts = with_lengthscales(kernel, [1.0] * len(kernel.leaves)).parts
        sizes = [sum(block_sizes(part, frames.batches[0])) for part in parts]
        of_channels = [np.zeros(part.channel_count) for part in kernel.parts]
        for batch in frames.batches:
            each = sum(batch.labels[name][0].size for name in names if name in batch.labels)
            labels += len(batch) * each
            for part, size, counts in zip(kernel.parts, sizes, of_channels, strict=True):
                seen = np.bincount(part.channels(batch.numbers), minlength=len(counts))
                environments += len(batch) * int(seen.sum())
                tangents += len(batch) * each * int(seen.sum()) * size
                counts += len(batch) * seen
        compared = sum(
            size * order * int(np.sum(counts**2))
            for size, order, counts in zip(sizes, images_of(kernel), of_channels, strict=True)
        )
        return cls(len(frames), labels, tangents, environments, compared)


def images_of(kernel: Kernel) -> list[int]:
    """How many images of a molecule every part compares."""
    return [1 if part.permutations_used is None else len(part.permutations_used) for part in kernel.parts]


@dataclasses.dataclass(frozen=True)
class Pilot:
    """What a few frames took.

    Attributes:
        work: of these frames.
        rows: of their linear system.
        features_bytes: of all arrays of their features.
        points_bytes: of what the expansion is made of.
        descriptors: s, of their features, compiled already.
        block: s for each entry of the kernel matrix.
        product: s of one product with a vector.
        speed: multiply-adds a second, twice, of the machine's matrix products.
        path: what pivots leave of the variance of labels of other frames, over the noise's: after each of them.
    """

    work: Work
    rows: int
    features_bytes: int
    points_bytes: int
    descriptors: float
    block: float
    product: float
    speed: float
    path: Float[np.ndarray, " m"]

    @classmethod
    def of(cls, request: Request, seed: int = 0, room: float = math.inf) -> Pilot:
        """Of frames that are drawn, which take no more than some bytes."""
        frames = _drawn(request, seed, room)
        kernel = with_lengthscales(request.kernel, data_scales(request.kernel, frames))
        present = {op: level for op, level in request.levels.items() if op.name in frames.names}
        features = compute_features(kernel, frames, present)
        descriptors = _seconds(lambda: compute_features(kernel, frames, present), 1)
        system = LinearSystem.of(kernel, features, present, request.atomic_energies)
        vector = np.ones((system.shape[0], 1))
        started = time.perf_counter()
        matrix = kernel_between(features, features, system.shares)
        block = (time.perf_counter() - started) / matrix.size
        points = sum(array.nbytes * max(1, term.order) for term in features.terms for array in term.points)
        product = _seconds(lambda: system.product(vector))
        work, size = Work.of(kernel, frames, request.labels), _bytes(features)
        return cls(work, len(matrix), size, points, descriptors, block, product, gemm_speed(), _path(matrix, system))

    def left(self, rank: int, rows: int) -> float:
        """What that many pivots leave of the variance of so many rows, over that of the noise."""
        others = 1.0 - min(rank, rows) / rows  # those that are no pivots
        if not others:
            return 0.0
        if rank <= len(self.path) or len(self.path) == 1:
            return others * float(self.path[max(0, min(rank, len(self.path)) - 1)])
        # beyond what was seen, as the second half of it went on
        middle = len(self.path) // 2
        slope = np.log(self.path[-1] / self.path[middle]) / np.log(len(self.path) / middle)
        return others * float(self.path[-1] * (rank / len(self.path)) ** min(slope, 0.0))


def _drawn(request: Request, seed: int, room: float) -> LabelledFrames:
    """Frames with not too many labels in all."""
    whole, most = Work.of(request.kernel, request.frames, request.labels), ROWS
    # features and what they are computed from; the matrix, a copy of it and its factor
    while most > FEWEST and COPIES * 8 * whole.tangents / whole.labels * most + 24 * most**2 > room:
        most = most * 3 // 4
    frames, generator = request.frames, np.random.default_rng(seed)
    sizes = {
        int(i): sum(batch.labels[name][0].size for name in request.labels if name in batch.labels)
        for batch in frames.batches
        for i in batch.index
    }
    order = generator.permutation(frames.index)
    fitting = np.cumsum([sizes[int(i)] for i in order]) <= most
    return frames.take(order[: max(2, int(fitting.sum()))])


def _path(matrix: Float[np.ndarray, "n n"], system: LinearSystem) -> Float[np.ndarray, " m"]:
    """What the labels of the first frames, one after the other, leave of the variance of those of the last, over their noise."""
    counts = system.features.row_counts
    held = int(counts[-max(1, round(HELD * len(counts))) :].sum())
    pivots = len(matrix) - held
    if not pivots:  # a frame alone tells nothing of others
        return np.array([np.inf])
    noise = float(system.noise[pivots:].sum()) or ROUNDING * float(np.trace(matrix))
    inner = matrix[:pivots, :pivots].copy()
    inner.flat[:: pivots + 1] += ROUNDING * pivots * inner.max()
    told = solve_triangular(cholesky(inner, lower=True, overwrite_a=True), matrix[:pivots, pivots:], lower=True)
    left = np.trace(matrix[pivots:, pivots:]) - np.cumsum(np.einsum("mt,mt->m", told, told))
    return np.maximum(np.minimum.accumulate(left), np.finfo(float).tiny) / noise


def _bytes(features: Features) -> int:
    """Of all arrays that frames in descriptor space hold."""
    lists = [array for term in features.terms for array in (*term.points, *term.tangents, *term.curved)]
    observed = [
        array for frame in features.observations for array in (*frame.rows, frame.basis, frame.inner, frame.weights)
    ]
    return sum(array.nbytes for array in (*lists, *observed))


def _seconds(work, repeats: int = REPEATS) -> float:
    """The shortest of a few runs."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def gemm_speed() -> float:
    """Operations a second of the machine's matrix products in double precision."""
    one = np.random.default_rng(0).standard_normal((GEMM, GEMM))
    other = one.copy()
    return 2 * GEMM**3 / _seconds(lambda: one @ other)
