"""⟨G, K⟩ of some frames as rows and others as columns, and its derivatives by the features and tangents of both.

Labels of the rows are first summed with G into as many functionals as the column has, U = GᵀT and w = Gᵀv; of all pairs of labels then
only those of equal number are left,

    ⟨G, K⟩ = Σ_q w v′ f − 2 f′ w (δ·T′) + 2 f′ (U·δ) v′ − 4 f″ (U·δ)(δ·T′) − 2 f′ U·T′

in the notation of `gram`. Features come in by inner products and by |δ|², which is taken from explicit differences, so that frames that
nearly coincide lose nothing. The former are products of matrices, and so is what becomes of all their cotangents, for BLAS, whose rate
XLA's own products do not reach at these shapes. What lies between, elementwise, is differentiated by reverse mode.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from mlff.compiling import jit
from mlff.kernels.radial import Radial
from mlff.precision import double_precision
from mlff.regression.system.gram import feature_slices

SUMMED = 1 << 22  # elements of U of a call: so many columns are taken together


class Labelled(NamedTuple):
    """Environments of frames of one channel, and what labels do there: first-order sides of `gram`.

    points: φ/ℓ, (m, e, D); tangents: (m, e, r, D); values: (m, e, r).
    """

    points: Float[np.ndarray, "m e D"]
    tangents: Float[np.ndarray, "m e r D"]
    values: Float[np.ndarray, "m e r"]


@double_precision
def derivatives(
    radial: Radial,
    rows: Labelled,
    columns: Labelled,
    weights: Float[np.ndarray, "m n r q"] | None,
    rearranged: np.ndarray | None,
    sizes: tuple[int, ...],
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Those of ⟨G, K⟩ by points and tangents, of the rows and of the columns.

    Arguments:
        weights: G; None for the sum over pairs of labels of equal number, of which both have as many.
        rearranged: what every exchange of atoms makes of a molecule's features, (images, D); None where there is none.
        sizes: of the blocks of features, of rows and columns alike.
    """
    count, images = len(columns.points), 1 if rearranged is None else len(rearranged)
    of_one = columns.tangents.shape[2] * rows.points.shape[-1] * max(images, rows.points[..., 0].size)
    together = max(1, min(count, SUMMED // max(1, of_one)))
    while count % together:
        together -= 1  # of equal shape, which is one compilation
    total, others = [np.zeros_like(rows.points), np.zeros_like(rows.tangents)], []
    for start in range(0, count, together):
        some = slice(start, start + together)
        few = Labelled(*(array[some] for array in columns))
        images = few if rearranged is None else _images(few, rearranged)
        mine, theirs = _of_few(radial, rows, images, None if weights is None else weights[:, some], sizes)
        for whole, part in zip(total, mine, strict=True):
            whole += part
        others.append(theirs if rearranged is None else _of_images(theirs, rearranged))
    return tuple(total), tuple(np.concatenate(parts) for parts in zip(*others, strict=True))


def _of_few(radial: Radial, rows: Labelled, columns: Labelled, weights: np.ndarray | None, sizes: tuple[int, ...]):
    """Derivatives by points and tangents, all columns at once."""
    (m, e, r, _), (n, k, q, _) = rows.tangents.shape, columns.tangents.shape
    shared = rows.values[:, None] if weights is None else rows.values[:, None] @ weights
    parts, numbers = [], []
    for part in feature_slices(sizes):
        ours, mine = rows.points[..., part].reshape(m * e, -1), np.ascontiguousarray(rows.tangents[..., part])
        his, theirs = columns.points[..., part].reshape(n * k, -1), np.ascontiguousarray(columns.tangents[..., part])
        summed = _summed(mine, weights, n)
        away = np.einsum("med,merd->mer", ours.reshape(m, e, -1), mine)[..., None]  # T·δ
        away = away - (mine.reshape(m * e * r, -1) @ his.T).reshape(m, e, r, n * k)
        along = np.einsum("nkd,nkqd->nkq", his.reshape(n, k, -1), theirs).ravel()  # δ·T′
        along = ours @ theirs.reshape(n * k * q, -1).T - along
        inner = np.stack([summed[:, i] @ theirs[i].reshape(k, -1).T for i in range(n)], axis=1)  # U·T′
        away = away.reshape(m, e, r, n, k).transpose(0, 3, 1, 4, 2)
        numbers.append((
            cdist(ours, his, "sqeuclidean").reshape(m, e, n, k).swapaxes(1, 2),
            away if weights is None else (away.reshape(m, n, e * k, r) @ weights).reshape(m, n, e, k, q),
            along.reshape(m, e, n, k, q).swapaxes(1, 2),
            inner.reshape(m, e, n, k).swapaxes(1, 2),
        ))  # fmt: skip
        parts.append((part, ours, mine, his, theirs, summed))
    stacked = [np.stack(each) for each in zip(*numbers, strict=True)]
    bars = [np.asarray(bar) for bar in _bars(radial, *stacked, shared, columns.values)]
    found = [np.empty_like(array) for side in (rows, columns) for array in (side.points, side.tangents)]
    for b, (part, *arrays) in enumerate(parts):
        for whole, of_part in zip(found, _back(*arrays, weights, *(bar[b] for bar in bars)), strict=True):
            whole[..., part] = of_part.reshape(*whole.shape[:-1], -1)
    return tuple(found[:2]), tuple(found[2:])


def _back(ours, mine, his, theirs, summed, weights, square, away, along, inner):
    """From cotangents of inner products to those of the features and tangents of both sides, of one block of features."""
    (m, e, r, d), (n, k, q, _) = mine.shape, theirs.shape
    square = square.swapaxes(1, 2).reshape(m * e, n * k)
    inner = inner.swapaxes(1, 2).reshape(m * e, n, k)
    along = along.swapaxes(1, 2).reshape(m * e, n * k * q)
    if weights is not None:
        away = (away.reshape(m, n, e * k, q) @ weights.swapaxes(2, 3)).reshape(m, n, e, k, r)
    away = away.transpose(0, 2, 4, 1, 3).reshape(m * e * r, n * k)
    of_rows, of_columns = away.sum(axis=1).reshape(m * e, r), along.sum(axis=0).reshape(n * k, q)
    flat, across = mine.reshape(m * e * r, d), theirs.reshape(n * k * q, d)

    points = np.matmul(of_rows[:, None], mine.reshape(m * e, r, d))[:, 0] + along @ across
    points += 2.0 * (square.sum(axis=1)[:, None] * ours - square @ his)
    others = 2.0 * (square.sum(axis=0)[:, None] * his - square.T @ ours)
    others -= away.T @ flat + np.matmul(of_columns[:, None], theirs.reshape(n * k, q, d))[:, 0]

    further = along.T @ ours
    further.reshape(n * k, q, d)[:] -= of_columns[..., None] * his[:, None]
    for i in range(n):
        further.reshape(n, k, q * d)[i] += inner[:, i].T @ summed[:, i]
    if weights is None:
        tangents = inner.reshape(m * e, n * k) @ theirs.reshape(n * k, q * d)
    else:
        for i in range(n):  # in the place of U, which has done its work
            np.matmul(inner[:, i], theirs[i].reshape(k, q * d), out=summed[:, i])
        tangents = weights.swapaxes(1, 2).reshape(m, 1, r, n * q) @ summed.reshape(m, e, n * q, d)
    tangents = tangents.reshape(m * e * r, d)
    tangents -= away @ his
    tangents.reshape(m * e, r, d)[:] += of_rows[..., None] * ours[:, None]
    return points, tangents, others, further


def _summed(tangents: np.ndarray, weights: np.ndarray | None, n: int) -> np.ndarray:
    """U of every column, (m e, n, q D)."""
    m, e, r, d = tangents.shape
    if weights is None:
        return np.broadcast_to(tangents.reshape(m * e, 1, r * d), (m * e, n, r * d))
    q = weights.shape[3]
    return (weights.swapaxes(2, 3).reshape(m, 1, n * q, r) @ tangents).reshape(m * e, n, q * d)


@jit
def _bars(radial: Radial, square, away, along, inner, shared, theirs):
    """The derivatives of ⟨G, K⟩ by inner products."""
    return jax.grad(functools.partial(_product, radial), argnums=(0, 1, 2, 3))(
        square, away, along, inner, shared, theirs
    )


def _product(radial: Radial, square, away, along, inner, shared, theirs) -> Float[jax.Array, ""]:
    """⟨G, K⟩ from |δ|² and U·T′, (b, m, n, e, k), from U·δ and δ·T′, (b, m, n, e, k, q), and from w, (m, n, e, q), and v′, (n, k, q)."""
    shared, theirs = shared[:, :, :, None], theirs[:, None]
    f, f1, f2 = radial.partials(square, 2)
    total = jnp.sum(f * jnp.sum(shared * theirs, axis=-1))
    for b in range(len(square)):
        once = jnp.sum(away[b] * theirs - shared * along[b], axis=-1) - inner[b]
        total += 2.0 * jnp.sum(f1[b] * once)
        for c in range(len(square)):
            total -= 4.0 * jnp.sum(f2[b, c] * jnp.sum(away[b] * along[c], axis=-1))
    return total


def _images(columns: Labelled, rearranged: np.ndarray) -> Labelled:
    """All images of molecules, their mean taken."""
    order = len(rearranged)
    tangents = columns.tangents[:, 0][:, :, rearranged].swapaxes(1, 2)
    values = np.broadcast_to(columns.values / order, (len(columns.values), order, columns.values.shape[2]))
    return Labelled(columns.points[:, 0, rearranged], tangents / order, values)


def _of_images(bars: tuple[np.ndarray, np.ndarray], rearranged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What comes back of all images of molecules, to these themselves."""
    points, tangents = bars
    before = np.argsort(rearranged, axis=1)
    summed = sum(points[:, o, places] for o, places in enumerate(before))
    across = sum(tangents[:, o][..., places] for o, places in enumerate(before))
    return summed[:, None], across[:, None] / len(rearranged)
