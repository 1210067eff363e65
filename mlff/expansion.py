"""The trained model: one scalar function, an expansion in descriptor space.

    E(x) = Σ_a c_{z_a} + Σ_e Σ_k [z_e = z_k] [ v_k f(s_ek) − 2 f′(s_ek) (φ_e − φ_k)·t_k ],   s_ek = |φ_e − φ_k|²

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

from mlff.kernels import Kernel
from mlff.precision import Array


class Channel(struct.PyTreeNode):
    """Weighted points in descriptor space, of one species.

    Attributes:
        origin: subtracted from φ/ℓ before |a|² + |b|² − 2a·b, which loses digits far from zero; shape (D,).
        points: φ_k/ℓ − origin, shape (K, D).
        tangents: t_k, shape (K, D).
        values: v_k, shape (K,), or None where no label was an energy.
        offsets: (|φ_k|², φ_k·t_k) of every block of features, shape (blocks, 2, K).
    """

    origin: Float[Array, " D"]
    points: Float[Array, "K D"]
    tangents: Float[Array, "K D"]
    values: Float[Array, " K"] | None
    offsets: Float[Array, "b 2 K"]

    @classmethod
    def build(cls, points, tangents, values, sizes: tuple[int, ...]) -> Channel:
        """From points φ_k/ℓ, tangents and value weights as NumPy arrays; values may be all zero."""
        origin = points.mean(axis=0) if len(points) else np.zeros(points.shape[1])
        points = points - origin
        parts = _slices(sizes)
        offsets = np.stack(
            [np.stack([np.sum(points[:, p] * other[:, p], axis=1) for other in (points, tangents)]) for p in parts]
        )
        return cls(origin, points, tangents, values if np.any(values) else None, offsets)

    def energy(self, radial, features: Float[Array, "e D"], sizes: tuple[int, ...]) -> Float[Array, ""]:
        """The sum over some environments and all points."""
        x = features - self.origin
        s, along = [], []
        for part, (squares, products) in zip(_slices(sizes), self.offsets, strict=True):
            own = x[:, part]
            s.append(jnp.sum(own**2, axis=1)[:, None] + squares - 2.0 * (own @ self.points[:, part].T))
            along.append(own @ self.tangents[:, part].T - products)
        value, slopes = radial.gradient(jnp.stack(s))
        energy = -2.0 * jnp.sum(slopes * jnp.stack(along))
        return energy if self.values is None else energy + jnp.sum(value @ self.values)


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
        features = self.kernel.features(positions, numbers, cell, neighbors)
        radial = self.kernel.radial
        if self.counts is None:
            seen = features if self.images is None else features[0][self.images]
            return self.channels[0].energy(radial, seen, self.sizes)
        numbers = jnp.asarray(numbers)
        species = jnp.searchsorted(jnp.asarray(self.kernel.elements, numbers.dtype), numbers)
        features = features[jnp.argsort(species, stable=True)]
        edges = np.cumsum([0, *self.counts])
        present = [
            channel.energy(radial, features[a:b], self.sizes)
            for channel, (a, b) in zip(self.channels, itertools.pairwise(edges), strict=True)
            if b > a and len(channel.points)
        ]
        return sum(present, start=jnp.zeros((), features.dtype))


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

    def energy(self, positions: Float[Array, "n 3"], numbers, cell, neighbors=None) -> Float[Array, ""]:
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
                total += 8 * 6 * len(channel.points) * count * len(part.sizes)
        return max(total, 1)


def composition(elements: tuple[int, ...] | None, numbers) -> np.ndarray:
    """What the constants are multiplied by: atoms of every species, or 1 for one molecule."""
    return np.ones(1) if elements is None else np.array(_counts(elements, numbers), dtype=float)


def _counts(elements: tuple[int, ...], numbers) -> tuple[int, ...]:
    numbers = np.asarray(numbers)
    return tuple(int(np.sum(numbers == z)) for z in elements)


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    return [slice(a, b) for a, b in itertools.pairwise(np.cumsum([0, *sizes]))]
