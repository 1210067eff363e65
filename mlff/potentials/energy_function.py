"""An energy that is a plain JAX function, as a potential: a formula, or a neural network with its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

from flax import struct
from jaxtyping import Float

from mlff.kernels.descriptor import Descriptor
from mlff.potentials.potential import Potential
from mlff.precision import Array


class EnergyFunction(Potential):
    """E(x) = function(positions, …), eV.

    As of descriptors, keyword parameters named `numbers`, `cell` and `neighbors` are supplied and all others are
    hyperparameters; a function that takes `neighbors` has a parameter `cutoff`, and one that takes a cell too.

    Attributes:
        function: with its hyperparameters, or a `functools.partial` of one.
        elements: atomic numbers that it knows, ascending; None for all.
        order: how many continuous derivatives it has.
    """

    function: Descriptor | Callable
    elements: tuple[int, ...] | None = struct.field(pytree_node=False, default=None)
    order: float | int = struct.field(pytree_node=False, default=math.inf)

    def __post_init__(self):
        if callable(self.function) and not isinstance(self.function, Descriptor):
            object.__setattr__(self, "function", Descriptor.wrap(self.function))

    @property
    def functions(self) -> tuple[Descriptor, ...]:
        return (self.function,)

    @property
    def label(self) -> str:
        return self.function.name

    def energy(self, positions: Float[Array, "n 3"], numbers, cell, neighbors=None) -> Float[Array, ""]:
        """The function's value.

        Raises:
            ValueError: it returns no single number.
        """
        energy = self.function(positions, numbers, cell, neighbors)
        if getattr(energy, "shape", None) != ():
            raise ValueError(
                f"energy function {self.label} returns an array of shape {getattr(energy, 'shape', None)}; an energy is one "
                "number, shape (), eV"
            )
        return energy
