"""Which model to take: candidates fitted to more and more of the frames, the worse half left behind each time, within a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from mlff.data.dataset import Dataset
from mlff.kernels.kernels import Kernel
from mlff.potentials.errors import short
from mlff.potentials.force_field import ForceField
from mlff.regression.recipes import RECIPES, default_recipe, fitting

POINTS = 1000  # of sparse models
STEP = 4  # times more frames from one round to the next
LEAST, LEAST_SPARSE = 450, 750  # atoms in all that the first round has at least; sparse models take long to compile
SHARE = 0.5  # of the time that is left, for a round that is not the last
PATIENCE = 2.0  # times its part of the first round that a candidate may take
EARLY = 0.75  # exponent of what grows with the frames at first
GROWTH = 2.0  # the same from two rounds on: the kernel matrix, before its factorisation outweighs it
ROUGH = 2.0  # factor by which less time may be needed than is foreseen
MORE = 1.5  # times its frames at least, for which the best one is fitted again in what time is left
AGAIN = 20  # evaluations that the time of one is the median of


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that may be the best: a recipe, as it is, tuned, or sparse; or a kernel that is called by some name in place of one."""

    recipe: str
    tuned: bool = False
    inducing: int | None = None
    kernel: Kernel | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def sparse(self) -> bool:
        """Whether its fit takes time in proportion to the frames."""
        return self.inducing is not None or (self.kernel is None and RECIPES[self.recipe].inducing is not None)

    @property
    def options(self) -> tuple[str, ...]:
        """What `mlff fit` is told."""
        sparse = () if self.inducing is None else ("--inducing", str(self.inducing))
        return ("--recipe", self.recipe, *sparse, *(("--tune",) if self.tuned else ()))

    def __str__(self) -> str:
        sparse = "" if self.inducing is None else f", {self.inducing} points"
        return self.recipe + sparse + ", tuned" * self.tuned


def candidates(data: Dataset, names: Sequence[str] = ()) -> list[Candidate]:
    """What is compared: recipes of these names, or all that fit the data; sums are tuned, and come last, as they take longest.

    Models of single environments are sparse where frames are no molecules of one composition, as exact ones of a few cells already are
    larger than they are worth.
    """
    fit = fitting(data)
    alike = any(RECIPES[name].whole for name in fit)
    found = []
    for name in names or fit:
        each = RECIPES[name]
        sparse = POINTS if not (alike or each.whole or each.drawn) and each.inducing is None else None
        found.append(Candidate(name, each.summed, sparse))
    first, _ = default_recipe(data)
    return sorted(found, key=lambda each: (each.tuned, each.recipe != first))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a candidate with some of the frames.

    Attributes:
        frames: how many it was trained on.
        seconds: of the whole command: reading, hyperparameters, fit, errors.
        energy: mean absolute error of held-out frames, eV an atom; None where it was not found.
        forces: the same, eV/Å.
        memory: peak of the process, MB.
        geometry: seconds of energy and forces of one geometry.
        failure: why there are no errors.
        late: whether that is for want of time.
        tested: how many held-out frames the errors are of.
    """

    candidate: Candidate
    frames: int
    seconds: float
    energy: float | None = None
    forces: float | None = None
    memory: float | None = None
    geometry: float | None = None
    failure: str | None = None
    late: bool = False
    tested: int | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Outcomes in the order in which they came."""

    outcomes: tuple[Outcome, ...]

    @property
    def succeeded(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failure is None]

    @property
    def best(self) -> Outcome:
        """The one with the least error of the forces.

        Raises:
            ValueError: there is none; with what the first one failed of.
        """
        if not self.succeeded:
            first = self.outcomes[0]
            remedy = "; give a larger --budget" if first.late else ""
            raise ValueError(f"compare: no model could be fitted; {first.candidate}: {first.failure}{remedy}")
        return min(self.succeeded, key=lambda outcome: outcome.forces)

    def on_front(self, outcome: Outcome) -> bool:
        """Whether no other with as many frames is at least as good in error, training time and time of a geometry, and better
        in one of them."""
        own = _costs(outcome)
        others = (_costs(other) for other in self.succeeded if other.frames == outcome.frames and other is not outcome)
        return not any((other <= own).all() and (other < own).any() for other in others)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A table for people, its header first."""
        found = [
            ("frames", "model", "energy, meV/atom", "forces, meV/Å", "training, s", "memory, MB", "a geometry, ms", "")
        ]
        best = self.best if self.succeeded else None
        for each in self.outcomes:
            named = (str(each.frames), str(each.candidate))
            if each.failure is not None:
                found.append((*named, "", "", "", "", "", each.failure))
                continue
            energy = "" if each.energy is None else short(1e3 * each.energy)
            memory = "" if each.memory is None else f"{each.memory:.0f}"
            mark = "best" if each is best else "front" if self.on_front(each) else ""
            found.append(
                (
                    *named,
                    energy,
                    short(1e3 * each.forces),
                    f"{each.seconds:.0f}",
                    memory,
                    short(1e3 * each.geometry),
                    mark,
                )
            )
        return found

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in self.rows
        )


def _costs(outcome: Outcome) -> np.ndarray:
    return np.array([outcome.forces, outcome.seconds, outcome.geometry])


def sizes(most: int, data: Dataset, models: Sequence[Candidate]) -> list[int]:
    """Numbers of training frames of the rounds, the last with all of them.

    Arguments:
        most: how many frames there are to train on.
        models: that are compared.
    """
    atoms = sum(len(frame.numbers) for frame in data) / len(data)
    least = LEAST_SPARSE if any(model.sparse for model in models) else LEAST
    found = [most]
    while found[-1] // STEP * atoms >= least:
        found.append(found[-1] // STEP)
    return found[::-1]


def compared(
    candidates: Iterable[Candidate],
    rounds: Sequence[int],
    run: Callable[[Candidate, int, float], Outcome],
    budget: float,
    clock: Callable[[], float] = time.monotonic,
) -> Comparison:
    """Fit candidates to as many frames as there is time for.

    Of every round the better half goes on to the next, with more frames, best first; what would not end in time is not begun. A
    round takes half of the time that is left; its first candidate, and the last round, may take all of it. Where a round was too long
    for the best of them, it has as many frames as there is time for.

    Arguments:
        candidates: in the order of the first round; of the first a result is wanted most.
        rounds: numbers of training frames, ascending.
        run: (candidate, frames, seconds that are left) → what became of it, at the latest after so many seconds.
        budget: seconds in all.
        clock: of these seconds.
    """
    end = clock() + budget
    outcomes: list[Outcome] = []
    going = list(candidates)
    for frames in rounds:
        last = frames == rounds[-1]
        until = end if last else clock() + SHARE * (end - clock())
        ended = []
        for k, candidate in enumerate(going):
            left, needed = (until if k else end) - clock(), _foreseen(outcomes, candidate, frames)
            # nothing comes after the last round, and what is foreseen is rough
            if left <= (needed / ROUGH if last else needed):
                failure = "no time was left" if left <= 0 else f"{left:.0f} s were left, of about {needed:.0f} needed"
                outcomes.append(Outcome(candidate, frames, 0.0, failure=failure, late=True))
                continue
            # where nothing is known yet, none but the first may use up what others wait for
            limit = left if needed or not k else min(left, PATIENCE * left / (len(going) - k))
            outcomes.append(run(candidate, frames, limit))
            if outcomes[-1].failure is None:
                ended.append(outcomes[-1])
        ended.sort(key=lambda outcome: outcome.forces)
        going = [outcome.candidate for outcome in ended[: (len(ended) + 1) // 2]]
    left = end - clock()
    if more := _affordable(Comparison(tuple(outcomes)), rounds, left):
        outcomes.append(run(*more, left))
    return Comparison(tuple(outcomes))


def _affordable(comparison: Comparison, rounds: Sequence[int], left: float) -> tuple[Candidate, int] | None:
    """The best candidate with the most frames that it can be fitted to in the time that is left, if they are many more, but not all of
    the next round."""
    if not comparison.succeeded:
        return None
    best, others = comparison.best, comparison.outcomes
    upper = next((frames for frames in rounds if frames > best.frames), best.frames)
    tried = [each for each in others if each.candidate == best.candidate and each.frames == upper]
    if not all(each.late for each in tried):  # it failed of something else, or was no better
        return None
    growth = 1.0 if best.candidate.sparse else GROWTH
    for frames in range(upper - 1, int(MORE * best.frames), -1):
        if _foreseen(others, best.candidate, frames, growth) <= left:
            return best.candidate, frames
    return None


def _foreseen(outcomes: Sequence[Outcome], candidate: Candidate, frames: int, early: float = EARLY) -> float:
    """Seconds that a candidate will take with more frames: a constant, and what grows. After one round the constant is the time
    of the quickest candidate, or half of its own; of the rest much is compilation, so it grows less than the frames, by their
    power `early`."""
    ended = [outcome for outcome in outcomes if outcome.failure is None]
    own = [outcome for outcome in ended if outcome.candidate == candidate]
    if not own:
        return 0.0
    at = own[-1]
    if len(own) == 1:
        quickest = min(outcome.seconds for outcome in ended if outcome.frames == at.frames)
        constant = min(quickest, at.seconds / 2)
        return constant + (at.seconds - constant) * (frames / at.frames) ** early
    before = own[-2]
    slope = max(0.0, at.seconds - before.seconds) / (at.frames**GROWTH - before.frames**GROWTH)
    return at.seconds + slope * (frames**GROWTH - at.frames**GROWTH)


def geometry_seconds(force_field: ForceField, frame) -> float:
    """Energy and forces of one geometry, compiled: the median of several evaluations."""
    rng = np.random.default_rng(0)
    cell, pbc = (frame.cell, frame.system.pbc) if force_field.takes_cell else (None, None)
    numbers = frame.numbers if force_field.transferable else None
    taken = []
    for _ in range(AGAIN + 1):
        moved = frame.positions + 1e-3 * rng.standard_normal(frame.positions.shape)
        started = time.perf_counter()
        force_field.energy_and_forces(moved, cell, pbc, numbers)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[1:]))


def front_figure(comparison: Comparison) -> Figure:
    """Errors against the seconds that a model costs to train, and to evaluate once; a colour for every candidate, larger with
    more frames."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    shown = comparison.succeeded
    names = list(dict.fromkeys(str(outcome.candidate) for outcome in shown))
    rounds = sorted({outcome.frames for outcome in shown})
    for name in names:
        own = [outcome for outcome in shown if str(outcome.candidate) == name]
        forces = [1e3 * outcome.forces for outcome in own]
        area = [30.0 * (1 + 2 * rounds.index(outcome.frames)) for outcome in own]
        for panel, cost in zip(panels, ([o.seconds for o in own], [1e3 * o.geometry for o in own]), strict=True):
            (line,) = panel.plot(cost, forces, lw=0.8)
            panel.scatter(cost, forces, s=area, color=line.get_color(), label=name)
    for panel, text in zip(panels, ("training, s", "a geometry with forces, ms"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel=text)
        panel.grid(True, lw=0.3)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FormatStrFormatter("%g"))
            axis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("forces, MAE, meV/Å")
    handles, texts = panels[1].get_legend_handles_labels()
    figure.legend(handles, texts, fontsize=8, loc="outside right upper", title="larger: more frames", title_fontsize=8)
    figure.suptitle(f"{', '.join(map(str, rounds))} training frames", fontsize=10)
    return figure
