"""What a fit does not know: the posterior covariance of labels, from the factor of the linear system that it solved.

    cov(L, L′) = A [ L L′ k − k_Lᵀ C⁻¹ k_L′ + (h_L − Hᵀ C⁻¹ k_L)ᵀ (Hᵀ C⁻¹ H)⁻¹ (h_L′ − Hᵀ C⁻¹ k_L′) ],   k in units of A

H are the columns of the constants, which least squares found with the weights; what it does not know of them is the last
term. Where a combination of constants is in no training label (H has less than its full rank), it counts as known.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from mlff.regression.exact import Factor
from mlff.regression.features import Features
from mlff.regression.kernel_blocks import kernel_between
from mlff.regression.linear_system import LinearSystem, constants_design

RANK_CUTOFF = 1e-10  # of the largest singular value of Hᵀ C⁻¹ H, as least squares for the constants takes it


@dataclasses.dataclass(frozen=True)
class Posterior:
    """A linear system that was solved, with what its solution needed.

    Attributes:
        system: the operator C with its right-hand sides.
        factor: solves C x = b.
        responses: C⁻¹ H, shape (rows, constants); None where constants are given, or are in no label.
    """

    system: LinearSystem
    factor: Factor
    responses: Float[np.ndarray, "rows constants"] | None

    def covariance(self, features: Features) -> Float[np.ndarray, "labels labels"]:
        """Posterior covariance of labels, without their noise, in the products of their units.

        Arguments:
            features: of frames under the kernel of the fit: `compute_features` of the labels that are asked about; their
                values do not matter.
        """
        system = self.system
        prior = kernel_between(features, features, system.shares)
        with_training = kernel_between(system.features, features, system.shares)
        covariance = prior - with_training.T @ self.factor.solve(with_training)
        if self.responses is not None:
            asked = constants_design(features, system.elements)
            missing = asked.T - self.responses.T @ with_training
            normal = system.design.T @ self.responses
            covariance += missing.T @ np.linalg.pinv(normal, rcond=RANK_CUTOFF, hermitian=True) @ missing
        return system.scale * covariance
