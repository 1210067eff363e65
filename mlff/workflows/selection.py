"""Which of many geometries to label: those whose forces tell most about the forces of all.

A Gaussian process says what a label is worth before it is computed. With R the posterior covariance of force components, the candidate i
is taken whose labels leave least variance at all others, Σ_t |R_it|²/(R_ii + σ²) largest; then its labels count as known, and R is that of
the rest. Nothing but geometries and a kernel is needed, so all choices of a batch are made at once.

Every candidate is looked at through a few random combinations of the forces that its descriptor sees, and its worth through those of some
candidates: memory grows with the number of candidates times the labels that are chosen, not with its square.

Source: Cohn, Ghahramani, Jordan, J. Artif. Intell. Res. 4, 129 (1996), doi 10.1613/jair.295.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from jaxtyping import Float, Integer
from scipy.linalg import cholesky, solve_triangular

from mlff.arguments import checked_seed, is_number
from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.readers import read_geometries
from mlff.data.system import System
from mlff.kernels.jets import feature_values
from mlff.kernels.kernels import Kernel
from mlff.operators import FORCES
from mlff.potentials.force_field import ForceField
from mlff.regression.recipes import default_recipe, recipe
from mlff.regression.sparse.farthest import farthest_points
from mlff.regression.system.features import Features, compute_features
from mlff.regression.system.kernel_blocks import kernel_between
from mlff.regression.validation import data_scales, with_lengthscales

WAYS = ("variance", "farthest", "random")
LOOKED_AT = 4  # combinations of the forces of a candidate
TARGETS = 150  # candidates whose forces are to be known
NOISE = 1e-6  # variance of a label, of the prior's: what is known to a thousandth is known
AT_ONCE = 200  # frames whose Jacobians are there together

Progress = Callable[[str, float], None]


def select(
    pool: Dataset,
    count,
    model: ForceField | Kernel | None = None,
    known: Dataset | None = None,
    by: str = "variance",
    seed: int = 0,
    progress: Progress = lambda stage, share: None,
) -> Integer[np.ndarray, " count"]:
    """Choose frames to label, in the order of what they are worth.

        chosen = mlff.select(pool, 50)
        mlff.select(pool, 50, model=force_field, known=train)     # what to add to a fit

    Arguments:
        pool: candidates; labels that they have are not looked at.
        count: how many are wanted.
        model: whose kernel it is for, or the kernel; without one that of the recipe that `mlff fit` would take. Length scales that
            it lacks are taken from the candidates.
        known: frames that are labelled already.
        by: "variance", or for comparison "farthest" points in descriptor space, or "random".
        seed: of combinations, first points and random choices.
    Returns:
        indices of frames of the pool.
    Raises:
        ValueError: more than there are, another way of choosing, or frames that the kernel cannot compare.
    """
    seed = checked_seed(seed)
    if by not in WAYS:
        raise ValueError(f"by={by!r:.60} must be one of {', '.join(WAYS)}")
    if not is_number(count) or int(count) != count or not 1 <= count <= len(pool):
        raise ValueError(f"count={count!r:.60} must be a whole number from 1 to the {len(pool)} candidates")
    count, generator = int(count), np.random.default_rng(seed)
    if by == "random":
        return generator.permutation(len(pool))[:count]
    kernel, frames = _kernel(model, pool), _asked(pool)
    if known is not None and not kernel.transferable and not np.array_equal(known[0].numbers, pool[0].numbers):
        raise ValueError(f"known: {known.source or 'its frames'} and the candidates are of different atoms")
    if by == "farthest":
        return _farthest(kernel, frames, count, generator)
    return _by_variance(kernel, frames, None if known is None else _asked(known), count, generator, progress)


def read_pool(path: pathlib.Path, units: str | None = None) -> list[Atoms]:
    """Geometries of a file that ASE reads, or of an .npz file in the units stated; labels are not looked at.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read.
    """
    if path.suffix != ".npz":
        return read_geometries(path)
    frames = Dataset.read(path, units=units)
    return [frame.to_ase() for frame in frames]


def unlabelled(geometries: Sequence[Atoms], source: str) -> Dataset:
    """Geometries as frames without labels."""
    return Dataset([Frame(System.from_ase(atoms), {}) for atoms in geometries], source)


def bare(geometries: Sequence[Atoms]) -> list[Atoms]:
    """Geometries without all else that they hold."""
    return [Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc) for a in geometries]


def _kernel(model: ForceField | Kernel | None, pool: Dataset) -> Kernel:
    """With elements, length scales, and an amplitude for every term."""
    kernel = model.kernel if isinstance(model, ForceField) else model
    if kernel is None:
        name, _ = default_recipe(pool)
        kernel, _ = recipe(name, pool)
    frames = LabelledFrames.of(pool)
    numbers = [frame.numbers for frame in pool]
    kernel = kernel.completed(np.concatenate(numbers) if kernel.transferable else numbers[0])
    return with_lengthscales(kernel, data_scales(kernel, frames))


def _asked(data: Dataset) -> LabelledFrames:
    """Frames with forces as labels, of any values."""
    batches = LabelledFrames.of(data).batches
    return LabelledFrames(
        tuple(dataclasses.replace(b, labels={FORCES.name: np.zeros(b.positions.shape)}) for b in batches)
    )


def _farthest(kernel: Kernel, frames: LabelledFrames, count: int, generator) -> np.ndarray:
    values = [
        np.concatenate([f.reshape(len(b), -1) for f in feature_values(kernel, b)], axis=1) for b in frames.batches
    ]
    if len({array.shape[1] for array in values}) > 1:
        raise ValueError("by=farthest: frames of different molecules have no distance; take by=variance")
    points = np.concatenate(values)
    (places,), _ = farthest_points([points], count, [int(generator.integers(len(points)))])
    return frames.index[places]


def _by_variance(
    kernel: Kernel, frames: LabelledFrames, known: LabelledFrames | None, count: int, generator, progress: Progress
) -> np.ndarray:
    progress("select", 0.0)
    looked_at = _looked_at(kernel, frames, generator)
    places = np.sort(generator.permutation(len(looked_at.observations))[:TARGETS])
    shares = _shares(kernel, looked_at)
    state = _Conditioned.of(looked_at, looked_at.take(places), shares)
    if known is not None:
        state.add(compute_features(kernel, known, {FORCES: 1.0}))
    owners = np.repeat(np.arange(len(looked_at.observations)), looked_at.row_counts)
    chosen: list[int] = []
    for k in range(count):
        worth = np.bincount(owners, state.worth(), minlength=len(looked_at.observations))
        worth[chosen] = -np.inf
        best = int(np.argmax(worth))
        chosen.append(best)
        one = frames.take([looked_at.frames.index[best]])
        state.add(compute_features(kernel, one, {FORCES: 1.0}))
        progress("select", (k + 1) / count)
    return looked_at.frames.index[chosen]


def _looked_at(kernel: Kernel, frames: LabelledFrames, generator) -> Features:
    """All candidates with a few orthonormal combinations of the forces that descriptors see of each."""
    observations, terms = [], None
    for start in range(0, len(frames), AT_ONCE):
        piece = compute_features(kernel, frames.take(frames.index[start : start + AT_ONCE]), {FORCES: 1.0})
        few = [_combinations(frame.size, generator) for frame in piece.observations]
        observations += [frame.mixed(mixing) for frame, mixing in zip(piece.observations, few, strict=True)]
        mixed = [
            dataclasses.replace(
                term,
                tangents=[np.matmul(mixing, t) for mixing, t in zip(few, term.tangents, strict=True)],
                batches=frames.batches,
            )
            for term in piece.terms
        ]
        if terms is None:
            terms = mixed
        else:
            for term, more in zip(terms, mixed, strict=True):
                for i in range(len(more.points)):
                    term.append(more.points[i], more.tangents[i], more.curved[i], more.channels[i])
    return Features(frames, observations, terms)


def _combinations(rows: int, generator) -> Float[np.ndarray, "few rows"]:
    """Random orthonormal rows."""
    few = min(LOOKED_AT, rows)
    return np.linalg.qr(generator.standard_normal((rows, few)))[0].T if rows else np.zeros((0, 0))


def _shares(kernel: Kernel, features: Features) -> np.ndarray:
    """Amplitudes of the terms for a mean prior variance of 1: as given, else equal."""
    few = features.take(np.unique(np.linspace(0, len(features.observations) - 1, 12).astype(int)))
    count = len(features.terms)
    traces = np.array([np.mean(np.diagonal(kernel_between(few, few, np.eye(count)[i]))) for i in range(count)])
    given = (
        np.ones(count) / traces
        if kernel.amplitude is None
        else np.atleast_1d(np.asarray(kernel.amplitude, dtype=float))
    )
    return given / float(given @ traces)


@dataclasses.dataclass
class _Conditioned:
    """Posterior covariances of some rows with targets, while labels become known.

    Attributes:
        rows, targets: in descriptor space; shares: amplitudes.
        covariance: of rows with targets, (rows, targets); variance: of rows, (rows,).
        known: features whose labels are known.
        factor: L of their covariance with noise, lower triangle, (k, k).
        answers: L⁻¹ of their covariance with all rows, (k, rows), and with targets.
    """

    rows: Features
    targets: Features
    shares: np.ndarray
    covariance: np.ndarray
    variance: np.ndarray
    known: list[Features] = dataclasses.field(default_factory=list)
    factor: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    answers: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, rows: Features, targets: Features, shares: np.ndarray) -> _Conditioned:
        """Before anything is known."""
        variance = np.concatenate(
            [np.diagonal(kernel_between(rows.take([i]), rows.take([i]), shares)) for i in range(len(rows.observations))]
        )
        return cls(rows, targets, shares, kernel_between(rows, targets, shares), variance.copy())

    def worth(self) -> np.ndarray:
        """By how much the variance of all targets falls when a row is known."""
        return np.sum(self.covariance**2, axis=1) / (np.maximum(self.variance, 0.0) + NOISE)

    def add(self, labels: Features) -> None:
        """Labels that become known."""
        with_rows, with_targets = (kernel_between(labels, other, self.shares) for other in (self.rows, self.targets))
        own = kernel_between(labels, labels, self.shares)
        own.flat[:: len(own) + 1] += NOISE
        if self.known:
            before = np.concatenate([kernel_between(other, labels, self.shares) for other in self.known])
            through = solve_triangular(self.factor, before, lower=True, check_finite=False)
            own -= through.T @ through.copy()
            with_rows = with_rows - through.T @ self.answers[0]
            with_targets = with_targets - through.T @ self.answers[1]
        lower = cholesky(own, lower=True, check_finite=False)
        rows, targets = (
            solve_triangular(lower, right, lower=True, check_finite=False) for right in (with_rows, with_targets)
        )
        k = len(self.factor)
        factor = np.zeros((k + len(lower), k + len(lower)))
        factor[:k, :k], factor[k:, k:] = self.factor, lower
        if self.known:
            factor[k:, :k] = through.T
            rows_before, targets_before = self.answers
            self.answers = np.concatenate([rows_before, rows]), np.concatenate([targets_before, targets])
        else:
            self.answers = rows, targets
        self.factor = factor
        self.known.append(labels)
        self.covariance = self.covariance - rows.T @ targets
        self.variance = self.variance - np.sum(rows**2, axis=0)
