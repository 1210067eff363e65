"""What a force field asks of its energy: anything that answers to this is a potential."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from descriptors.geometry import Environments
from mlff.data.batches import Batch
from mlff.kernels.surroundings import Surroundings, first_blind, reach_of, require_nearest_images, surrounded
from mlff.precision import Array
from mlff.trees import Tree


class Potential(Tree):
    """An energy as a function of one geometry, and the few facts that say what it may be asked.

    A potential of your own is a class with one method; its numbers and arrays are fields, and can be differentiated:

        class Morse(mlff.Potential):
            depth: float
            width: float

            def energy(self, positions, numbers, cell, neighbors):
                r = pair_distances(positions)
                return jnp.sum(self.depth * (1.0 - jnp.exp(-self.width * (r - 1.0))) ** 2)

    Attributes:
        functions: the functions of geometry that it evaluates, descriptors or an energy; what they take says whether it may be
            asked about cells, and how far it sees.
        reach: Å, up to which it is given a list of neighbours; 0 for none. Molecules of up to 32 atoms have no list: all see all.
        takes_cell: whether it may be asked about periodic cells.
        elements: atomic numbers that it knows; None for all.
        transferable: whether it takes any composition of them, or one molecule alone.
        order: how many continuous derivatives its energy has.
        label: what it is, in a few words.
        narrows: whether it can be worked out in single precision.
        bytes_inside: of arrays that a trace of its energy does not show, a geometry.
        bytes_per_geometry: of arrays that should stay in cache while geometries are worked off together.
    """

    functions = ()
    elements = None
    transferable = True
    order = math.inf
    narrows = True
    bytes_inside = 0
    bytes_per_geometry = 1

    def energy(
        self, positions: Float[Array, "n 3"], numbers, cell: Float[Array, "3 3"], neighbors=None
    ) -> Float[Array, ""]:
        """Potential energy, eV, of one geometry, in pure JAX."""
        raise NotImplementedError(f"{type(self).__name__} has no method energy(positions, numbers, cell, neighbors)")

    @property
    def reach(self) -> float:
        return reach_of(self.functions)

    @property
    def takes_cell(self) -> bool:
        return bool(self.functions) and first_blind(self.functions) is None

    @property
    def label(self) -> str:
        return type(self).__name__

    @property
    def blind(self) -> str:
        """Who takes no cell, for messages."""
        function = first_blind(self.functions)
        return f"{self.label}" if function is None else f"descriptor {function.name}"

    def surroundings(self, batch: Batch, slots: int = 0) -> Surroundings:
        """Cells and neighbours as `energy` takes them, an entry for every frame of a batch.

        Arguments:
            slots: how many there are, of potentials that pad; 0 without.
        Raises:
            ValueError: cells that are none, or too small.
        """
        around = surrounded(batch, self.reach, slots)
        require_nearest_images(self.functions, batch)
        return around

    def require_derivative(self, order: int, what: str) -> None:
        """Refuse a derivative of the energy that does not exist everywhere.

        Raises:
            ValueError: naming `what`.
        """
        if order > self.order:
            raise ValueError(
                f"{what} does not exist: it is a derivative of order {order}, and {self.label} has {self.order:g} continuous ones"
            )

    @property
    def sees_alone(self) -> bool:
        """Whether its energy is a sum over atoms, each of whose terms is a function of the atom's own neighbours alone:
        `environment_energies`."""
        return False

    def environment_energies(self, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """Terms of the energy, eV, of environments of atoms of one element, of potentials that see them alone.

        Arguments:
            element: atomic number.
            centers: the same, of every atom, shape (b,).
            seen: vectors to the neighbours, Å, and their atomic numbers, 0 in empty slots; shapes (b, k, 3) and (b, k).
        """
        raise NotImplementedError(f"{type(self).__name__} has no method environment_energies(element, centers, seen)")

    def environment_distances(self, spacings, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """How far environments lie from the training frames, in `spacings`, as `environment_energies` has them; NaN where there
        are none."""
        return jnp.full(centers.shape, jnp.nan)

    def energy_of_atoms(self, numbers) -> float:
        """What of the energy, eV, follows from the atomic numbers alone, shape (n,): large, and the same in every geometry."""
        return 0.0

    def without_atoms(self) -> Potential:
        """The same potential without `energy_of_atoms`."""
        return self

    @property
    def failure(self) -> str | None:
        """Why the last energy was no number, of potentials that find out; None where there is nothing to say."""
        return None

    # -- what only some potentials have more to say to ------------------------------------------------------------

    @property
    def pads(self) -> bool:
        """Whether `arranged` takes slots that show an atom a second time, whose energy does not count."""
        return False

    def arranged(self, numbers, room: bool = False) -> Potential:
        """The same potential made ready for atoms of some numbers, shape (n,).

        Arguments:
            room: whether arrays are of a few sizes, for other atoms too; of potentials that pad.
        """
        return self

    def spacings(self) -> Any:
        """How far its training points lie from each other, in its own units; None where it has none."""
        return None

    def training_distance(self, spacings, positions, numbers, cell, neighbors=None) -> Float[Array, ""]:
        """How far a geometry lies from the training frames, in `spacings`; NaN where there are none."""
        return jnp.full((), jnp.nan)
