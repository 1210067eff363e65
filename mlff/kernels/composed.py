"""What kernels share, and kernels made of kernels: sums, and products inside one sum over permutations or environments."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.arguments import require_positive
from mlff.data.permutations import Permutations
from mlff.kernels.descriptor import Descriptor
from mlff.kernels.radial import Product, Radial
from mlff.precision import Array
from mlff.trees import Tree

AMPLITUDE = ", eV², or None to take it from the data"  # what `require_positive` says of it


class KernelBase(Tree):
    """What kernels share: `leaves` hold one descriptor and one radial function each, `parts` are terms of a sum."""

    local = False  # of a leaf: whether it compares environments and not molecules

    def __add__(self, other) -> SumKernel:
        return SumKernel((self, other)) if isinstance(other, KernelBase) else NotImplemented

    def __radd__(self, other) -> KernelBase:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # what `sum` begins with

    def __mul__(self, other) -> ProductKernel:
        return ProductKernel((self, other)) if isinstance(other, KernelBase) else NotImplemented

    @property
    def leaves(self) -> tuple[KernelBase, ...]:
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
        return all(leaf.local for leaf in self.leaves)

    def features(self, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> Float[Array, "e D"]:
        """φ/ℓ of every environment, shape (e, D); the features of the factors of a product side by side."""
        return jnp.concatenate(self.feature_blocks(positions, numbers, cell, neighbors), axis=1)

    def channel_features(self, places, positions, numbers, cell, neighbors=None) -> list[Float[Array, "e D"]]:
        """φ/ℓ of the environments of every channel of a local kernel, of which is said where they are among the atoms."""
        blocks = self.channel_blocks(places, positions, numbers, cell, neighbors)
        return [jnp.concatenate(of_channel, axis=1) for of_channel in blocks]

    @property
    def label(self) -> str:
        return " + ".join(dict.fromkeys(f"{leaf.descriptor.name}, {leaf.radial.label}" for leaf in self.leaves))


def check_amplitude(value) -> None:
    """Refuse what is no amplitude A of one kernel, eV²: a positive number, or None where the fit finds it.

    Raises:
        ValueError: several numbers, or one that is not positive.
    """
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        raise ValueError(f"amplitude={value!r} must be one number{AMPLITUDE}")
    require_positive("amplitude", value, AMPLITUDE)


class ProductKernel(KernelBase):
    """Product of radial functions of several descriptors, inside one sum over permutations or environments.

        κ(x, x′) = Π_i f_i(|φ_i(x) − φ_i(x′)|²/ℓ_i²)

    Also written `one * other`. The factors are all global with the same permutations, or all local.
    A product of sums is no single sum: that is refused.

    Raises:
        ValueError: a factor is itself a sum, or the factors are of different kinds or permutations.
    """

    factors: tuple[KernelBase, ...]
    amplitude: float | Array | None = None

    def __post_init__(self):
        flat = tuple(part for factor in self.factors for part in _flat(factor))  # a product of products is a product
        object.__setattr__(self, "factors", flat)
        if len({type(factor) for factor in flat}) != 1 or any(isinstance(f, (ProductKernel, SumKernel)) for f in flat):
            raise ValueError(
                "factors of a product must be global kernels, or local kernels, not both, nor sums: expand a product of sums into "
                "a sum of products"
            )
        if any(factor.amplitude is not None for factor in flat):
            raise ValueError("factors of a product have no amplitude of their own; give that of the product")
        check_amplitude(self.amplitude)
        groups = [getattr(factor, "permutations", None) for factor in flat]
        if any(group != groups[0] for group in groups):
            raise ValueError("factors of a product must share their permutations: they stand inside one sum over them")

    @property
    def leaves(self):
        return self.factors

    def with_leaves(self, leaves: Sequence) -> ProductKernel:
        """The same product of other factors."""
        return self.replace(factors=tuple(leaves))

    @property
    def radial(self) -> Product:
        """f as a function of one s for every factor."""
        return Product(factors=tuple(factor.radial for factor in self.factors))

    @property
    def elements(self):
        return getattr(self.factors[0], "elements", None)

    def group(self, atoms: int) -> np.ndarray:
        return self.factors[0].group(atoms)

    def bare(self) -> ProductKernel:
        """Without permutations and amplitude."""
        return self.replace(factors=tuple(factor.bare() for factor in self.factors), amplitude=None)

    def channels(self, numbers) -> np.ndarray:
        return self.factors[0].channels(numbers)

    @property
    def channel_count(self) -> int:
        return self.factors[0].channel_count

    def feature_blocks(self, positions: Float[Array, "n d"], numbers, cell, neighbors=None) -> tuple:
        """φ_i/ℓ_i of every factor, each of shape (e, D_i)."""
        return tuple(factor.feature_blocks(positions, numbers, cell, neighbors)[0] for factor in self.factors)

    def channel_blocks(self, places, positions, numbers, cell, neighbors=None) -> list[tuple]:
        """As `LocalKernel.channel_blocks`, one array for every factor."""
        blocks = [factor.channel_blocks(places, positions, numbers, cell, neighbors) for factor in self.factors]
        return [tuple(of_factor[0] for of_factor in of_channel) for of_channel in zip(*blocks, strict=True)]

    def evaluate(self, system, other) -> Float[Array, ""]:
        """k(x, x′)/A of two systems, straight from the definition; a scalar, differentiable in both."""
        return (environmental if self.transferable else symmetrised)(self, system, other)


def _flat(factor) -> tuple:
    return factor.factors if isinstance(factor, ProductKernel) and factor.amplitude is None else (factor,)


class SumKernel(KernelBase):
    """Sum of kernels, global and local ones as they come.

        k(x, x′) = Σ_i k_i(x, x′)

    Also written `one + other`.
    The terms' amplitudes are all given, or none: then every term has the same share of the prior variance of the labels.

    Raises:
        ValueError: some terms have an amplitude and others not.
    """

    terms: tuple[KernelBase, ...]

    def __post_init__(self):
        terms = tuple(part for term in self.terms for part in term.parts)  # a sum of sums is a sum
        object.__setattr__(self, "terms", terms)
        if not terms:
            raise ValueError("terms of a sum: there are none; give at least one kernel")
        if len({term.amplitude is None for term in terms}) > 1:
            raise ValueError("amplitudes of a sum: give one to every term, or to none")

    @property
    def leaves(self):
        return tuple(leaf for term in self.terms for leaf in term.leaves)

    def with_leaves(self, leaves: Sequence) -> SumKernel:
        """The same sum of other leaves."""
        left, terms = list(leaves), []
        for term in self.terms:
            count = len(term.leaves)
            terms.append(term.with_leaves(left[:count]))
            left = left[count:]
        return self.replace(terms=tuple(terms))

    @property
    def parts(self):
        return self.terms

    def with_amplitudes(self, amplitudes: Sequence[float]) -> SumKernel:
        """The same sum with an amplitude A for every term, eV²."""
        pairs = zip(self.terms, amplitudes, strict=True)
        return self.replace(terms=tuple(term.replace(amplitude=amplitude) for term, amplitude in pairs))

    @property
    def permutations_used(self) -> Permutations | None:
        """The group that leaves the energy of all terms unchanged: what the groups of the global ones have in common (a
        local one takes all permutations of like atoms); None where a global term has none."""
        groups = [term.permutations_used for term in self.terms if not term.transferable]
        if not groups or any(group is None for group in groups):
            return None
        return functools.reduce(Permutations.intersection, groups)

    @property
    def amplitude(self) -> tuple | None:
        """Of every term; None where the data are to say."""
        return None if self.terms[0].amplitude is None else tuple(term.amplitude for term in self.terms)


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
