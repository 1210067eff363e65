"""Compiled programs of an energy, its forces and its Hessian as a potential: what is left where there is no source.

Their derivatives are each other: along a displacement dx the energy changes by −F·dx and the forces by −H dx. JAX is told so, and
whatever is made of an energy and at most two derivatives is made of programs too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import struct
from jax.custom_batching import custom_vmap
from jaxtyping import Float

from mlff.batching import DEFAULT_MEMORY
from mlff.potentials.potential import Potential
from mlff.precision import Array


class Programs:
    """What a file of programs says of itself, and its programs as functions that JAX can differentiate and map over geometries.

    energy_and_forces: (weights, (m, n, 3)) → (m,), (m, n, 3); training_distance: (weights, (n, 3)) → (); hessian, where the
    energy has one: (weights, (n, 3)) → (3n, 3n).
    """

    def __init__(self, header: Mapping[str, Any], exported: Mapping[str, jax.export.Exported]):
        self.header = header
        self.names = frozenset(exported)
        self.energy = _differentiable(exported)
        self.training_distance = _one_by_one(exported["training_distance"].call)


def _one_by_one(call):
    """A program of one geometry, mapped over several one after the other."""
    single = custom_vmap(call)

    @single.def_vmap
    def _(size, batched, weights, positions):
        return jax.lax.map(lambda x: call(weights, x), positions), True

    return single


def _differentiable(exported: Mapping[str, jax.export.Exported]):
    """(weights, positions) → energy, with the derivatives that there are programs of."""
    batch = exported["energy_and_forces"].call

    @custom_vmap
    def computed(weights, positions):
        energies, forces = batch(weights, positions[None])
        return energies[0], forces[0]

    @computed.def_vmap
    def _(size, batched, weights, positions):
        return batch(weights, positions), (True, True)

    # what is called twice is computed once: the compiler sees that both are the same
    energy = jax.custom_jvp(lambda weights, positions: computed(weights, positions)[0])

    def gradient(weights, positions):
        return -computed(weights, positions)[1]

    @energy.defjvp
    def _(primals, tangents):
        return energy(*primals), jnp.vdot(gradient(*primals), tangents[1])

    if "hessian" in exported:
        gradient = jax.custom_jvp(gradient)
        hessian = _one_by_one(exported["hessian"].call)

        @gradient.defjvp
        def _(primals, tangents):
            step = tangents[1]
            return gradient(*primals), (hessian(*primals) @ step.ravel()).reshape(step.shape)

    return energy


class ExportedProgram(Potential):
    """The energy of one molecule that compiled programs give.

    Attributes:
        weights: what the programs take beside the positions.
        programs: see `Programs`.
    """

    weights: tuple[Array, ...]
    programs: Programs = struct.field(pytree_node=False)

    takes_cell = False
    transferable = False
    narrows = False  # programs are of double precision

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.programs.header["numbers"])))

    @property
    def order(self) -> int:
        return 2 if "hessian" in self.programs.names else 1

    @property
    def label(self) -> str:
        header = self.programs.header
        return f"program of {header['force_field']}, jax {header['versions']['jax']}, {header['created']}"

    @property
    def blind(self) -> str:
        return "the exported program"

    @property
    def bytes_inside(self) -> int:
        return self.programs.header["bytes_per_geometry"]

    @property
    def bytes_per_geometry(self) -> int:
        return max(1, DEFAULT_MEMORY // self.programs.header["batch"])

    def energy(self, positions: Float[Array, "n 3"], numbers, cell, neighbors=None) -> Float[Array, ""]:
        """Potential energy, eV; twice differentiable where the file holds a Hessian, else once."""
        return self.programs.energy(list(self.weights), positions)

    def require_derivative(self, order: int, what: str) -> None:
        """Refuse derivatives of which there is no program.

        Raises:
            ValueError: naming `what`.
        """
        if order == 2 and self.order < 2:
            raise ValueError(self.programs.header["no_hessian"])
        if order > self.order:
            raise ValueError(
                f"{what} is a derivative of order {order}, and the exported program holds energy, forces and Hessian; take the "
                "model that it was exported from, mlff.load(…)"
            )

    def spacings(self) -> tuple:
        """What the program measures in is inside of it."""
        return ()

    def training_distance(self, spacings, positions, numbers, cell, neighbors=None) -> Float[Array, ""]:
        """How far a geometry lies from the training frames, in units of how far these lie from each other."""
        return self.programs.training_distance(list(self.weights), positions)
