"""The trained model: one scalar function, an expansion in descriptor space.

    E(x) = Σ_a c_{z_a} + Σ_e Σ_k [z_e = z_k] [ v_k f(s_ek) − 2 f′(s_ek) δ·t_k + 4 f″(s_ek) δᵀS_k δ + 2 f′(s_ek) tr S_k ],
    δ = φ_e − φ_k,   s_ek = |δ|²

with φ_e = φ_e(x) in units of the length scale; e runs over the environments of x, species by species. A global model has
one environment, the molecule, and one constant; a product of radial functions has one s and one such term for every
block of features; a sum of kernels is a sum of such parts. One descriptor evaluation a prediction, whatever the
descriptor costs and however many training frames there are; the rest is matrix products. Everything else is a derivative.

Where an exchange of atoms only rearranges the features of a molecule, the rearrangements of φ(x) are compared with the
training frames. Otherwise the images of the training frames are points of their own.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Integer

from mlff.kernels.composed import Kernel
from mlff.precision import Array


class Curvature(struct.PyTreeNode):
    """The second-order weights S_k = Σ_i σ_ki u_ki u_kiᵀ of the first points of a channel.

    Attributes:
        vectors: u, shape (K, R, D).
        weights: σ, shape (K, R).
        offsets: φ_k·u of every block of features, shape (blocks, K, R).
        traces: σ u·u of every block of features, summed over i, shape (blocks, K).
    """

    vectors: Float[Array, "K R D"]
    weights: Float[Array, "K R"]
    offsets: Float[Array, "b K R"]
    traces: Float[Array, "b K"]

    @classmethod
    def build(cls, points, vectors, weights, sizes: tuple[int, ...]) -> Curvature:
        """From the points, (K, D), vectors and weights as NumPy arrays."""
        parts = _slices(sizes)
        offsets = np.stack([np.einsum("krd,kd->kr", vectors[..., p], points[:, p]) for p in parts])
        traces = np.stack([np.einsum("kr,krd->k", weights, vectors[..., p] ** 2) for p in parts])
        return cls(vectors, weights, offsets, traces)

    def energy(self, slopes, second, x: Float[Array, "e D"], parts: list[slice]) -> Float[Array, ""]:
        """The sum over some environments and all points, from the first and second derivatives of f at (e, k)."""
        count, rank = self.weights.shape
        along = []
        for part, offset in zip(parts, self.offsets, strict=True):
            flat = self.vectors[..., part].reshape(count * rank, -1)
            along.append((x[:, part] @ flat.T).reshape(-1, count, rank) - offset)
        energy = 2.0 * jnp.sum(slopes * self.traces[:, None])
        for i, j in np.ndindex(second.shape[:2]):
            products = jnp.sum(along[i] * along[j] * self.weights, axis=-1)
            energy += 4.0 * jnp.sum(second[i, j] * products)
        return energy


class Channel(struct.PyTreeNode):
    """Weighted points in descriptor space, of one species.

    Attributes:
        origin: subtracted from φ/ℓ before |a|² + |b|² − 2a·b, which loses digits far from zero; shape (D,).
        points: φ_k/ℓ − origin, shape (K, D).
        tangents: t_k, shape (K, D).
        values: v_k, shape (K,), or None where no label was an energy.
        offsets: (|φ_k|², φ_k·t_k) of every block of features, shape (blocks, 2, K).
        curvature: S_k of the first of the points, or None where no label was of second order.
    """

    origin: Float[Array, " D"]
    points: Float[Array, "K D"]
    tangents: Float[Array, "K D"]
    values: Float[Array, " K"] | None
    offsets: Float[Array, "b 2 K"]
    curvature: Curvature | None = None

    @classmethod
    def build(cls, points, tangents, values, sizes: tuple[int, ...], vectors=None, weights=None) -> Channel:
        """From points φ_k/ℓ, tangents and value weights as NumPy arrays; values may be all zero.

        The first points may have second-order weights Σ_i σ_i u_i u_iᵀ: vectors u, shape (k, R, D), and weights σ, (k, R).
        """
        origin = points.mean(axis=0) if len(points) else np.zeros(points.shape[1])
        points = points - origin
        curvature = None if vectors is None else Curvature.build(points[: len(vectors)], vectors, weights, sizes)
        offsets = cls.offsets_of(points, tangents, sizes)
        return cls(origin, points, tangents, values if np.any(values) else None, offsets, curvature)

    @staticmethod
    def offsets_of(points, tangents, sizes: tuple[int, ...]) -> np.ndarray:
        """(|φ_k|², φ_k·t_k) of every block of features, shape (blocks, 2, K), from NumPy arrays."""
        return np.stack(
            [
                np.stack([np.sum(points[:, part] * other[:, part], axis=1) for other in (points, tangents)])
                for part in _slices(sizes)
            ]
        )

    def energy(self, radial, features: Float[Array, "e D"], sizes: tuple[int, ...]) -> Float[Array, ""]:
        """The sum over some environments and all points."""
        x = features - self.origin
        s, along = [], []
        for part, (squares, products) in zip(_slices(sizes), self.offsets, strict=True):
            own = x[:, part]
            s.append(jnp.sum(own**2, axis=1)[:, None] + squares - 2.0 * (own @ self.points[:, part].T))
            along.append(own @ self.tangents[:, part].T - products)
        s = jnp.stack(s)
        value, slopes = radial.partials(s, 1)
        energy = -2.0 * jnp.sum(slopes * jnp.stack(along))
        if self.curvature is not None:
            some = slice(len(self.curvature.weights))
            second = radial.partials(s[..., some], 2)[2]
            energy += self.curvature.energy(slopes[..., some], second, x, _slices(sizes))
        return energy if self.values is None else energy + jnp.sum(value @ self.values)

    def nearest(self, features: Float[Array, "e D"]) -> Float[Array, " e"]:
        """|φ_e − φ_k| of the nearest point of each environment, in length scales; of several blocks, of all together."""
        x = features - self.origin
        squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(self.offsets[:, 0], axis=0) - 2.0 * (x @ self.points.T)
        return jnp.sqrt(jnp.maximum(jnp.min(squares, axis=1), 0.0))


class Part(struct.PyTreeNode):
    """One term of a sum of kernels.

    Attributes:
        kernel: features and radial function; a kernel without permutations and amplitude.
        channels: points of every species; one channel for a kernel between molecules.
        images: rearrangements of the features of a molecule, shape (P, D), or None for the identity alone.
        sizes: number of features of every block that has a radial function of its own.
        counts: how many atoms of every species there are; None for a kernel between molecules.
    """

    kernel: Kernel
    channels: tuple[Channel, ...]
    images: Integer[Array, "P D"] | None
    sizes: tuple[int, ...] = struct.field(pytree_node=False)
    counts: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)

    def energy(self, positions, numbers, cell, neighbors) -> Float[Array, ""]:
        """This term's share of the energy."""
        features = self._features(positions, numbers, cell, neighbors)
        present = [
            channel.energy(self.kernel.radial, seen, self.sizes)
            for channel, seen in zip(self.channels, features, strict=True)
            if len(seen) and len(channel.points)
        ]
        return sum(present, start=jnp.zeros((), features[0].dtype))

    def nearest(self, positions, numbers, cell, neighbors) -> list[Float[Array, " e"]]:
        """Distances of the environments of every channel to their nearest points; of a molecule, of its nearest image."""
        distances = [
            channel.nearest(seen) if len(seen) and len(channel.points) else jnp.zeros(0)
            for channel, seen in zip(self.channels, self._features(positions, numbers, cell, neighbors), strict=True)
        ]
        return distances if self.counts is not None else [jnp.min(distances[0], keepdims=True)]

    def _features(self, positions, numbers, cell, neighbors) -> list[Float[Array, "e D"]]:
        """What is compared with the points of every channel: the environments of its species, a molecule's images."""
        features = self.kernel.features(positions, numbers, cell, neighbors)
        if self.counts is None:
            return [features if self.images is None else features[0][self.images]]
        numbers = jnp.asarray(numbers)
        species = jnp.searchsorted(jnp.asarray(self.kernel.elements, numbers.dtype), numbers)
        features = features[jnp.argsort(species, stable=True)]
        return [features[a:b] for a, b in itertools.pairwise(np.cumsum([0, *self.counts]))]


class Expansion(struct.PyTreeNode):
    """The energy as a function of one geometry.

    Attributes:
        parts: terms of the sum, each with its kernel.
        constants: energy of an atom of every species, eV, shape (z,); one number for the whole molecule without `elements`.
        elements: atomic numbers that the constants belong to; None for one molecule.
        counts: how many atoms of each of them there are.
    """

    parts: tuple[Part, ...]
    constants: Float[Array, " z"]
    elements: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)
    counts: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)

    def arranged(self, numbers) -> Expansion:
        """The same model made ready for molecules of some composition: how many atoms of each species is compiled in."""
        if self.elements is None and all(part.counts is None for part in self.parts):
            return self
        parts = tuple(
            part if part.counts is None else part.replace(counts=_counts(part.kernel.elements, numbers))
            for part in self.parts
        )
        counts = None if self.elements is None else _counts(self.elements, numbers)
        return self.replace(parts=parts, counts=counts)

    def energy(self, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> Float[Array, ""]:
        """Potential energy, eV, of one geometry of the composition that the model is arranged for.

        Differentiable to the order that the kernel has.
        """
        weights = (1.0,) if self.elements is None else self.counts
        constant = jnp.sum(self.constants * np.asarray(weights, dtype=float))
        return sum((part.energy(positions, numbers, cell, neighbors) for part in self.parts), start=constant)

    def shifted(self, constants: np.ndarray) -> Expansion:
        """With other constants added to its own."""
        return self.replace(constants=np.asarray(self.constants) + constants)

    @property
    def size(self) -> int:
        """Number of points, of all parts and species."""
        return sum(len(channel.points) for part in self.parts for channel in part.channels)

    @property
    def bytes_per_geometry(self) -> int:
        """Size of the intermediate arrays of one energy with forces, for chunking."""
        total = 0
        for part in self.parts:
            images = 1 if part.images is None else len(part.images)
            seen = (images,) if part.counts is None else part.counts
            for count, channel in zip(seen, part.channels, strict=True):
                bent = 0 if channel.curvature is None else channel.curvature.weights.size
                total += 8 * 6 * (len(channel.points) + bent) * count * len(part.sizes)
        return max(total, 1)


def constant_elements(kernel: Kernel) -> tuple[int, ...] | None:
    """The species that have an energy of their own: those of the local kernels, none for one molecule."""
    return next((leaf.elements for leaf in kernel.leaves if hasattr(leaf, "elements")), None)


def composition(elements: tuple[int, ...] | None, numbers) -> np.ndarray:
    """What the constants are multiplied by: atoms of every species, or 1 for one molecule."""
    return np.ones(1) if elements is None else np.array(_counts(elements, numbers), dtype=float)


def _counts(elements: tuple[int, ...], numbers) -> tuple[int, ...]:
    numbers = np.asarray(numbers)
    return tuple(int(np.sum(numbers == z)) for z in elements)


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    return [slice(a, b) for a, b in itertools.pairwise(np.cumsum([0, *sizes]))]
