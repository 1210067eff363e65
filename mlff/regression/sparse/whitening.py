"""Whitening: functionals of a Gaussian process in coordinates in which their prior covariance is the identity."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Integer
from scipy.linalg import lapack, solve_triangular

ROUNDING = 1e-14  # of the largest variance, a functional: what less than that is left to say is rounding


@dataclasses.dataclass(frozen=True)
class Whitening:
    """K = UᵀU, of those functionals that do not follow from others.

    Attributes:
        order: places of the functionals in the order of the pivots, shape (m,): each is the one of which those before say
            least. The leading part of U is that of fewer functionals.
        factor: U, upper triangle, shape (m, m).
        count: how many functionals there were.
    """

    order: Integer[np.ndarray, " m"]
    factor: Float[np.ndarray, "m m"]
    count: int

    @classmethod
    def of(cls, gram: Float[np.ndarray, "M M"]) -> Whitening:
        """Of the kernel between functionals, by Cholesky with pivots; `gram` is overwritten.

        Functionals whose variance, given those before, is rounding of the largest are left out; nothing is added to the
        diagonal.

        Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), section 10.3.
        """
        count = len(gram)
        tolerance = ROUNDING * count * float(np.max(np.diagonal(gram)))
        factor, pivots, rank, _ = lapack.dpstrf(gram, tol=tolerance, lower=0, overwrite_a=True)
        return cls(pivots[:rank] - 1, np.triu(factor[:rank, :rank]), count)

    def __len__(self) -> int:
        return len(self.order)

    def whitened(self, rows: Float[np.ndarray, "r M"]) -> Float[np.ndarray, "r m"]:
        """K_fu U⁻¹, from the kernel between labels and all functionals."""
        right = np.asfortranarray(rows[:, self.order].T)
        return solve_triangular(self.factor, right, trans=1, check_finite=False, overwrite_b=True).T

    def weights(self, coordinates: Float[np.ndarray, " m"]) -> Float[np.ndarray, " M"]:
        """U⁻¹ w: what every functional is multiplied by; coordinates may be those of the first alone."""
        m = len(coordinates)
        everywhere = np.zeros(self.count)
        everywhere[self.order[:m]] = solve_triangular(self.factor[:m, :m], coordinates, check_finite=False)
        return everywhere
