"""The inverse of a linear system's matrix with the constants projected out: what every objective of tuning is made of.

P = C⁻¹ − C⁻¹H (HᵀC⁻¹H)⁻¹ HᵀC⁻¹,   P H = 0
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
from jaxtyping import Float

from mlff.regression.system.linear_system import LinearSystem

EPSILON = np.finfo(np.float64).eps
MARGIN = 10.0  # times n ε, the rounding of a factorisation, that the smallest pivot is above
CONSTANTS = 1e-10  # of the largest singular value: of constants that no label tells apart one is kept


@dataclasses.dataclass(frozen=True)
class Projected:
    """What is known of a linear system once its matrix is inverted.

    Attributes:
        inverse: P.
        labels: y without the constants, which are those of generalised least squares where none are given.
        weights: P y.
        free: how many labels there are beside the constants.
        volume: ln|C| + ln|HᵀC⁻¹H|.
    """

    inverse: Float[np.ndarray, "rows rows"]
    labels: Float[np.ndarray, " rows"]
    weights: Float[np.ndarray, " rows"]
    free: int
    volume: float

    @property
    def scale(self) -> float:
        """The amplitude that all variances should be multiplied by, yᵀPy/free."""
        return float(self.weights @ self.labels) / self.free


def projected(system: LinearSystem) -> Projected:
    """Of a linear system, 24n² bytes of memory and about n³ multiply-adds.

    Raises:
        numpy.linalg.LinAlgError: C is not positive definite to rounding.
    """
    inverse, volume = _inverse(system)
    labels, design = system.labels, system.design
    if system.given is not None or not design.any():
        return Projected(inverse, labels, inverse @ labels, len(labels), volume)
    responses = inverse @ design
    values, vectors = np.linalg.eigh(design.T @ responses)
    kept = values > CONSTANTS * values.max()
    roots = responses @ (vectors[:, kept] / np.sqrt(values[kept]))
    # centred first: energies far from zero would cost the digits of their differences
    centred = spread(system)
    solved = vectors[:, kept] @ ((vectors[:, kept].T @ (responses.T @ centred)) / values[kept])
    centred = centred - design @ solved
    inverse -= roots @ roots.T.copy()
    volume += float(np.log(values[kept]).sum())
    return Projected(inverse, centred, inverse @ centred, max(1, len(labels) - int(kept.sum())), volume)


def spread(system: LinearSystem) -> Float[np.ndarray, " rows"]:
    """The labels without what constants explain by plain least squares."""
    return system.labels - system.design @ np.linalg.lstsq(system.design, system.labels, rcond=CONSTANTS)[0]


def _inverse(system: LinearSystem) -> tuple[Float[np.ndarray, "rows rows"], float]:
    """C⁻¹ and ln|C|, from the Cholesky factor."""
    matrix = np.empty(system.shape, order="F")
    for i, j, block in system.lower():
        (a, b), (c, d) = system.offsets[i : i + 2], system.offsets[j : j + 2]
        matrix[a:b, c:d] = block
    largest = np.diagonal(matrix).max()
    factor, info = scipy.linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    if info:
        raise np.linalg.LinAlgError(f"not positive definite at row {info}")
    pivots = np.diagonal(factor).copy()
    if pivots.min() ** 2 < MARGIN * len(factor) * EPSILON * largest:
        raise np.linalg.LinAlgError("so close to singular that another order of its rows may have no factor")
    inverse, info = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info or not np.isfinite(np.diagonal(inverse)).all():
        raise np.linalg.LinAlgError("the inverse is not finite")
    for k in range(len(inverse) - 1):
        inverse[k, k + 1 :] = inverse[k + 1 :, k]
    return inverse, 2.0 * float(np.log(pivots).sum())
