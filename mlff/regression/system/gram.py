"""Blocks of the kernel matrix between labels, from first derivatives of the descriptor: L L′ k(x, x′).

With δ = φ − φ′ (in units of the length scale), tangents T = J d and value weights v of the rows, T′ and v′ of the
columns, κ = f(δ·δ) gives by the chain rule

    L L′ κ = v v′ f − 2 f′ v (δ·T′) + 2 f′ (T·δ) v′ − 4 f″ (T·δ)(δ·T′) − 2 f′ T·T′

summed over the environments e of the row's frame and the points k of the column's, which are its environments of the
same species, or its permuted images. A product of radial functions has one s_b = |δ_b|² for every block b of features,
f′ becomes ∂f/∂s_b and f″ becomes ∂²f/∂s_b∂s_c. All pairs of labels of two frames are matrix products.
What the second derivatives S:∇∇ of labels of second order add is in `second_order`.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from mlff.compiling import jit
from mlff.kernels.radial import Radial
from mlff.precision import double_precision
from mlff.threads import map_threads, processors

_CHUNK, _FEW = 1 << 16, 1 << 12  # elements of s a call: two shapes, two compilations
_CACHE = 4 * 2**20  # bytes of the factors of products that should stay in cache


class Side(NamedTuple):
    """Frames as rows or columns of the matrix: their environments of one channel, and what their labels do there.

    Frames with fewer environments or labels than the fullest are padded: environments that no label acts on.

    points: φ/ℓ, shape (m, e, D); values: shape (m, e, r); tangents: shape (m, e, r, D); curved: the derivatives A of φ/ℓ
    along the s coordinates that labels of second order see, (m, e, s, D); weights: symmetric W of every label, S = A W Aᵀ,
    as upper triangles with off-diagonal entries doubled, (m, r, s(s+1)/2).
    """

    points: Float[np.ndarray, "m e D"]
    values: Float[np.ndarray, "m e r"]
    tangents: Float[np.ndarray, "m e r D"]
    curved: Float[np.ndarray, "m e s D"]
    weights: Float[np.ndarray, "m r pairs"]

    def summed(self, sums: Float[np.ndarray, "m r v"]) -> Side:
        """With sums of the labels of every frame, each with its weights, in place of the labels."""
        turned = np.swapaxes(sums, 1, 2)
        return Side(
            self.points, self.values @ sums, turned[:, None] @ self.tangents, self.curved, turned @ self.weights
        )


@functools.partial(jit, static_argnames="order")
def _derivatives(radial: Radial, s, order: int):
    return radial.partials(s, order)


@double_precision
def radial_derivatives(radial: Radial, s: np.ndarray, order: int = 2) -> tuple[np.ndarray, ...]:
    """f, ∂f/∂s_b, ∂²f/∂s_b∂s_c, … elementwise, as NumPy arrays, of s of shape (b, …)."""
    count, flat = len(s), s.reshape(len(s), -1)
    found = tuple(np.empty((*(count,) * k, flat.shape[1])) for k in range(order + 1))
    chunk = _FEW if flat.shape[1] <= _FEW else _CHUNK
    for start in range(0, flat.shape[1], chunk):
        piece = flat[:, start : start + chunk]
        width = piece.shape[1]
        padded = np.zeros((count, chunk))
        padded[:, :width] = piece
        for result, values in zip(found, _derivatives(radial, padded, order), strict=True):
            result[..., start : start + width] = np.asarray(values)[..., :width]
    return tuple(result.reshape(*result.shape[:-1], *s.shape[1:]) for result in found)


def block(radial: Radial, rows: Side, columns: Side, sizes: tuple[int, ...]) -> Float[np.ndarray, "m r n q"]:
    """First-order part of the kernel matrix between the labels of m frames and those of n frames, summed over environments
    and points.

    Distances are explicit differences, so that nearly coincident frames lose nothing.

    Arguments:
        sizes: features of every block, (D,) but for products.
    """
    (m, e, r, D), (n, k, q, _) = rows.tangents.shape, columns.tangents.shape
    parts = feature_slices(sizes)
    f, f1, f2 = radial_derivatives(radial, squares(rows.points, columns.points, parts))
    with_values = bool(rows.values.any() or columns.values.any())
    result = np.empty((m, r, n, q))
    each = 8 * e * (r + q) * (D + len(parts) * (n + 1) * k + with_values)  # bytes of what is made of a frame
    step = max(1, min(-(-m // processors()), _CACHE // each))
    offsets = [along_own_points(columns.tangents[..., part], columns.points[..., part]) for part in parts]

    def fill(start: int) -> None:
        frames = slice(start, start + step)
        _fill(
            result[frames],
            Side(*(array[frames] for array in rows)),
            columns,
            parts,
            offsets,
            (f[frames], f1[:, frames], f2[:, :, frames]),
            with_values,
        )

    map_threads(fill, range(0, m, step))
    return result


def value_columns(
    radial: Radial, rows: Side, points: Float[np.ndarray, "M D"], sizes: tuple[int, ...]
) -> Float[np.ndarray, "m r M"]:
    """The kernel between the labels of m frames and the values of environments, labels of second order too.

        L κ = v f + 2 f′ T·δ + W:(4 f″ (Aᵀδ)(Aᵀδ)ᵀ + 2 f′ AᵀA)

    Arguments:
        points: φ/ℓ of the environments.
        sizes: features of every block, (D,) but for products.
    """
    parts, curved = feature_slices(sizes), rows.curved.shape[2]
    s = squares(rows.points, points[:, None], parts)[..., 0]  # (b, m, e, M)
    f, f1, f2 = radial_derivatives(radial, s, 2)
    total = np.einsum("mer,meM->mrM", rows.values, f)
    first, second = np.triu_indices(curved)
    bent = np.zeros((len(points), *rows.weights.shape[:1], len(first)))  # (M, m, pairs)
    along = []
    for b, part in enumerate(parts):
        away = _along_differences(rows.tangents[..., part], rows.points[..., part], points[:, part])
        total += 2.0 * np.einsum("merM,meM->mrM", away, f1[b], optimize=True)
        if curved:
            steps = rows.curved[..., part]
            along.append(_along_differences(steps, rows.points[..., part], points[:, part]))
            metric = np.sum(steps[:, :, first] * steps[:, :, second], axis=-1)  # (m, e, pairs)
            bent += 2.0 * np.einsum("mep,meM->Mmp", metric, f1[b], optimize=True)
    for b, c in np.ndindex(f2.shape[:2]) if curved else ():
        bent += 4.0 * np.einsum(
            "meM,mepM->Mmp", f2[b, c], along[b][:, :, first] * along[c][:, :, second], optimize=True
        )
    return total + np.einsum("mrp,Mmp->mrM", rows.weights, bent, optimize=True) if curved else total


def _along_differences(tangents, points, others) -> Float[np.ndarray, "m e r M"]:
    """T·(φ − φ′) of tangents at points, and other points."""
    return along_own_points(tangents, points)[..., None] - tangents @ others.T


def feature_slices(sizes: tuple[int, ...]) -> list[slice]:
    """Where the features of every block are."""
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(np.cumsum([0, *sizes]))]


def squares(
    points: Float[np.ndarray, "m e D"], others: Float[np.ndarray, "n k D"], parts: list[slice]
) -> Float[np.ndarray, "b m e n k"]:
    """s_b of all pairs of points."""
    (m, e, D), (n, k, _) = points.shape, others.shape
    flat, other = points.reshape(m * e, D), others.reshape(n * k, D)
    s = np.stack([cdist(flat[:, part], other[:, part], "sqeuclidean") for part in parts])
    return s.reshape(len(parts), m, e, n, k)


def along_own_points(
    tangents: Float[np.ndarray, "n k q D"], points: Float[np.ndarray, "n k D"]
) -> Float[np.ndarray, "n k q"]:
    """T·φ, every tangent along its own point."""
    return np.matmul(tangents, points[..., None])[..., 0]


def _fill(result, rows: Side, columns: Side, parts, offsets, derivatives, with_values: bool) -> None:
    """The blocks of a few frames as rows with all frames as columns.

    The tangents of a column frame are summed over its points first, so that T·T′ is a product for every environment of the row. All the
    rest is left · right, the inner axis holding for every environment a point's (T·δ) for every block of features, and, where energies
    enter, the value.
    """
    f, f1, f2 = derivatives
    (m, e, r, D), (n, k, q, _) = rows.tangents.shape, columns.tangents.shape
    count = len(parts)
    inner = count * k + with_values
    left, right = np.empty((m, r, e, inner)), np.empty((m, q, e, inner))
    if with_values:
        left[..., -1] = rows.values.transpose(0, 2, 1)
    features, tangents = rows.points.reshape(m * e, D), rows.tangents.reshape(m * e * r, D)
    along, across = [], []
    for part, offset in zip(parts, offsets, strict=True):
        w = (features[:, part] @ columns.tangents[..., part].reshape(n * k * q, -1).T).reshape(m, e, n, k, q)
        along.append(np.subtract(w, offset, out=w))  # δ·T′
        w = (tangents[:, part] @ columns.points[..., part].reshape(n * k, -1).T).reshape(m, e, r, n, k)
        here = along_own_points(rows.tangents[..., part], rows.points[..., part])
        across.append(np.subtract(here[..., None, None], w, out=w))  # T·δ
    for j in range(n):
        values, theirs = columns.values[j], columns.tangents[j]
        for b in range(count):
            left[..., b * k : (b + 1) * k] = across[b][:, :, :, j].transpose(0, 2, 1, 3)
            mixed = sum(-4.0 * f2[b, c, :, :, j, :, None] * along[c][:, :, j] for c in range(count))
            if with_values:
                mixed += 2.0 * f1[b, :, :, j, :, None] * values
            right[..., b * k : (b + 1) * k] = mixed.transpose(0, 3, 1, 2)
        if with_values:
            total = (f[:, :, j].reshape(m * e, k) @ values).reshape(m, e, q)
            for b in range(count):
                total -= 2.0 * np.einsum("mek,mekq->meq", f1[b, :, :, j], along[b][:, :, j])
            right[..., -1] = total.transpose(0, 2, 1)
        found = left.reshape(m, r, e * inner) @ right.reshape(m, q, e * inner).transpose(0, 2, 1)
        for b, part in enumerate(parts):
            slopes = (-2.0 * f1[b, :, :, j]).reshape(m * e, k)
            summed = (slopes @ theirs[..., part].reshape(k, -1)).reshape(m, e, q, -1)
            for i in range(e):
                found += rows.tangents[:, i, :, part] @ summed[:, i].transpose(0, 2, 1)
        result[:, :, j] = found
