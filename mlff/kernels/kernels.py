"""Kernels of one descriptor: how alike two geometries are. A kernel receives a descriptor; it never imports one.

Global and local kernels compare features by a radial function κ, whole molecules or environment by environment. All that
the fit needs of any kernel is its `parts`: features, a radial function, and which environments are compared with which.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from mlff.arguments import require_positive
from mlff.data.permutations import Permutations
from mlff.kernels.components import Components
from mlff.kernels.descriptor import Descriptor
from mlff.kernels.radial import Radial
from mlff.precision import Array
from mlff.trees import Tree
from mlff.units import HEAVIEST, symbols

AMPLITUDE = ", eV², or None to take it from the data"  # what `require_positive` says of it


class KernelBase(Tree):
    """What kernels share: `leaves` hold one descriptor and one radial function each, `parts` are terms of a sum."""

    @property
    def leaves(self) -> tuple[GlobalKernel | LocalKernel, ...]:
        return (self,)

    def with_leaves(self, leaves: Sequence) -> KernelBase:
        """The same kernel of other leaves."""
        (leaf,) = leaves
        return leaf

    @property
    def parts(self) -> tuple[KernelBase, ...]:
        return (self,)

    def with_amplitudes(self, amplitudes: Sequence[float]) -> KernelBase:
        """The same kernel with an amplitude A for every part, eV²."""
        (amplitude,) = amplitudes
        return self.replace(amplitude=amplitude)

    def completed(self, numbers) -> KernelBase:
        """With the elements of the data filled in wherever a descriptor or a local kernel takes them."""
        return self.with_leaves([leaf._completed(numbers) for leaf in self.leaves])

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        return tuple(leaf.descriptor for leaf in self.leaves)

    @property
    def radials(self) -> tuple[Radial, ...]:
        return tuple(leaf.radial for leaf in self.leaves)

    @property
    def permutations_used(self) -> Permutations | None:
        """The group that the energy is symmetrised over; None without one."""
        groups = (getattr(leaf, "permutations", None) for leaf in self.leaves)
        return next((group for group in groups if group is not None), None)

    @property
    def transferable(self) -> bool:
        """Whether molecules of other composition than the training frames' can be evaluated."""
        return all(isinstance(leaf, LocalKernel) for leaf in self.leaves)

    def features(self, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> Float[Array, "e D"]:
        """φ/ℓ of every environment, shape (e, D); the features of the factors of a product side by side."""
        return jnp.concatenate(self.feature_blocks(positions, numbers, cell, neighbors), axis=1)

    @property
    def label(self) -> str:
        return " + ".join(dict.fromkeys(f"{leaf.descriptor.name}, {leaf.radial.label}" for leaf in self.leaves))


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


def check_amplitude(value) -> None:
    """Refuse what is no amplitude A of one kernel, eV²: a positive number, or None where the fit finds it.

    Raises:
        ValueError: several numbers, or one that is not positive.
    """
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        raise ValueError(f"amplitude={value!r} must be one number{AMPLITUDE}")
    require_positive("amplitude", value, AMPLITUDE)


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
        features = self.descriptor(positions, numbers, cell, neighbors)
        if features.ndim != 2 or features.shape[0] != positions.shape[0]:
            raise ValueError(
                f"descriptor {self.descriptor.name} returns an array of shape {features.shape} for {positions.shape[0]} "
                "atoms; a local kernel takes one vector for every atom, shape (n, D)"
            )
        if self.components is not None:
            numbers = jnp.asarray(numbers)
            channels = jnp.searchsorted(jnp.asarray(self.elements, numbers.dtype), numbers)
            features = self.components.reduced(features, channels)
        return (_scaled(self, features),)

    def evaluate(self, system, other) -> Float[Array, ""]:
        """k(x, x′)/A of two systems, straight from the definition; a scalar, differentiable in both."""
        return environmental(self, system, other)


def _squares(one, two) -> Float[Array, "..."]:
    """One |φ − φ′|² for every block of features, stacked."""
    return jnp.stack([jnp.sum((a - b) ** 2, axis=-1) for a, b in zip(one, two, strict=True)])


def _blocks(kernel, system, positions=None) -> tuple:
    at = system.positions if positions is None else positions
    return kernel.feature_blocks(at, system.numbers, system.cell)  # all pairs, nearest images


def symmetrised(kernel, system, other) -> Float[Array, ""]:
    """1/|P| Σ_p f(φ(x), φ(p x′))."""
    one = _blocks(kernel, system)

    def term(permutation):
        return kernel.radial.value(*_squares(one, _blocks(kernel, other, jnp.asarray(other.positions)[permutation])))

    return jnp.mean(jax.vmap(term)(jnp.asarray(kernel.group(len(system.numbers)))))


def environmental(kernel, system, other) -> Float[Array, ""]:
    """Σ_ab [z_a = z_b] f(φ_a(x), φ_b(x′))."""
    one, two = _blocks(kernel, system), _blocks(kernel, other)
    s = _squares([a[:, None] for a in one], [b[None] for b in two])
    like = np.asarray(system.numbers)[:, None] == np.asarray(other.numbers)
    return jnp.sum(jnp.where(like, kernel.radial.value(*s), 0.0))
