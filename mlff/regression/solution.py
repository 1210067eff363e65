"""The linear solve at fixed hyperparameters: (kernel, labelled frames, noise) → expansion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from mlff.data.batches import LabelledFrames
from mlff.kernels.kernels import Kernel
from mlff.potentials.expansion import Expansion
from mlff.regression.exact import Progress, factorise
from mlff.regression.features import compute_features
from mlff.regression.linear_system import LinearSystem
from mlff.regression.observations import Noise
from mlff.regression.posterior import RANK_CUTOFF, Posterior
from mlff.regression.rows import orders


@dataclasses.dataclass(frozen=True)
class Solution:
    """The trained model and what the solve learnt on its way.

    Attributes:
        model: the expansion.
        amplitudes: A of every part, eV².
        rows: of the linear system.
        unseen: share of the squared forces outside the descriptor's reach.
        posterior: the factor with its system, where it was asked for; it holds the whole matrix.
        noise: of every kind of label by name, where the solve found it.
        inducing: of a sparse model what the record says of its functionals.
    """

    model: Expansion
    amplitudes: tuple[float, ...]
    rows: int
    unseen: float
    posterior: Posterior | None = None
    noise: dict[str, float] | None = None
    inducing: dict | None = None


@dataclasses.dataclass(frozen=True)
class Weights:
    """What solves a linear system: y = K a + H c.

    Attributes:
        rows: a, in units of the inverse scale of the system, shape (rows,).
        constants: c, eV.
        responses: C⁻¹ H, where least squares found the constants.
    """

    rows: Float[np.ndarray, " rows"]
    constants: Float[np.ndarray, " constants"]
    responses: Float[np.ndarray, "rows constants"] | None


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
    system: LinearSystem, progress: Progress = lambda stage, fraction: None, posterior: bool = False
) -> Solution:
    """As `solve`, of a linear system."""
    factor = factorise(system, progress)
    weights = find_weights(system, factor)
    kept = Posterior(system, factor, weights.responses) if posterior else None
    del factor  # as large as the matrix; the expansion comes after it
    return Solution(
        expand(system, weights),
        system.amplitudes,
        system.shape[0],
        float(np.mean([frame.unseen for frame in system.features.observations])),
        kept,
    )


def find_weights(system: LinearSystem, factor) -> Weights:
    """a and the constants c by generalised least squares: Hᵀ C⁻¹ (y − H c) = 0, C a = y − H c.

    Arguments:
        factor: what a solver gives: `factor.solve(right)` is C⁻¹ times the columns of a matrix.
    """
    constants = np.zeros(system.design.shape[1]) if system.given is None else system.given
    if system.given is not None or not system.design.any():
        return Weights(factor.solve(system.labels[:, None])[:, 0], constants, None)
    solutions = factor.solve(np.column_stack([system.labels, system.design]))
    weights, responses = solutions[:, 0], solutions[:, 1:]
    normal = system.design.T @ responses
    constants = np.linalg.lstsq(normal, system.design.T @ weights, rcond=RANK_CUTOFF)[0]
    return Weights(weights - responses @ constants, constants, responses)


def expand(system: LinearSystem, weights: Weights) -> Expansion:
    """The energy as a function of a geometry: the sum over all labels, contracted to points in descriptor space."""
    parts = tuple(
        term.expand(system.features.observations, share * weights.rows)
        for term, share in zip(system.features.terms, system.shares, strict=True)
    )
    return Expansion(parts, weights.constants, system.elements, label_order=highest_order(system))


def highest_order(system: LinearSystem) -> int:
    """The highest derivative among the labels."""
    return max(int(orders(frame.rows).max(initial=0.0)) for frame in system.features.observations)
