"""Farthest points: a choice of environments that differ as much as can be.

From a first point of every species, each next one is the environment farthest from all that are chosen, of
whichever species it is:

    k* = argmax_e min_{k chosen, z_k = z_e} |φ_e − φ_k|

So a choice of fewer points is the beginning of one of more, and an element of which there is little has its points all the same.

Source: Gonzalez, Theor. Comput. Sci. 38, 293 (1985), doi 10.1016/0304-3975(85)90224-5; Bartók, Csányi, Int. J. Quantum Chem. 115,
    1051 (2015), doi 10.1002/qua.24927 (the choice of sparse points).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

SAME = 1e-7  # of the size of the features: environments nearer than that are the same to rounding


class Chosen(NamedTuple):
    """Places of the chosen among the candidates of every channel, in the order of choice, (k,) each, and how many candidates
    are a chosen one to rounding."""

    places: list[Integer[np.ndarray, " _"]]
    same: int


def farthest_points(
    candidates: Sequence[Float[np.ndarray, "_ D"]],
    count: int,
    first: Sequence[int | None],
    progress: Callable[[float], None] = lambda share: None,
) -> Chosen:
    """Up to `count` of the candidates of all channels; fewer where the others are the same to rounding.

    Arguments:
        candidates: features of every channel, (e, D) each; a channel may have none.
        first: the first choice of every channel, None where it has no candidate.
    """
    squares = [np.sum(seen**2, axis=1) for seen in candidates]
    smallest = [SAME**2 * (norms.max(initial=0.0) or 1.0) for norms in squares]
    apart = [np.full(len(seen), np.inf) for seen in candidates]
    places: list[list[int]] = [[] for _ in candidates]

    def take(channel: int, place: int) -> None:
        seen, norms, away = candidates[channel], squares[channel], apart[channel]
        np.minimum(away, np.maximum(norms + norms[place] - 2.0 * (seen @ seen[place]), 0.0), out=away)
        away[place] = -1.0  # chosen
        places[channel].append(place)

    present = [channel for channel, seen in enumerate(candidates) if len(seen)]
    for channel in present:
        take(channel, first[channel])
    while (taken := sum(map(len, places))) < count:
        channel = max(present, key=lambda c: apart[c].max())
        place = int(np.argmax(apart[channel]))
        if apart[channel][place] <= smallest[channel]:
            break
        take(channel, place)
        progress(taken / count)
    same = sum(int(np.sum((away >= 0.0) & (away <= limit))) for away, limit in zip(apart, smallest, strict=True))
    return Chosen([np.array(found, dtype=int) for found in places], same)
