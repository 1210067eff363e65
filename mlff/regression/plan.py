"""A plan before the work: how a fit will be solved, in what memory and time, from a pilot on a few of its frames.

Of n rows the exact solver takes 4n² bytes and n³/3 operations; conjugate gradients with a preconditioner of rank m take 8nm bytes
and 2nm² operations, and as many products as what the preconditioner leaves asks for; a sparse model of m functionals takes
8m² bytes a few times over. Large systems are solved by conjugate gradients where these come to an end soon; else by their factor
where there is room for it; where there is room for neither, the sparse model of as many functionals as there is room for is
taken. The choice depends on sizes and on what a pilot sees of the kernel, not on times, which differ from run to run: the same
call gives the same model.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import psutil

from mlff.arguments import bytes_of
from mlff.batching import free_memory
from mlff.potentials.record import ORDERS
from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.devices.mesh import Devices
from mlff.regression.devices.sharded_tiles import Places
from mlff.regression.devices.shared_rows import TILE_ROWS as DEVICE_ROWS
from mlff.regression.exact import matrix_bytes
from mlff.regression.inducing import CHUNK
from mlff.regression.iterative import MOST, MOST_RANK, PIVOTS
from mlff.regression.kernel_blocks import TILE_ROWS
from mlff.regression.pilot import Pilot, Work
from mlff.regression.requests import Request
from mlff.regression.sparse import FOLDS
from mlff.regression.sparse_pilot import SparsePilot
from mlff.regression.validation import ENOUGH as ENOUGH_HELD
from mlff.regression.validation import MAX_FIT, MAX_VALIDATION, lacks_lengthscale
from mlff.regression.weights import groups_apart

METHODS = ("exact", "iterative", "sparse")
SHARE = 0.8  # of the memory that is free, which a fit takes where nothing is said
OVERHEAD = 32 * 2**20  # bytes that compiled programs and threads take, beside what a pilot has and what is counted
UNCOMPILED = 200 * 2**20  # where no pilot has compiled them
CERTAIN = 16_000  # labels, up to which the exact solver takes seconds and no pilot is worth it
LEAST_RANK, LEAST_SEARCHED = 50, 50
PILOT = 0.3  # of the room that there is, which a pilot may take
MATRICES = 8  # of m² numbers that a sparse model holds, beside those of its folds
FACTORISED = 0.85  # of the speed of matrix products, that a factorisation reaches
TRIALS = 9  # of a length scale
WORTH = 4000  # labels, from which a factorisation is worth its compilation for a GPU
LEFT = 10.0  # of the labels' variance over the noise's, from which more pivots cost more than the iterations that they spare
STEP = 1.1  # between the ranks that a preconditioner may have
QUICK = 300  # iterations, with which a large system is solved sooner than by its factor
FEWEST, MORE = 8, 14.0  # iterations are FEWEST + MORE √(what is left over the noise): measured, ethanol and toluene
PASSES = (
    40  # how much slower than a product of matrices those of the preconditioner with a vector are: memory bounds them
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a fit.

    Attributes:
        memory: bytes at its peak, of the whole process.
        seconds: None where nothing was measured.
    """

    name: str
    memory: int
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a fit will be done.

    Attributes:
        method: "exact", "iterative" or "sparse".
        frames: of the fit.
        unknowns: rows of its linear system; of a sparse model its functionals.
        rank: of the preconditioner at most; None for the other methods.
        budget: bytes that the process may take.
        stages: one after the other.
        reason: why this method.
        searched: frames that the search for a length scale may fit; None for as many as it likes.
        groups: of frames, whose noise a sparse fit finds apart.
    """

    method: str
    frames: int
    unknowns: int
    rank: int | None
    budget: int
    stages: tuple[Stage, ...]
    reason: str
    searched: int | None = None
    groups: int = 0

    @property
    def memory(self) -> int:
        """Bytes of the whole process at its peak."""
        return max(stage.memory for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Of all stages; None where nothing was measured."""
        times = [stage.seconds for stage in self.stages]
        return None if None in times else float(sum(times))

    def summary(self) -> dict:
        """As plain data, for JSON."""
        return {**dataclasses.asdict(self), "memory": self.memory, "seconds": self.seconds}

    @classmethod
    def of(cls, summary: dict) -> Plan:
        """From plain data."""
        fields = {field.name: summary[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**fields, "stages": tuple(Stage(**stage) for stage in summary["stages"])})

    def __str__(self) -> str:
        rank = "" if self.rank is None else f", preconditioner of rank {self.rank}"
        time = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        head = (
            f"{self.method}: {self.unknowns} unknowns of {self.frames} frames{rank}; {_text(self.memory)} of "
            f"{_text(self.budget)}{time} ({self.reason})"
        )
        lines = [
            f"  {stage.name:<13}{_text(stage.memory):>10}"
            + ("" if stage.seconds is None else f"{stage.seconds:>9.1f} s")
            for stage in self.stages
        ]
        return "\n".join([head, *lines])


def budget_of(memory) -> int:
    """Bytes that this process may take: what was said, or a share of what is free beside what it has."""
    return _resident() + int(SHARE * free_memory()) if memory is None else bytes_of(memory)


def plan_fit(
    request: Request,
    inducing=None,
    method: str | None = None,
    memory=None,
    posterior: bool = False,
    seed: int = 0,
    measured: bool = True,
    checkpoint: Checkpoint = NOWHERE,
    devices: Devices | None = None,
) -> Plan:
    """The plan of a fit, and of one that goes on the one that it began with.

    Arguments:
        inducing: of a sparse model what was asked for.
        method: that was asked for; None for any.
        memory: the budget, bytes or a text such as "8GB"; without it 80 % of what is free.
        posterior: whether error bars are asked for, which an iterative fit has none of.
        checkpoint: keeps the plan.
        measured: whether to run a pilot where the method is clear without.
        devices: that share the fit; of several processes all take the plan of the first.
    Raises:
        ValueError: nothing fits the budget, or what was asked for does not; the message says what it takes.
    """
    asked = (request, inducing, method, memory, posterior, seed, measured, devices)
    planned = checkpoint.plain("plan", lambda: _planned(*asked).summary())
    return Plan.of(planned if devices is None else devices.agreed(planned))


def accelerators(request: Request, inducing, method: str | None, posterior: bool) -> Devices | None:
    """The GPUs that JAX sees, where the fit is one that they share well: exact, large, of labels of first order, and within
    their memory."""
    if jax.default_backend() == "cpu" or jax.process_count() > 1:
        return None
    if posterior or inducing is not None or method not in (None, "exact") or not set(request.labels) <= set(ORDERS):
        return None
    devices, labels = Devices.of("all"), Work.of(request.kernel, request.frames, request.labels).labels
    fits = devices.memory is None or _tiles_bytes(labels, devices) <= SHARE * devices.memory
    return devices if labels >= WORTH and fits else None


def _planned(
    request: Request,
    inducing,
    method: str | None,
    memory,
    posterior: bool,
    seed: int,
    measured: bool,
    devices: Devices | None,
) -> Plan:
    if method not in (None, *METHODS):
        raise ValueError(f"method={method!r:.40} is none of {', '.join(METHODS)}; leave it out to have one chosen")
    if method == "sparse" and inducing is None:
        raise ValueError("method='sparse': say with inducing how many functionals span the model")
    if method in ("exact", "iterative") and inducing is not None:
        raise ValueError(f"method='{method}' takes no inducing points; leave one of them out")
    if method == "iterative" and posterior:
        raise ValueError(
            "method='iterative' keeps no factor, and error bars need one; fit exact or sparse for posterior=True"
        )
    budget, work = budget_of(memory), Work.of(request.kernel, request.frames, request.labels)
    base = _resident() + UNCOMPILED
    if devices is not None and (posterior or inducing is not None):
        what = "error bars need the factor" if posterior else "sparse models are fitted"
        raise ValueError(
            f"devices: {what} on one host; leave devices out, or {'error bars' if posterior else 'inducing'}"
        )
    if devices is not None and method in (None, "exact"):
        return _require_room(_shared(request, work, base, budget, devices))
    if inducing is not None:
        plan = _require_room(_sparse(request, work, base, budget, inducing, "asked for"))
        # of environments, of which recipes for crystals are made; those of labels are computed as for an exact fit
        by_values = request.kernel.transferable and not np.iterable(inducing)
        return _timed(plan, request, seed) if measured and by_values else plan
    needed = 8 * work.tangents + _exact_bytes(work.labels)
    if not measured and method in (None, "exact") and work.labels <= CERTAIN and needed < SHARE * (budget - base):
        return Plan("exact", work.frames, work.labels, None, budget, (Stage("solve", base + needed, None),), "small")
    pilot = Pilot.of(request, seed, PILOT * max(0, budget - _resident()))
    base = _resident() + OVERHEAD
    sizes = _Sizes.of(request, work, pilot, base, budget)
    exact = sizes.exact("error bars" if posterior else "fits", posterior)
    if posterior or method == "exact":
        return _require_room(dataclasses.replace(exact, reason="error bars" if posterior else "asked for"))
    iterative = sizes.iterative()
    if method == "iterative":
        return _require_room(dataclasses.replace(iterative, reason="asked for"))
    # by what does not change from run to run, as times do: the same call should give the same model
    fits = exact.memory <= budget
    quick = work.labels > CERTAIN and iterative.memory <= budget and sizes.iterations(iterative.rank) <= QUICK
    if quick or (not fits and iterative.memory <= budget and iterative.seconds < np.inf):
        return iterative
    if fits:
        return exact
    reason = f"no room for the factor, which takes {_text(exact.memory)}, nor for a preconditioner that converges"
    return _largest_sparse(request, work, base, budget, exact, reason)


@dataclasses.dataclass(frozen=True)
class _Sizes:
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
    def of(cls, request: Request, work: Work, pilot: Pilot, base: int, budget: int) -> _Sizes:
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
        memory = _exact_bytes(n) + self._sides + (4 * self.points if posterior else 0)
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
        quick = self.iterations(rank) <= QUICK
        return self._plan("iterative", rank, stages, "sooner than by its factor" if quick else "no room for the factor")

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
    kept = _exact_bytes(round(n)) * (1 + len(kernel.parts) if several else 1)
    seconds = TRIALS * each + pilot.descriptors * share * work.frames / pilot.work.frames
    return Stage("length scale", base + round(share * features) + kept, seconds)


def _rank_within(room: int, rows: int) -> int:
    """The largest m with 8nm + 16m² bytes within some room."""
    if room <= 0:
        return 0
    return int((-8 * rows + np.sqrt((8.0 * rows) ** 2 + 64.0 * room)) / 32)


def _exact_bytes(rows: int) -> int:
    """Of the tiles, and of blocks on their way there."""
    return matrix_bytes(rows) + 2 * 8 * min(TILE_ROWS, rows) ** 2


def _sparse_bytes(functionals: int, kinds: int) -> int:
    return 8 * functionals**2 * (MATRICES + FOLDS * kinds) + CHUNK


def _sparse(request: Request, work: Work, base: int, budget: int, inducing, reason: str) -> Plan:
    if np.iterable(inducing):
        each = Work.of(request.kernel, request.frames.take(np.asarray(sorted(inducing), dtype=int)), request.labels)
        inducing = each.labels
    labels, groups = (
        len(request.labels),
        len({*groups_apart(request.group_of, int(inducing), len(request.labels)).values()}),
    )
    memory = base + _sparse_bytes(int(inducing), labels * (1 + groups))
    if memory > budget:  # their noise can be that of all
        groups, memory = 0, base + _sparse_bytes(int(inducing), labels)
    stage = Stage("sparse", memory, None)
    return Plan("sparse", work.frames, int(inducing), None, budget, (stage,), reason, groups=groups)


def _timed(plan: Plan, request: Request, seed: int) -> Plan:
    """A sparse plan with its time, from a pilot."""
    seconds = SparsePilot.of(request, plan.unknowns, seed).seconds(plan.frames, plan.unknowns)
    return dataclasses.replace(plan, stages=(dataclasses.replace(plan.stages[0], seconds=seconds),))


def _largest_sparse(request: Request, work: Work, base: int, budget: int, exact: Plan, reason: str) -> Plan:
    """The sparse model with as many functionals as fit, where nothing else does."""
    room = budget - base
    functionals = int(np.sqrt(max(0, room - CHUNK) / (_sparse_bytes(1, len(request.labels)) - CHUNK)))
    if functionals < LEAST_RANK:
        raise ValueError(
            f"memory: {_text(budget)} are too few: this fit takes {_text(exact.memory)}, and a sparse one more than is left beside "
            f"the {_text(base)} that the program takes; give more, or train on fewer frames"
        )
    return _sparse(request, work, base, budget, min(functionals, work.labels), reason)


def _tiles_bytes(labels: int, devices: Devices) -> int:
    """What a device takes for its tiles, and for the row of tiles that is sent to it."""
    return Places(devices.count, -(-labels // DEVICE_ROWS), DEVICE_ROWS).nbytes + 2 * 8 * labels * DEVICE_ROWS


def _shared(request: Request, work: Work, base: int, budget: int, devices: Devices) -> Plan:
    """The exact fit, shared among devices."""
    tiles, own = _tiles_bytes(work.labels, devices), devices.memory
    if own is not None and tiles > own:
        raise ValueError(
            f"devices: {work.labels} unknowns take {_text(tiles)} of each of {devices}, which has {_text(own)}; take more devices, "
            "method='iterative', or train on fewer frames"
        )
    images = max(1 if part.permutations_used is None else len(part.permutations_used) for part in request.kernel.parts)
    sides = 8 * work.tangents * (1 + (images if images > 1 else 0)) * devices.here // devices.count
    memory = base + 8 * work.tangents + (sides + tiles * devices.here if own is None else sides)
    stage = Stage("factorise", memory, None)
    return Plan("exact", work.frames, work.labels, None, budget, (stage,), f"on {devices}")


def _require_room(plan: Plan) -> Plan:
    if plan.memory > plan.budget:
        raise ValueError(
            f"memory: the {plan.method} fit of {plan.unknowns} unknowns takes {_text(plan.memory)}, {_text(plan.budget)} may be "
            "taken; give more memory, another method (inducing for a sparse model), or train on fewer frames"
        )
    if plan.seconds == np.inf:
        raise ValueError(
            f"method: with a preconditioner of rank {plan.rank}, which is what fits {_text(plan.budget)}, conjugate gradients would not "
            f"converge in {MOST} iterations; give more memory, raise noise, or take a smoother kernel (RBF) or another method"
        )
    return plan


def _resident() -> int:
    return psutil.Process().memory_info().rss


def _text(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
