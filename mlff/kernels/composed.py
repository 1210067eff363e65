"""Kernels made of kernels: products inside one sum over permutations or environments, and sums."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mlff.data.permutations import Permutations
from mlff.kernels.kernels import GlobalKernel, KernelBase, LocalKernel, check_amplitude, environmental, symmetrised
from mlff.kernels.radial import Product
from mlff.precision import Array


class ProductKernel(KernelBase):
    """Product of radial functions of several descriptors, inside one sum over permutations or environments.

        κ(x, x′) = Π_i f_i(|φ_i(x) − φ_i(x′)|²/ℓ_i²)

    The factors are all global with the same permutations, or all local.
    A product of sums is no single sum: that is refused.

    Raises:
        ValueError: a factor is itself a sum or product, or the factors are of different kinds or permutations.
    """

    factors: tuple[GlobalKernel | LocalKernel, ...]
    amplitude: float | Array | None = None

    def __post_init__(self):
        object.__setattr__(self, "factors", tuple(self.factors))
        kinds = {type(factor) for factor in self.factors}
        if len(kinds) != 1 or not kinds <= {GlobalKernel, LocalKernel}:
            raise ValueError(
                "factors of a product must be global kernels, or local kernels, not both, nor sums or products: expand "
                "a product of sums into a sum of products"
            )
        if any(factor.amplitude is not None for factor in self.factors):
            raise ValueError("factors of a product have no amplitude of their own; give that of the product")
        check_amplitude(self.amplitude)
        first = self.factors[0]
        if kinds == {GlobalKernel} and any(factor.permutations != first.permutations for factor in self.factors):
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

    def evaluate(self, system, other) -> Float[Array, ""]:
        """k(x, x′)/A of two systems, straight from the definition; a scalar, differentiable in both."""
        whole = isinstance(self.factors[0], GlobalKernel)
        return (symmetrised if whole else environmental)(self, system, other)


class SumKernel(KernelBase):
    """Sum of kernels, global and local ones as they come.

        k(x, x′) = Σ_i k_i(x, x′)

    The terms' amplitudes are all given, or none: then every term has the same share of the prior variance of the labels.

    Raises:
        ValueError: some terms have an amplitude and others not.
    """

    terms: tuple[GlobalKernel | LocalKernel | ProductKernel, ...]

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


Kernel = GlobalKernel | LocalKernel | ProductKernel | SumKernel
