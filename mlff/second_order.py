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

from mlff.gram import Side, feature_slices, radial_derivatives, squares
from mlff.linalg.threads import map_threads
from mlff.radial import Radial
from mlff.rows import pairs


def add_second_order(
    result: Float[np.ndarray, "m r n q"], radial: Radial, rows: Side, columns: Side, sizes: tuple[int, ...]
) -> None:
    """Add to a block of the matrix what second derivatives bring, one pair of frames after the other, in place."""
    curved = [side.curved.shape[2] > 0 for side in (rows, columns)]
    if not any(curved):
        return
    parts = feature_slices(sizes)
    derivatives = radial_derivatives(radial, squares(rows.points, columns.points, parts), 4 if all(curved) else 3)
    tasks = [(i, j) for i in range(len(rows.points)) for j in range(len(columns.points))]

    def add(task: tuple[int, int]) -> None:
        i, j = task
        ours, theirs = (Side(*(array[k] for array in side)) for side, k in ((rows, i), (columns, j)))
        one, two = _Frame(ours, theirs, parts), _Frame(theirs, ours, parts)
        f = tuple(array[..., i, :, j, :] for array in derivatives)
        turned = tuple(np.swapaxes(array, -1, -2) for array in f)
        if one.curved:
            result[i, :, j] += ours.weights @ one.with_first_order(theirs, f)
        if two.curved:
            result[i, :, j] += (theirs.weights @ two.with_first_order(ours, turned)).T
        if one.curved and two.curved:
            result[i, :, j] += ours.weights @ one.with_second_order(two, f) @ theirs.weights.T

    map_threads(add, tasks)


class _Frame:
    """The second derivatives of one frame's labels, seen from the points of another; e environments, k points, b blocks.

    p: Aᵀδ, (b, e, k, s); M: AᵀA of every environment, (b, e, s, s).
    """

    def __init__(self, own: Side, other: Side, parts: list[slice]):
        self.own, self.other, self.parts = own, other, parts
        self.size = own.curved.shape[1]
        self.curved = self.size > 0
        if self.curved:
            pieces = [own.curved[..., part] for part in parts]
            self.p = np.stack([self._along(a, part) for a, part in zip(pieces, parts, strict=True)])
            self.M = np.stack([a @ a.transpose(0, 2, 1) for a in pieces])

    def _along(self, curved, part: slice) -> Float[np.ndarray, "e k s"]:
        here = np.einsum("esd,ed->es", curved, self.own.points[:, part])
        return here[:, None] - np.einsum("esd,kd->eks", curved, self.other.points[:, part], optimize=True)

    def left(self) -> Float[np.ndarray, "c e k pairs"]:
        """p p of every two blocks, then M of every block: what is multiplied by derivatives of f."""
        first, second = pairs(self.size)
        products = self.p[:, None, ..., first] * self.p[None, ..., second]
        matrices = np.broadcast_to(self.M[:, :, None, first, second], (*self.p.shape[:3], len(first)))
        return np.concatenate([products.reshape(-1, *products.shape[2:]), matrices])

    def with_first_order(self, other: Side, f: tuple[np.ndarray, ...]) -> Float[np.ndarray, "pairs q"]:
        """∂_a∂_a′ (v′ + T′·∇′) κ, summed over environments and points."""
        f1, f2, f3 = f[1:4]
        blocks, tangents = len(self.parts), [other.tangents[..., part] for part in self.parts]
        along = np.stack([self._differences(t, part) for t, part in zip(tangents, self.parts, strict=True)])
        values = other.values[None]  # (1, k, q)
        products = -8.0 * np.einsum("bcdek,dekq->bcekq", f3, along) + 4.0 * f2[..., None] * values
        matrices = -4.0 * np.einsum("bdek,dekq->bekq", f2, along) + 2.0 * f1[..., None] * values
        right = np.concatenate([products.reshape(-1, *products.shape[2:]), matrices])
        first, second = pairs(self.size)
        total = _contract(self.left(), right)
        slopes = np.einsum("bdek,deks->beks", f2, self.p)
        mixed = np.zeros((self.size, self.size, values.shape[-1]))
        for b in range(blocks):
            g = np.einsum("esd,kqd->eksq", self.own.curved[..., self.parts[b]], tangents[b], optimize=True)
            mixed += _contract(slopes[b][None], g.reshape(1, *g.shape[:2], -1)).reshape(mixed.shape)
        mixed = -4.0 * (mixed + mixed.transpose(1, 0, 2))
        return total + mixed[first, second]

    def _differences(self, tangents, part: slice) -> Float[np.ndarray, "e k q"]:
        """δ·T′."""
        here = np.einsum("ed,kqd->ekq", self.own.points[:, part], tangents, optimize=True)
        return here - np.einsum("kd,kqd->kq", self.other.points[:, part], tangents)

    def with_second_order(self, other: _Frame, f: tuple[np.ndarray, ...]) -> Float[np.ndarray, "pairs others"]:
        """∂_a∂_a′∂_c∂_c′ κ, summed over environments and points."""
        f2, f3, f4 = f[2:]
        blocks = len(self.parts)
        count = blocks * blocks
        q = -other.p.swapaxes(1, 2)  # the other frame sees −δ
        factors = np.empty((count + blocks, count + blocks, *f2.shape[2:]))
        factors[:count, :count] = 16.0 * f4.reshape(count, count, *f2.shape[2:])
        factors[:count, count:] = 8.0 * f3.reshape(count, blocks, *f2.shape[2:])
        factors[count:, :count] = 8.0 * f3.reshape(blocks, count, *f2.shape[2:])
        factors[count:, count:] = 4.0 * f2
        right = other.left().swapaxes(1, 2)
        total = _contract(self.left(), np.einsum("xyek,yekp->xekp", factors, right, optimize=True))
        G = np.stack(
            [
                np.einsum("esd,ktd->ekst", self.own.curved[..., p], other.own.curved[..., p], optimize=True)
                for p in self.parts
            ]
        )
        X = 8.0 * np.einsum("bcdek,beks,cekt->dekst", f3, self.p, q, optimize=True)
        X += 2.0 * np.einsum("bdek,bekst->dekst", f2, G)
        flat = (blocks, *f2.shape[2:], -1)
        mixed = _contract(X.reshape(flat), G.reshape(flat)).reshape(self.size, other.size, self.size, other.size)
        mixed = mixed.transpose(0, 2, 1, 3)  # a a′ c c′
        mixed = mixed + mixed.transpose(0, 1, 3, 2)
        mixed = mixed + mixed.transpose(1, 0, 2, 3)
        (a, b), (c, d) = pairs(self.size), pairs(other.size)
        return total + mixed[a[:, None], b[:, None], c, d]


def _contract(
    left: Float[np.ndarray, "x e k one"], right: Float[np.ndarray, "x e k two"]
) -> Float[np.ndarray, "one two"]:
    """The sum over all but the last axis, as one matrix product."""
    return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
