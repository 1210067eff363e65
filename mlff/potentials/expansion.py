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

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float, Integer

from descriptors.geometry import Environments
from mlff.kernels.descriptor import Descriptor
from mlff.kernels.environments import environment_features
from mlff.kernels.kernels import Kernel
from mlff.kernels.radial import require_order
from mlff.potentials.coverage import spacings, training_distance
from mlff.potentials.layout import Members
from mlff.potentials.potential import Potential
from mlff.precision import Array
from mlff.trees import Tree


class Curvature(Tree):
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

    def scaled(self, factor: float) -> Curvature:
        """Times a number."""
        return self.replace(weights=factor * np.asarray(self.weights), traces=factor * np.asarray(self.traces))

    def energies(self, slopes, second, x: Float[Array, "e D"], parts: list[slice]) -> Float[Array, " e"]:
        """Of every environment the sum over all points, from the first and second derivatives of f at (e, k)."""
        count, rank = self.weights.shape
        along = []
        for part, offset in zip(parts, self.offsets, strict=True):
            flat = self.vectors[..., part].reshape(count * rank, -1)
            along.append((x[:, part] @ flat.T).reshape(-1, count, rank) - offset)
        energies = 2.0 * jnp.sum(slopes * self.traces[:, None], axis=(0, 2))
        for i, j in np.ndindex(second.shape[:2]):
            products = jnp.sum(along[i] * along[j] * self.weights, axis=-1)
            energies += 4.0 * jnp.sum(second[i, j] * products, axis=1)
        return energies


class Channel(Tree):
    """Weighted points in descriptor space, of one species.

    Attributes:
        origin: subtracted from φ/ℓ before |a|² + |b|² − 2a·b, which loses digits far from zero; shape (D,).
        points: φ_k/ℓ − origin, shape (K, D).
        tangents: t_k, shape (K, D), or None where all are zero, as of sparse models.
        values: v_k, shape (K,), or None where no label was an energy.
        offsets: (|φ_k|², φ_k·t_k) of every block of features, shape (blocks, 2, K).
        curvature: S_k of the first of the points, or None where no label was of second order.
    """

    origin: Float[Array, " D"]
    points: Float[Array, "K D"]
    tangents: Float[Array, "K D"] | None
    values: Float[Array, " K"] | None
    offsets: Float[Array, "b 2 K"]
    curvature: Curvature | None = None

    @classmethod
    def build(cls, points, tangents, values, sizes: tuple[int, ...], vectors=None, weights=None) -> Channel:
        """From points φ_k/ℓ, tangents (or None) and value weights as NumPy arrays; values may be all zero.

        The first points may have second-order weights Σ_i σ_i u_i u_iᵀ: vectors u, shape (k, R, D), and weights σ, (k, R).
        """
        origin = points.mean(axis=0) if len(points) else np.zeros(points.shape[1])
        points = points - origin
        curvature = None if vectors is None else Curvature.build(points[: len(vectors)], vectors, weights, sizes)
        offsets = cls.offsets_of(points, tangents, sizes)
        valued = tangents is None or np.any(values)
        return cls(origin, points, tangents, values if valued else None, offsets, curvature)

    @staticmethod
    def offsets_of(points, tangents, sizes: tuple[int, ...]) -> np.ndarray:
        """(|φ_k|², φ_k·t_k) of every block of features, shape (blocks, 2, K), from NumPy arrays."""
        tangents = np.zeros_like(points) if tangents is None else tangents
        return np.stack(
            [
                np.stack([np.sum(points[:, part] * other[:, part], axis=1) for other in (points, tangents)])
                for part in _slices(sizes)
            ]
        )

    def scaled(self, factor: float) -> Channel:
        """Times a number."""
        tangents, values = (None if a is None else factor * np.asarray(a) for a in (self.tangents, self.values))
        offsets = np.asarray(self.offsets) * np.array([1.0, factor])[:, None]
        curvature = None if self.curvature is None else self.curvature.scaled(factor)
        return self.replace(tangents=tangents, values=values, offsets=offsets, curvature=curvature)

    def energies(self, radial, features: Float[Array, "e D"], sizes: tuple[int, ...]) -> Float[Array, " e"]:
        """Of every environment the sum over all points."""
        x = features - self.origin
        s, along = [], []
        for block, (squares, products) in zip(_slices(sizes), self.offsets, strict=True):
            y = x[:, block]
            s.append(jnp.sum(y**2, axis=1)[:, None] + squares - 2.0 * (y @ self.points[:, block].T))
            if self.tangents is not None:
                along.append(y @ self.tangents[:, block].T - products)
        s = jnp.stack(s)
        if self.tangents is None and self.curvature is None:
            return radial.value(*s) @ self.values
        value, slopes = radial.partials(s, 1)
        energies = -2.0 * jnp.sum(slopes * jnp.stack(along), axis=(0, 2)) if along else jnp.zeros(len(x), x.dtype)
        if self.curvature is not None:
            curved = slice(len(self.curvature.weights))
            second = radial.partials(s[..., curved], 2)[2]
            energies += self.curvature.energies(slopes[..., curved], second, x, _slices(sizes))
        return energies if self.values is None else energies + value @ self.values

    def nearest(self, features: Float[Array, "e D"]) -> Float[Array, " e"]:
        """|φ_e − φ_k| of the nearest point of each environment, in length scales; of several blocks, of all together."""
        x = features - self.origin
        squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(self.offsets[:, 0], axis=0) - 2.0 * (x @ self.points.T)
        return jnp.sqrt(jnp.maximum(jnp.min(squares, axis=1), 0.0))


class Part(Tree):
    """One term of a sum of kernels.

    Attributes:
        kernel: features and radial function; a kernel without permutations and amplitude.
        channels: points of every species, or random terms in their place; one channel for a kernel between molecules.
        images: rearrangements of the features of a molecule, shape (P, D), or None for the identity alone.
        sizes: number of features of every block that has a radial function of its own.
        alone: whether its descriptors make of an atom what its own neighbours tell, and no more, as the fit found.
    """

    kernel: Kernel
    channels: tuple[Any, ...]
    images: Integer[Array, "P D"] | None
    sizes: tuple[int, ...] = struct.field(pytree_node=False)
    alone: bool = struct.field(pytree_node=False, default=False)

    @property
    def local(self) -> bool:
        """Whether it has an environment for every atom, or one for the molecule."""
        return self.kernel.transferable

    def energy(self, positions, numbers, cell, neighbors, members: Members | None) -> Float[Array, ""]:
        """This term's share of the energy."""
        features = self._features(positions, numbers, cell, neighbors, members)
        counted = None if members is None or not self.local else members.counted
        total = jnp.zeros((), features[0].dtype)
        for i, (channel, seen) in enumerate(zip(self.channels, features, strict=True)):
            if len(seen) and len(channel.points):
                energies = channel.energies(self.kernel.radial, seen, self.sizes)
                total += jnp.sum(energies if counted is None else energies * counted[i])
        return total

    def nearest(self, positions, numbers, cell, neighbors, members: Members | None) -> list[Float[Array, " e"]]:
        """Distances of the environments of every channel to their nearest points; of a molecule, of its nearest image."""
        features = self._features(positions, numbers, cell, neighbors, members)
        distances = [
            channel.nearest(seen) if len(seen) and len(channel.points) else jnp.zeros(0)
            for channel, seen in zip(self.channels, features, strict=True)
        ]
        if not self.local:
            return [jnp.min(distances[0], keepdims=True)]
        if members.counted is None:
            return distances
        return [
            jnp.where(counted > 0, apart, 0.0) if len(apart) else apart
            for apart, counted in zip(distances, members.counted, strict=True)
        ]

    def environment_energies(self, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """This term's share of the energies of environments of one element."""
        k = self.kernel.elements.index(element)
        channel = self.channels[k]
        if not len(channel.points):
            return jnp.zeros(len(centers), seen.vectors.dtype)
        features = environment_features(self.kernel, centers, seen, k)
        return channel.energies(self.kernel.radial, features, self.sizes)

    def environment_distances(self, spacings, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """How far environments of one element lie from the nearest point, in units of how far points lie from each other."""
        k = self.kernel.elements.index(element)
        if not len(self.channels[k].points):
            return jnp.zeros(len(centers), seen.vectors.dtype)
        return self.channels[k].nearest(environment_features(self.kernel, centers, seen, k)) / spacings[k]

    def _features(self, positions, numbers, cell, neighbors, members: Members | None) -> list[Float[Array, "e D"]]:
        """What is compared with the points of every channel: the environments of its species, a molecule's images."""
        if self.local:
            return self.kernel.channel_features(members.places, positions, numbers, cell, neighbors)
        features = self.kernel.features(positions, numbers, cell, neighbors)
        return [features if self.images is None else features[0][self.images]]


class Expansion(Potential):
    """The energy as a function of one geometry.

    Attributes:
        parts: terms of the sum, each with its kernel.
        constants: energy of an atom of every species, eV, shape (z,); one number for the whole molecule without `elements`.
        elements: atomic numbers that the constants belong to; None for one molecule.
        members: the environments of every element of local kernels, once the model is arranged for some atoms.
        label_order: highest order of derivative among the labels of the fit.
    """

    parts: tuple[Part, ...]
    constants: Float[Array, " z"]
    elements: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)
    members: Members | None = None
    label_order: int = struct.field(pytree_node=False, default=1)

    @property
    def functions(self) -> tuple[Descriptor, ...]:
        return tuple(leaf.descriptor for part in self.parts for leaf in part.kernel.leaves)

    @property
    def transferable(self) -> bool:
        """Whether it takes any composition of its elements."""
        return all(part.local for part in self.parts)

    @property
    def pads(self) -> bool:
        """Whether all descriptors look at lists, in which nobody sees a slot that shows an atom again."""
        return self.transferable and all("neighbors" in function.uses for function in self.functions)

    @property
    def order(self) -> int | float:
        """Continuous derivatives: those of the radial functions beyond what the labels took."""
        return min(radial.order for part in self.parts for radial in part.kernel.radials) - self.label_order

    @property
    def label(self) -> str:
        described = dict.fromkeys(part.kernel.label for part in self.parts)
        return f"{' + '.join(described)}, {self.size} points"

    def require_derivative(self, order: int, what: str) -> None:
        """Refuse a derivative of the energy that does not exist everywhere.

        Raises:
            ValueError: naming `what`, and kernels that have it.
        """
        for part in self.parts:
            for radial in part.kernel.radials:
                require_order(radial, self.label_order, order, what)

    def arranged(self, numbers, room: bool = False) -> Expansion:
        """The same model made ready for some atoms: which environments are of which element."""
        elements = constant_elements([part.kernel for part in self.parts])
        return self if elements is None else self.replace(members=Members.of(numbers, elements, room))

    def energy(self, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> Float[Array, ""]:
        """Potential energy, eV, of one geometry of the atoms that the model is arranged for.

        Differentiable to the order that the kernel has.
        """
        energy = jnp.sum(self.constants * self._atoms())
        for part in self.parts:
            energy += part.energy(positions, numbers, cell, neighbors, self.members)
        return energy

    def _atoms(self):
        """How many atoms of each element there are, or 1 of the one molecule."""
        if self.elements is None:
            return np.ones(1)
        if self.members.counted is None:
            return np.array([len(places) for places in self.members.places], dtype=float)
        return jnp.stack([jnp.sum(counted) for counted in self.members.counted])

    def energy_of_atoms(self, numbers) -> float:
        """The constants, added up."""
        return float(composition(self.elements, numbers) @ np.asarray(self.constants))

    def without_atoms(self) -> Expansion:
        """With constants that are zero."""
        return self.replace(constants=np.zeros(np.shape(self.constants)))

    @property
    def sees_alone(self) -> bool:
        return all(part.alone for part in self.parts)

    def environment_energies(self, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """What atoms of one element add to the energy."""
        terms = [part.environment_energies(element, centers, seen) for part in self.parts]
        return functools.reduce(
            jnp.add, terms, jnp.broadcast_to(self.constants[self.elements.index(element)], centers.shape)
        )

    def environment_distances(self, spacings, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """The largest of all parts."""
        pairs = zip(self.parts, spacings, strict=True)
        return jnp.max(
            jnp.stack([part.environment_distances(own, element, centers, seen) for part, own in pairs]), axis=0
        )

    def spacings(self) -> tuple[np.ndarray, ...]:
        """The largest distance from a training point to its nearest neighbour, for every part by channels, in length scales."""
        return spacings(self.parts)

    def training_distance(self, spacings, positions, numbers, cell, neighbors=None) -> Float[Array, ""]:
        """How far a geometry lies from the training frames, in units of how far these lie from each other."""
        return training_distance(self.parts, spacings, positions, numbers, cell, neighbors, self.members)

    def shifted(self, constants: np.ndarray) -> Expansion:
        """With other constants added to its own."""
        return self.replace(constants=np.asarray(self.constants) + constants)

    def scaled(self, factor: float) -> Expansion:
        """Times a number."""
        parts = tuple(
            part.replace(channels=tuple(channel.scaled(factor) for channel in part.channels)) for part in self.parts
        )
        return self.replace(parts=parts, constants=factor * np.asarray(self.constants))

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
            seen = tuple(len(places) for places in self.members.places) if part.local else (images,)
            for count, channel in zip(seen, part.channels, strict=True):
                bent = 0 if channel.curvature is None else channel.curvature.weights.size
                total += 8 * 6 * (len(channel.points) + bent) * count * len(part.sizes)
        return max(total, 1)


def constant_elements(kernels: Sequence[Kernel]) -> tuple[int, ...] | None:
    """The species that have an energy of their own: those of the local ones of some kernels; none for one molecule."""
    return next((kernel.elements for kernel in kernels if kernel.transferable), None)


def composition(elements: tuple[int, ...] | None, numbers) -> np.ndarray:
    """What the constants are multiplied by: atoms of every species, or 1 for one molecule."""
    return (
        np.ones(1) if elements is None else np.array([np.sum(np.asarray(numbers) == z) for z in elements], dtype=float)
    )


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    return [slice(a, b) for a, b in itertools.pairwise(np.cumsum([0, *sizes]))]
