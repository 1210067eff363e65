"""The trained model: one scalar function, an expansion in descriptor space.

    E(x) = c + Σ_k [ v_k f(s_k) − 2 f′(s_k) (φ − φ_k)·t_k ],   s_k = |φ − φ_k|²

with φ = φ(x) in units of the length scale. One descriptor evaluation a prediction, whatever the descriptor costs and
however many training frames there are; the rest is matrix products. Everything else is a derivative of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

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
        constant: c, eV.
    """

    descriptor: Descriptor
    radial: Radial
    origin: Float[Array, " D"]
    points: Float[Array, "K D"]
    tangents: Float[Array, "K D"]
    values: Float[Array, " K"] | None
    offsets: Float[Array, "2 K"]
    constant: Float[Array, ""] | float

    @classmethod
    def build(cls, descriptor, radial, points, tangents, values, constant: float) -> Expansion:
        """From points φ_k/ℓ, tangents and value weights as NumPy arrays; values may be all zero."""
        origin = points.mean(axis=0)
        points = points - origin
        offsets = np.stack([np.sum(points**2, axis=1), np.sum(points * tangents, axis=1)])
        kept = values if np.any(values) else None
        return cls(descriptor, radial, origin, points, tangents, kept, offsets, np.float64(constant))

    def energy(self, positions: Float[Array, "n 3"], numbers, cell) -> Float[Array, ""]:
        """Potential energy, eV, of one geometry; differentiable to the order that the kernel has."""
        features = self.descriptor(positions, numbers, cell) / self.radial.lengthscale - self.origin
        s = features @ features + self.offsets[0] - 2.0 * (self.points @ features)
        along = self.tangents @ features - self.offsets[1]
        if self.values is None:
            (slope,) = self.radial.derivatives(s, 1)[1:]
            return self.constant - 2.0 * (slope @ along)
        value, slope = self.radial.derivatives(s, 1)
        return self.constant + self.values @ value - 2.0 * (slope @ along)

    @property
    def bytes_per_geometry(self) -> int:
        """Size of the intermediate arrays of one energy with forces, for chunking."""
        return 8 * 6 * len(self.points)

    def on_device(self) -> Expansion:
        """The same with all arrays as double-precision JAX arrays."""
        with jax.enable_x64(True):
            return jax.tree.map(jnp.asarray, self)
