"""The linear solve at fixed hyperparameters: (kernel, labelled frames, noise) → expansion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.kernels.kernels import Kernel
from mlff.potentials.expansion import Expansion
from mlff.potentials.label_weights import LabelWeights
from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.devices.shared_rows import SharedRows
from mlff.regression.exact import Progress, factorise
from mlff.regression.iterative import iterate
from mlff.regression.posterior import Posterior
from mlff.regression.sparse.posterior import SparsePosterior
from mlff.regression.system.coefficients import Weights, expand, find_weights
from mlff.regression.system.features import compute_features
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.system.observations import Noise


@dataclasses.dataclass(frozen=True)
class Solution:
    """The trained model and what the solve learnt on its way.

    Attributes:
        model: the expansion.
        amplitudes: A of every part, eV².
        rows: of the linear system.
        unseen: share of the squared forces outside the descriptor's reach.
        posterior: what the fit does not know, where it was asked for; of an exact fit it holds the whole matrix.
        left_out: standard deviations and errors of labels left out, by their names, where that was asked for.
        noise: of every kind of label by name, where the solve found it.
        inducing: of a sparse model what the record says of its functionals.
        iterations: of an iterative fit what the record says of these.
        weights: of its labels, where another may begin.
    """

    model: Expansion
    amplitudes: tuple[float, ...]
    rows: int
    unseen: float
    posterior: Posterior | SparsePosterior | None = None
    left_out: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
    noise: dict[str, float] | None = None
    inducing: dict | None = None
    iterations: dict | None = None
    weights: LabelWeights | None = None


def solve(
    kernel: Kernel,
    frames: LabelledFrames,
    noise: Noise,
    atomic_energies: Mapping[int, float] | None = None,
    progress: Progress = lambda stage, fraction: None,
    posterior: bool = False,
) -> Solution:
    """Fit the expansion in closed form: (K/A + σ²/A) a = y by Cholesky, with generalised least squares for c.

    Beside the matrix there are the tangents of all labels at all environments.

    Arguments:
        kernel: with length scales and elements.
        frames: of which each has one of the labels of `noise` at least.
        noise: standard deviation of each kind of label that enters, by name or operator, in its unit.
        atomic_energies: energies of isolated atoms by atomic number, eV, in place of constants from least squares.
        progress: called with a stage's name and how much of it is done.
        posterior: keep the factor, and with it the memory of the matrix.
    Raises:
        IndefiniteMatrix: it is not positive definite; the message says what to do.
        ValueError: the descriptor is not finite, or the matrix larger than the machine's memory.
    """
    features = compute_features(kernel, frames, noise, progress)
    return solve_system(LinearSystem.of(kernel, features, noise, atomic_energies), progress, posterior)


def solve_system(
    system: LinearSystem,
    progress: Progress = lambda stage, fraction: None,
    posterior: bool = False,
    checkpoint: Checkpoint = NOWHERE,
    shared: SharedRows | None = None,
) -> Solution:
    """As `solve`, of a linear system.

    Arguments:
        checkpoint: keeps the columns of the factor that are done.
        shared: its rows on devices, whose factor knows no posterior.
    """
    factorised = factorise if shared is None else shared.factorised
    factor = factorised(system, progress, checkpoint)
    weights = find_weights(system, factor)
    kept = Posterior(system, factor, weights) if posterior else None
    checkpoint.forget()
    del factor  # as large as the matrix; the expansion comes after it
    return _solution(system, weights, posterior=kept)


def solve_iteratively(
    system: LinearSystem,
    rank: int,
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
    checkpoint: Checkpoint = NOWHERE,
    start: LabelWeights | None = None,
) -> Solution:
    """As `solve_system`, by preconditioned conjugate gradients.

    Arguments:
        rank: of the preconditioner at most.
        seed: of the frames that it is made of.
        start: weights of an earlier fit with the same hyperparameters, of some of the frames.
    Raises:
        NotConverged, IndefiniteMatrix: the message says what to do.
    """
    frames, counts = system.features.frames, system.features.row_counts
    begun = None if start is None else start.at(frames, counts)
    weights, summary = iterate(system, rank, seed, progress, checkpoint, begun)
    checkpoint.forget()
    kept = LabelWeights.of(frames, counts, weights.rows)
    return _solution(system, weights, iterations=summary, weights=kept)


def _solution(system: LinearSystem, found: Weights, **learnt) -> Solution:
    unseen = float(np.mean([frame.unseen for frame in system.features.observations]))
    return Solution(expand(system, found), system.amplitudes, system.shape[0], unseen, **learnt)
