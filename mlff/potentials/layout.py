"""Room for molecules of any composition: slots for atoms and for the environments of every element, in a few sizes.

Slots that are left over show the first atom once more, with its neighbours, and do not count. So whatever a descriptor does in
an environment it does in one that is there; nobody sees the second copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from descriptors.geometry import Neighbors
from mlff.kernels.surroundings import Surroundings

ROOM = (4, 16, 32)  # environments of one element; beyond, four sizes a doubling
SLOTS = (4, 8, 12, 16, 20, 24, 28, 32)  # atoms


class Layout(NamedTuple):
    """The atoms of a molecule in a number of slots: they come first, in their order.

    shown: the atom that each slot shows, shape (N,); atoms: how many there are.
    """

    shown: Integer[np.ndarray, " N"]
    atoms: int

    @classmethod
    def of(cls, atoms: int) -> Layout:
        shown = np.zeros(room_for(atoms, SLOTS), dtype=np.int32)
        shown[:atoms] = np.arange(atoms)
        return cls(shown, atoms)

    def fill(self, of_atoms: Float[np.ndarray, "*m n d"]) -> Float[np.ndarray, "*m N d"]:
        """What the slots show of positions, or of displacements."""
        return of_atoms[..., self.shown, :]

    def surround(self, around: Surroundings) -> Surroundings:
        """What the slots see: the neighbours of the atoms that they show."""
        if around.neighbors is None:
            return around
        indices, shifts = around.neighbors
        return around._replace(neighbors=Neighbors(indices[..., self.shown, :], shifts[..., self.shown, :, :]))


class Members(NamedTuple):
    """The environments of every element among the slots.

    places: for each element the slots of its atoms, (b,); counted: 1 for those and 0 for others that fill the room, (b,), or
    None where there are no others.
    """

    places: tuple[Integer[np.ndarray, " b"], ...]
    counted: tuple[Float[np.ndarray, " b"], ...] | None = None

    @classmethod
    def of(cls, numbers: Sequence[int] | np.ndarray, elements: Sequence[int], room: bool = False) -> Members:
        """Of atoms of some numbers; with `room` in one of a few sizes for every element, whether it is there or not."""
        places = [np.flatnonzero(np.asarray(numbers) == z).astype(np.int32) for z in elements]
        if not room:
            return cls(tuple(places))
        sizes = [room_for(len(atoms), ROOM) for atoms in places]
        counted = [(np.arange(size) < len(atoms)).astype(float) for atoms, size in zip(places, sizes, strict=True)]
        filled = [np.pad(atoms, (0, size - len(atoms))) for atoms, size in zip(places, sizes, strict=True)]
        return cls(tuple(filled), tuple(counted))


def room_for(count: int, sizes: tuple[int, ...]) -> int:
    """The first of some sizes that is enough; beyond them four sizes a doubling."""
    if count <= sizes[-1]:
        return next(size for size in sizes if size >= count)
    step = 1 << ((count - 1).bit_length() - 3)
    return step * -(-count // step)
