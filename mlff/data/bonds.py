"""Bonds of a molecule's frames: where they are, and whether an exchange of atoms leaves them as long as they were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from mlff.units import COVALENT_RADII

BOND = 1.25  # a bond is shorter than this multiple of the sum of the covalent radii
BOND_SHARE = 0.01  # in at least this share of the frames
RIGID = 1e-3  # Å
SYSTEMATIC, RANDOM = 1.0, 3.0  # standard deviations: a change of length that counts is beyond 1 + 3/√m in m matches


def close_pairs(matrices: Float[np.ndarray, "m n n"], numbers: Integer[np.ndarray, " n"]) -> Bool[np.ndarray, "m n n"]:
    """Which atoms are bonded, frame by frame, from matrices of distances, Å."""
    radii = COVALENT_RADII[numbers]
    return (matrices < BOND * (radii[:, None] + radii)) & ~np.eye(len(numbers), dtype=bool)


def bond_graph(matrices: Float[np.ndarray, "m n n"], numbers: Integer[np.ndarray, " n"]) -> Bool[np.ndarray, "n n"]:
    """Which atoms are bonded in some of the frames; a proton that is shared counts for both."""
    return close_pairs(matrices, numbers).mean(axis=0) >= BOND_SHARE


def keep_bonds(
    matches: Sequence[np.ndarray],
    pairs: Integer[np.ndarray, "k 2"],
    matrices: Float[np.ndarray, "m n n"],
    numbers: Integer[np.ndarray, " n"],
) -> Bool[np.ndarray, " k"]:
    """Which matches of two frames carry bonds to bonds of one length, to within what bonds vibrate.

    Frames that are far apart may fit an exchange that never happens as well as any other, a carbonyl's oxygen to a
    hydroxyl's; but bonds are as long in them as ever. A bond (a, b) of one frame that a match carries to another pair
    (p a, p b) of the other is compared with it, in standard deviations of such a difference. What counts is the median over
    all the matches that carry the one to the other: it vanishes where the exchange is one of the dynamics.

    Arguments:
        matches: permutation p for each pair of frames (i, j): the distances of j, permuted, are near those of i.
        pairs: indices of the frames.
        matrices: distances between atoms, Å.
    """
    close = close_pairs(matrices, numbers)
    if not close.any() or not len(pairs):
        return np.ones(len(pairs), dtype=bool)
    variance = _variances(matrices, close)
    first, second = np.triu_indices(len(numbers), k=1)
    place = np.zeros(variance.shape, dtype=int)
    place[first, second] = place[second, first] = np.arange(len(first))
    carried, differences, whose = [], [], []
    for k, ((i, j), p) in enumerate(zip(pairs, matches, strict=True)):
        image = p[first], p[second]
        moved = (place[image] != place[first, second]) & (close[i][first, second] | close[j][image])
        scale = np.sqrt(variance[first, second] + variance[image])
        carried.append((place[first, second] * len(first) + place[image])[moved])
        differences.append(((matrices[i][first, second] - matrices[j][image]) / scale)[moved])
        whose.append(np.full(moved.sum(), k))
    medians, counts, kind_of_each = _medians(np.concatenate(carried), np.concatenate(differences))
    changed = np.abs(medians) > SYSTEMATIC + RANDOM / np.sqrt(counts)
    sound = np.ones(len(pairs), dtype=bool)
    sound[np.concatenate(whose)[changed[kind_of_each]]] = False
    return sound


def _variances(matrices: np.ndarray, close: np.ndarray) -> np.ndarray:
    """The variance of every distance in the frames in which it is a bond, or of bonds on average where that is more, Å²; of bonds that
    are rigid, that of digits that files round to."""
    count = np.maximum(close.sum(axis=0), 1)
    mean = np.sum(matrices * close, axis=0) / count
    variance = np.sum((matrices - mean) ** 2 * close, axis=0) / count
    return np.maximum(variance, max(variance[close.any(axis=0)].mean(), RIGID**2))


def _medians(kinds: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The median of the values of every kind, how many there are, and the kind of each value."""
    _, kind_of_each, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    ordered = values[np.lexsort((values, kind_of_each))]
    start = np.cumsum(counts) - counts
    return 0.5 * (ordered[start + (counts - 1) // 2] + ordered[start + counts // 2]), counts, kind_of_each
