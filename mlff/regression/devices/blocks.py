"""Kernel blocks and sums of labels for XLA, by the formulas of `gram` and `label_sums`: on a device, inside of what it compiles."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mlff.kernels.radial import Radial
from mlff.regression.system.gram import feature_slices

_POINTS = 64  # of which a sum of labels is evaluated at once


class Points(NamedTuple):
    """Frames as rows or columns of the matrix, as `gram.Side` has them, of labels of first order."""

    points: Float[Array, "m e D"]
    values: Float[Array, "m e r"]
    tangents: Float[Array, "m e r D"]


def block(radial: Radial, rows: Points, columns: Points, sizes: tuple[int, ...]) -> Float[Array, "rows columns"]:
    """The kernel matrix between the labels of m frames and those of n frames, summed over environments and points.

    Arguments:
        sizes: features of every block, (D,) but for products.
    """
    parts = feature_slices(sizes)
    own = jnp.stack([jnp.sum(rows.tangents[..., p] * rows.points[:, :, None, p], axis=-1) for p in parts])  # T·φ

    def of_frame(column: Points) -> Float[Array, "m r q"]:
        points, values, tangents = column
        s = jnp.stack([jnp.sum((rows.points[:, :, None, p] - points[:, p]) ** 2, axis=-1) for p in parts])
        f, f1, f2 = radial.partials(s, 2)
        theirs = jnp.stack([jnp.sum(tangents[..., p] * points[:, None, p], axis=-1) for p in parts])  # T′·φ′
        along = jnp.stack([jnp.einsum("med,kqd->mekq", rows.points[..., p], tangents[..., p]) for p in parts])
        along = along - theirs[:, None, None]  # δ·T′
        across = jnp.stack([jnp.einsum("merd,kd->merk", rows.tangents[..., p], points[:, p]) for p in parts])
        across = own[..., None] - across  # T·δ
        slopes = [jnp.einsum("mek,kqd->meqd", -2.0 * f1[b], tangents[..., p]) for b, p in enumerate(parts)]
        bends = -4.0 * jnp.einsum("bcmek,cmekq->bmekq", f2, along) + 2.0 * f1[..., None] * values
        plain = jnp.einsum("mek,kq->meq", f, values) - 2.0 * jnp.einsum("bmek,bmekq->meq", f1, along)
        left = jnp.concatenate([rows.tangents, *across, rows.values[..., None]], axis=-1)
        right = jnp.concatenate([*slopes, *jnp.swapaxes(bends, -1, -2), plain[..., None]], axis=-1)
        return jnp.einsum("meri,meqi->mrq", left, right)

    found = lax.map(of_frame, columns)  # (n, m, r, q)
    n, m, r, q = found.shape
    return found.transpose(1, 2, 0, 3).reshape(m * r, n * q)


def product(
    radial: Radial,
    rows: Points,
    points: Float[Array, "K D"],
    values: Float[Array, " K"],
    tangents: Float[Array, "K D"],
    sizes: tuple[int, ...],
) -> Float[Array, "m r"]:
    """The kernel between the labels of m frames and a sum of labels, u(φ) = Σ_k [v_k f − 2 f′ δ·t_k], whose gradient AD gives.

    Arguments:
        points, values, tangents: of the environments that the sum acts on.
        sizes: features of every block.
    """  # fmt: skip
    parts = feature_slices(sizes)

    def energy(point: Float[Array, " D"]):
        away = point - points
        s = jnp.stack([jnp.sum(away[:, p] ** 2, axis=-1) for p in parts])
        f, f1 = radial.partials(s, 1)
        along = jnp.stack([jnp.sum(away[:, p] * tangents[:, p], axis=-1) for p in parts])
        return f @ values - 2.0 * jnp.sum(f1 * along)

    m, e, D = rows.points.shape
    found, slopes = lax.map(jax.value_and_grad(energy), rows.points.reshape(m * e, D), batch_size=_POINTS)
    along = jnp.einsum("merd,med->mr", rows.tangents, slopes.reshape(m, e, D))
    return along + jnp.einsum("mer,me->mr", rows.values, found.reshape(m, e))
