"""The trained model: one scalar function, an expansion in descriptor space.

    E(x) = c + Σ_p Σ_k [ v_k f(s_pk) − 2 f′(s_pk) (φ_p − φ_k)·t_k ],   s_pk = |φ_p − φ_k|²

with φ_p = φ(p x) in units of the length scale. One descriptor evaluation a prediction, whatever the descriptor costs and
however many training frames there are; the rest is matrix products. Everything else is a derivative of it.

Where an exchange of atoms only rearranges the features, φ_p are rearrangements of φ(x), and the points are the training
frames. Otherwise the images of the training frames are points of their own, and p is the identity alone.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Integer

from mlff.kernels import Descriptor
from mlff.precision import Array
from mlff.radial import Radial


class Expansion(struct.PyTreeNode):
    """Weighted points in descriptor space, and the kernel's functions that act on them.

    Attributes:
        descriptor, radial: φ, f and ℓ.
        origin: subtracted from φ/ℓ before |a|² + |b|² − 2a·b, which loses digits far from zero; shape (D,).
        points: φ_k/ℓ − origin, shape (K, D).
        tangents: t_k, shape (K, D).
        values: v_k, shape (K,), or None where no label was an energy.
        offsets: (|φ_k|², φ_k·t_k), shape (2, K).
        images: rearrangements of the features, shape (P, D), or None for the identity alone.
        constant: c, eV.
    """

    descriptor: Descriptor
    radial: Radial
    origin: Float[Array, " D"]
    points: Float[Array, "K D"]
    tangents: Float[Array, "K D"]
    values: Float[Array, " K"] | None
    offsets: Float[Array, "2 K"]
    images: Integer[Array, "P D"] | None
    constant: Float[Array, ""] | float

    @classmethod
    def build(cls, descriptor, radial, points, tangents, values, images, constant: float) -> Expansion:
        """From points φ_k/ℓ, tangents and value weights as NumPy arrays; values may be all zero."""
        origin = points.mean(axis=0)
        points = points - origin
        offsets = np.stack([np.sum(points**2, axis=1), np.sum(points * tangents, axis=1)])
        kept = values if np.any(values) else None
        return cls(descriptor, radial, origin, points, tangents, kept, offsets, images, np.float64(constant))

    def energy(self, positions: Float[Array, "n 3"], numbers, cell) -> Float[Array, ""]:
        """Potential energy, eV, of one geometry; differentiable to the order that the kernel has."""
        features = self.descriptor(positions, numbers, cell) / self.radial.lengthscale
        features = (features[None] if self.images is None else features[self.images]) - self.origin
        s = jnp.sum(features**2, axis=1)[:, None] + self.offsets[0] - 2.0 * (features @ self.points.T)
        along = features @ self.tangents.T - self.offsets[1]
        value, slope = self.radial.derivatives(s, 1)
        energy = self.constant - 2.0 * jnp.sum(slope * along)
        return energy if self.values is None else energy + jnp.sum(value @ self.values)

    @property
    def bytes_per_geometry(self) -> int:
        """Size of the intermediate arrays of one energy with forces, for chunking."""
        return 8 * 6 * len(self.points) * (1 if self.images is None else len(self.images))
