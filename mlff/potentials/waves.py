"""Random functions with the covariance of a kernel: sums of plane waves in descriptor space, or of products for powers.

    g(φ) = √(2A/R) Σ_r a_r √w_r cos(ω_r·φ/ℓ + b_r),      a_r ~ N(0, 1),  b_r ~ U(0, 2π),  ω_r with weights w_r of f's spectral density
    g(φ) = √(A/R) Σ_r a_r Π_i (ω_ri·φ/ℓ + b_ri √(1 − 1/ℓ²)),      all normal, ζ factors of a kernel (1 − 1/ℓ² + φ·φ′/ℓ²)^ζ

The mean of g(φ)g(φ′) over all of these is the kernel, whatever the number of terms R.

Source: Rahimi, Recht, Advances in Neural Information Processing Systems 20, 1177 (2007); Kar, Karnick, Proc. Mach. Learn. Res. 22,
    583 (2012).
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.potentials.expansion import Expansion
from mlff.potentials.potential import Potential
from mlff.precision import Array
from mlff.trees import Tree


class RandomTerms(Tree):
    """Random functions of the features of one species; what a part of an expansion may have in place of points.

    Attributes:
        points: ω, shape (R, D), or (R, ζ, D).
        phases: what is added to ω·φ, shape (R,), or (R, ζ).
        strengths: what every term is multiplied by, eV, shape (R,).
    """

    points: Float[Array, "R ..."]
    phases: Float[Array, "R ..."]
    strengths: Float[Array, " R"]

    curvature = None

    def scaled(self, factor: float) -> RandomTerms:
        """Times a number."""
        return self.replace(strengths=factor * np.asarray(self.strengths))


class Waves(RandomTerms):
    """Plane waves: phases b_r."""

    def energies(self, radial, features: Float[Array, "e D"], sizes: tuple[int, ...]) -> Float[Array, " e"]:
        """Of every environment the sum over all waves."""
        return jnp.cos(features @ self.points.T + self.phases) @ self.strengths


class Products(RandomTerms):
    """Products of ζ linear functions: phases b_ri √(1 − 1/ℓ²)."""

    def energies(self, radial, features: Float[Array, "e D"], sizes: tuple[int, ...]) -> Float[Array, " e"]:
        """Of every environment the sum over all products."""
        linear = [features @ self.points[:, i].T + self.phases[:, i] for i in range(self.points.shape[1])]
        return functools.reduce(jnp.multiply, linear) @ self.strengths


class RandomFunction(Expansion):
    """An expansion in waves: it has no training frames of its own."""

    @property
    def label(self) -> str:
        return f"{self.size} random terms"

    spacings = Potential.spacings
    training_distance = Potential.training_distance
    environment_distances = Potential.environment_distances
