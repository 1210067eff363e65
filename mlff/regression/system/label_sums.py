"""Sums of labels with weights as functions in descriptor space: their values and gradients, of which all labels follow.

What a sum of labels of first order says of an environment is a function of φ,

    u(φ) = Σ_k [v_k f − 2 f′ δ·t_k],        ∂u/∂φ = Σ_k [(2 f′ v_k − 4 f″ δ·t_k) δ − 2 f′ t_k],        δ = φ − φ_k

and a label with value weight v and tangents T makes of it v u + T·∂u/∂φ. However many labels a frame has, a sum of all labels
of n frames costs four matrix products of the points of rows and columns.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from mlff.kernels.radial import Radial
from mlff.regression.system.gram import Side, feature_slices, radial_derivatives
from mlff.threads import map_threads

_PIECE = 4 * 2**20  # bytes of one array of pairs of points that a thread works on
_CLOSE = 1e-6  # of |φ|² + |φ′|², below which s from products has lost more than half its digits


def product_of_first_order(
    radial: Radial, rows: Side, columns: Side, sizes: tuple[int, ...]
) -> Float[np.ndarray, "m r q"]:
    """The kernel between the labels of m frames and those of n frames, summed over the latter; without curvatures.

    Arguments:
        sizes: features of every block, (D,) but for products.
    """
    (m, e, _, D), q = rows.tangents.shape, columns.tangents.shape[2]
    centre = columns.points.mean(axis=(0, 1))  # whatever is common to all costs digits of s
    points, others = rows.points.reshape(m * e, D) - centre, columns.points.reshape(-1, D) - centre
    weights = columns.values.reshape(len(others), q)
    tangents = columns.tangents.reshape(len(others), q, D)
    parts = feature_slices(sizes)
    offsets = [np.einsum("kqd,kd->qk", tangents[..., part], others[:, part]) for part in parts]
    values, slopes = np.empty((m * e, q)), np.empty((m * e, q, D))
    step = max(1, _PIECE // (8 * len(others)))

    def fill(start: int) -> None:
        some = slice(start, start + step)
        here = points[some]
        s = np.stack([_squares(here[:, part], others[:, part]) for part in parts])
        derivatives = radial_derivatives(radial, s)
        for k in range(q):
            column = (weights[:, k], tangents[:, k], [offset[k] for offset in offsets])
            values[some, k], slopes[some, k] = _function(here, others, column, parts, derivatives)

    map_threads(fill, range(0, m * e, step))
    values, slopes = values.reshape(m, e, q), slopes.reshape(m, e, q, D)
    along = np.matmul(rows.tangents, slopes.swapaxes(2, 3))  # (m, e, r, q)
    return along.sum(axis=1) + np.einsum("mer,meq->mrq", rows.values, values)


def _function(points, others, column, parts, derivatives) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M D"]]:
    """u and ∂u/∂φ at points, of one sum."""
    f, f1, f2 = derivatives
    weights, tangents, offsets = column
    along = [points[:, part] @ tangents[:, part].T - offset for part, offset in zip(parts, offsets, strict=True)]
    values, slopes = f @ weights, np.empty_like(points)
    for b, part in enumerate(parts):
        values -= 2.0 * np.einsum("Mk,Mk->M", f1[b], along[b])
        pull = 2.0 * f1[b] * weights
        for c, w in enumerate(along):
            pull -= 4.0 * f2[b, c] * w
        slopes[:, part] = pull.sum(axis=1)[:, None] * points[:, part] - pull @ others[:, part]
        slopes[:, part] -= 2.0 * (f1[b] @ tangents[:, part])
    return values, slopes


def _squares(points: Float[np.ndarray, "M d"], others: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "M k"]:
    """|φ − φ′|² by a matrix product; of points that nearly coincide by their difference."""
    sums = np.sum(points**2, axis=1)[:, None] + np.sum(others**2, axis=1)
    s = sums - 2.0 * (points @ others.T)
    near, there = np.nonzero(s < _CLOSE * sums)
    step = max(1, _PIECE // (8 * points.shape[1]))
    for start in range(0, len(near), step):
        some = near[start : start + step], there[start : start + step]
        s[some] = np.sum((points[some[0]] - others[some[1]]) ** 2, axis=1)
    return s
