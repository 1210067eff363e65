"""Kernel blocks for any length scale, from inner products that are computed once.

A search tries one length scale after the other on the same frames. With a = ℓ₀/ℓ for every block b of features, all that a
block takes from descriptors at ℓ is a² times what it took at ℓ₀,

    s_b = a_b² |δ_b|²,   T·T′ = Σ_b a_b² (T·T′)_b,   T·δ = Σ_b a_b² (T·δ)_b,   δ·T′ = Σ_b a_b² (δ·T′)_b,

so the large matrix products, over all features, are the same for all. What is kept holds for every pair of like
environments the products of all their tangents: many times the matrix itself, which `needed_bytes` tells beforehand.
Labels that are values alone, energies, have no tangents; there are no products of them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

from mlff.kernels.radial import Radial
from mlff.regression.linalg.tiles import SymmetricTiles
from mlff.regression.system.features import Features
from mlff.regression.system.gram import Side, along_own_points, feature_slices, radial_derivatives
from mlff.regression.system.kernel_blocks import (
    KeptBlocks,
    KernelBlocks,
    groups_of,
    kernel_block,
    row_sides,
    unpadded,
)
from mlff.regression.system.terms import Term
from mlff.threads import map_threads

_PIECE = 32 * 2**20  # bytes of kept products that a thread sums at once


@dataclasses.dataclass(frozen=True)
class InnerProducts:
    """Of the environments of one channel of pairs of frames, padded to e and k environments, r and q labels, u and w of them with tangents.

    Attributes:
        first, second: the places of the frames of every pair among rows and columns.
        squares: |δ_b|² of all environments of the one with all of the other.
        tangents: T·T′, the labels of the one with those of the other.
        rows: T·δ of the labels of the one.
        columns: δ·T′ of those of the other.
        values: of the labels of the one, (p, e, r), and of the other, (p, k, q); None where no label is a value.
        sloped: the labels of the one, and of the other, that have tangents.
        shape: (r, q).
    """

    first: Int[np.ndarray, " p"]
    second: Int[np.ndarray, " p"]
    squares: Float[np.ndarray, "b p e k"]
    tangents: Float[np.ndarray, "b p ek uw"]
    rows: Float[np.ndarray, "b p ek u"]
    columns: Float[np.ndarray, "b p ek w"]
    values: tuple[np.ndarray, np.ndarray] | None
    sloped: tuple[slice, slice]
    shape: tuple[int, int]

    @classmethod
    def of(cls, rows: Side, columns: Side, sizes: tuple[int, ...], diagonal: bool) -> InnerProducts:
        """Of all pairs of two groups of frames; where these are the same, of every pair once."""
        sloped = _sloped(rows), _sloped(columns)
        rows, columns = (
            side._replace(tangents=side.tangents[:, :, some])
            for side, some in zip((rows, columns), sloped, strict=True)
        )
        (m, e, r, _), (n, k, q, _) = rows.tangents.shape, columns.tangents.shape
        parts = feature_slices(sizes)
        ends = np.arange(1, m + 1) if diagonal else np.full(m, n)
        starts = np.concatenate([[0], np.cumsum(ends)])
        first, second = np.repeat(np.arange(m), ends), np.concatenate([np.arange(end) for end in ends])
        shape = (len(parts), len(first))
        squares, tangents = np.empty((*shape, e, k)), np.empty((*shape, e * k, r * q))
        ours, theirs = np.empty((*shape, e * k, r)), np.empty((*shape, e * k, q))
        here = [along_own_points(rows.tangents[..., part], rows.points[..., part]) for part in parts]
        there = [along_own_points(columns.tangents[..., part], columns.points[..., part]) for part in parts]

        def fill(i: int) -> None:
            end, pairs = ends[i], slice(starts[i], starts[i + 1])
            for b, part in enumerate(parts):
                points, directions = rows.points[i][:, part], rows.tangents[i][..., part].reshape(e * r, -1)
                others = columns.points[:end, :, part].reshape(end * k, -1)
                across = columns.tangents[:end, ..., part].reshape(end * k * q, -1)
                squares[b, pairs] = cdist(points, others, "sqeuclidean").reshape(e, end, k).transpose(1, 0, 2)
                products = (directions @ across.T).reshape(e, r, end, k, q).transpose(2, 0, 3, 1, 4)
                tangents[b, pairs] = products.reshape(end, e * k, r * q)
                mine = here[b][i][..., None] - (directions @ others.T).reshape(e, r, end * k)
                ours[b, pairs] = mine.reshape(e, r, end, k).transpose(2, 0, 3, 1).reshape(end, e * k, r)
                his = (points @ across.T).reshape(e, end, k, q) - there[b][:end]
                theirs[b, pairs] = his.transpose(1, 0, 2, 3).reshape(end, e * k, q)

        map_threads(fill, range(m))
        with_values = rows.values.any() or columns.values.any()
        values = (rows.values[first], columns.values[second]) if with_values else None
        labels = rows.values.shape[2], columns.values.shape[2]
        return cls(first, second, squares, tangents, ours, theirs, values, sloped, labels)

    def kernel(self, radial: Radial, factors: Float[np.ndarray, " b"]) -> Float[np.ndarray, "p r q"]:
        """The kernel between the labels of every pair, the length scale of every block of features divided by a factor."""
        squared = factors**2
        f, f1, f2 = radial_derivatives(radial, self.squares * squared[:, None, None, None])
        slopes = -2.0 * f1 * squared[:, None, None, None]
        bends = -4.0 * f2 * np.multiply.outer(squared, squared)[..., None, None, None]
        p = len(self.first)
        result = np.empty((p, *self.shape))
        step = max(1, _PIECE // max(1, 8 * self.tangents.shape[2] * self.tangents.shape[3]))

        def fill(start: int) -> None:
            pairs = slice(start, start + step)
            result[pairs] = self._some(pairs, f[pairs], slopes[:, pairs], bends[:, :, pairs])

        map_threads(fill, range(0, p, step))
        return result

    def _some(self, pairs: slice, f, slopes, bends) -> Float[np.ndarray, "p r q"]:
        """The kernel of a few pairs, from the radial function, −2 ∂f/∂s_b and −4 ∂²f/∂s_b∂s_c there."""
        count, e, k = f.shape
        u, w = self.rows.shape[-1], self.columns.shape[-1]
        of_tangents = np.zeros((count, u, w))
        for b, slope in enumerate(slopes):
            of_tangents += (slope.reshape(count, 1, e * k) @ self.tangents[b, pairs]).reshape(count, u, w)
            for c, columns in enumerate(self.columns[:, pairs]):
                of_tangents += self.rows[b, pairs].swapaxes(1, 2) @ (bends[b, c].reshape(count, e * k, 1) * columns)
        total = np.zeros((count, *self.shape)) if self.values is None else self._with_values(pairs, f, slopes)
        total[:, *self.sloped] += of_tangents
        return total

    def _with_values(self, pairs: slice, f, slopes) -> Float[np.ndarray, "p r q"]:
        """What labels that are values add: v v′ f, and their products with the tangents of the other frame."""
        count, e, k = f.shape
        ours, theirs = (values[pairs] for values in self.values)
        ours = ours.swapaxes(1, 2)
        total = ours @ f @ theirs
        for slope, rows, columns in zip(slopes[..., None], self.rows[:, pairs], self.columns[:, pairs], strict=True):
            total[:, :, self.sloped[1]] += ours @ (slope * columns.reshape(count, e, k, -1)).sum(axis=2)
            along = (slope * rows.reshape(count, e, k, -1)).sum(axis=1)
            total[:, self.sloped[0]] -= along.swapaxes(1, 2) @ theirs
        return total


@dataclasses.dataclass(frozen=True)
class ScalableBlocks:
    """The kernel between the labels of frames, before it has its length scales.

    Attributes:
        blocks: under the length scales that the products were computed with.
        products: of every block on the diagonal and below it, of every term the products of its channels; None for terms
            whose blocks are computed anew.
    """

    blocks: KernelBlocks
    products: dict[tuple[int, int], list[list[InnerProducts] | None]]

    @classmethod
    def of(cls, blocks: KernelBlocks) -> ScalableBlocks:
        """Inner products of all pairs of frames."""
        features, groups, products = blocks.features, blocks.groups, {}
        for j, group in enumerate(groups):
            columns = [
                term.columns(features.observations, group) if is_scalable(term) else None for term in features.terms
            ]
            for i in range(j, len(groups)):
                products[i, j] = [
                    None
                    if sides is None
                    else _of_channels(term, sides if i == j else row_sides(term, features, groups[i]), sides, i == j)
                    for term, sides in zip(features.terms, columns, strict=True)
                ]
        return cls(blocks, products)

    def kept(self, features: Features) -> KeptBlocks:
        """All blocks of the same frames under other length scales, one factor for every block of features."""
        computed, old = KernelBlocks(features), self.blocks.features
        tiles, groups = [SymmetricTiles(computed.offsets) for _ in features.terms], computed.groups
        for t, (before, term) in enumerate(zip(old.terms, features.terms, strict=True)):
            scalable, factors = is_scalable(term), _factors(before, term)
            for j, other in enumerate(groups):
                columns = None if scalable else term.columns(features.observations, other)
                for i, group in enumerate(groups[j:], start=j):
                    tiles[t].tiles[i][j] = (
                        _block(self.products[i, j][t], term, factors, features.row_counts, group, other)
                        if scalable
                        else kernel_block(term, features, group, columns, features, other, i == j)
                    )
        return KeptBlocks(computed, tiles)


def needed_bytes(features: Features) -> int:
    """About what the inner products of all pairs of these frames take, with what pads the frames of a block to the fullest."""
    total, groups = 0, groups_of(features)
    for term in filter(is_scalable, features.terms):
        sloped = np.array([tangents.any(axis=(0, 2)).sum() for tangents in term.tangents])
        for channel in range(term.channel_count):
            environments = np.array([np.sum(channels == channel) for channels in term.channels])
            # T·T′, T·δ, δ·T′ and |δ|² of every pair once
            sides = [len(sloped[group]) * environments[group].max() * (sloped[group].max() + 1) for group in groups]
            total += 4 * len(term.sizes) * int(sum(sides)) ** 2
    return total


def is_scalable(term: Term) -> bool:
    """Whether products that are computed once cost less than a few trials: images of a molecule are summed before they are
    multiplied, and second derivatives need more than these products."""
    return term.kernel.permutations_used is None and not any(curved.shape[1] for curved in term.curved)


def _sloped(side: Side) -> slice:
    """From the first label that has tangents anywhere to the last: without energies, which have none, where they come first."""
    found = np.flatnonzero(side.tangents.any(axis=(0, 1, 3)))
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 1)


def _of_channels(term: Term, rows: list[Side], columns: list[Side], diagonal: bool) -> list[InnerProducts]:
    return [
        InnerProducts.of(row, column, term.sizes, diagonal)
        for row, column in zip(rows, columns, strict=True)
        if row.points.shape[1] and column.points.shape[1]
    ]


def _factors(old: Term, new: Term) -> Float[np.ndarray, " b"]:
    """What features are multiplied by on the way from one term to the other, block by block."""
    ratios = [1.0 if term.factors is None else term.factors for term in (new, old)]
    ratio = np.broadcast_to(ratios[0] / ratios[1], sum(new.sizes))
    return np.array([ratio[part.start] for part in feature_slices(new.sizes)])


def _block(products: list[InnerProducts], term: Term, factors, counts, group: slice, other: slice) -> np.ndarray:
    """One block of one term, without what pads the frames to equal sizes."""
    ours, theirs = counts[group], counts[other]
    total = np.zeros((len(ours), ours.max(), len(theirs), theirs.max()))
    for of_channel in products:
        first, second = of_channel.first, of_channel.second
        kernel = of_channel.kernel(term.kernel.radial, factors)
        total[first, :, second] += kernel
        if group == other:
            apart = first != second
            total[second[apart], :, first[apart]] += kernel[apart].swapaxes(1, 2)
    return unpadded(total, ours, theirs)
