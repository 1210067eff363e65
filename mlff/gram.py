"""Blocks of the kernel matrix between labels, from first derivatives of the descriptor: L L′ k(x, x′).

With δ = φ − φ′ (in units of the length scale), tangents T = J d and value weights v of the rows, T′ and v′ of the
columns, κ = f(δ·δ) gives by the chain rule

    L L′ κ = v v′ f − 2 f′ v (δ·T′) + 2 f′ (T·δ) v′ − 4 f″ (T·δ)(δ·T′) − 2 f′ T·T′

summed over the images p of the column's frame. All terms of all pairs of rows of two frames are one matrix product.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from mlff.precision import double_precision
from mlff.radial import Radial

_CHUNK = 1 << 16  # elements of s a call: one shape, one compilation


class RowSide(NamedTuple):
    """Frames as rows; frames with fewer rows than the widest are padded with zeros.

    points: φ/ℓ, shape (m, D); values: shape (m, r); tangents: shape (m, r, D).
    """

    points: Float[np.ndarray, "m D"]
    values: Float[np.ndarray, "m r"]
    tangents: Float[np.ndarray, "m r D"]


class ColumnSide(NamedTuple):
    """Frames as columns, with all their permuted images; padded likewise.

    points: φ(p x)/ℓ, shape (m, P, D); values: shape (m, r); tangents: shape (m, P, r, D).
    """

    points: Float[np.ndarray, "m P D"]
    values: Float[np.ndarray, "m r"]
    tangents: Float[np.ndarray, "m P r D"]


@functools.partial(jax.jit, static_argnames="count")
def _derivatives(radial: Radial, s, count: int):
    return radial.derivatives(s, count)


@double_precision
def radial_derivatives(radial: Radial, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """f, f′, f″ elementwise, as NumPy arrays of the shape of s."""
    flat = s.ravel()
    results = np.empty((3, flat.size))
    for start in range(0, flat.size, _CHUNK):
        piece = flat[start : start + _CHUNK]
        padded = np.zeros(_CHUNK)
        padded[: piece.size] = piece
        for result, values in zip(results, _derivatives(radial, padded, 2), strict=True):
            result[start : start + piece.size] = np.asarray(values)[: piece.size]
    return tuple(result.reshape(s.shape) for result in results)


def block(radial: Radial, rows: RowSide, columns: ColumnSide) -> Float[np.ndarray, "m r n q"]:
    """Kernel matrix between the rows of m frames and the columns of n frames, mean over images.

    Distances are explicit differences, so that nearly coincident frames lose nothing.
    """
    (m, r, D), (n, P, q, _) = rows.tangents.shape, columns.tangents.shape
    s = cdist(rows.points, columns.points.reshape(n * P, D), "sqeuclidean").reshape(m, n, P)
    f, f1, f2 = radial_derivatives(radial, s)
    flat_tangents = rows.tangents.reshape(m * r, D)
    own = np.einsum("mrd,md->mr", rows.tangents, rows.points)
    with_values = bool(rows.values.any() or columns.values.any())
    inner = D + P + with_values
    # left · right, the inner axis holding the D features, the P images and, where energies enter, the value
    left = np.empty((m, r, inner))
    right = np.empty((m, q, inner))
    left[..., :D] = rows.tangents
    if with_values:
        left[..., -1] = rows.values
    result = np.empty((m, r, n, q))
    for j in range(n):
        points, values, tangents = columns.points[j], columns.values[j], columns.tangents[j]
        g1, g2 = 2.0 * f1[:, j], 4.0 * f2[:, j]  # (m, P)
        w = (rows.points @ tangents.reshape(P * q, D).T).reshape(m, P, q)
        w -= np.einsum("pd,pqd->pq", points, tangents)  # δ·T′
        left[..., D : D + P] = own[..., None] - (flat_tangents @ points.T).reshape(m, r, P)  # T·δ
        right[..., :D] = (-g1 @ tangents.reshape(P, q * D)).reshape(m, q, D)
        mixed = -g2[..., None] * w
        if with_values:
            mixed += g1[..., None] * values
            right[..., -1] = f[:, j].sum(axis=1)[:, None] * values - np.einsum("mp,mpq->mq", g1, w)
        right[..., D : D + P] = mixed.transpose(0, 2, 1)
        result[:, :, j] = left @ right.transpose(0, 2, 1)
    result /= P
    return result
