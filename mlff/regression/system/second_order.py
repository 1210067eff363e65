"""What labels of second order add to blocks of the kernel matrix: S:∇∇ with values, tangents and S′:∇∇ of other labels.

S = A W Aᵀ acts as second derivatives along coordinates α, φ + A α, S′ = B W′ Bᵀ along β. With δ = φ − φ′,
κ = f(|δ + A α − B β|²) is differentiated through s, whose derivatives at α = β = 0 are

    s_a = 2 p_a,  s_c = −2 q_c,  s_aa′ = 2 M_aa′,  s_cc′ = 2 N_cc′,  s_ac = −2 G_ac;
    p = Aᵀδ,  q = Bᵀδ,  M = AᵀA,  N = BᵀB,  G = AᵀB

and none of higher order. By the chain rule, for one block of features,

    ∂_a∂_a′ κ           = 4 f″ p p + 2 f′ M
    ∂_a∂_a′ (T′·∇′) κ   = −8 f‴ p p (δ·T′) − 4 f″ M (δ·T′) − 4 f″ (p_a g_a′ + g_a p_a′),   g = AᵀT′
    ∂_a∂_a′∂_c∂_c′ κ    = 16 f⁗ p p q q + 8 f‴ (M q q + p p N) + 4 f″ M N + X_ac G_a′c′ + X_ac′ G_a′c + X_a′c G_ac′ + X_a′c′ G_ac,
                          X = 8 f‴ p qᵀ + 2 f″ G

Several blocks of features have one s each, and derivatives of f an index for every one. The derivatives of f come from AD.
Everything is a matrix product over the pairs of an environment and a point.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from mlff.batching import chunk_size
from mlff.kernels.radial import Radial
from mlff.regression.system.gram import Side, feature_slices, radial_derivatives, squares
from mlff.regression.system.rows import pairs
from mlff.threads import map_threads

_MEMORY = 16 * 2**20  # bytes of the intermediate arrays of the pairs of frames that are worked on at once

_LARGE = 512 * 2**20  # bytes of one pair


def add_second_order(
    result: Float[np.ndarray, "m r n q"], radial: Radial, rows: Side, columns: Side, sizes: tuple[int, ...]
) -> None:
    """Add to a block of the matrix what second derivatives bring, in place, some pairs of frames at a time."""
    curved = [side.curved.shape[2] > 0 for side in (rows, columns)]
    if not any(curved):
        return
    parts = feature_slices(sizes)
    derivatives = [
        np.moveaxis(array, -2, -3)  # (…, m, n, e, k)
        for array in radial_derivatives(radial, squares(rows.points, columns.points, parts), 4 if all(curved) else 3)
    ]
    first, second = (index.ravel() for index in np.indices((len(rows.points), len(columns.points))))
    step = chunk_size(_bytes_per_pair(rows, columns, len(parts)), _MEMORY)

    def add(start: int) -> None:
        i, j = first[start : start + step], second[start : start + step]
        ours, theirs = (Side(*(array[k] for array in side)) for side, k in ((rows, i), (columns, j)))
        one, two = _Frames(ours, theirs, parts), _Frames(theirs, ours, parts)
        f = [array[..., i, j, :, :] for array in derivatives]
        if one.curved:
            result[i, :, j] += ours.weights @ one.with_first_order(theirs, f)
        if two.curved:
            turned = [np.swapaxes(array, -1, -2) for array in f]
            result[i, :, j] += (theirs.weights @ two.with_first_order(ours, turned)).swapaxes(1, 2)
        if one.curved and two.curved:
            result[i, :, j] += ours.weights @ one.with_second_order(two, f) @ theirs.weights.swapaxes(1, 2)

    starts = range(0, len(first), step)
    if _bytes_per_pair(rows, columns, len(parts)) > _LARGE:
        for start in starts:  # one pair fills the memory that all threads may take
            add(start)
    else:
        map_threads(add, starts)


def _bytes_per_pair(rows: Side, columns: Side, blocks: int) -> int:
    """Of the largest arrays that one pair of frames needs."""
    (_, e, s, _), (_, k, t, _) = rows.curved.shape, columns.curved.shape
    r, q = rows.tangents.shape[2], columns.tangents.shape[2]
    inner = e * k * blocks * (blocks + 1)
    return 8 * (
        inner * (s * s + t * t + q * (s > 0) + r * (t > 0)) + e * k * blocks * (s * (q + t) + t * r) + 3 * (s * t) ** 2
    )


class _Frames:
    """The second derivatives of labels of some frames, each seen from the points of a partner; t pairs of frames, e
    environments, k points, b blocks of features, s coordinates.

    p: Aᵀδ, (b, t, e, k, s); M: AᵀA of every environment, (b, t, e, s, s).
    """

    def __init__(self, own: Side, other: Side, parts: list[slice]):
        self.own, self.other, self.parts = own, other, parts
        self.size = own.curved.shape[2]
        self.curved = self.size > 0
        if self.curved:
            pieces = [own.curved[..., part] for part in parts]
            self.p = np.stack([self._along(a, part) for a, part in zip(pieces, parts, strict=True)])
            self.M = np.stack([a @ a.swapaxes(2, 3) for a in pieces])

    def _along(self, curved, part: slice) -> Float[np.ndarray, "t e k s"]:
        here = np.einsum("tesd,ted->tes", curved, self.own.points[..., part])
        return here[:, :, None] - _outer(curved, self.other.points[..., part]).swapaxes(2, 3)

    def left(self) -> Float[np.ndarray, "c t e k pairs"]:
        """p p of every two blocks, then M of every block: what is multiplied by derivatives of f."""
        first, second = pairs(self.size)
        products = self.p[:, None, ..., first] * self.p[None, ..., second]
        matrices = np.broadcast_to(self.M[:, :, :, None, first, second], (*self.p.shape[:4], len(first)))
        return np.concatenate([products.reshape(-1, *products.shape[2:]), matrices])

    def with_first_order(self, other: Side, f: list[np.ndarray]) -> Float[np.ndarray, "t pairs q"]:
        """∂_a∂_a′ (v′ + T′·∇′) κ, summed over environments and points."""
        f1, f2, f3 = f[1:4]
        tangents = [other.tangents[..., part] for part in self.parts]
        along = np.stack([self._differences(t, part) for t, part in zip(tangents, self.parts, strict=True)])
        values = other.values[None, :, None]  # (1, t, 1, k, q)
        products = -8.0 * np.einsum("bcdtek,dtekq->bctekq", f3, along) + 4.0 * f2[..., None] * values
        matrices = -4.0 * np.einsum("bdtek,dtekq->btekq", f2, along) + 2.0 * f1[..., None] * values
        right = np.concatenate([products.reshape(-1, *products.shape[2:]), matrices])
        total = _contract(self.left(), right)
        slopes = np.einsum("bdtek,dteks->bteks", f2, self.p)
        mixed = 0.0
        for part, slope, tangent in zip(self.parts, slopes, tangents, strict=True):
            t, k, q, _ = tangent.shape
            g = _outer(self.own.curved[..., part], tangent.reshape(t, k * q, -1)).reshape(t, -1, self.size, k, q)
            g = g.transpose(0, 1, 3, 2, 4)  # t e k s q
            mixed = mixed + _contract(slope[None], g.reshape(1, *g.shape[:3], -1)).reshape(t, self.size, self.size, q)
        mixed = -4.0 * (mixed + mixed.swapaxes(1, 2))
        first, second = pairs(self.size)
        return total + mixed[:, first, second]

    def _differences(self, tangents, part: slice) -> Float[np.ndarray, "t e k q"]:
        """δ·T′."""
        t, k, q, _ = tangents.shape
        here = _outer(self.own.points[:, :, None, part], tangents.reshape(t, k * q, -1)).reshape(t, -1, k, q)
        return here - np.einsum("tkd,tkqd->tkq", self.other.points[..., part], tangents)[:, None]

    def with_second_order(self, other: _Frames, f: list[np.ndarray]) -> Float[np.ndarray, "t pairs others"]:
        """∂_a∂_a′∂_c∂_c′ κ, summed over environments and points."""
        f2, f3, f4 = f[2:]
        blocks, around = len(self.parts), f2.shape[2:]
        count = blocks * blocks
        q = -other.p.swapaxes(2, 3)  # the partner sees −δ
        factors = np.empty((count + blocks, count + blocks, *around))
        factors[:count, :count] = 16.0 * f4.reshape(count, count, *around)
        factors[:count, count:] = 8.0 * f3.reshape(count, blocks, *around)
        factors[count:, :count] = 8.0 * f3.reshape(blocks, count, *around)
        factors[count:, count:] = 4.0 * f2
        right = other.left().swapaxes(2, 3)
        total = _contract(self.left(), np.einsum("xytek,ytekp->xtekp", factors, right))
        # the last axis holds a c
        G = np.stack([_outer(self.own.curved[..., part], other.own.curved[..., part]) for part in self.parts])
        G = G.swapaxes(3, 4).reshape(blocks, *around, -1)
        products = (self.p[:, None, ..., None] * q[None, ..., None, :]).reshape(count, *around, -1)
        X = 8.0 * np.einsum("xdtek,xtekr->dtekr", f3.reshape(count, blocks, *around), products)
        X += 2.0 * np.einsum("bdtek,btekr->dtekr", f2, G)
        mixed = _contract(X, G).reshape(-1, self.size, other.size, self.size, other.size)
        mixed = mixed.swapaxes(2, 3)  # t a a′ c c′
        mixed = mixed + mixed.swapaxes(3, 4)
        mixed = mixed + mixed.swapaxes(1, 2)
        (a, b), (c, d) = pairs(self.size), pairs(other.size)
        return total + mixed[:, a[:, None], b[:, None], c, d]


def _outer(left: Float[np.ndarray, "t e s D"], right: Float[np.ndarray, "t k *u D"]) -> np.ndarray:
    """Scalar products of every two vectors, (t, e, s, k, …)."""
    t, e, s, features = left.shape
    found = left.reshape(t, e * s, features) @ right.reshape(t, -1, features).swapaxes(1, 2)
    return found.reshape(t, e, s, *right.shape[1:-1])


def _contract(
    left: Float[np.ndarray, "x t e k one"], right: Float[np.ndarray, "x t e k two"]
) -> Float[np.ndarray, "t one two"]:
    """The sum over all but the pairs of frames and the last axis, as one matrix product a pair."""
    one, two = (np.moveaxis(array, 1, 0).reshape(array.shape[1], -1, array.shape[-1]) for array in (left, right))
    return one.swapaxes(1, 2) @ two
