"""The search for hyperparameters: a length scale by validation error on held-out frames."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
from scipy.spatial.distance import pdist

from mlff.force_field import ForceField
from mlff.images import jets
from mlff.kernels import GlobalKernel
from mlff.solve import IndefiniteMatrix, LabelledFrames, Progress, solve

logger = logging.getLogger(__name__)

FACTOR = 2**0.5  # between neighbours of the geometric grid
START = 8.0  # of the data's own scale: smooth kernels of descriptors want to look far
STEPS = 12  # the grid reaches this many factors either way
MAX_FIT, MAX_VALIDATION = 300, 200  # frames used by the search
ENOUGH = 40  # validation frames; with fewer in a fifth, several fifths take turns
MIN_FRAMES = 5
TIE = 0.005  # relative difference of validation errors that says nothing


@dataclasses.dataclass(frozen=True)
class Trial:
    """One length scale that was tried, and the RMSE on the held-out frames (eV/Å, or eV without forces)."""

    lengthscale: float
    error: float


def data_scale(kernel: GlobalKernel, frames: LabelledFrames) -> float:
    """Median distance between the descriptors of two frames."""
    unit = kernel.replace(radial=kernel.radial.replace(lengthscale=1.0))
    chosen = frames.take(np.linspace(0, len(frames) - 1, min(len(frames), 200)).astype(int))
    features = [points for _, (points, _) in jets(unit, chosen.positions, chosen.numbers, chosen.cells)]
    scale = float(np.median(pdist(np.concatenate(features))))
    if not scale > 0 or not np.isfinite(scale):
        raise ValueError(
            f"descriptor {kernel.descriptor.name} is the same for all frames (median distance {scale}); "
            "it sees nothing of what changes in them"
        )
    return scale


def search_lengthscale(
    kernel: GlobalKernel,
    frames: LabelledFrames,
    noise: dict[str, float],
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
) -> tuple[float, list[Trial]]:
    """The length scale with the smallest validation error, over the geometric grid scale · 8 · √2^k.

    A fifth of the frames (at most 200) is held out, the rest (at most 300) is fitted; of small sets several fifths are
    held out in turn, until 40 frames or all have been predicted. From the middle of the grid the
    search walks downhill, a step of 2 first, then of √2, until both neighbours of the best are worse. Of those that are
    as good as the best to half a percent the shortest is taken: the best conditioned, and no worse in its energies.

    Returns:
        the best length scale, and all trials in the order they were made.
    Raises:
        ValueError: fewer than 5 frames, or no length scale gives a positive definite matrix.
    """
    if len(frames) < MIN_FRAMES:
        raise ValueError(
            f"lengthscale: {len(frames)} training frames are too few to find one by validation "
            f"(at least {MIN_FRAMES}); give it, for example Matern52(lengthscale=10.0)"
        )
    order = np.random.default_rng(seed).permutation(len(frames))
    held = max(1, min(MAX_VALIDATION, len(frames) // 5))
    turns = min(5, -(-ENOUGH // held), len(frames) // held)
    folds = [np.roll(order, -turn * held) for turn in range(turns)]
    splits = [(frames.take(fold[held : held + MAX_FIT]), frames.take(fold[:held])) for fold in folds]
    start = START * data_scale(kernel, frames)
    errors: dict[int, float] = {}
    trials: list[Trial] = []

    def error(k: int) -> float:
        if k not in errors:
            progress("length scale", min(0.95, len(errors) / 9))
            trial = kernel.replace(radial=kernel.radial.replace(lengthscale=start * FACTOR**k))
            errors[k] = float(np.sqrt(np.mean([_validation_error(trial, *split, noise) ** 2 for split in splits])))
            trials.append(Trial(start * FACTOR**k, errors[k]))
            logger.info("length scale %.4g: validation RMSE %.4g", trials[-1].lengthscale, errors[k])
        return errors[k]

    best = 0
    for stride in (2, 1):
        for direction in (1, -1):
            while abs(best + direction * stride) <= STEPS and error(best + direction * stride) < error(best):
                best += direction * stride
    progress("length scale", 1.0)
    if not np.isfinite(errors[best]):
        raise ValueError(
            f"lengthscale: no kernel matrix around the data's scale ({start:.3g}) is positive definite with noise "
            f"{noise}; raise noise, or give a length scale"
        )
    good = [k for k, value in errors.items() if value <= (1.0 + TIE) * errors[best]]
    return start * FACTOR ** min(good), trials


def _validation_error(kernel, training: LabelledFrames, validation: LabelledFrames, noise: dict[str, float]) -> float:
    try:
        solution = solve(kernel, training, noise)
    except IndefiniteMatrix:
        return np.inf  # no candidate
    force_field = ForceField(solution.model, training.numbers, kernel, 1)
    energies, forces = force_field.energy_and_forces(validation.positions, validation.cells)
    difference = forces - validation.labels["forces"] if "forces" in noise else energies - validation.labels["energy"]
    return float(np.sqrt(np.mean(difference**2)))
