"""The iterative solver: preconditioned conjugate gradients, for which a linear system needs no matrix, only its products.

The preconditioner is what a part of the labels tells of all: with C = K + Λ and the kernel A Aᵀ of the projection on all labels
of some frames (Nyström),

    P = A Aᵀ + M,    P⁻¹ = M⁻¹ − M⁻¹ A (1 + AᵀM⁻¹A)⁻¹ AᵀM⁻¹,    M = Λ + what is left of the variances, diagonal.

A comes about as a Cholesky factor does, whole frames as pivots, drawn with a probability that grows with what is left of their
variances. A of n rows and rank m takes 8nm bytes, its latest columns twice theirs, 16 KiB a row, and AᵀM⁻¹A 8m²; both take n m²/2
multiply-adds.

Source: Díaz, Epperly, Frangella, Tropp, Webber, arXiv 2304.12465 (randomly pivoted Cholesky as preconditioner); Chen, Epperly,
    Tropp, Webber, arXiv 2207.06503 (its pivots); Blücher, Müller, Chmiela, J. Chem. Theory Comput. 19, 4619 (2023), doi
    10.1021/acs.jctc.2c01304 (force fields).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, blas, cho_factor, cho_solve, lapack, solve_triangular

from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.exact import IndefiniteMatrix, Progress
from mlff.regression.system.coefficients import RANK_CUTOFF, Weights
from mlff.regression.system.kernel_blocks import TILE_ROWS, kernel_between
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.system.observations import describe

logger = logging.getLogger(__name__)

SHARE = 0.1  # of the noise, that the labels of which the solution is an exact fit may differ from the labels given
MOST = 2000  # iterations
MOST_RANK = 16_000  # large LAPACK factorisations are not safe, see `linalg.tiles`
PIVOTS = 1024  # rows of the frames that are pivots at once
ENOUGH = 0.3  # of the noise variance: what is left of the labels' variance when more pivots would save no time
ROUNDING = 1e-13  # of the largest variance: what is left of a pivot that follows from the earlier ones
STABLE = 2e-15  # of the sum of all variances: the least M, beside which AᵀM⁻¹A leaves digits of the 1 that is added
FLAT = 1e-20  # of the same: curvatures below, which is far below rounding, are none
LEAST = 1e-7  # of the labels' root mean square, that residuals are held against where noise is less


class NotConverged(ValueError):
    """The iterations came to no end; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Preconditioner:
    """P⁻¹.

    Attributes:
        rows: A.
        diagonal: of M.
        factor: of 1 + AᵀM⁻¹A, as SciPy has it.
        left: Σ of what is left of the variances, over Σ of the noise variances.
    """

    rows: Float[np.ndarray, "n m"]
    diagonal: Float[np.ndarray, " n"]
    factor: tuple
    left: float

    @classmethod
    def of(
        cls,
        system: LinearSystem,
        rank: int,
        seed: int = 0,
        progress: Progress = lambda stage, fraction: None,
        checkpoint: Checkpoint = NOWHERE,
    ) -> Preconditioner:
        """With frames for pivots until what is left is less than the noise, or the rank is reached.

        Arguments:
            rank: of A at most.
            seed: of the frames that are drawn.
            checkpoint: keeps the columns of A that are done.
        Raises:
            IndefiniteMatrix: labels follow from each other to rounding; the message says what to do.
        """
        rows, left = _low_rank(system, min(rank, MOST_RANK), seed, progress, checkpoint)
        # what rounding alone leaves must not be divided by, where labels have no noise
        diagonal = system.noise + left.mean() + STABLE * system.diagonal().sum()
        inner = np.eye(rows.shape[1], order="F")  # of symmetric matrices the upper triangle
        for some in _slices(len(rows), TILE_ROWS) if rows.size else ():  # BLAS knows no empty matrix
            whitened = rows[some] / np.sqrt(diagonal[some, None])
            inner = blas.dsyrk(1.0, whitened, beta=1.0, c=inner, trans=1, overwrite_c=True)
        try:
            factor = cho_factor(inner, overwrite_a=True, check_finite=False)
        except LinAlgError as error:
            raise _indefinite(system) from error
        noise = float(system.noise.sum())
        return cls(rows, diagonal, factor, float(left.sum()) / noise if noise else np.inf)

    def __call__(self, vectors: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """P⁻¹ times vectors."""
        scaled = vectors / self.diagonal[:, None]
        told = cho_solve(self.factor, self.rows.T @ scaled, check_finite=False)
        return scaled - (self.rows @ told) / self.diagonal[:, None]


def _slices(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _low_rank(
    system: LinearSystem, rank: int, seed: int, progress: Progress, checkpoint: Checkpoint
) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, " n"]]:
    """A, and what it leaves of the variances of all labels."""
    features, counts = system.features, system.features.row_counts
    starts, left = np.cumsum(counts) - counts, system.diagonal() - system.noise
    enough, tolerance = ENOUGH * float(system.noise.sum()), ROUNDING * float(left.max())
    before = float(left.sum())
    rows, m = np.empty((len(left), min(rank, len(left))), order="F"), 0
    owner, unused = np.repeat(np.arange(len(counts)), counts), np.ones(len(counts), dtype=bool)
    while m < rows.shape[1] and left.sum() > enough:
        shares = unused * np.bincount(owner, left, len(counts))
        if not shares.any():
            break
        told = np.log(before / left.sum()) / np.log(before / enough) if enough > 0 else 0.0
        progress("precondition", min(0.99, max(told, (m / rows.shape[1]) ** 2)))
        # a generator for each block, so that a fit that goes on draws as it would have
        frames = _drawn(shares, counts, min(PIVOTS, rows.shape[1] - m), np.random.default_rng([seed, m]))
        unused[frames] = False
        if (kept := checkpoint.read(f"pivots_{m}")) is not None:
            new = rows[:, m : m + kept["columns"].shape[1]]
            new[:] = kept["columns"]
        else:
            pivots = np.concatenate([starts[i] + np.arange(counts[i]) for i in frames])
            columns = kernel_between(features, features.take(frames), system.shares)
            new = _more_columns(rows, m, columns, pivots, tolerance)
            checkpoint.keep(f"pivots_{m}", {"columns": new})
        left = np.maximum(left - np.einsum("nm,nm->n", new, new), 0.0)
        m += new.shape[1]
    progress("precondition", 1.0)
    return rows[:, :m], left


def _more_columns(
    rows, m: int, columns: Float[np.ndarray, "n p"], pivots, tolerance: float
) -> Float[np.ndarray, "n k"]:
    """The columns of A behind the first m, from those of the kernel that belong to pivots; in their place in A."""
    # in place: BLAS takes matrices by columns, which the transposed has and the first columns of A
    columns = blas.dgemm(-1.0, rows[pivots, :m], rows[:, :m], beta=1.0, c=columns.T, trans_b=True, overwrite_c=True).T
    upper, order, found, _ = lapack.dpstrf(columns[pivots].T, tol=tolerance, lower=0)
    found = min(found, rows.shape[1] - m)
    new = rows[:, m : m + found]
    for some in _slices(len(rows), TILE_ROWS):
        new[some] = solve_triangular(
            upper[:found, :found], columns[some][:, order[:found] - 1].T, trans=1, check_finite=False
        ).T
    return new


def _drawn(shares, counts, most: int, generator: np.random.Generator) -> np.ndarray:
    """Frames with about so many rows, ascending; none of which nothing is left."""
    having = np.flatnonzero(shares)
    count = min(len(having), max(1, most // int(counts[having].max())))
    return np.sort(generator.choice(having, count, replace=False, p=shares[having] / shares.sum()))


@dataclasses.dataclass(frozen=True)
class Constants:
    """The space of weights that say nothing of constant energies, Hᵀ a = 0.

    There C a + H c = y is solved for a alone, and what all energies have in common, which is large, enters nothing.

    Attributes:
        basis: an orthonormal one of the columns of H, shape (n, z).
        told: P⁻¹ of it.
        inverse: of (basisᵀ P⁻¹ basis).
    """

    basis: Float[np.ndarray, "n z"]
    told: Float[np.ndarray, "n z"]
    inverse: Float[np.ndarray, "z z"]

    @classmethod
    def of(cls, system: LinearSystem, preconditioner: Preconditioner) -> Constants:
        """Of a linear system; none where the constants are given or no label knows of them."""
        design = system.design if system.given is None else system.design[:, :0]
        left, sizes, _ = np.linalg.svd(design, full_matrices=False)
        basis = left[:, sizes > RANK_CUTOFF * sizes.max(initial=0.0)]
        told = preconditioner(basis)
        return cls(basis, told, np.linalg.inv(basis.T @ told))

    def without(self, vector: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Labels without what constants explain."""
        return vector - self.basis @ (self.basis.T @ vector)

    def constrained(self, told: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """P⁻¹r, as the same space has it: P⁻¹(r − H c) with the c for which Hᵀ of it is zero."""
        return told - self.told @ (self.inverse @ (self.basis.T @ told))


class State(NamedTuple):
    """Where conjugate gradients are: a and the residual y − C a, the direction of the last step and r·P⁻¹r before it; the size of
    the residual that was last computed anew, and of all, in units of the noise."""

    weights: Float[np.ndarray, " n"]
    residual: Float[np.ndarray, " n"]
    direction: Float[np.ndarray, " n"]
    old: float
    reached: float
    history: tuple[float, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in self._asdict().items()}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> State:
        vectors = [arrays[name] for name in ("weights", "residual", "direction")]
        return cls(*vectors, float(arrays["old"]), float(arrays["reached"]), tuple(arrays["history"].tolist()))


def iterate(
    system: LinearSystem,
    rank: int,
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
    checkpoint: Checkpoint = NOWHERE,
    start: Float[np.ndarray, " n"] | None = None,
) -> tuple[Weights, dict]:
    """The weights of a linear system by conjugate gradients, and what the record says of the iterations.

    They fit labels exactly that differ from the given ones by a tenth of their noise, in the mean square.

    Arguments:
        rank: of the preconditioner at most.
        seed: of its frames.
        checkpoint: keeps what was reached.
        start: weights to begin with; none without.
    Raises:
        NotConverged: after 2000 iterations; the message says what to do.
        IndefiniteMatrix: labels follow from each other to rounding; likewise.
    """
    preconditioner = Preconditioner.of(system, rank, seed, progress, checkpoint)
    constants = Constants.of(system, preconditioner)
    state = _converged(system, preconditioner, constants, progress, checkpoint, start)
    found = np.zeros(system.design.shape[1]) if system.given is None else system.given
    if constants.basis.shape[1]:
        missed = system.labels - system.product(state.weights[:, None])[:, 0]
        found = np.linalg.lstsq(system.design, missed, rcond=RANK_CUTOFF)[0]
    summary = {
        "rank": preconditioner.rows.shape[1],
        "iterations": len(state.history) - 1,
        "residual_of_noise": state.reached,
    }
    return Weights(state.weights, found, None), summary


def _converged(
    system: LinearSystem,
    preconditioner: Preconditioner,
    constants: Constants,
    progress: Progress,
    checkpoint: Checkpoint,
    start: Float[np.ndarray, " n"] | None,
) -> State:
    """The state in which the residual is small enough, or is what rounding leaves."""
    labels = constants.without(system.labels)
    noise = np.sqrt(system.noise * system.scale)
    noise = np.maximum(noise, LEAST * np.sqrt(np.mean(labels**2)) or 1.0)  # 1 where there is nothing to learn

    def size(vector: np.ndarray) -> float:
        return float(np.sqrt(np.mean((vector / noise) ** 2)))

    kept = checkpoint.read("iterations")
    if kept is not None:
        state = State.of(kept)
    else:
        weights = np.zeros_like(labels) if start is None else constants.without(start)
        residual = labels if start is None else constants.without(labels - system.product(weights[:, None])[:, 0])
        state = State(weights, residual, np.zeros_like(labels), 0.0, np.inf, (size(residual),))
    while len(state.history) <= MOST:
        if state.history[-1] <= SHARE:  # carried on, residuals drift from what they are
            residual = constants.without(labels - system.product(state.weights[:, None])[:, 0])
            actual, before = size(residual), state.reached
            state = state._replace(residual=residual, old=0.0, reached=actual)
            if actual <= SHARE or actual > 0.5 * before:
                break
        state = _step(system, preconditioner, constants, state, size)
        logger.debug("iteration %d: residual %.3g of the noise", len(state.history) - 1, state.history[-1])
        progress("iterate", _share(state.history))
        checkpoint.replace("iterations", state.arrays)
    else:
        raise NotConverged(
            f"conjugate gradients: after {MOST} iterations the residual is {state.history[-1]:.2g} of the noise, {SHARE:g} is "
            f"aimed at; raise noise (now {describe(system.levels)}), or give more memory, of which the preconditioner is made"
        )
    if state.reached > SHARE:
        logger.info(
            "conjugate gradients: labels are fitted to %.2g of their noise, double precision holds no more",
            state.reached,
        )
    progress("iterate", 1.0)
    return state


def _step(system, preconditioner, constants, state: State, size) -> State:
    """One iteration."""
    told = constants.constrained(preconditioner(state.residual[:, None])[:, 0])
    new = float(state.residual @ told)
    direction = told + (new / state.old if state.old else 0.0) * state.direction
    image = system.product(direction[:, None])[:, 0]
    curvature = float(direction @ image)
    flat = FLAT * float(system.diagonal().sum()) * float(direction @ direction)
    if not (new > 0.0 and curvature > flat):
        raise _indefinite(system)
    residual = constants.without(state.residual - (new / curvature) * image)
    weights = state.weights + (new / curvature) * direction
    return State(weights, residual, direction, new, state.reached, (*state.history, size(residual)))


def _indefinite(system: LinearSystem) -> IndefiniteMatrix:
    return IndefiniteMatrix(
        "conjugate gradients: the kernel matrix is not positive definite, labels follow from each other to rounding; raise noise "
        f"(now {describe(system.levels)}), shorten the length scale, or remove near-duplicate frames"
    )


def _share(history: Sequence[float]) -> float:
    """About how much of the way is gone: residuals fall by factors."""
    first = np.log(max(history[0] / SHARE, 1.0 + 1e-9))
    return float(np.clip(1.0 - np.log(max(history[-1] / SHARE, 1.0)) / first, 0.0, 0.99))
