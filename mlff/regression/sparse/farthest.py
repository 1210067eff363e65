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


class Choice:
    """Points as they are chosen, and how far all candidates are from them.

    Arguments:
        candidates: features of every channel, (e, D) each; a channel may have none.
        first: the first choice of every channel, None where it has no candidate.
    """

    def __init__(self, candidates: Sequence[Float[np.ndarray, "_ D"]], first: Sequence[int | None]):
        self._candidates = candidates
        self._squares = [np.sum(seen**2, axis=1) for seen in candidates]
        self._smallest = [SAME**2 * (norms.max(initial=0.0) or 1.0) for norms in self._squares]
        self._apart = [np.full(len(seen), np.inf) for seen in candidates]
        self._places: list[list[int]] = [[] for _ in candidates]
        self._present = [channel for channel, seen in enumerate(candidates) if len(seen)]
        for channel in self._present:
            self.take(channel, first[channel])

    def __len__(self) -> int:
        return sum(map(len, self._places))

    def take(self, channel: int, place: int) -> None:
        """Choose a candidate."""
        seen, norms, away = self._candidates[channel], self._squares[channel], self._apart[channel]
        np.minimum(away, np.maximum(norms + norms[place] - 2.0 * (seen @ seen[place]), 0.0), out=away)
        away[place] = -1.0  # chosen
        self._places[channel].append(place)

    def is_new(self, channel: int, place: int) -> bool:
        """Whether a candidate is not chosen, nor the same as a chosen one to rounding."""
        return bool(self._apart[channel][place] > self._smallest[channel])

    def farthest(self) -> tuple[int, int]:
        """Channel and place of the candidate that is farthest from all that are chosen."""
        channel = max(self._present, key=lambda c: self._apart[c].max())
        return channel, int(np.argmax(self._apart[channel]))

    def chosen(self) -> Chosen:
        """What was chosen so far."""
        pairs = zip(self._apart, self._smallest, strict=True)
        same = sum(int(np.sum((away >= 0.0) & (away <= limit))) for away, limit in pairs)
        return Chosen([np.array(found, dtype=int) for found in self._places], same)


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
    choice = Choice(candidates, first)
    while len(choice) < count and choice.is_new(*(following := choice.farthest())):
        choice.take(*following)
        progress(len(choice) / count)
    return choice.chosen()
