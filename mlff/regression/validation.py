"""The search for hyperparameters: a length scale by validation error on held-out frames, and how much noise nobody stated there is."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import pdist

from mlff.arguments import checked_seed
from mlff.batching import machine_memory
from mlff.data.batches import LabelledFrames
from mlff.kernels.jets import feature_values
from mlff.kernels.kernels import GlobalKernel, Kernel, LocalKernel
from mlff.operators import find_operator
from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.exact import IndefiniteMatrix, Progress, factorise
from mlff.regression.system.coefficients import find_weights
from mlff.regression.system.features import Features, compute_features
from mlff.regression.system.inner_products import ScalableBlocks, is_scalable, needed_bytes
from mlff.regression.system.kernel_blocks import Blocks, KernelBlocks
from mlff.regression.system.linear_system import LinearSystem, constants_design
from mlff.regression.system.observations import Noise, describe

logger = logging.getLogger(__name__)

FACTOR = 2**0.5  # between neighbours of the geometric grid
START = 8.0  # of the data's own scale: smooth kernels of descriptors want to look far
STEPS = 12  # the grid reaches this many factors either way
MAX_FIT, MAX_VALIDATION = 300, 200  # frames used by the search
MAX_SCALED = 200  # frames among which distances give the data's scale
MAX_ENVIRONMENTS = 1000  # of one species, whose distances give the scale
ENOUGH = 40  # validation frames; with fewer in a fifth, several fifths take turns
MIN_FRAMES = 5
VALIDATED = ("forces", "energy")  # the labels that tell how good a length scale is, the first that is fitted
TIE = 0.005  # relative difference of validation errors that says nothing
# Noise that nobody stated is so small that it only keeps matrices well-conditioned, which is best for rigid molecules and exact labels.
# Floppy ones, and labels that are not exact, want more: 1-hexanol at 500 K, 1000 frames, 45 meV/Å in place of 52.
NOISIER, MOST_NOISIER, WORTH_NOISE = 10.0, 3, 0.01
# Where noise stands for what a kernel cannot express, more frames want less of it. Malonaldehyde, SOAP: ten times the least is better than
# that by 5.6 % with 300 frames, worse by 1.5 % with 600 and by 7 % with 1000; a hundred times by 3 % with 75, worse by 5 % with 150.
LESS_NOISE = 5.0  # times the frames


@dataclasses.dataclass(frozen=True)
class Trial:
    """One length scale that was tried, and the RMSE on the held-out frames (eV/Å, or eV without forces)."""

    lengthscale: float
    error: float


@dataclasses.dataclass(frozen=True)
class Search:
    """What the search for a length scale found.

    Attributes:
        kernel: with the best length scale.
        trials: all with the noise that was best, in the order they were made.
        features: of all frames, up to their length scale, where the search needed those of all; else None.
        blocks: of the kernel between the labels of all frames, likewise, where the search kept them; else None.
        noisier: what the noise is multiplied by that was given to the search, and to these features.
    """

    kernel: Kernel
    trials: list[Trial]
    features: Features | None = None
    blocks: ScalableBlocks | None = None
    noisier: float = 1.0


def data_scale(kernel: GlobalKernel | LocalKernel, frames: LabelledFrames) -> float:
    """Median distance between the descriptors of two environments of one species (of two frames, of a global kernel)."""
    unit = kernel.replace(radial=kernel.radial.replace(lengthscale=1.0))
    chosen = frames.take(frames.index[np.linspace(0, len(frames) - 1, min(len(frames), MAX_SCALED)).astype(int)])
    features, channels = [], []
    for batch in chosen.batches:
        (points,) = feature_values(unit, batch)
        features.append(points.reshape(-1, points.shape[-1]))
        channels.append(np.tile(unit.channels(batch.numbers), len(batch)))
    return _median_distance(kernel, np.concatenate(features), np.concatenate(channels))


def data_scales(kernel: Kernel, frames: LabelledFrames) -> list[float]:
    """The length scale of every leaf that the data suggest, to begin with; 1 where it has one."""
    return [START * data_scale(leaf, frames) if leaf.radial.lengthscale is None else 1.0 for leaf in kernel.leaves]


def _median_distance(kernel: GlobalKernel | LocalKernel, points: np.ndarray, species: np.ndarray) -> float:
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


@dataclasses.dataclass(frozen=True)
class Fold:
    """A division of the frames: which are fitted, and which are held out and predicted; by their indices."""

    training: np.ndarray
    held_out: np.ndarray


def folds_of(frames: LabelledFrames, validated: str, seed: int, most: int | None = None) -> list[Fold]:
    """A fifth of the frames that have the validated label (at most 200) is held out, the rest (at most 300, or `most`) is fitted, with
    as many of the frames without it at most; of small sets several fifths are held out in turn, until 40 frames or all
    have been predicted.

    Raises:
        ValueError: fewer than 5 frames have the label.
    """
    # frames without the label that tells how good a length scale is are of use in training alone
    telling = frames.having(validated)
    if len(telling) < MIN_FRAMES:
        with_it = "" if len(telling) == len(frames) else f" with {validated}"
        raise ValueError(
            f"lengthscale: {len(telling)} training frames{with_it} are too few to find one by validation "
            f"(at least {MIN_FRAMES}); give it, for example Matern52(lengthscale=10.0)"
        )
    rng, most = np.random.default_rng(checked_seed(seed)), MAX_FIT if most is None else most
    order = telling.index[rng.permutation(len(telling))]
    others = rng.permutation(np.setdiff1d(frames.index, telling.index))[:most]
    held = max(1, min(MAX_VALIDATION, len(telling) // 5))
    turns = min(5, -(-ENOUGH // held), len(telling) // held)
    turned = [np.roll(order, -turn * held) for turn in range(turns)]
    return [Fold(np.concatenate([turn[held : held + most], others]), turn[:held]) for turn in turned]


@dataclasses.dataclass(frozen=True)
class Validation:
    """Frames in descriptor space and their folds: all that does not depend on the length scale, computed once.

    Attributes:
        features: of all frames of all folds.
        folds: each with the places of its frames among those.
        name: of the label whose errors are compared.
        noise: standard deviation of every kind of label.
        atomic_energies: given constants, eV; None where least squares finds them.
    """

    features: Features
    folds: list[Fold]
    name: str
    noise: Noise
    atomic_energies: dict[int, float] | None

    @classmethod
    def of(
        cls,
        frames: LabelledFrames,
        folds: list[Fold],
        name: str,
        noise: Noise,
        atomic_energies,
        kernel: Kernel,
        progress: Progress = lambda stage, fraction: None,
    ) -> Validation:
        """Of frames under a kernel with some length scales, and folds by the indices of their frames."""
        used = np.concatenate([np.concatenate([fold.training, fold.held_out]) for fold in folds])
        features = compute_features(kernel, frames.take(used), noise, progress)
        index = features.frames.index
        places = [
            Fold(np.flatnonzero(np.isin(index, fold.training)), np.flatnonzero(np.isin(index, fold.held_out)))
            for fold in folds
        ]
        return cls(features, places, name, noise, atomic_energies)

    def error(self, kernel: Kernel, noisier: float = 1.0) -> float:
        """RMSE of the held-out labels under the same kernel with other length scales, and so many times the noise; infinite where the
        matrix of a fold is not positive definite."""
        features = _noisier(self.features, self.noise, noisier).scaled(kernel)
        blocks, squares = self._blocks(features), []
        for fold in self.folds:
            try:
                squares.append(self._fold_error(kernel, features, blocks, fold, noisier) ** 2)
            except IndefiniteMatrix:
                return np.inf  # no candidate
        return float(np.sqrt(np.mean(squares)))

    @functools.cached_property
    def scalable(self) -> ScalableBlocks | None:
        """What all trials' matrices are made of, where several folds have most frames in common and there is room for it."""
        if len(self.folds) == 1 or not any(map(is_scalable, self.features.terms)):
            return None
        if self._matrix_bytes + needed_bytes(self.features) > machine_memory() / 4:
            return None
        return ScalableBlocks.of(KernelBlocks(self.features))

    @property
    def _matrix_bytes(self) -> int:
        """Of the matrices of all terms and the factor of a fold."""
        return 8 * int(self.features.ends[-1]) ** 2 * (1 + len(self.features.terms))

    def _blocks(self, features: Features) -> Blocks:
        if self.scalable is not None:
            return self.scalable.kept(features)
        blocks = KernelBlocks(features)
        return blocks.kept() if len(self.folds) > 1 and self._matrix_bytes <= machine_memory() / 4 else blocks

    def _fold_error(self, kernel: Kernel, features: Features, blocks, fold: Fold, noisier: float) -> float:
        training, noise = features.take(fold.training), {label: noisier * level for label, level in self.noise.items()}
        system = LinearSystem.of(kernel, training, noise, self.atomic_energies, blocks.take(fold.training))
        weights = find_weights(system, factorise(system))
        held_out = features.take(fold.held_out)
        predicted = blocks.product(fold.held_out, fold.training, system.shares, weights.rows[:, None])[:, 0]
        predicted += constants_design(held_out, system.elements) @ weights.constants
        squares, count = 0.0, 0
        for frame, of_frame in zip(held_out.observations, np.split(predicted, held_out.ends[:-1]), strict=True):
            if self.name in frame.places:
                rows = frame.places[self.name]
                squares += float(np.sum((of_frame[rows] - frame.rows.labels[rows]) ** 2)) + frame.outside[self.name]
        for batch in held_out.frames.having(self.name).batches:
            count += batch.labels[self.name].size
        return float(np.sqrt(squares / count))


def search_lengthscale(
    kernel: Kernel,
    frames: LabelledFrames,
    noise: Noise,
    seed: int = 0,
    atomic_energies=None,
    progress: Progress = lambda stage, fraction: None,
    most: int | None = None,
    checkpoint: Checkpoint = NOWHERE,
    free: bool = False,
) -> Search:
    """The length scale with the smallest validation error, over the geometric grid scale · 8 · √2^k.

    Several length scales (of the terms of a sum, the factors of a product) keep their ratio, that of the data's scales.

    Frames are held out in the folds of `folds_of`. Their features and Jacobians are computed once; a trial scales them,
    solves, and predicts held-out labels from what is known of them. From the middle of the grid the
    search walks downhill, a step of 2 first, then of √2, until both neighbours of the best are worse. Where the middle gives
    no positive definite matrix it begins at the first shorter length scale that does. Of those that are
    as good as the best to half a percent the shortest is taken: the best conditioned, and no worse in its energies.

    Arguments:
        most: frames that a trial is fitted to; 300 without it.
        checkpoint: keeps the errors of trials.
        free: take 10, 100 or 1000 times the noise where that lowers the error by a hundredth; the length scale is then looked for
            again, from the one that was best.
    Raises:
        ValueError: fewer than 5 frames, or no length scale gives a positive definite matrix.
    """
    fitted = {find_operator(label).name for label in noise}
    validated = next((name for name in VALIDATED if name in fitted), None)
    if validated is None:
        raise ValueError(
            "lengthscale: it is found by the errors of forces or energies, and neither is fitted; give one"
        )
    folds = folds_of(frames, validated, seed, most)
    starts, validation = _begin(
        kernel,
        frames,
        functools.partial(Validation.of, frames, folds, validated, noise, atomic_energies, progress=progress),
    )
    start = next(s for s, leaf in zip(starts, kernel.leaves, strict=True) if leaf.radial.lengthscale is None)
    tried: dict[tuple[int, int], Trial] = {}

    def error(k: int, step: int = 0) -> float:
        if (k, step) not in tried:
            progress("length scale", min(0.95, len(tried) / 9))
            scaled, noisier = with_lengthscales(kernel, starts, FACTOR**k), NOISIER**step
            name = f"length scale {k}" + (f" noise {step}" if step else "")
            found = checkpoint.plain(name, lambda: validation.error(scaled, noisier))
            tried[k, step] = Trial(start * FACTOR**k, found)
            logger.info("length scale %.4g, noise times %.4g: validation RMSE %.4g", start * FACTOR**k, noisier, found)
        return tried[k, step].error

    best = downhill(error)
    _report_singular(list(tried.values()), noise)
    telling = frames.having(validated).index
    more = len(telling) / len(np.intersect1d(telling, folds[0].training))
    step = _noise_step(lambda step: error(best, step), more) if free else 0
    if step:
        before = best
        best += downhill(lambda k: error(before + k, step))
    progress("length scale", 1.0)
    of_noise = {k: trial for (k, noisier), trial in tried.items() if noisier == step}
    good = min(k for k, trial in of_noise.items() if trial.error <= (1.0 + TIE) * error(best, step))
    found = Search(with_lengthscales(kernel, starts, FACTOR**good), list(of_noise.values()), noisier=NOISIER**step)
    if len(validation.features.observations) < len(frames):
        return found
    features = _noisier(validation.features, noise, found.noisier)
    return dataclasses.replace(found, features=features, blocks=validation.scalable)


def _noise_step(error: Callable[[int], float], more: float) -> int:
    """How many times ten times the noise is best for so many times the frames that a trial is fitted to.

    Of far too little noise the first steps change nothing.
    """
    steps = 0
    while steps < MOST_NOISIER and error(steps + 1) <= (1.0 + TIE) * error(steps):
        steps += 1
    best = min(range(steps + 1), key=error)
    fewer = round(math.log(more, LESS_NOISE))
    return max(best - fewer, 0) if error(best) < (1.0 - WORTH_NOISE) * error(0) else 0


def less_noise(more: float) -> float:
    """What noise is multiplied by that stands for what a kernel cannot express, for so many times the frames."""
    return NOISIER ** -math.log(more, LESS_NOISE)


def _noisier(features: Features, noise: Noise, factor: float) -> Features:
    """With so many times the noise."""
    return features if factor == 1.0 else features.with_noise({find_operator(label).name: factor for label in noise})


def _begin(kernel: Kernel, frames: LabelledFrames, validate: Callable[[Kernel], Validation]):
    """The length scales in the middle of the grid, one for every leaf, and what is validated of frames under them."""
    leaves = kernel.leaves
    if len(leaves) == 1 and len(frames) <= MAX_SCALED:
        # all frames are in some fold, and one factor for all features changes nothing but them: they tell their own scale
        validation = validate(with_lengthscales(kernel, [1.0]))
        (term,) = validation.features.terms
        scale = _median_distance(leaves[0], np.concatenate(term.points), np.concatenate(term.channels))
        return [START * scale], validation
    starts = data_scales(kernel, frames)
    return starts, validate(with_lengthscales(kernel, starts))


def downhill(error: Callable[[int], float]) -> int:
    """The place of a minimum of a function on the grid, whose beginning may be infinite."""
    best = 0
    while not np.isfinite(error(best)) and best > -STEPS:
        best -= 2
    for stride in (2, 1):
        for direction in (1, -1):
            while abs(best + direction * stride) <= STEPS and error(best + direction * stride) < error(best):
                best += direction * stride
    return best


def _report_singular(trials: list[Trial], noise: Noise) -> None:
    """Say where the search found no positive definite matrix at first; refuse where it found none at all."""
    first = next((i for i, trial in enumerate(trials) if np.isfinite(trial.error)), None)
    start, shortest = trials[0].lengthscale, min(trial.lengthscale for trial in trials)
    if first is None:
        raise ValueError(
            f"lengthscale: no kernel matrix from {start:.3g} down to {shortest:.3g} is positive definite with "
            f"noise {describe(noise)}; raise noise, or remove near-duplicate frames"
        )
    if first:
        logger.warning(
            "length scales: with noise %s no matrix from %.3g to %.3g is positive definite, the search begins at %.3g",
            describe(noise), trials[first - 1].lengthscale, start, trials[first].lengthscale,
        )  # fmt: skip
