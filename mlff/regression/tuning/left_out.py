"""The error of frames left out, in closed form, and its gradient by everything that the linear system depends on.

With P = C⁻¹ less its part along constants (`projected`), the labels j of some frames are missed, by the fit to all other frames, by

    r_j = P_jj⁻¹ (P y)_j

(constants found anew each time). What is minimised is ln F, F the mean over labels of the squares of these, in units of the variance of
labels of their kind: forces count as much more than energies as there are more of them, and tell as much more of a kernel. Implicitly,
with no second factorisation,

    ∂F = ⟨G, ∂C⟩,   G = −Σ_j (u_j v_jᵀ + v_j u_jᵀ),   u_j = P_:j P_jj⁻¹ w_j r_j,   v_j = P y − P_:j r_j

Source: Sundararajan, Keerthi, Neural Comput. 13, 1103 (2001), doi 10.1162/08997660151134343, for one label at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.tuning.projected import Projected, spread


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What an objective says of a linear system.

    Attributes:
        value: what is minimised.
        errors: root mean square of what is missed with frames left out, of every kind of label, in its unit.
        scale: the amplitude that all variances should be multiplied by.
        cotangent: G of ∂value = ⟨G, ∂C⟩, symmetric; None where nobody asked.
        factors: L and R of G = LRᵀ + RLᵀ, where it has fewer columns than frames have labels.
    """

    value: float
    errors: dict[str, float]
    scale: float
    cotangent: Float[np.ndarray, "rows rows"] | None = None
    factors: tuple[np.ndarray, np.ndarray] | None = None

    def along(self, start: int, other: int, block: Float[np.ndarray, "rows columns"]) -> float:
        """What a change of C in a block from a row and column on, and of its transposed where it is off the diagonal, does."""
        ours = self.cotangent[start : start + block.shape[0], other : other + block.shape[1]]
        return float(np.vdot(ours, block)) * (1.0 if start == other else 2.0)

    def along_diagonal(self, change: Float[np.ndarray, " rows"]) -> float:
        """The same of a diagonal change of C."""
        return float(change @ np.diagonal(self.cotangent))


def left_out(
    system: LinearSystem, known: Projected, folds: Sequence[np.ndarray] | None = None, told: bool = True
) -> Assessment:
    """The objective of a linear system.

    Arguments:
        known: of the system, by `projected`.
        folds: places of the frames that are left out together; without any, every frame is left out in turn.
        told: whether the cotangent is wanted.
    """
    groups = _rows_of(system, folds)
    kinds = {name: rows for name, rows in system.features.places.items() if len(rows)}
    residuals, solved = np.empty_like(known.weights), []
    for rows in groups:
        # what constants of these frames alone explain is not predicted: no error, and no part of the inverse
        own = np.linalg.pinv(known.inverse[np.ix_(rows, rows)], rcond=1e-13, hermitian=True)
        residuals[rows] = own @ known.weights[rows]
        solved.append(own)
    around = spread(system)
    spreads = {name: float(around[rows] @ around[rows]) or 1.0 for name, rows in kinds.items()}
    shares = {name: len(rows) / (len(residuals) * spreads[name]) for name, rows in kinds.items()}
    squares = {name: float(residuals[rows] @ residuals[rows]) for name, rows in kinds.items()}
    total = sum(shares[name] * squares[name] for name in kinds)
    errors = {name: float(np.sqrt(squares[name] / len(rows))) for name, rows in kinds.items()}
    if not told:
        return Assessment(float(np.log(total)), errors, known.scale)
    weighted = np.zeros_like(residuals)
    for name, rows in kinds.items():
        weighted[rows] = shares[name] * residuals[rows] / total
    left, right = (np.empty((len(residuals), len(groups))) for _ in range(2))
    for j, (rows, own) in enumerate(zip(groups, solved, strict=True)):
        left[:, j] = known.inverse[:, rows] @ (own @ weighted[rows])
        right[:, j] = known.weights - known.inverse[:, rows] @ residuals[rows]
    half = -left @ right.T
    few = None if folds is None else (-left, right)
    return Assessment(float(np.log(total)), errors, known.scale, half + half.T, few)


def _rows_of(system: LinearSystem, folds: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """The rows that are left out together."""
    of_frames = np.split(np.arange(len(system.labels)), system.features.ends[:-1])
    if folds is None:
        return of_frames
    return [np.concatenate([of_frames[i] for i in fold]) for fold in folds]
