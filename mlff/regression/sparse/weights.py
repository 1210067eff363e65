"""The noise of every kind of label, found by validation: from sums over frames, without another look at them.

Of energies and stresses it is that of an atom: σ√n of the energy of n atoms, and σ√n of the strain derivative (the virial), so that
large and small cells weigh as they should.

Of frames that say which group they are of (`config_type`), some are known better than others: crystals that are strained a little, and
melts. With one noise for all, σ, and errors left out e_g of the labels of a group and e of all, that of the group becomes

    σ_g ∝ σ √(e_g/e),

halfway, on a scale of logarithms, from one noise to errors that are as large as the noise says. What noise is good is told by the
errors of labels left out: the mean of their logarithms, group by group, which is the likelihood of labels that have a noise of their
own in every group; else the few frames of a group that is known badly, surfaces, would outweigh all others.

Measured by labels left out, 1500 points, meV/atom and (root mean square) eV/Å: molybdenum 2.04 and 0.151 with one noise for all groups
and errors of all together; 1.97 and 0.152 with noise of their own; 1.82 and 0.154 so and told group by group (the whole way to errors
as large as the noise 1.98 and 0.156); silicon 2.42 and 0.091, 2.40 and 0.091, 2.32 and 0.092.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.regression.exact import IndefiniteMatrix, Progress
from mlff.regression.sparse.label_kinds import group_of, label_of, ungrouped
from mlff.regression.sparse.sums import FOLDS, Levels, SparseSystem
from mlff.regression.validation import TIE

logger = logging.getLogger(__name__)

SEARCHED = 1000  # functionals with which the noise is found
STARTS = {"energy": 0.1, "forces": 0.03}  # of the root mean square of the labels
OTHERS = 0.3
FINEST, STEPS = 10.0**0.125, (4, 2, 1)  # the noise is looked for on a grid, in strides
IMPORTANCE = {"energy": 1.0, "forces": 1.0}  # of the logarithms of errors; of all other kinds a quarter
MINOR = 0.25
SMALL = 0.03  # of the errors of all labels of a name, those of a group that may as well be none
GAIN = 5e-4  # of the error: less is none
LEAST = 1e-4  # of the errors of all labels, those of a group
APART = 2 * 2**30  # bytes of the sums of groups of frames whose noise is found apart


def folds_of(frames: LabelledFrames, seed: int) -> dict[int, int]:
    """The fold of every frame, by its index: frames of equal atoms are spread evenly."""
    generator, found, next_fold = np.random.default_rng(seed), {}, 0
    for batch in frames.batches:
        for i in generator.permutation(batch.index):
            found[int(i)] = next_fold % FOLDS
            next_fold += 1
    return found


def drawn_frames(
    frames: LabelledFrames, seed: int, environments: int, least: int, most: int | None = None
) -> LabelledFrames:
    """Frames that are drawn, with about so many environments in all; no fewer frames than the least, and no more than the most."""
    sizes = {int(i): len(batch.numbers) for batch in frames.batches for i in batch.index}
    drawn = np.random.default_rng(seed).permutation(frames.index)
    enough = np.cumsum([sizes[int(i)] for i in drawn]) <= environments
    return frames.take(drawn[: max(least, int(enough.sum()))][:most])


@dataclasses.dataclass(frozen=True)
class Found:
    """Noise of every kind and amplitudes, with the mean error of the labels left out that they were chosen by, and how many were
    tried; factors of the noise of groups, by kind, and the system in these units, whose noise that of all kinds is."""

    levels: dict[str, float]
    amplitudes: np.ndarray
    error: float
    tried: int
    factors: dict[str, float]
    system: SparseSystem


def find_levels(
    system: SparseSystem, amplitudes: np.ndarray, progress: Progress = lambda stage, fraction: None
) -> Found:
    """The noise that gives the smallest errors of labels left out; of groups of frames the more, the larger their own errors are.

    Arguments:
        amplitudes: A of every part of the kernel, eV²; of several the shares are looked for too, their product stays.
    """
    factors: dict[str, float] = {}
    levels, amplitudes, tried = _searched(system, factors, amplitudes, progress)
    if grouped := [kind for kind in system.kinds if group_of(kind) is not None]:
        factors = _group_factors(system.errors(levels, amplitudes), system, grouped)
        levels, amplitudes, more = _searched(system, factors, amplitudes, progress, levels)
        tried += more
    levels, more = _with_all(system, factors, levels, amplitudes)
    tried += more
    progress("noise", 1.0)
    errors = system.errors(of_kinds(levels, factors), amplitudes)
    logger.info("noise %s: errors of labels left out %s", levels, errors)
    return Found(levels, amplitudes, mean_error(errors, system), tried, factors, system.merged(factors))


def of_kinds(levels: Levels, factors: Mapping[str, float]) -> dict[str, float]:
    """The noise of all labels, and of the kinds of groups that times their factors."""
    return {**levels, **{kind: levels[ungrouped(kind)] * factor for kind, factor in factors.items()}}


def _group_factors(errors: Mapping[str, float], system: SparseSystem, grouped: Sequence[str]) -> dict[str, float]:
    """√(error of a group's labels left out / that of all labels of their name), by kind."""
    together = by_labels(errors, system)
    return {kind: float(np.sqrt(max(errors[kind] / (together[ungrouped(kind)] or 1.0), LEAST))) for kind in grouped}


def by_labels(errors: Mapping[str, float], system: SparseSystem) -> dict[str, float]:
    """Root mean squares, with those of the kinds of groups in one."""
    squares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for kind, error in errors.items():
        name, count = ungrouped(kind), system.whole[kind].count
        squares[name] = squares.get(name, 0.0) + count * error**2
        counts[name] = counts.get(name, 0) + count
    return {name: float(np.sqrt(squares[name] / counts[name])) for name in squares}


def _searched(
    system: SparseSystem,
    factors: Mapping[str, float],
    amplitudes: np.ndarray,
    progress: Progress,
    started: Levels | None = None,
) -> tuple[dict[str, float], np.ndarray, int]:
    """Noise, amplitudes and how many were tried, with not too many functionals: downhill in steps that get smaller; from noise that
    is nearly right in small ones alone."""
    small = system.leading(SEARCHED) if len(system.inducing.whitening) > SEARCHED else system
    levels = dict(started or _first(system))
    parts = range(len(amplitudes)) if len(amplitudes) > 1 else ()
    place, tried = dict.fromkeys((*levels, *parts), 0), {}

    def at(place: Mapping) -> tuple[dict[str, float], np.ndarray]:
        found = {name: level * FINEST ** place[name] for name, level in levels.items()}
        steps = np.array([place[part] for part in parts])
        return found, amplitudes * FINEST ** (2.0 * (steps - steps.mean())) if len(parts) else amplitudes

    def look(place: Mapping) -> float:
        key = tuple(place.values())
        if key not in tried:
            progress("noise", min(0.95, len(tried) / 40))
            levels, scaled = at(place)
            tried[key] = _mean_error(small, of_kinds(levels, factors), scaled)
        return tried[key]

    for step in STEPS if started is None else STEPS[1:]:
        moved = True
        while moved:
            moved = False
            for name in place:
                for by in (step, -step):
                    while look(further := {**place, name: place[name] + by}) < (1.0 - GAIN) * look(place):
                        place, moved = further, True
    return *at(place), len(tried)


def _first(system: SparseSystem) -> dict[str, float]:
    """Shares of the root mean square of the labels, for those of which no noise is stated."""
    whole = {kind: moments for kind, moments in system.whole.items() if kind not in system.stated}
    sizes = by_labels({kind: float(np.sqrt(moments.square / moments.count)) for kind, moments in whole.items()}, system)
    return {name: STARTS.get(name, OTHERS) * size or 1.0 for name, size in sizes.items()}


def _with_all(
    system: SparseSystem, factors: Mapping[str, float], levels: Levels, amplitudes: np.ndarray
) -> tuple[dict[str, float], int]:
    """Noise times the factor that is best with all functionals, and how many were tried: of factors that are as good to `TIE`, the
    largest, of the smoothest model."""
    tried: dict[int, float] = {}

    def scaled(place: int) -> dict[str, float]:
        return {name: level * FINEST**place for name, level in levels.items()}

    def look(place: int) -> float:
        if place not in tried:
            tried[place] = _mean_error(system, of_kinds(scaled(place), factors), amplitudes)
        return tried[place]

    place = 0
    for step in STEPS:
        for by in (-step, step):
            while look(place + by) < (1.0 - GAIN) * look(place):
                place += by
    best = look(place)
    for _ in range(STEPS[0]):
        if look(place + 1) <= (1.0 + TIE) * best:
            place += 1
    return scaled(place), len(tried)


def mean_error(errors: Mapping[str, float], system: SparseSystem) -> float:
    """The geometric mean of the errors of all kinds of labels, by their importance; kinds of the same labels share it by how many
    they are. A group whose labels symmetry makes zero has no errors but rounding: those beneath `SMALL` of all count for little."""
    counts, together = {kind: system.whole[kind].count for kind in errors}, by_labels(errors, system)
    of_labels: dict[str, int] = collections.Counter()
    for kind, count in counts.items():
        of_labels[label_of(kind)] += count
    sizes = [max(np.hypot(error, SMALL * together[ungrouped(kind)]), 1e-300) for kind, error in errors.items()]
    weights = [IMPORTANCE.get(label_of(kind), MINOR) * counts[kind] / of_labels[label_of(kind)] for kind in errors]
    return float(np.exp(np.average(np.log(sizes), weights=weights)))


def _mean_error(system: SparseSystem, levels: Levels, amplitudes: np.ndarray) -> float:
    try:
        return mean_error(system.errors(levels, amplitudes), system)
    except IndefiniteMatrix:
        return np.inf


def errors_by_size(system: SparseSystem, levels: Levels, amplitudes: np.ndarray) -> list[tuple[int, dict[str, float]]]:
    """RMSE of labels left out with an eighth, a quarter, half and all of the functionals."""
    m = len(system.inducing.whitening)
    sizes = sorted({-(-m // d) for d in (8, 4, 2, 1)})
    return [(k, by_labels((system.leading(k) if k < m else system).errors(levels, amplitudes), system)) for k in sizes]


def groups_apart(request_groups: Mapping[int, str], functionals: int, labels: int) -> dict[int, str]:
    """The groups of frames, by the frames' index, whose noise is found apart: of FOLDS frames or more, two at least, and no more than
    their sums have room for."""
    counts = collections.Counter(request_groups.values())
    some = {group for group, count in counts.items() if count >= FOLDS}
    room = 8 * functionals**2 * FOLDS * labels * len(some) <= APART
    return {i: group for i, group in request_groups.items() if group in some} if room and len(some) > 1 else {}
