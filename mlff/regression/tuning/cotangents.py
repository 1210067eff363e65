"""From a cotangent of the kernel matrix back to features and tangents of frames, a few frames at a time, as many such pairs side by
side as there are processors. What is done for a pair is in `contracted`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float

from mlff.regression.system.features import Features
from mlff.regression.system.gram import feature_slices
from mlff.regression.system.terms import Term
from mlff.regression.tuning.contracted import Labelled, derivatives
from mlff.threads import map_threads, processors

FRAMES = 8  # that are rows, and columns, of one call, where there are so many


@dataclasses.dataclass(frozen=True)
class FeatureCotangents:
    """Of a number that depends on features and tangents of frames, its derivatives by them: a list entry a frame.

    Attributes:
        points: (e, D) each.
        tangents: (e, r, D) each.
    """

    points: list[np.ndarray]
    tangents: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Channel:
    """Frames a few at a time, those that have environments of a channel.

    Attributes:
        number: of the channel.
        groups: which frames.
        sides: their environments and labels, the last of fewer frames padded with nothing.
        used: places of the features that any of them has; nothing comes back of others.
        sizes: how many of them are in every block of features.
    """

    number: int
    groups: list[range]
    sides: list[Labelled]
    used: np.ndarray
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, term: Term, features: Features, number: int) -> Channel:
        count = len(features.observations)
        groups = [range(start, min(start + FRAMES, count)) for start in range(0, count, FRAMES)]
        groups = [group for group in groups if any((term.channels[i] == number).any() for i in group)]
        sides = [_padded(term, features, group, number, min(FRAMES, count)) for group in groups]
        parts = [np.arange(sum(term.sizes))[part] for part in feature_slices(term.sizes)]
        if term.rearranged is None:
            present = _present(sides, sum(term.sizes))
            parts = [part[present[part]] if present[part].any() else part[:1] for part in parts]
        used = np.concatenate(parts)
        if len(used) < sum(term.sizes):
            for i, side in enumerate(sides):
                sides[i] = Labelled(*(np.take(array, used, axis=-1) for array in side[:2]), side.values)
        return cls(number, groups, sides, used, tuple(map(len, parts)))


def feature_cotangents(term: Term, features: Features, cotangent: Float[np.ndarray, "rows rows"]) -> FeatureCotangents:
    """The derivatives of ⟨G, K⟩ by features and tangents, in units of the length scale, of a term with its own.

    Arguments:
        term: of labels of first order, whose exchanges of atoms rearrange features, if there are any.
        cotangent: G, symmetric, in the order of the rows of all frames.
    """
    found, ends = _nothing(term), np.concatenate([[0], features.ends])
    for channel in (Channel.of(term, features, number) for number in range(term.channel_count)):
        groups, sides = channel.groups, channel.sides
        totals = [_zeros(side) for side in sides]

        def pulled(pair: tuple[int, int], channel=channel, groups=groups, sides=sides):
            i, j = pair
            weights = (1.0 + (i != j)) * _weights(cotangent, ends, groups[j], groups[i], sides[j], sides[i])
            return derivatives(term.kernel.radial, sides[j], sides[i], weights, term.rearranged, channel.sizes)

        for (i, j), (mine, his) in _of_pairs(pulled, itertools.combinations_with_replacement(range(len(groups)), 2)):
            _grow(totals[j], mine)
            _grow(totals[i], his)
        for group, (points, tangents) in zip(groups, totals, strict=True):
            _add(found, term, group, channel, points, tangents)
    return found


def feature_cotangents_of_few(
    term: Term, features: Features, left: Float[np.ndarray, "rows f"], right: Float[np.ndarray, "rows f"]
) -> FeatureCotangents:
    """The same of G = left·rightᵀ + right·leftᵀ: of every frame the labels are first summed into as few functionals as G has columns."""
    found, ends = _nothing(term), np.concatenate([[0], features.ends])
    ours, theirs = ([part[a:b] for a, b in itertools.pairwise(ends)] for part in (left, right))
    for channel in (Channel.of(term, features, number) for number in range(term.channel_count)):
        groups, both = channel.groups, list(zip(channel.sides, channel.groups, strict=True))
        rows = [_summed(side, [ours[i] for i in group]) for side, group in both]
        columns = [_summed(side, [theirs[i] for i in group]) for side, group in both]
        totals = [_zeros(side) for side in rows], [_zeros(side) for side in columns]

        def pulled(pair: tuple[int, int], channel=channel, rows=rows, columns=columns):
            i, j = pair
            return derivatives(term.kernel.radial, rows[i], columns[j], None, term.rearranged, channel.sizes)

        for pair, bars in _of_pairs(pulled, itertools.product(range(len(groups)), repeat=2)):
            for total, i, bar in zip(totals, pair, bars, strict=True):
                _grow(total[i], bar)
        for sums, total in zip((ours, theirs), totals, strict=True):
            for group, (points, tangents) in zip(groups, total, strict=True):
                whole = [2.0 * sums[frame] @ bar for frame, bar in zip(group, tangents, strict=False)]
                _add(found, term, group, channel, 2.0 * points, whole)
    return found


def _of_pairs(function: Callable, pairs: Iterable[tuple[int, int]]) -> Iterator:
    """Every pair of groups of frames with what a function makes of it, in order; as many side by side as there are processors."""
    pairs = list(pairs)
    for start in range(0, len(pairs), processors()):
        few = pairs[start : start + processors()]
        yield from zip(few, map_threads(function, few), strict=True)


def _zeros(side: Labelled) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(side.points), np.zeros_like(side.tangents)


def _grow(total: tuple[np.ndarray, np.ndarray], bars: tuple[np.ndarray, np.ndarray]) -> None:
    for whole, part in zip(total, bars, strict=True):
        whole += part


def _nothing(term: Term) -> FeatureCotangents:
    return FeatureCotangents([np.zeros_like(p) for p in term.points], [np.zeros_like(t) for t in term.tangents])


def _present(sides: list[Labelled], count: int) -> np.ndarray:
    """Which features are not zero throughout: of an oxygen with no other one, those of pairs of oxygen are."""
    present = np.zeros(count, dtype=bool)
    for side in sides:
        present |= side.points.any(axis=(0, 1)) | side.tangents.any(axis=(0, 1, 2))
    return present


def _summed(side: Labelled, sums: list[np.ndarray]) -> Labelled:
    """With sums of the labels of every frame in place of the labels."""
    most = side.values.shape[2]
    padded = [np.pad(each, [(0, most - len(each)), (0, 0)]) for each in sums]
    padded += [np.zeros_like(padded[0])] * (len(side.points) - len(padded))
    turned = np.stack(padded)
    return Labelled(side.points, turned.swapaxes(1, 2)[:, None] @ side.tangents, side.values @ turned)


def _padded(term: Term, features: Features, group: range, channel: int, size: int) -> Labelled:
    """Frames as a side; of fewer than a call takes the last ones are nothing, which costs no further compilation."""
    side = term.row(features.observations, slice(group.start, group.stop), channel)
    missing, arrays = size - len(group), (side.points, side.tangents, side.values)
    if not missing:
        return Labelled(*arrays)
    return Labelled(*(np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) for array in arrays))


def _weights(cotangent, ends, rows: range, columns: range, side: Labelled, other: Labelled) -> np.ndarray:
    """G of the labels of some frames as rows and others as columns, zeros where there is none: (m, n, r, q)."""
    weights = np.zeros((len(side.points), len(other.points), side.values.shape[2], other.values.shape[2]))
    for m, row in enumerate(rows):
        for n, column in enumerate(columns):
            block = cotangent[ends[row] : ends[row + 1], ends[column] : ends[column + 1]]
            weights[m, n, : block.shape[0], : block.shape[1]] = block
    return weights


def _add(found: FeatureCotangents, term: Term, group: range, channel: Channel, points, tangents) -> None:
    """What came back of some frames, without what pads them."""
    for k, frame in enumerate(group):
        chosen = np.flatnonzero(term.channels[frame] == channel.number)
        rows = np.arange(found.tangents[frame].shape[1])
        found.points[frame][np.ix_(chosen, channel.used)] += points[k, : len(chosen)]
        found.tangents[frame][np.ix_(chosen, rows, channel.used)] += tangents[k][: len(chosen), : len(rows)]
