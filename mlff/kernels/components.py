"""Principal components: features of an atom in as many directions as environments of its element differ along.

    φ_a → φ_a B_z,      B_zᵀB_z = 1,      B_z: eigenvectors of M_z,      Σ_dropped λ ≤ η Σ λ

where the second moments M_z of an element are those of its environments, and of how these change when atoms move, which
counts as much: forces are of the changes, and a few environments do not span all of these. Power spectra and histograms have
several times as many features as that, and all that is done with features afterwards, rows of a kernel matrix as well as a
prediction, costs in proportion to their number. A kernel of the new features is as good a kernel as before; what it no longer
tells apart is a share η of the variance.

Source: Pearson, Philos. Mag. 2, 559 (1901), doi 10.1080/14786440109462720.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Integer

from mlff.precision import Array
from mlff.trees import Tree


class Moments:
    """Sums over the environments of one element, some after the other.

    Arguments:
        features: how many.
    """

    def __init__(self, features: int):
        self.count = 0
        self._sum, self._squares = np.zeros(features), np.zeros((features, features))
        self._changes = np.zeros((features, features))

    def add(self, values: Float[np.ndarray, "e D"], moved: Float[np.ndarray, "e D"]) -> None:
        """Features of environments, and of the same after atoms have moved."""
        self.count += len(values)
        self._sum += values.sum(axis=0)
        # of an array with itself NumPy calls `dsyrk`, which crashes when threaded
        self._squares += values.T @ values.copy()
        self._changes += (moved - values).T @ (moved - values)

    def directions(self, dropped: float) -> Float[np.ndarray, "D k"]:
        """Eigenvectors of the second moments, those of the largest eigenvalues; they are moments about zero, as the mean is
        to be kept too."""
        mean = self._sum / max(self.count, 1)
        variance = float(np.trace(self._squares) - self.count * (mean @ mean))
        changes = float(np.trace(self._changes))
        weight = max(variance, 0.0) / changes if variance > 0.0 and changes > 0.0 else 1.0
        values, vectors = np.linalg.eigh(self._squares + weight * self._changes)
        left = np.cumsum(np.maximum(values, 0.0))  # without the first ones: they ascend
        kept = len(values) - int(np.searchsorted(left, dropped * (variance + weight * changes), side="right"))
        return vectors[:, ::-1][:, : max(1, kept)]


class Components(Tree):
    """A basis for the features of every element.

    Attributes:
        bases: B of every element, shape (z, D, k), columns of zeros where an element has fewer directions than the one with most.
        normalised: whether the new features are divided by their norm, as those before were.
    """

    bases: Float[Array, "z D k"]
    normalised: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def of(cls, moments: Sequence[Moments], dropped: float, normalised: bool) -> Components:
        """Of the moments of every element's environments, so that a share η = `dropped` of the variance is left out."""
        found = [of_element.directions(dropped) for of_element in moments]
        most = max(basis.shape[1] for basis in found)
        padded = [np.pad(basis, ((0, 0), (0, most - basis.shape[1]))) for basis in found]
        return cls(np.stack(padded), normalised)

    def reduced(self, features: Float[Array, "n D"], channels: Integer[Array, " n"]) -> Float[Array, "n k"]:
        """Features of atoms, of which is said which basis each has, in that."""
        bases = self._checked(features)
        if len(bases) == 1:
            return self._normed(features @ bases[0])
        own = (channels[:, None] == jnp.arange(len(bases), dtype=channels.dtype)).astype(features.dtype)
        return self._normed(sum(own[:, [z]] * (features @ basis) for z, basis in enumerate(bases)))

    def of_one(self, features: Float[Array, "n D"], channel: int) -> Float[Array, "n k"]:
        """Features of atoms that all have the same basis, in that: with z bases a z-th of the work."""
        return self._normed(features @ self._checked(features)[channel])

    def _checked(self, features) -> Float[Array, "z D k"]:
        bases = jnp.asarray(self.bases, features.dtype)
        if features.shape[1] != bases.shape[1]:
            raise ValueError(
                f"components of {bases.shape[1]} features were found, the descriptor has {features.shape[1]}"
            )
        return bases

    def _normed(self, features: Float[Array, "n k"]) -> Float[Array, "n k"]:
        if not self.normalised:
            return features
        # an atom of another element, which fills room and does not count, may have nothing along this basis
        squares = jnp.sum(features**2, axis=1, keepdims=True)
        return features / jnp.sqrt(jnp.where(squares > jnp.finfo(squares.dtype).eps ** 2, squares, 1.0))
