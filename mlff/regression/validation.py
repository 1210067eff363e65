"""The search for hyperparameters: a length scale by validation error on held-out frames."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
from scipy.spatial.distance import pdist

from mlff.arguments import checked_seed
from mlff.data.batches import LabelledFrames
from mlff.kernels.composed import Kernel
from mlff.kernels.jets import jets
from mlff.kernels.kernels import GlobalKernel, LocalKernel
from mlff.operators import find_operator
from mlff.potentials.force_field import ForceField
from mlff.regression.exact import IndefiniteMatrix, Progress, solve
from mlff.regression.observations import Noise, describe

logger = logging.getLogger(__name__)

FACTOR = 2**0.5  # between neighbours of the geometric grid
START = 8.0  # of the data's own scale: smooth kernels of descriptors want to look far
STEPS = 12  # the grid reaches this many factors either way
MAX_FIT, MAX_VALIDATION = 300, 200  # frames used by the search
MAX_ENVIRONMENTS = 1000  # of one species, whose distances give the scale
ENOUGH = 40  # validation frames; with fewer in a fifth, several fifths take turns
MIN_FRAMES = 5
VALIDATED = ("forces", "energy")  # the labels that tell how good a length scale is, the first that is fitted
TIE = 0.005  # relative difference of validation errors that says nothing


@dataclasses.dataclass(frozen=True)
class Trial:
    """One length scale that was tried, and the RMSE on the held-out frames (eV/Å, or eV without forces)."""

    lengthscale: float
    error: float


def data_scale(kernel: GlobalKernel | LocalKernel, frames: LabelledFrames) -> float:
    """Median distance between the descriptors of two environments of one species (of two frames, of a global kernel)."""
    unit = kernel.replace(radial=kernel.radial.replace(lengthscale=1.0))
    chosen = frames.take(frames.index[np.linspace(0, len(frames) - 1, min(len(frames), 200)).astype(int)])
    features, channels = [], []
    for batch in chosen.batches:
        for piece, ((points,), _) in jets(unit, batch):
            features.append(points.reshape(-1, points.shape[-1]))
            channels.append(np.tile(unit.channels(batch.numbers), piece.stop - piece.start))
    points, species = np.concatenate(features), np.concatenate(channels)
    distances = [pdist(points[species == channel][:MAX_ENVIRONMENTS]) for channel in np.unique(species)]
    scale = float(np.median(np.concatenate(distances)))
    if not scale > 0 or not np.isfinite(scale):
        raise ValueError(
            f"descriptor {kernel.descriptor.name} is the same for all frames (median distance {scale}); "
            "it sees nothing of what changes in them"
        )
    return scale


def lacks_lengthscale(kernel: Kernel) -> bool:
    """Whether a radial function of the kernel has no length scale yet."""
    return any(radial.lengthscale is None for radial in kernel.radials)


def with_lengthscales(kernel: Kernel, scales, factor: float = 1.0) -> Kernel:
    """The kernel with `factor` times a length scale wherever there was none."""
    return kernel.with_leaves(
        [
            leaf
            if leaf.radial.lengthscale is not None
            else leaf.replace(radial=leaf.radial.replace(lengthscale=s * factor))
            for leaf, s in zip(kernel.leaves, scales, strict=True)
        ]
    )


def search_lengthscale(
    kernel: Kernel,
    frames: LabelledFrames,
    noise: Noise,
    seed: int = 0,
    atomic_energies=None,
    progress: Progress = lambda stage, fraction: None,
) -> tuple[Kernel, list[Trial]]:
    """The length scale with the smallest validation error, over the geometric grid scale · 8 · √2^k.

    Several length scales (of the terms of a sum, the factors of a product) keep their ratio, that of the data's scales.

    A fifth of the frames (at most 200) is held out, the rest (at most 300) is fitted, with as many of those at most that lack
    the label whose errors are compared; of small sets several fifths are
    held out in turn, until 40 frames or all have been predicted. From the middle of the grid the
    search walks downhill, a step of 2 first, then of √2, until both neighbours of the best are worse. Where the middle gives
    no positive definite matrix it begins at the first shorter length scale that does. Of those that are
    as good as the best to half a percent the shortest is taken: the best conditioned, and no worse in its energies.

    Returns:
        the kernel with the best length scale, and all trials in the order they were made.
    Raises:
        ValueError: fewer than 5 frames, or no length scale gives a positive definite matrix.
    """
    fitted = {find_operator(label).name for label in noise}
    validated = next((name for name in VALIDATED if name in fitted), None)
    if validated is None:
        raise ValueError(
            "lengthscale: it is found by the errors of forces or energies, and neither is fitted; give one"
        )
    # frames without the label that tells how good a length scale is are of use in training alone
    telling = frames.having(validated)
    if len(telling) < MIN_FRAMES:
        with_it = "" if len(telling) == len(frames) else f" with {validated}"
        raise ValueError(
            f"lengthscale: {len(telling)} training frames{with_it} are too few to find one by validation "
            f"(at least {MIN_FRAMES}); give it, for example Matern52(lengthscale=10.0)"
        )
    rng = np.random.default_rng(checked_seed(seed))
    order = telling.index[rng.permutation(len(telling))]
    others = rng.permutation(np.setdiff1d(frames.index, telling.index))[:MAX_FIT]
    held = max(1, min(MAX_VALIDATION, len(telling) // 5))
    turns = min(5, -(-ENOUGH // held), len(telling) // held)
    folds = [np.roll(order, -turn * held) for turn in range(turns)]
    splits = [
        (frames.take(np.concatenate([fold[held : held + MAX_FIT], others])), frames.take(fold[:held])) for fold in folds
    ]
    starts = [START * data_scale(leaf, frames) if leaf.radial.lengthscale is None else 1.0 for leaf in kernel.leaves]
    start = next(s for s, leaf in zip(starts, kernel.leaves, strict=True) if leaf.radial.lengthscale is None)
    errors: dict[int, float] = {}
    trials: list[Trial] = []

    def error(k: int) -> float:
        if k not in errors:
            progress("length scale", min(0.95, len(errors) / 9))
            trial = with_lengthscales(kernel, starts, FACTOR**k)
            mistakes = [_validation_error(trial, *split, noise, atomic_energies, validated) for split in splits]
            errors[k] = float(np.sqrt(np.mean(np.square(mistakes))))
            trials.append(Trial(start * FACTOR**k, errors[k]))
            logger.info("length scale %.4g: validation RMSE %.4g", trials[-1].lengthscale, errors[k])
        return errors[k]

    best = 0
    while not np.isfinite(error(best)) and best > -STEPS:
        best -= 2
    if best and np.isfinite(error(best)):
        logger.warning(
            "length scales: with noise %s no matrix from %.3g to %.3g is positive definite, the search begins at %.3g",
            describe(noise), trials[-2].lengthscale, start, trials[-1].lengthscale,
        )  # fmt: skip
    for stride in (2, 1):
        for direction in (1, -1):
            while abs(best + direction * stride) <= STEPS and error(best + direction * stride) < error(best):
                best += direction * stride
    progress("length scale", 1.0)
    if not np.isfinite(errors[best]):
        raise ValueError(
            f"lengthscale: no kernel matrix from {start:.3g} down to {trials[-1].lengthscale:.3g} is positive definite with "
            f"noise {describe(noise)}; raise noise, or remove near-duplicate frames"
        )
    good = [k for k, value in errors.items() if value <= (1.0 + TIE) * errors[best]]
    return with_lengthscales(kernel, starts, FACTOR ** min(good)), trials


def _validation_error(
    kernel, training: LabelledFrames, validation: LabelledFrames, noise, atomic_energies, name: str
) -> float:
    try:
        solution = solve(kernel, training, noise, atomic_energies)
    except IndefiniteMatrix:
        return np.inf  # no candidate
    squares = []
    for batch in validation.having(name).batches:
        force_field = ForceField(solution.model, batch.numbers, kernel)
        energies, forces = force_field.energy_and_forces(batch.positions, batch.cells, batch.pbc)
        squares.append(((forces if name == "forces" else energies) - batch.labels[name]).ravel() ** 2)
    return float(np.sqrt(np.mean(np.concatenate(squares))))
