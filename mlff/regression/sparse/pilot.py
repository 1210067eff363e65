"""A pilot of a sparse fit: what a few of the frames take with few functionals and with more, of which follows what all will take."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.regression.planning.pilot import gemm_speed
from mlff.regression.requests import Request
from mlff.regression.sparse.inducing import EnvironmentValues
from mlff.regression.sparse.sums import FOLDS, SparseSystem
from mlff.regression.sparse.weights import SEARCHED, drawn_frames, folds_of
from mlff.regression.validation import data_scales, with_lengthscales

ENVIRONMENTS, FEWEST, MOST = 200, 2, 3  # that a pilot looks at, about, and frames
FEW, MORE = 20, 200  # functionals
NOISES = 25  # that a search tries, each on all folds
WHOLE = 4  # of these with all functionals


@dataclasses.dataclass(frozen=True)
class SparsePilot:
    """Seconds, of a frame of average size.

    Attributes:
        compiled: to compile what looks at frames, once.
        chosen: to choose functionals among its environments.
        frame: to look at it, whatever the functionals.
        functional: more for each functional.
        rows: of its labels.
        speed: operations a second of the machine's matrix products.
    """

    compiled: float
    chosen: float
    frame: float
    functional: float
    rows: float
    speed: float

    @classmethod
    def of(cls, request: Request, functionals: int, seed: int) -> SparsePilot:
        """Of some of the frames, which are drawn, compiled before they are timed."""
        frames = drawn_frames(request.frames, seed, ENVIRONMENTS, FEWEST, MOST)
        kernel = with_lengthscales(request.kernel, data_scales(request.kernel, frames))
        folds, given, looked = folds_of(frames, seed), request.atomic_energies, []
        for count in (FEW, min(MORE, functionals)):
            for _ in range(2):  # the first compiles
                started = time.perf_counter()
                chosen = EnvironmentValues.choose(kernel, frames, count, seed)
                between = time.perf_counter()
                system = SparseSystem.of(chosen, kernel, frames, request.levels, folds, given, True)
                ended = time.perf_counter()
                looked.append((len(chosen.whitening), (ended - between) / len(frames), ended - started))
        first, (few, least, second), _, (more, most, _) = looked
        slope = max(0.0, (most - least) / max(1, more - few))
        size = _mean_size(request.frames) / _mean_size(frames)
        return cls(
            max(0.0, first[2] - second),
            size * (between - started) / len(frames),
            size * max(0.0, least - slope * few),
            size * slope,
            size * system.rows / len(frames),
            gemm_speed(),
        )

    def seconds(self, frames: int, functionals: int) -> float:
        """Of a fit of so many frames, whose noise is searched."""
        sums = 2.0 * self.rows * functionals**2 / self.speed
        looked = self.compiled + frames * (self.chosen + self.frame + self.functional * functionals + sums)

        def solved(m: int) -> float:
            return 2.0 * m**3 / 3.0 / self.speed

        searched = FOLDS * (NOISES * solved(min(functionals, SEARCHED)) + WHOLE * solved(functionals))
        return looked + 2.0 * solved(functionals) + searched


def _mean_size(frames: LabelledFrames) -> float:
    """Atoms of a frame."""
    return float(np.average([len(batch.numbers) for batch in frames.batches], weights=list(map(len, frames.batches))))
