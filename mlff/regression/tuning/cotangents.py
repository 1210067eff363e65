"""From a cotangent of the kernel matrix back to features and tangents of frames, a few frames at a time, by reverse mode,
as many such pairs side by side as there are processors.

What is differentiated is the number ⟨G, K⟩ of several frames as rows and one as a column. Labels of the rows are first summed with
G into as many functionals as the column has, U = GᵀT and w = Gᵀv; of all pairs of labels then only those of equal number are left,

    ⟨G, K⟩ = Σ_q w v′ f − 2 f′ w (δ·T′) + 2 f′ (U·δ) v′ − 4 f″ (U·δ)(δ·T′) − 2 f′ U·T′

in the notation of `gram`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.compiling import jit
from mlff.kernels.radial import Radial
from mlff.precision import double_precision
from mlff.regression.system.features import Features
from mlff.regression.system.gram import feature_slices
from mlff.regression.system.terms import Term
from mlff.threads import map_threads, processors

FRAMES = 8  # that are rows, and columns one after the other, of one call


class Labelled(NamedTuple):
    """Environments of frames of one channel, and what labels do there: first-order sides of `gram`.

    points: φ/ℓ, (…, e, D); tangents: (…, e, r, D); values: (…, e, r).
    """

    points: Float[np.ndarray, "*frames e D"]
    tangents: Float[np.ndarray, "*frames e r D"]
    values: Float[np.ndarray, "*frames e r"]


@dataclasses.dataclass(frozen=True)
class FeatureCotangents:
    """Of a number that depends on features and tangents of frames, its derivatives by them: a list entry a frame.

    Attributes:
        points: (e, D) each.
        tangents: (e, r, D) each.
    """

    points: list[np.ndarray]
    tangents: list[np.ndarray]


@double_precision
def feature_cotangents(term: Term, features: Features, cotangent: Float[np.ndarray, "rows rows"]) -> FeatureCotangents:
    """The derivatives of ⟨G, K⟩ by features and tangents, in units of the length scale, of a term with its own.

    Arguments:
        term: of labels of first order, whose exchanges of atoms rearrange features, if there are any.
        cotangent: G, symmetric, in the order of the rows of all frames.
    """
    found, ends = _nothing(term), np.concatenate([[0], features.ends])
    for channel in range(term.channel_count):
        groups, sides = _sides(term, features, channel)

        def pulled(pair: tuple[int, int], groups=groups, sides=sides):
            i, j = pair
            weights = (1.0 + (i != j)) * _weights(cotangent, ends, groups[j], groups[i], sides[j], sides[i])
            return _pulled(term.kernel.radial, sides[j], sides[i], weights, term.rearranged, term.sizes)

        for (i, j), bars in _of_pairs(pulled, itertools.combinations_with_replacement(range(len(groups)), 2)):
            for group, bar in zip((groups[j], groups[i]), bars, strict=True):
                _add(found, term, group, channel, *map(np.asarray, bar))
    return found


@double_precision
def feature_cotangents_of_few(
    term: Term, features: Features, left: Float[np.ndarray, "rows f"], right: Float[np.ndarray, "rows f"]
) -> FeatureCotangents:
    """The same of G = left·rightᵀ + right·leftᵀ: of every frame the labels are first summed into as few functionals as G has columns."""
    found, ends = _nothing(term), np.concatenate([[0], features.ends])
    ours, theirs = ([part[a:b] for a, b in itertools.pairwise(ends)] for part in (left, right))
    for channel in range(term.channel_count):
        groups, sides = _sides(term, features, channel)
        rows = [_summed(side, [ours[i] for i in group]) for side, group in zip(sides, groups, strict=True)]
        columns = [_summed(side, [theirs[i] for i in group]) for side, group in zip(sides, groups, strict=True)]

        def pulled(pair: tuple[int, int], rows=rows, columns=columns):
            return _pulled(term.kernel.radial, rows[pair[0]], columns[pair[1]], None, term.rearranged, term.sizes)

        for (i, j), bars in _of_pairs(pulled, itertools.product(range(len(groups)), repeat=2)):
            for group, sums, (points, tangents) in zip((groups[i], groups[j]), (ours, theirs), bars, strict=True):
                whole = [2.0 * sums[frame] @ bar for frame, bar in zip(group, np.asarray(tangents), strict=False)]
                _add(found, term, group, channel, 2.0 * np.asarray(points), whole)
    return found


def _of_pairs(function: Callable, pairs: Iterable[tuple[int, int]]) -> Iterator:
    """Every pair of groups of frames with what a function makes of it, in order; as many side by side as there are processors."""
    pairs = list(pairs)
    for start in range(0, len(pairs), processors()):
        few = pairs[start : start + processors()]
        yield from zip(few, map_threads(function, few), strict=True)


def _nothing(term: Term) -> FeatureCotangents:
    return FeatureCotangents([np.zeros_like(p) for p in term.points], [np.zeros_like(t) for t in term.tangents])


def _sides(term: Term, features: Features, channel: int) -> tuple[list[range], list[Labelled]]:
    """The frames a few at a time, those that have environments of a channel."""
    count = len(features.observations)
    groups = [range(start, min(start + FRAMES, count)) for start in range(0, count, FRAMES)]
    sides = [_padded(term, features, group, channel) for group in groups]
    having = [i for i, side in enumerate(sides) if side.points.size]
    return [groups[i] for i in having], [sides[i] for i in having]


def _summed(side: Labelled, sums: list[np.ndarray]) -> Labelled:
    """With sums of the labels of every frame in place of the labels."""
    most = side.values.shape[2]
    padded = [np.pad(each, [(0, most - len(each)), (0, 0)]) for each in sums]
    padded += [np.zeros_like(padded[0])] * (len(side.points) - len(padded))
    turned = np.stack(padded)
    return Labelled(side.points, turned.swapaxes(1, 2)[:, None] @ side.tangents, side.values @ turned)


def _padded(term: Term, features: Features, group: range, channel: int) -> Labelled:
    """Frames as a side; of fewer than a call takes the last ones are nothing, which costs no further compilation."""
    side = term.row(features.observations, slice(group.start, group.stop), channel)
    missing = FRAMES - len(group)
    arrays = (side.points, side.tangents, side.values)
    return Labelled(*(np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) for array in arrays))


def _weights(cotangent, ends, rows: range, columns: range, side: Labelled, other: Labelled) -> np.ndarray:
    """G of the labels of some frames as rows and others as columns, zeros where there is none: (n, m, r, q)."""
    weights = np.zeros((FRAMES, FRAMES, side.values.shape[2], other.values.shape[2]))
    for m, row in enumerate(rows):
        for n, column in enumerate(columns):
            block = cotangent[ends[row] : ends[row + 1], ends[column] : ends[column + 1]]
            weights[n, m, : block.shape[0], : block.shape[1]] = block
    return weights


def _add(found: FeatureCotangents, term: Term, group: range, channel: int, points, tangents) -> None:
    """What came back of some frames, without what pads them."""
    for k, frame in enumerate(group):
        chosen = np.flatnonzero(term.channels[frame] == channel)
        rows = found.tangents[frame].shape[1]
        found.points[frame][chosen] += points[k, : len(chosen)]
        found.tangents[frame][chosen] += tangents[k][: len(chosen), :rows]


@functools.partial(jit, static_argnames="sizes")
def _pulled(radial: Radial, rows: Labelled, columns: Labelled, weights, rearranged, sizes: tuple[int, ...]):
    """The derivatives of ⟨G, K⟩ by points and tangents, of the rows and of the columns; without G those of the sum over pairs of labels
    of equal number."""
    derivatives = jax.grad(functools.partial(_product, radial, sizes=sizes, rearranged=rearranged), argnums=(0, 1))

    def one(total, column_and_weights):
        mine, theirs = derivatives(rows, *column_and_weights)
        return jax.tree.map(jnp.add, total, mine[:2]), theirs[:2]

    return jax.lax.scan(one, jax.tree.map(jnp.zeros_like, tuple(rows[:2])), (columns, weights))


def _product(radial: Radial, rows: Labelled, column: Labelled, weights, *, sizes, rearranged) -> Float[jax.Array, ""]:
    """⟨G, K⟩ of frames as rows with one as a column, G of shape (m, r, q)."""
    points, tangents, values = rows
    others, across, theirs = column if rearranged is None else _images(column, rearranged)
    summed = tangents if weights is None else jnp.einsum("mrq,merd->meqd", weights, tangents)
    shared = values if weights is None else jnp.einsum("mrq,mer->meq", weights, values)
    s, away, along, inner = [], [], [], []
    for part in feature_slices(sizes):
        ours, his, u, t = points[..., part], others[..., part], summed[..., part], across[..., part]
        s.append(jnp.sum((ours[:, :, None] - his) ** 2, axis=-1))
        away.append(jnp.einsum("meqd,med->meq", u, ours)[:, :, None] - jnp.einsum("meqd,kd->mekq", u, his))
        along.append(jnp.einsum("med,kqd->mekq", ours, t) - jnp.einsum("kd,kqd->kq", his, t))
        inner.append(jnp.einsum("meqd,kqd->mek", u, t))
    f, f1, f2 = radial.partials(jnp.stack(s), 2)
    total = jnp.sum(f * jnp.einsum("meq,kq->mek", shared, theirs))
    for b in range(len(sizes)):
        once = jnp.sum(away[b] * theirs - shared[:, :, None] * along[b], axis=-1) - inner[b]
        total += 2.0 * jnp.sum(f1[b] * once)
        for c in range(len(sizes)):
            total -= 4.0 * jnp.sum(f2[b, c] * jnp.sum(away[b] * along[c], axis=-1))
    return total


def _images(column: Labelled, rearranged) -> Labelled:
    """All images of a molecule, their mean taken."""
    order = len(rearranged)
    points, tangents = column.points[0, rearranged], column.tangents[0][:, rearranged].swapaxes(0, 1)
    values = jnp.broadcast_to(column.values / order, (order, column.values.shape[1]))
    return Labelled(points, tangents / order, values)
