"""The kernel between the labels of frames, in blocks of frames whose rows together fill a tile: computed on demand, or kept.

Blocks are those of every term of the kernel by itself, without amplitude; what the terms are multiplied by is the linear
system's to say.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from mlff.regression.linalg.tiles import SymmetricTiles
from mlff.regression.system.features import Features
from mlff.regression.system.gram import Side, block
from mlff.regression.system.label_sums import product_of_first_order
from mlff.regression.system.second_order import add_second_order
from mlff.regression.system.terms import Term

TILE_ROWS = 2048
_WORTH = (
    1 << 24
)  # multiply-adds of a column of frames, from which a block is worth two more calls that spare a part of it
_SPARED = 1 << 17  # multiply-adds, which cost less than a call


@dataclasses.dataclass(frozen=True)
class KernelBlocks:
    """Blocks that are computed when they are asked for; nothing of the matrix is held."""

    features: Features

    @functools.cached_property
    def groups(self) -> list[slice]:
        """The frames of every block."""
        return groups_of(self.features)

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """The first row of every group, and the number of rows; shape (groups + 1,)."""
        counts = self.features.row_counts
        return np.concatenate([[0], np.cumsum([counts[group].sum() for group in self.groups], dtype=int)])

    @functools.cached_property
    def diagonals(self) -> Float[np.ndarray, "terms rows"]:
        """Of every term's matrix, from the blocks of every frame with itself."""
        return np.array([self._diagonal(term) for term in self.features.terms])

    def _diagonal(self, term: Term) -> Float[np.ndarray, " rows"]:
        pieces = [np.zeros(0)]
        for group in self.groups:
            columns = term.columns(self.features.observations, group)
            rows = columns if term.order == 1 else row_sides(term, self.features, group)
            counts = self.features.row_counts[group]
            step = max(1, _SPARED // _work(rows))
            for start in range(0, len(counts), step):
                frames = slice(start, start + step)
                pairs = _kernel(term, _some(rows, frames), _some(columns, frames))
                pieces += [np.diagonal(pairs[k, :, k])[:count] for k, count in enumerate(counts[frames])]
        return np.concatenate(pieces)

    def lower(self) -> Iterator[tuple[int, int, list[np.ndarray]]]:
        """All blocks on the diagonal and below it, column by column: (row of blocks, column of blocks, one a term)."""
        for j in range(len(self.groups)):
            for i, of_terms in self.column(j):
                yield i, j, of_terms

    def column(self, j: int) -> Iterator[tuple[int, list[np.ndarray]]]:
        """The blocks of a column on the diagonal and below it: (row of blocks, one a term)."""
        columns = [term.columns(self.features.observations, self.groups[j]) for term in self.features.terms]
        for i in range(j, len(self.groups)):
            yield i, self._blocks(i, j, columns)

    def block(self, i: int, j: int) -> list[np.ndarray]:
        """One block of every term, (rows of i, rows of j)."""
        columns = [term.columns(self.features.observations, self.groups[j]) for term in self.features.terms]
        return self._blocks(i, j, columns)

    def _blocks(self, i: int, j: int, columns: list[list[Side]]) -> list[np.ndarray]:
        return [
            kernel_block(term, self.features, self.groups[i], side, self.features, self.groups[j], i == j)
            for term, side in zip(self.features.terms, columns, strict=True)
        ]

    def take(self, places: np.ndarray) -> KernelBlocks:
        """Those of some frames, by their places in ascending order."""
        return KernelBlocks(self.features.take(places))

    def product(self, ours: np.ndarray, theirs: np.ndarray, shares: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """The kernel between some frames and others, by their places, times vectors: `kernel_product`."""
        return kernel_product(self.features.take(ours), self.features.take(theirs), shares, vectors)

    def kept(self) -> KeptBlocks:
        """All blocks, computed once."""
        tiles = [SymmetricTiles(self.offsets) for _ in self.features.terms]
        for i, j, of_terms in self.lower():
            for matrix, tile in zip(tiles, of_terms, strict=True):
                matrix.tiles[i][j] = tile
        return KeptBlocks(self, tiles)


@dataclasses.dataclass(frozen=True)
class KeptBlocks:
    """Blocks that were computed once, from which those of some of the frames are cut.

    Attributes:
        computed: the blocks of all frames.
        matrices: one for every term.
        chosen: which of the rows are taken; None for all.
    """

    computed: KernelBlocks
    matrices: list[SymmetricTiles]
    chosen: Bool[np.ndarray, " rows"] | None = None

    @functools.cached_property
    def _masks(self) -> list[np.ndarray]:
        rows = np.ones(self.computed.offsets[-1], dtype=bool) if self.chosen is None else self.chosen
        return np.split(rows, self.computed.offsets[1:-1])

    @property
    def _kept_groups(self) -> list[int]:
        """The groups of which a row is taken."""
        return [g for g, mask in enumerate(self._masks) if mask.any()]

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """The first row of every group, and the number of rows; shape (groups + 1,)."""
        return np.concatenate([[0], np.cumsum([self._masks[g].sum() for g in self._kept_groups], dtype=int)])

    @property
    def diagonals(self) -> Float[np.ndarray, "terms rows"]:
        """Of every term's matrix."""
        return np.array([matrix.diagonal()[np.concatenate(self._masks)] for matrix in self.matrices])

    def lower(self) -> Iterator[tuple[int, int, list[np.ndarray]]]:
        """All blocks on the diagonal and below it, column by column: (row of blocks, column of blocks, one a term)."""
        for j in range(len(self._kept_groups)):
            for i, of_terms in self.column(j):
                yield i, j, of_terms

    def column(self, j: int) -> Iterator[tuple[int, list[np.ndarray]]]:
        """The blocks of a column on the diagonal and below it: (row of blocks, one a term)."""
        for i in range(j, len(self._kept_groups)):
            yield i, self.block(i, j)

    def block(self, i: int, j: int) -> list[np.ndarray]:
        """One block of every term, (rows of i, rows of j); a copy, of those above the diagonal the transposed."""
        if i < j:
            return [tile.T for tile in self.block(j, i)]
        a, b = self._kept_groups[i], self._kept_groups[j]
        places = np.ix_(self._masks[a], self._masks[b])
        return [matrix.tiles[a][b][places] for matrix in self.matrices]

    def take(self, places: np.ndarray) -> KeptBlocks:
        """Those of some frames of all, by their places in ascending order."""
        return dataclasses.replace(self, chosen=self._rows_at(places))

    def product(self, ours: np.ndarray, theirs: np.ndarray, shares: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """The kernel between some frames of all and others, by their places, times vectors."""
        everywhere = np.zeros((int(self.computed.offsets[-1]), vectors.shape[1]))
        everywhere[self._rows_at(theirs)] = vectors
        products = [share * matrix.product(everywhere) for share, matrix in zip(shares, self.matrices, strict=True)]
        return sum(products)[self._rows_at(ours)]

    def _rows_at(self, places: np.ndarray) -> Bool[np.ndarray, " rows"]:
        """Which rows of all belong to some frames."""
        counts = self.computed.features.row_counts
        return np.repeat(np.isin(np.arange(len(counts)), places), counts)


Blocks = KernelBlocks | KeptBlocks  # what a linear system asks of its matrix


def groups_of(features: Features) -> list[slice]:
    """Consecutive frames of one section whose rows together fill a tile."""
    counts, groups = features.row_counts, []
    for section in features.sections:
        start = section.start
        while start < section.stop:
            left = counts[start : section.stop]
            # frames with fewer rows are padded to the fullest, which must not cost more than a tile again
            padded = np.arange(1, len(left) + 1) * np.maximum.accumulate(left)
            fitting = (np.cumsum(left) <= TILE_ROWS) & (padded <= 2 * TILE_ROWS)
            stop = start + max(1, len(left) if fitting.all() else int(np.argmin(fitting)))
            groups.append(slice(start, stop))
            start = stop
    return [group for group in groups if counts[group].any()]


def kernel_block(
    term: Term,
    ours: Features,
    group: slice,
    columns: list[Side],
    theirs: Features,
    other: slice,
    diagonal: bool = False,
) -> Float[np.ndarray, "rows columns"]:
    """The kernel of one term between the labels of two groups of frames, without what pads the frames to equal sizes.

    Arguments:
        columns: the sides of the second group.
        diagonal: the groups are the same frames, so the block is symmetric.
    """
    counts, others = ours.row_counts[group], theirs.row_counts[other]
    rows = row_sides(term, ours, group)
    padded = _symmetric(term, rows, columns) if diagonal else _kernel(term, rows, columns)
    return unpadded(padded, counts, others)


def unpadded(
    padded: Float[np.ndarray, "m r n q"], counts: np.ndarray, others: np.ndarray
) -> Float[np.ndarray, "rows columns"]:
    """The rows and columns of frames below each other, of which every frame has as many as counted."""
    m, r, n, q = padded.shape
    flat = padded.reshape(m * r, n * q)
    mine, his = ((np.arange(size) < count[:, None]).ravel() for size, count in ((r, counts), (q, others)))
    return flat if mine.all() and his.all() else np.ascontiguousarray(flat[mine][:, his])


def unpadded_rows(padded: Float[np.ndarray, "m r ..."], counts: np.ndarray) -> Float[np.ndarray, "rows ..."]:
    """The rows of frames below each other, of which every frame has as many as counted."""
    return padded[np.arange(padded.shape[1]) < counts[:, None]]


def kernel_between(
    ours: Features, theirs: Features, shares: np.ndarray | Sequence[float]
) -> Float[np.ndarray, "rows columns"]:
    """The kernel between all labels of some frames and those of others, the terms times their shares."""
    found = np.zeros((int(ours.row_counts.sum()), int(theirs.row_counts.sum())))
    for share, term, others in zip(shares, ours.terms, theirs.terms, strict=True):
        for there in groups_of(theirs):
            columns = others.columns(theirs.observations, there)
            for here in groups_of(ours):
                found[_rows_of(ours, here), _rows_of(theirs, there)] += share * kernel_block(
                    term, ours, here, columns, theirs, there
                )
    return found


def kernel_product(
    ours: Features, theirs: Features, shares: np.ndarray | Sequence[float], vectors: Float[np.ndarray, "columns v"]
) -> Float[np.ndarray, "rows v"]:
    """The kernel between the labels of some frames and those of others, times vectors, without the matrix.

    The kernel is linear in the labels: those of a frame are first summed with their weights into as many as there are
    vectors, so that a product costs less than its blocks. At no time there is more than a block, beside these sums.
    """
    result = np.zeros((int(ours.row_counts.sum()), vectors.shape[1]))
    for share, term, others in zip(shares, ours.terms, theirs.terms, strict=True):
        sums = [_sums(others, theirs, there, vectors) for there in groups_of(theirs)]
        for here in groups_of(ours):
            rows = row_sides(term, ours, here)
            products = share * sum(_product(term, rows, columns) for columns in sums)
            result[_rows_of(ours, here)] += unpadded_rows(products, ours.row_counts[here])
    return result


def _sums(term: Term, features: Features, group: slice, vectors: Float[np.ndarray, "rows v"]) -> list[Side]:
    """The labels of every frame of a group, summed with the entries of vectors, as columns."""
    weights = _padded(vectors[_rows_of(features, group)], features.row_counts[group])
    return term.columns(features.observations, group, weights)


def _product(term: Term, rows: list[Side], columns: list[Side]) -> Float[np.ndarray, "m r v"]:
    """The kernel of one term between two groups of frames, summed over the second."""
    (m, _, r), v = rows[0].values.shape, columns[0].values.shape[2]
    if any(side.curved.shape[2] for side in (*rows, *columns)):
        return _kernel(term, rows, columns).sum(axis=2)
    total = np.zeros((m, r, v))
    for row, column in zip(rows, columns, strict=True):
        if r and row.points.shape[1] and column.points.shape[1]:
            total += product_of_first_order(term.kernel.radial, row, column, term.sizes)
    return total


def _rows_of(features: Features, group: slice) -> slice:
    start = int(features.row_counts[: group.start].sum())
    return slice(start, start + int(features.row_counts[group].sum()))


def _padded(vectors: Float[np.ndarray, "rows v"], counts: np.ndarray) -> Float[np.ndarray, "n q v"]:
    """The entries of vectors, frame by frame, zeros where a frame has fewer rows than the fullest."""
    padded = np.zeros((len(counts), int(counts.max()), vectors.shape[1]))
    padded[np.arange(padded.shape[1]) < counts[:, None]] = vectors
    return padded


def row_sides(term: Term, features: Features, group: slice) -> list[Side]:
    """A group of frames as rows of the matrix, a side for every channel."""
    return [term.row(features.observations, group, channel) for channel in range(term.channel_count)]


def _some(sides: list[Side], frames: slice) -> list[Side]:
    return [Side(*(array[frames] for array in side)) for side in sides]


def _work(rows: list[Side]) -> int:
    """About how many multiply-adds a pair of frames takes; those of second derivatives are many times more."""
    first = sum(side.tangents.size * side.tangents.shape[2] for side in rows) // max(1, len(rows[0].points))
    second = sum(side.points.shape[1] * side.curved.shape[2] ** 4 for side in rows)
    return max(1, first + second)


def _kernel(term: Term, rows: list[Side], columns: list[Side]) -> Float[np.ndarray, "m r n q"]:
    """The kernel of one term between two groups of frames, padded as the sides are."""
    (m, _, r), (n, _, q) = rows[0].values.shape, columns[0].values.shape
    total = None  # to begin with the first channel's: fresh memory costs as much as the products that fill it
    for row, column in zip(rows, columns, strict=True) if m * r * n * q else ():  # a lone atom has no row of forces
        if row.points.shape[1] and column.points.shape[1]:
            found = block(term.kernel.radial, row, column, term.sizes)
            add_second_order(found, term.kernel.radial, row, column, term.sizes)
            total = found if total is None else np.add(total, found, out=total)
    return np.zeros((m, r, n, q)) if total is None else total


def _symmetric(term: Term, rows: list[Side], columns: list[Side]) -> Float[np.ndarray, "m r m r"]:
    """The kernel of one term between a group of frames and itself; one half of it is computed."""
    m, _, r = rows[0].values.shape
    if m < 2 or m * _work(rows) < _WORTH:
        return _kernel(term, rows, columns)
    total, half = np.empty((m, r, m, r)), m // 2
    first, second = slice(0, half), slice(half, m)
    for part in (first, second):
        total[part, :, part] = _symmetric(term, _some(rows, part), _some(columns, part))
    below = _kernel(term, _some(rows, second), _some(columns, first))
    total[second, :, first] = below
    total[first, :, second] = below.transpose(2, 3, 0, 1)
    return total
