"""Neighbour lists of fixed width, built on the host by vesin, for descriptors that look no further than a cutoff."""

from __future__ import annotations

import numpy as np
import vesin
from jaxtyping import Bool, Float

from descriptors.geometry import Neighbors
from mlff.data.cells import periodic_vectors
from mlff.units import symbols

SMALL = 32  # atoms up to which an isolated molecule needs no list: everything may see everything
REACH = 4.0  # Å, within which the closest atoms of two elements are looked for


def wants_list(atoms: int, pbc: Bool[np.ndarray, " 3"]) -> bool:
    """Whether environments are taken from a list; small molecules use all pairs."""
    return bool(np.any(pbc)) or atoms > SMALL


def neighbor_lists(
    positions: Float[np.ndarray, "m n 3"],
    cells: Float[np.ndarray, "m 3 3"],
    pbc: Bool[np.ndarray, "m 3"],
    cutoff: float,
    width: int = 0,
) -> Neighbors:
    """Neighbour lists of frames, all of one width: `width`, or more where an environment overflows it.

    Wider ones are 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, … slots wide, the first that leaves one free: compiled
    functions meet few shapes, and the width, on which rounding depends, is one of the geometry and of nothing before it.

    Arguments:
        positions: Å, shape (m, n, 3).
        cells: cell vectors as rows, Å; those of directions that are not periodic do not matter.
        pbc: which directions are periodic.
        cutoff: Å.
        width: slots an atom, if that is enough.
    Returns:
        `Neighbors` with arrays of shapes (m, n, k) and (m, n, k, 3).
    Raises:
        ValueError: the cell vectors of periodic directions are zero, parallel or in one plane.
    """
    cells = periodic_vectors(cells, pbc)
    builder = vesin.NeighborList(cutoff=float(cutoff), full_list=True, sorted=True)
    lists, fullest = [], 0
    for x, cell, periodic in zip(positions, cells, pbc, strict=True):
        first, second, shifts = builder.compute(x, cell, [bool(p) for p in periodic], quantities="ijS")
        first = first.astype(np.int64)
        counts = np.bincount(first, minlength=len(x))
        slots = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        lists.append((first, second.astype(np.int64), shifts, slots))
        fullest = max(fullest, int(counts.max(initial=0)))
    if fullest > width:
        width = wide_enough(fullest)
    shape = (*positions.shape[:2], max(width, 1))
    indices = np.full(shape, -1, dtype=np.int32)
    offsets = np.zeros((*shape, 3))
    for frame, (first, second, shifts, slots) in enumerate(lists):
        indices[frame, first, slots] = second
        offsets[frame, first, slots] = shifts
    return Neighbors(indices, offsets)


def wide_enough(fullest: int) -> int:
    """The first of 4, 8, 12, 16, 20, 24, 28, 32, 40, … beyond a number: from 16 on four a doubling."""
    step = 4 * 2 ** max(0, int(fullest).bit_length() - 5)
    return step * (fullest // step + 1)


def closest_pairs(positions, numbers, cells, pbc, reach: float = REACH) -> dict[str, float]:
    """The smallest distance between two atoms of each pair of elements, over all frames, Å; keys such as "C-H".

    Arguments:
        reach: Å, beyond which nobody is looked for.
    """
    cells = periodic_vectors(cells, pbc)
    elements, kinds = np.unique(np.asarray(numbers), return_inverse=True)
    smallest = np.full((len(elements), len(elements)), np.inf)
    for x, cell, periodic in zip(positions, cells, pbc, strict=True):
        builder = vesin.NeighborList(cutoff=reach, full_list=False)
        first, second, distances = builder.compute(x, cell, [bool(p) for p in periodic], quantities="ijd")
        np.minimum.at(smallest, (kinds[first], kinds[second]), distances)
    smallest, names = np.minimum(smallest, smallest.T), symbols(elements)
    pairs = [(i, j) for i, j in zip(*np.triu_indices(len(elements)), strict=True) if np.isfinite(smallest[i, j])]
    return {"-".join(sorted((names[i], names[j]))): float(smallest[i, j]) for i, j in pairs}
