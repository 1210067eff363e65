"""Sums of potentials: a baseline and what was fitted to the rest of it, short and long range, two elements' worlds."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jaxtyping import Float

from descriptors.geometry import Environments
from mlff.potentials.potential import Potential
from mlff.precision import Array


def terms_of(potential: Potential) -> tuple[Potential, ...]:
    """The terms of a sum, or the potential itself."""
    return potential.terms if isinstance(potential, PotentialSum) else (potential,)


class PotentialSum(Potential):
    """E(x) = Σ_i E_i(x).

    It knows the elements that all terms know, has the derivatives that all have, and sees as far as the farthest.
    """

    terms: tuple[Potential, ...]

    def __post_init__(self):
        flat = tuple(part for term in self.terms for part in terms_of(term))
        object.__setattr__(self, "terms", flat)

    def energy(self, positions: Float[Array, "n 3"], numbers, cell, neighbors=None) -> Float[Array, ""]:
        """The sum of all terms."""
        return functools.reduce(jnp.add, (term.energy(positions, numbers, cell, neighbors) for term in self.terms))

    @property
    def functions(self):
        return tuple(function for term in self.terms for function in term.functions)

    @property
    def reach(self) -> float:
        return max(term.reach for term in self.terms)

    @property
    def takes_cell(self) -> bool:
        return all(term.takes_cell for term in self.terms)

    @property
    def blind(self) -> str:
        return next((term.blind for term in self.terms if not term.takes_cell), self.label)

    @property
    def elements(self) -> tuple[int, ...] | None:
        known = [set(term.elements) for term in self.terms if term.elements is not None]
        return tuple(sorted(set.intersection(*known))) if known else None

    @property
    def transferable(self) -> bool:
        return all(term.transferable for term in self.terms)

    @property
    def order(self) -> int | float:
        return min(term.order for term in self.terms)

    @property
    def narrows(self) -> bool:
        return all(term.narrows for term in self.terms)

    def energy_of_atoms(self, numbers) -> float:
        """The sum of all terms."""
        return sum(term.energy_of_atoms(numbers) for term in self.terms)

    def without_atoms(self) -> PotentialSum:
        return self.replace(terms=tuple(term.without_atoms() for term in self.terms))

    @property
    def bytes_inside(self) -> int:
        return sum(term.bytes_inside for term in self.terms)

    @property
    def failure(self) -> str | None:
        return next((term.failure for term in self.terms if term.failure), None)

    @property
    def label(self) -> str:
        return " + ".join(term.label for term in self.terms)

    def require_derivative(self, order: int, what: str) -> None:
        """Refuse what one of the terms has not."""
        for term in self.terms:
            term.require_derivative(order, what)

    @property
    def sees_alone(self) -> bool:
        return all(term.sees_alone for term in self.terms)

    def environment_energies(self, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """The sum of all terms."""
        return functools.reduce(jnp.add, (term.environment_energies(element, centers, seen) for term in self.terms))

    def environment_distances(self, spacings, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """The largest of the terms that have training frames."""
        pairs = zip(self.terms, spacings, strict=True)
        return jnp.nanmax(
            jnp.stack([term.environment_distances(own, element, centers, seen) for term, own in pairs]), axis=0
        )

    def scaled(self, factor: float) -> PotentialSum:
        """Times a number, of terms that can be."""
        return self.replace(terms=tuple(term.scaled(factor) for term in self.terms))

    @property
    def pads(self) -> bool:
        return all(term.pads for term in self.terms)

    def arranged(self, numbers, room: bool = False) -> PotentialSum:
        return self.replace(terms=tuple(term.arranged(numbers, room) for term in self.terms))

    def spacings(self):
        return tuple(term.spacings() for term in self.terms)

    def training_distance(self, spacings, positions, numbers, cell, neighbors=None) -> Float[Array, ""]:
        """The largest of the terms that have training frames."""
        distances = [
            term.training_distance(own, positions, numbers, cell, neighbors)
            for term, own in zip(self.terms, spacings, strict=True)
        ]
        return jnp.nanmax(jnp.stack(distances))
