"""The noise of every kind of label, found by validation: from sums over frames, without another look at them.

Of energies and stresses it is that of an atom: σ√n of the energy of n atoms, and σ√n of the strain derivative (the virial), so that
large and small cells weigh as they should.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.regression.exact import IndefiniteMatrix, Progress
from mlff.regression.label_kinds import label_of
from mlff.regression.sparse import FOLDS, Levels, SparseSystem

logger = logging.getLogger(__name__)

SEARCHED = 1000  # functionals with which the noise is found
STARTS = {"energy": 0.1, "forces": 0.03}  # of the root mean square of the labels
OTHERS = 0.3
FINEST, STEPS = 10.0**0.125, (4, 2, 1)  # the noise is looked for on a grid, in strides
ALL_STEPS = (4, 2)  # the same, of all kinds at once with all functionals
IMPORTANCE = {"energy": 1.0, "forces": 1.0}  # of the logarithms of errors; of all other kinds a quarter
MINOR = 0.25
GAIN = 5e-4  # of the error: less is none


def folds_of(frames: LabelledFrames, seed: int) -> dict[int, int]:
    """The fold of every frame, by its index: frames of equal atoms are spread evenly."""
    generator, found, next_fold = np.random.default_rng(seed), {}, 0
    for batch in frames.batches:
        for i in generator.permutation(batch.index):
            found[int(i)] = next_fold % FOLDS
            next_fold += 1
    return found


@dataclasses.dataclass(frozen=True)
class Found:
    """Noise of every kind and amplitudes, with the errors of the labels left out that they were chosen by, and how many were
    tried."""

    levels: dict[str, float]
    amplitudes: np.ndarray
    errors: dict[str, float]
    tried: int


def find_levels(
    system: SparseSystem, amplitudes: np.ndarray, progress: Progress = lambda stage, fraction: None
) -> Found:
    """The noise that gives the smallest errors of labels left out, downhill in steps that get smaller.

    Arguments:
        amplitudes: A of every part of the kernel, eV²; of several the shares are looked for too, their product stays.
    """
    small = system.leading(SEARCHED) if len(system.inducing.whitening) > SEARCHED else system
    levels = {
        name: STARTS.get(name, OTHERS) * float(np.sqrt(moments.square / moments.count)) or 1.0
        for name, moments in system.whole.items()
        if name not in system.stated
    }
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
            tried[key] = _mean_error(small, *at(place))
        return tried[key]

    for step in STEPS:
        moved = True
        while moved:
            moved = False
            for name in place:
                for by in (step, -step):
                    while look(further := {**place, name: place[name] + by}) < (1.0 - GAIN) * look(place):
                        place, moved = further, True
    levels, amplitudes = at(place)
    more = 0
    if small is not system:  # more functionals have smaller errors, and want less noise
        levels, more = _with_all(system, levels, amplitudes)
    progress("noise", 1.0)
    errors = system.errors(levels, amplitudes)
    logger.info("noise %s: errors of labels left out %s", levels, errors)
    return Found(levels, amplitudes, errors, len(tried) + more)


def _with_all(system: SparseSystem, levels: Levels, amplitudes: np.ndarray) -> tuple[dict[str, float], int]:
    """Noise that was found with few functionals, times the factor that is best with all; and how many were tried."""
    tried: dict[int, float] = {}

    def scaled(place: int) -> dict[str, float]:
        return {name: level * FINEST**place for name, level in levels.items()}

    def look(place: int) -> float:
        if place not in tried:
            tried[place] = _mean_error(system, scaled(place), amplitudes)
        return tried[place]

    place = 0
    for step in ALL_STEPS:
        for by in (-step, step):
            while look(place + by) < (1.0 - GAIN) * look(place):
                place += by
    return scaled(place), len(tried)


def mean_error(errors: Mapping[str, float]) -> float:
    """The geometric mean of the errors of all kinds of labels, by their importance; kinds of the same labels share it."""
    labels = [label_of(kind) for kind in errors]
    weights = [IMPORTANCE.get(label, MINOR) / labels.count(label) for label in labels]
    return float(np.exp(np.average(np.log(np.maximum(list(errors.values()), 1e-300)), weights=weights)))


def _mean_error(system: SparseSystem, levels: Levels, amplitudes: np.ndarray) -> float:
    try:
        return mean_error(system.errors(levels, amplitudes))
    except IndefiniteMatrix:
        return np.inf


def errors_by_size(system: SparseSystem, levels: Levels, amplitudes: np.ndarray) -> list[tuple[int, dict[str, float]]]:
    """RMSE of labels left out with an eighth, a quarter, half and all of the functionals."""
    m = len(system.inducing.whitening)
    return [(k, system.leading(k).errors(levels, amplitudes)) for k in sorted({-(-m // d) for d in (8, 4, 2, 1)})]
