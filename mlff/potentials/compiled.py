"""A potential on the device, with the compiled functions of its energy, for the atoms that it is asked about."""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import numpy as np

from mlff.batching import chunk_size, working_bytes
from mlff.compiling import known_options
from mlff.data.batches import Batch
from mlff.kernels.surroundings import Surroundings
from mlff.potentials import derivatives
from mlff.potentials.layout import Layout
from mlff.potentials.potential import Potential
from mlff.precision import doubled

_POLLING = 1e-3  # s


class Compiled:
    """The compiled functions of all potentials of one structure (descriptor, radial function; sizes by their shapes).

    They take the potential as a flat list of arrays: taking a pytree apart anew would cost as much as an evaluation.
    """

    def __init__(self, structure):
        def flat(function, **options):
            def call(leaves, *args, **static):
                return function(jax.tree.unflatten(structure, leaves), *args, **static)

            return jax.jit(call, **options)

        # what runs by the thousand, a geometry a call, is left to XLA: measured, a small model's Hessian is a quarter slower
        # by our options, which batches and what runs a few times gain from
        quickly = functools.partial(flat, compiler_options=known_options())
        self.single = flat(derivatives.packed)
        self.batch = quickly(
            lambda model, numbers, x, around: jax.vmap(lambda y, a: derivatives.packed(model, numbers, y, *a))(
                x, around
            )
        )
        self.spread = jax.jit(functools.partial(_spread, structure), static_argnames="axes")
        self.hessian = flat(derivatives.hessian, static_argnames="rows_at_once")
        self.gradient_along = flat(derivatives.gradient_along)
        self.strain_derivatives = quickly(derivatives.strain_derivatives)
        self.training_distance = quickly(lambda model, *where: model.training_distance(*where))
        self.applied = quickly(derivatives.applied, static_argnames="function")
        self.gradient_bytes: dict[tuple, int] = {}  # of one geometry, by the shapes of everything that enters


def _spread(structure, leaves, numbers, positions, around: Surroundings, *, axes: tuple[int | None, ...]):
    """Energies and forces of potentials that differ in the arrays that have an axis for them, worked out together."""

    def one(of_one):
        return derivatives.packed(jax.tree.unflatten(structure, of_one), numbers, positions, *around)

    return jax.vmap(one, in_axes=(list(axes),))(leaves)


_compiled = functools.lru_cache(maxsize=64)(Compiled)


def on_device(tree):
    """A tree of arrays, put where computations are made."""
    with doubled():
        return jax.device_put(tree)


@dataclasses.dataclass(eq=False)
class Prepared:
    """A potential on the device, arranged for some atoms, with its compiled functions.

    Attributes:
        potential: the arranged potential; its arrays are those of every other arrangement.
        leaves: its arrays, as the functions take them.
        numbers: atomic numbers in its slots.
        atoms: how many atoms there are.
        layout: the slots that they are in; None where there are as many as atoms.
    """

    functions: Compiled
    potential: Potential
    leaves: list
    numbers: jax.Array
    atoms: int
    layout: Layout | None = None

    @classmethod
    def of(cls, potential: Potential, numbers: np.ndarray, room: bool = False) -> Prepared:
        """Of a potential on the device, for atoms of some numbers.

        Arguments:
            room: whether atoms are put into slots of a few sizes, so that other compositions compile nothing anew.
        """
        layout = Layout.of(len(numbers)) if room and potential.pads else None
        arranged = on_device(potential.arranged(numbers, layout is not None))
        slots = numbers if layout is None else numbers[layout.shown]
        leaves, structure = jax.tree.flatten(arranged)
        return cls(_compiled(structure), arranged, leaves, on_device(slots.astype(np.int32)), len(numbers), layout)

    def surroundings(self, batch: Batch) -> Surroundings:
        """Cells and neighbours of the slots, an entry for every frame."""
        if self.layout is None:
            return self.potential.surroundings(batch)
        return self.layout.surround(self.potential.surroundings(batch, len(self.layout.shown)))

    def fill(self, of_atoms: np.ndarray) -> np.ndarray:
        """Positions or displacements of atoms, shape (…, n, 3), as those of the slots."""
        return of_atoms if self.layout is None else self.layout.fill(of_atoms)

    def of_atoms(self, of_slots: np.ndarray) -> np.ndarray:
        """Vectors of the slots, shape (…, N, 3), as those of the atoms, which come first."""
        return of_slots if self.layout is None else of_slots[..., : self.atoms, :]

    def moving(self, atoms: np.ndarray | None) -> np.ndarray | None:
        """Which slots move where some atoms do, or all of them; None for all slots."""
        return np.arange(self.atoms) if atoms is None and self.layout is not None else atoms

    def batch_size(self, positions, around: Surroundings, memory: int) -> int:
        """Geometries a chunk: few enough for the distances to all points to stay in cache, and for everything that the
        descriptors hold to stay within `memory`."""
        cached = chunk_size(self.potential.bytes_per_geometry)
        return min(cached, chunk_size(self.bytes_per_gradient(positions, around), memory))

    def bytes_per_gradient(self, positions, around: Surroundings) -> int:
        """Size of the intermediate arrays of the gradient of one geometry, and so of its derivative along one direction: what
        chunks are sized by. Only the shapes of the arguments matter."""
        known = self.functions.gradient_bytes
        shapes = *(leaf.shape for leaf in self.leaves), positions.shape, around.width
        if shapes not in known:
            with doubled():
                gradient = jax.grad(lambda x, cell, neighbors: self.potential.energy(x, self.numbers, cell, neighbors))
                known[shapes] = working_bytes(gradient, positions, *around)
        return max(known[shapes], self.potential.bytes_inside)


def arrived(result: jax.Array) -> np.ndarray:
    """The result as NumPy array. A thread put to sleep takes as long to wake as a small model takes to evaluate,
    so look a while before sleeping."""
    limit = time.perf_counter() + _POLLING
    while not result.is_ready() and time.perf_counter() < limit:
        pass
    return np.asarray(result)
