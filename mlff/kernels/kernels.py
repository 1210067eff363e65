"""Kernels of one descriptor: how alike two geometries are. A kernel receives a descriptor; it never imports one.

Global and local kernels compare features by a radial function κ, whole molecules or environment by environment. All that
the fit needs of any kernel is its `parts`: features, a radial function, and which environments are compared with which.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Sequence

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from mlff.data.permutations import Permutations
from mlff.kernels.components import Components
from mlff.kernels.composed import KernelBase, ProductKernel, SumKernel, check_amplitude, environmental, symmetrised
from mlff.kernels.descriptor import Descriptor
from mlff.kernels.radial import Radial
from mlff.precision import Array
from mlff.units import HEAVIEST, symbols


def _check_leaf(leaf) -> None:
    # JAX builds kernels of its own placeholders, which must pass: what is refused is what a user may have given
    if isinstance(leaf.descriptor, str) or (callable(leaf.descriptor) and not isinstance(leaf.descriptor, Descriptor)):
        object.__setattr__(leaf, "descriptor", Descriptor.wrap(leaf.descriptor))
    if leaf.radial is None or isinstance(leaf.radial, (type, str, numbers.Number)):
        shown = f"the class {leaf.radial.__name__}" if isinstance(leaf.radial, type) else repr(leaf.radial)
        raise ValueError(
            f"radial: expected a radial function, Matern52() or Matern52(lengthscale=3.0), received {shown}"
        )
    check_amplitude(leaf.amplitude)


def _scaled(leaf, features: Float[Array, "e D"]) -> Float[Array, "e D"]:
    """φ/ℓ, with one length scale or one for every feature."""
    scales = jnp.ravel(jnp.asarray(leaf.radial.lengthscale))
    if scales.size not in (1, features.shape[1]):
        raise ValueError(
            f"lengthscale: {scales.size} are given, descriptor {leaf.descriptor.name} has {features.shape[1]} features; give "
            "one, or one for every feature"
        )
    return features / scales


def _ascending(elements) -> tuple[int, ...]:
    """A set of atomic numbers, in whatever order it is given, each once and in ascending order."""
    found = np.asarray(tuple(elements) if np.iterable(elements) else elements)
    if (
        found.ndim != 1
        or found.dtype.kind not in "iu"
        or not len(found)
        or not 1 <= found.min() <= found.max() <= HEAVIEST
    ):
        raise ValueError(
            f"LocalKernel: elements={elements!r} must be atomic numbers, (1, 8), or None to take the data's"
        )
    return tuple(int(z) for z in np.unique(found))


class GlobalKernel(KernelBase):
    """Kernel between whole molecules, symmetrised over permutations P of identical atoms.

        k(x, x′) = A/|P| Σ_{p∈P} f(|φ(x) − φ(p x′)|²/ℓ²)

    This one-sided sum is a kernel where an exchange of atoms only permutes (or rotates) the features;
    `fit` checks that and refuses otherwise. Of a descriptor of atoms, φ is the features of all atoms in a row.

    Attributes:
        descriptor: a function of positions, shape (D,) or (n, D), or a `functools.partial` of one.
        radial: f and ℓ, a number or one for every feature; without a length scale, `fit` finds one.
        permutations: what `find_permutations` returns, all elements of a group as index arrays (checked to be one),
            or None for the identity alone.
        amplitude: A, in eV²; None sets it so that the prior variance of the forces (of the energies, without forces)
            equals their mean square.

    Source: Chmiela et al., Nat. Commun. 9, 3887 (2018), doi 10.1038/s41467-018-06169-2.
    """

    descriptor: Descriptor | Callable
    radial: Radial
    permutations: Permutations | Sequence | np.ndarray | None = struct.field(pytree_node=False, default=None)
    amplitude: float | Array | None = None

    def __post_init__(self):
        _check_leaf(self)
        if isinstance(self.permutations, (list, tuple, np.ndarray)):
            if any(np.ndim(p) != 1 for p in self.permutations) or len({len(p) for p in self.permutations}) != 1:
                raise ValueError("permutations: give index arrays of one length, all elements of a group, or None")
            elements = np.asarray(self.permutations)
            like = np.zeros(elements.shape[-1], dtype=int)  # which atoms are alike is the data's to say: `fit` checks
            object.__setattr__(self, "permutations", Permutations.from_elements(elements, like))
        if not isinstance(self.permutations, (Permutations, type(None))):
            raise ValueError(
                f"permutations={self.permutations!r:.60} must be index arrays, what find_permutations returns, or None"
            )

    def group(self, atoms: int) -> np.ndarray:
        """The permutations as an index array, shape (|P|, n); the identity alone when none were given."""
        return np.arange(atoms)[None] if self.permutations is None else self.permutations.indices

    def bare(self) -> GlobalKernel:
        """The descriptor with its radial function alone: all that compiled functions of features depend on."""
        return self.replace(permutations=None, amplitude=None)

    def _completed(self, numbers) -> GlobalKernel:
        return self.replace(descriptor=self.descriptor.completed(numbers))

    def channels(self, numbers) -> np.ndarray:
        """Which environments are compared with each other: a molecule has one."""
        return np.zeros(1, dtype=int)

    @property
    def channel_count(self) -> int:
        return 1

    def feature_blocks(self, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> tuple:
        """φ(x)/ℓ, one array of shape (1, D): one environment, the molecule."""
        features = self.descriptor(positions, numbers, cell, neighbors)
        if features.ndim > 2:
            raise ValueError(
                f"descriptor {self.descriptor.name} returns an array of shape {features.shape}; a global kernel takes "
                "one vector for the whole molecule, shape (D,), or one for every atom, shape (n, D)"
            )
        return (_scaled(self, features.reshape(1, -1)),)

    def evaluate(self, system, other) -> Float[Array, ""]:
        """k(x, x′)/A of two systems, straight from the definition; a scalar, differentiable in both."""
        return symmetrised(self, system, other)


class LocalKernel(KernelBase):
    """Kernel between atomic environments, species by species.

        k(x, x′) = A Σ_{a∈x, b∈x′} [z_a = z_b] f(|φ_a(x) − φ_b(x′)|²/ℓ²)

    A sum over environments: extensive, for molecules of any composition and for periodic cells.

    Attributes:
        descriptor: a function of positions, shape (n, D), or a `functools.partial` of one.
        radial: f and ℓ, a number or one for every feature; without a length scale, `fit` finds one.
        elements: atomic numbers that have channels, in any order, kept in ascending one; filled in from the data.
        amplitude: A, in eV²; None takes it from the data, as for `GlobalKernel`.
        components: the basis that features are reduced to, as `reduced` finds it; None for the features as they are.

    Source: Bartók et al., Phys. Rev. Lett. 104, 136403 (2010), doi 10.1103/PhysRevLett.104.136403.
    """

    descriptor: Descriptor | Callable
    radial: Radial
    elements: Collection[int] | None = struct.field(pytree_node=False, default=None)
    amplitude: float | Array | None = None
    components: Components | None = None

    local = True

    def __post_init__(self):
        _check_leaf(self)
        if self.elements is not None:
            object.__setattr__(self, "elements", _ascending(self.elements))
        bases = None if self.components is None else self.components.bases
        if isinstance(bases, np.ndarray) and len(bases) != len(self.elements or ()):
            raise ValueError(
                f"LocalKernel: {len(bases)} bases of components for elements={self.elements}; `mlff.reduced` makes one for each"
            )

    def bare(self) -> LocalKernel:
        """Without its amplitude."""
        return self.replace(amplitude=None)

    def _completed(self, numbers) -> LocalKernel:
        present = _ascending(np.ravel(numbers))
        if self.elements is not None and (missing := sorted(set(present) - set(self.elements))):
            raise ValueError(
                f"LocalKernel: elements={self.elements} lack {', '.join(symbols(missing))}, which the frames hold; add "
                "them, or leave elements out"
            )
        if self.elements is not None and (unseen := sorted(set(self.elements) - set(present))):
            raise ValueError(
                f"LocalKernel: elements={self.elements} hold {', '.join(symbols(unseen))}, of which the frames teach "
                "nothing; leave elements out"
            )
        return self.replace(descriptor=self.descriptor.completed(numbers), elements=present)

    def channels(self, numbers) -> np.ndarray:
        """The species channel of every atom, shape (n,)."""
        return np.searchsorted(np.asarray(self.elements), np.asarray(numbers))

    @property
    def channel_count(self) -> int:
        return len(self.elements)

    def feature_blocks(self, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> tuple:
        """φ_a(x)/ℓ of every atom, one array of shape (n, D)."""
        features = self._described(positions, numbers, cell, neighbors)
        if self.components is not None:
            numbers = jnp.asarray(numbers)
            channels = jnp.searchsorted(jnp.asarray(self.elements, numbers.dtype), numbers)
            features = self.components.reduced(features, channels)
        return (_scaled(self, features),)

    def channel_blocks(self, places, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> list[tuple]:
        """φ_a(x)/ℓ of the atoms of every channel, of which is said where they are; the others are not looked at."""
        features = self._described(positions, numbers, cell, neighbors)
        own = [features[atoms] for atoms in places]
        if self.components is not None:
            own = [self.components.of_one(of_channel, z) for z, of_channel in enumerate(own)]
        return [(_scaled(self, of_channel),) for of_channel in own]

    def _described(self, positions, numbers, cell, neighbors) -> Float[Array, "n D"]:
        features = self.descriptor(positions, numbers, cell, neighbors)
        if features.ndim != 2 or features.shape[0] != positions.shape[0]:
            raise ValueError(
                f"descriptor {self.descriptor.name} returns an array of shape {features.shape} for {positions.shape[0]} "
                "atoms; a local kernel takes one vector for every atom, shape (n, D)"
            )
        return features

    def evaluate(self, system, other) -> Float[Array, ""]:
        """k(x, x′)/A of two systems, straight from the definition; a scalar, differentiable in both."""
        return environmental(self, system, other)


Kernel = GlobalKernel | LocalKernel | ProductKernel | SumKernel
