"""What every method takes of all frames, in bytes and seconds, from their sizes and what a pilot took of some."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlff.regression.devices.mesh import Devices
from mlff.regression.devices.sharded_tiles import Places
from mlff.regression.devices.shared_rows import TILE_ROWS as DEVICE_ROWS
from mlff.regression.exact import matrix_bytes
from mlff.regression.iterative import MOST, MOST_RANK, PIVOTS
from mlff.regression.planning.pilot import Pilot, Work
from mlff.regression.planning.plans import Plan, Stage
from mlff.regression.requests import Request
from mlff.regression.sparse.inducing import CHUNK
from mlff.regression.sparse.sums import FOLDS
from mlff.regression.system.kernel_blocks import TILE_ROWS
from mlff.regression.validation import ENOUGH as ENOUGH_HELD
from mlff.regression.validation import MAX_FIT, MAX_VALIDATION, lacks_lengthscale

LEAST_RANK, LEAST_SEARCHED = 50, 50
MATRICES = 8  # of m² numbers that a sparse model holds, beside those of its folds
FACTORISED = 0.85  # of the speed of matrix products, that a factorisation reaches
TRIALS = 9  # of a length scale
LEFT = 10.0  # of the labels' variance over the noise's, from which more pivots cost more than the iterations that they spare
STEP = 1.1  # between the ranks that a preconditioner may have
FEWEST, MORE = 8, 14.0  # iterations are FEWEST + MORE √(what is left over the noise): measured, ethanol and toluene
PASSES = (
    40  # how much slower than a product of matrices those of the preconditioner with a vector are: memory bounds them
)
COMPARED = 40.0  # multiply-adds, twice, for which the product of K with a vector takes as long, of every number that is compared


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What all frames take, from what the pilot's took."""

    work: Work
    pilot: Pilot
    base: int
    budget: int
    rows: int
    features: int
    points: int
    search: Stage | None
    searched: int | None

    @classmethod
    def of(cls, request: Request, work: Work, pilot: Pilot, base: int, budget: int) -> Sizes:
        rows = round(pilot.rows * work.labels / pilot.work.labels)
        features = round(pilot.features_bytes * work.tangents / pilot.work.tangents)
        points = round(pilot.points_bytes * work.environments / pilot.work.environments)
        search, searched = None, None
        if lacks_lengthscale(request.kernel):
            held = max(1, min(MAX_VALIDATION, work.frames // 5))
            searched = min(MAX_FIT, work.frames - held)
            search = _search(request.kernel, work, pilot, base, features, rows, searched, held)
            while search.memory > budget and searched > LEAST_SEARCHED:
                searched = searched * 3 // 4
                search = _search(request.kernel, work, pilot, base, features, rows, searched, held)
        return cls(work, pilot, base, budget, rows, features, points, search, searched)

    def _stages(self, name: str, memory: int, seconds: float) -> tuple[Stage, ...]:
        held = self.base + self.features
        descriptors = Stage("descriptors", held, self.pilot.descriptors * self.work.frames / self.pilot.work.frames)
        return (*([self.search] if self.search else []), descriptors, Stage(name, held + memory, seconds))

    @property
    def _sides(self) -> int:
        """Bytes of the tangents of two groups of frames, as rows and as columns, in units of the length scale."""
        return round(1.5 * self.features * min(1.0, TILE_ROWS / self.rows))

    def exact(self, reason: str, posterior: bool) -> Plan:
        n, pilot = self.rows, self.pilot
        seconds = 0.5 * pilot.block * n**2 + n**3 / 3 / (FACTORISED * pilot.speed)
        memory = exact_bytes(n) + self._sides + (4 * self.points if posterior else 0)
        return self._plan("exact", None, self._stages("factorise", memory, seconds), reason)

    def _plan(self, method: str, rank: int | None, stages: tuple[Stage, ...], reason: str) -> Plan:
        return Plan(method, self.work.frames, self.rows, rank, self.budget, stages, reason, self.searched)

    def iterative(self) -> Plan:
        n = self.rows
        fixed = 16 * n * PIVOTS + 6 * self.points + self._sides + 2 * 8 * TILE_ROWS**2
        most = max(LEAST_RANK, min(_rank_within(self.budget - self.base - self.features - fixed, n), n, MOST_RANK))
        steps = int(np.log(most / LEAST_RANK) / np.log(STEP)) + 1
        ranks = [int(LEAST_RANK * STEP**k) for k in range(steps)]
        rank = next((m for m in ranks if self.pilot.left(m, n) <= LEFT), ranks[-1])
        stages = self._stages("iterate", fixed + 8 * n * rank + 16 * rank**2, self._seconds_at(rank))
        sooner = self.sooner(rank)
        return self._plan(
            "iterative", rank, stages, "sooner than by its factor" if sooner else "no room for the factor"
        )

    def sooner(self, rank: int) -> bool:
        """Whether conjugate gradients with a preconditioner of some rank end sooner than a factorisation: by operations that are
        counted, not by times that were measured, so that the same call gives the same model.

        Both assemble blocks of r² labels from what every pair of environments compares, all pairs in half or those with pivots.
        """
        n, work = self.rows, self.work
        assembled = work.compared * (n / work.frames) ** 2
        exact = assembled + n**3 / 3 / FACTORISED
        each = PASSES * 4.0 * n * rank + COMPARED * work.compared
        return bool(2.0 * rank / n * assembled + 2.0 * n * rank**2 + self.iterations(rank) * each < exact)

    def iterations(self, rank: int) -> float:
        """About how many a preconditioner of some rank leaves."""
        return FEWEST + MORE * np.sqrt(self.pilot.left(rank, self.rows))

    def _seconds_at(self, rank: int) -> float:
        """Of conjugate gradients with a preconditioner of some rank; infinite where they would not converge."""
        n, pilot, iterations = self.rows, self.pilot, self.iterations(rank)
        if iterations > MOST:
            return np.inf
        product = pilot.product * (self.work.environments / pilot.work.environments) ** 2
        each = product + PASSES * 4 * n * rank / pilot.speed
        return float(pilot.block * n * rank + 2 * n * rank**2 / pilot.speed + iterations * each)


def _search(kernel, work: Work, pilot: Pilot, base: int, features: int, rows: int, fitted: int, held: int) -> Stage:
    """The search for a length scale by trials of so many frames, with some held out."""
    n, share = rows * fitted / work.frames, (fitted + held) / work.frames
    each = 0.8 * pilot.block * n**2 + n**3 / 3 / (FACTORISED * pilot.speed)
    several = work.frames < 5 * ENOUGH_HELD  # folds, whose blocks are kept
    kept = exact_bytes(round(n)) * (1 + len(kernel.parts) if several else 1)
    seconds = TRIALS * each + pilot.descriptors * share * work.frames / pilot.work.frames
    return Stage("length scale", base + round(share * features) + kept, seconds)


def _rank_within(room: int, rows: int) -> int:
    """The largest m with 8nm + 16m² bytes within some room."""
    if room <= 0:
        return 0
    return int((-8 * rows + np.sqrt((8.0 * rows) ** 2 + 64.0 * room)) / 32)


def exact_bytes(rows: int) -> int:
    """Of the tiles, and of blocks on their way there."""
    return matrix_bytes(rows) + 2 * 8 * min(TILE_ROWS, rows) ** 2


def sparse_bytes(functionals: int, labels: int, groups: int = 0) -> int:
    """Of the sums of a sparse fit of so many kinds of labels, and of groups whose noise is found apart."""
    # of the labels of groups also the sums of all folds, and those of half of the functionals
    sums = labels * (FOLDS + (FOLDS + 2) * groups)
    return 8 * functionals**2 * (MATRICES + sums) + CHUNK


def tiles_bytes(labels: int, devices: Devices) -> int:
    """What a device takes for its tiles, and for the row of tiles that is sent to it."""
    return Places(devices.count, -(-labels // DEVICE_ROWS), DEVICE_ROWS).nbytes + 2 * 8 * labels * DEVICE_ROWS
