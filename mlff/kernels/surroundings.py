"""What a geometry has beside its atoms: the cell, and for functions that look no further than a cutoff their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from descriptors.geometry import Neighbors
from mlff.data.batches import Batch
from mlff.data.cells import periodic_vectors
from mlff.data.neighbors import SMALL, neighbor_lists, wants_list, wide_enough
from mlff.kernels.descriptor import Descriptor
from mlff.precision import Array


class Surroundings(NamedTuple):
    """Cell and neighbours of one geometry, or of each of a batch; made once and handed on whole.

    cell: vectors as rows, Å, (3, 3) or (m, 3, 3), those of directions that are not periodic zero; neighbors: a list, or None
    where every atom sees all others.
    """

    cell: Float[Array, "*batch 3 3"]
    neighbors: Neighbors | None = None

    def frame(self, i: int) -> Surroundings:
        """Those of one geometry of a batch."""
        return jax.tree.map(lambda leaf: leaf[i], self)

    @property
    def width(self) -> int:
        """Slots of an atom in the neighbour list; 0 without one."""
        return 0 if self.neighbors is None else self.neighbors.indices.shape[-1]

    def strained(self, deformation: Float[Array, "3 3"]) -> Surroundings:
        """Of a geometry deformed by 1 + ε: the cell follows, the neighbours stay."""
        return self._replace(cell=self.cell @ deformation)

    def exchanged(self, permutation) -> Surroundings:
        """Of a geometry whose atoms changed places, (p x)_a = x[p[a]]."""
        if self.neighbors is None:
            return self
        places = jnp.argsort(permutation)
        indices, shifts = (jnp.asarray(array)[permutation] for array in self.neighbors)
        renumbered = jnp.where(indices >= 0, places[indices], -1).astype(indices.dtype)
        return self._replace(neighbors=Neighbors(renumbered, shifts))


def reach_of(functions: Sequence[Descriptor]) -> float:
    """How far those of some functions that take neighbours see, Å; 0 when there are none."""
    return max((function.cutoff for function in functions if "neighbors" in function.uses), default=0.0)


def first_blind(functions: Sequence[Descriptor]) -> Descriptor | None:
    """The first of some functions that takes no cell, so that it knows isolated molecules alone; None where all take one."""
    return next((function for function in functions if "cell" not in function.uses), None)


def surroundings(functions: Sequence[Descriptor], batch: Batch, reach: float = 0.0) -> Surroundings:
    """What some functions are given beside positions and numbers, an entry for every frame of a batch.

    Arguments:
        reach: of the neighbour lists, where they are to hold more than these functions see, Å.
    Raises:
        ValueError: cell vectors of periodic directions that are none, or too short for the nearest images that a descriptor
            without a neighbour list takes.
    """
    around = surrounded(batch, max(reach, reach_of(functions)))
    require_nearest_images(functions, batch)
    return around


def surrounded(batch: Batch, reach: float, slots: int = 0) -> Surroundings:
    """Cells and neighbours within `reach`, Å, an entry for every frame; lists where cells or many atoms ask for them.

    Arguments:
        slots: where the frames are to be shown in so many slots, which see by lists alone; of isolated molecules in up to 32
            slots the lists are as wide as those need at most.
    Raises:
        ValueError: cell vectors of periodic directions that are none.
    """
    cells = periodic_vectors(batch.cells, batch.pbc, batch.index)
    if not reach or not (slots or wants_list(len(batch.numbers), batch.pbc.any(axis=0))):
        return Surroundings(cells)
    width = wide_enough(slots - 1) if 1 < slots <= SMALL and not batch.pbc.any() else 0
    return Surroundings(cells, neighbor_lists(batch.positions, batch.cells, batch.pbc, reach, width))


def require_nearest_images(functions: Sequence[Descriptor], batch: Batch) -> None:
    """Refuse cells in which one of some functions, that takes a cell and no neighbours, would miss images within its cutoff."""
    for function in functions:
        if "cell" in function.uses and "neighbors" not in function.uses:
            _require_nearest_image(function, batch)


def nearest_images_within(function: Descriptor, batch: Batch) -> float:
    """The largest cutoff, Å, with which a function misses no image in the cells of some frames; infinite with a neighbour list."""
    if "neighbors" in function.uses or not batch.pbc.any():
        return np.inf
    cells = batch.cells[batch.pbc.all(axis=1)]
    return float(_heights(cells).min() / 2.0) if len(cells) else np.inf


def _heights(cells: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    return 1.0 / np.linalg.norm(np.linalg.inv(cells), axis=-2)


def _require_nearest_image(descriptor: Descriptor, batch: Batch) -> None:
    """Refuse cells in which a descriptor without a neighbour list would miss images within its cutoff."""
    for i, (cell, pbc) in enumerate(zip(batch.cells, batch.pbc, strict=True)):
        if not pbc.any():
            continue
        if not pbc.all():
            raise ValueError(
                f"descriptor {descriptor.name} sees nearest images only, in cells that are periodic in all directions; frame "
                f"{batch.index[i]} has pbc={[bool(p) for p in pbc]}: use a descriptor that takes neighbors"
            )
        if descriptor.cutoff is None:
            raise ValueError(
                f"descriptor {descriptor.name} takes a cell but has no parameter cutoff, so whether the cell of frame "
                f"{batch.index[i]} is large enough for its nearest images is not known; give it one: how far it sees, Å, or "
                "cutoff=0.0 where it takes no nearest images, as waves of the whole cell do not"
            )
        heights = _heights(cell)
        if heights.min() < 2.0 * descriptor.cutoff:
            raise ValueError(
                f"cell of frame {batch.index[i]} is too small for descriptor {descriptor.name}: its smallest height is "
                f"{heights.min():.2f} Å, nearest images suffice from twice the cutoff, {2.0 * descriptor.cutoff:.2f} Å; "
                "shorten the cutoff, repeat the cell, or use a descriptor that takes neighbors"
            )
