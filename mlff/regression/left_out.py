"""The error of frames left out, in closed form, and its gradient by everything that the linear system depends on.

With C = K + Λ, constants H and P = C⁻¹ − C⁻¹H (HᵀC⁻¹H)⁻¹ HᵀC⁻¹, the labels j of a frame are missed, by the fit to all other frames, by

    r_j = P_jj⁻¹ (P y)_j

(constants found anew each time). Of every kind of label the mean square of these is compared with the variance of the labels;
the sum over kinds is the objective F, of which ln F is minimised. Implicitly, with no second factorisation,

    ∂F = ⟨G, ∂C⟩,   G = −2 Σ_j u_j v_jᵀ,   u_j = P_:j P_jj⁻¹ w_j r_j,   v_j = P y − P_:j r_j

Source: Sundararajan, Keerthi, Neural Comput. 13, 1103 (2001), doi 10.1162/08997660151134343, for one label at a time.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import scipy.linalg
from jaxtyping import Float

from mlff.regression.linear_system import LinearSystem

EPSILON = np.finfo(np.float64).eps
MARGIN = 10.0  # times n ε, the rounding of a factorisation, that the smallest pivot is above


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What leaving out every frame in turn says of a linear system.

    Attributes:
        objective: ln F.
        errors: root mean square of r of every kind of label, in its unit.
        scale: the amplitude that all variances should be multiplied by, yᵀPy/(n − constants).
        left, right: of G/F = −left·rightᵀ − right·leftᵀ, both of shape (rows, frames).
    """

    objective: float
    errors: dict[str, float]
    scale: float
    left: Float[np.ndarray, "rows frames"]
    right: Float[np.ndarray, "rows frames"]

    def along(self, start: int, other: int, block: Float[np.ndarray, "rows columns"]) -> float:
        """What a change of C in a block from a row and column on, and of its transposed where it is off the diagonal, does to ln F."""
        rows, columns = slice(start, start + block.shape[0]), slice(other, other + block.shape[1])
        once = np.vdot(self.left[rows], block @ self.right[columns])
        once += np.vdot(self.right[rows], block @ self.left[columns])
        return -float(once) * (1.0 if start == other else 2.0)

    def along_diagonal(self, change: Float[np.ndarray, " rows"]) -> float:
        """The same of a diagonal change of C."""
        return -2.0 * float(change @ np.einsum("nf,nf->n", self.left, self.right))


def left_out(system: LinearSystem) -> LeftOut:
    """The objective of a linear system, 24n² bytes of memory and about n³ multiply-adds.

    Raises:
        numpy.linalg.LinAlgError: C is not positive definite to rounding.
    """
    inverse = _inverse(system)
    missing = system.labels
    spread = missing - system.design @ np.linalg.lstsq(system.design, missing, rcond=1e-10)[0]
    if system.given is None and system.design.any():
        responses = inverse @ system.design
        inner = np.linalg.pinv(system.design.T @ responses, rcond=1e-10, hermitian=True)
        # centred first: energies far from zero would cost the digits of their differences
        missing = spread - system.design @ (inner @ (responses.T @ spread))
        inverse -= (responses @ inner) @ responses.T
    weights = inverse @ missing
    ends = np.concatenate([[0], system.features.ends])
    frames = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
    kinds = {name: rows for name, rows in system.features.places.items() if len(rows)}
    residuals, solved = np.empty_like(weights), []
    for frame in frames:
        # what constants of the frame alone explain is not predicted: no error, and no part of the inverse
        own = np.linalg.pinv(inverse[frame, frame], rcond=1e-13, hermitian=True)
        residuals[frame] = own @ weights[frame]
        solved.append(own)
    shares = {name: 1.0 / (float(spread[rows] @ spread[rows]) or 1.0) for name, rows in kinds.items()}
    squares = {name: float(residuals[rows] @ residuals[rows]) for name, rows in kinds.items()}
    total = sum(shares[name] * squares[name] for name in kinds)
    weighted = np.zeros_like(residuals)
    for name, rows in kinds.items():
        weighted[rows] = shares[name] * residuals[rows] / total
    left, right = (np.empty((len(weights), len(frames))) for _ in range(2))
    for j, (frame, own) in enumerate(zip(frames, solved, strict=True)):
        left[:, j] = inverse[:, frame] @ (own @ weighted[frame])
        right[:, j] = weights - inverse[:, frame] @ residuals[frame]
    free = max(1, len(weights) - np.linalg.matrix_rank(system.design) * (system.given is None))
    return LeftOut(
        float(np.log(total)),
        {name: float(np.sqrt(squares[name] / len(rows))) for name, rows in kinds.items()},
        float(weights @ missing) / free,
        left,
        right,
    )


def _inverse(system: LinearSystem) -> Float[np.ndarray, "rows rows"]:
    """C⁻¹, from the Cholesky factor."""
    matrix = np.empty(system.shape, order="F")
    for i, j, block in system.lower():
        (a, b), (c, d) = system.offsets[i : i + 2], system.offsets[j : j + 2]
        matrix[a:b, c:d] = block
    largest = np.diagonal(matrix).max()
    factor, info = scipy.linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if info:
        raise np.linalg.LinAlgError(f"not positive definite at row {info}")
    if np.diagonal(factor).min() ** 2 < MARGIN * len(factor) * EPSILON * largest:
        raise np.linalg.LinAlgError("so close to singular that another order of its rows may have no factor")
    inverse, info = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info or not np.isfinite(np.diagonal(inverse)).all():
        raise np.linalg.LinAlgError("the inverse is not finite")
    lower = np.tril(inverse)
    return lower + np.tril(inverse, -1).T
