"""Crossings: what a descriptor and its derivatives do where a line passes a place, and the search for such places on paths.

Along a line x + t d the derivative of order k jumps at t = 0 by J = lim Δ(h), Δ(h) = φ⁽ᵏ⁾(h) − φ⁽ᵏ⁾(−h). What is smooth makes
Δ proportional to h, so two steps tell the two apart: J ≈ Δ(h) − (Δ(10h) − Δ(h))/9.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from mlff.quality.audit.places import Line
from mlff.quality.audit.probes import ORDERS, Geometries, Probe

STEPS = (
    1e-6,
    1e-5,
    1e-4,
)  # Å: jumps come from the first two, finite differences from the last two
SPACING = 0.03  # Å that an atom moves between two points of a path
POINTS = (24, 192)  # on a path
SUSPECTS = 3  # intervals of a path looked into, for each order
CONTRAST = 2.0  # by how much those stand out
HALVINGS = 20


@dataclasses.dataclass(frozen=True)
class Crossing:
    """What was measured at one place.

    Attributes:
        line: the place.
        jumps: of the orders 0 … 3, relative to their usual size.
        where: (row, feature) of the largest jump of each order.
        sides: what AD gives there on the left and on the right, shape (4, 2).
        errors: of the orders 1 … 3 at t = 0 against finite differences of the order below, relative to their usual size.
        finite: whether all values of each order are.
    """

    line: Line
    jumps: Float[np.ndarray, " 4"]
    where: Integer[np.ndarray, "4 2"]
    sides: Float[np.ndarray, "4 2"]
    errors: Float[np.ndarray, " 3"]
    finite: Bool[np.ndarray, " 4"]


def along(probe: Probe, lines: Sequence[Line], times: Float[np.ndarray, "l t"]) -> Float[np.ndarray, "4 l t r d"]:
    """Derivatives at times of lines, shape (lines, times): (4, lines, times, r, D)."""
    systems = [line.system.replace(positions=line.at(t)) for line, row in zip(lines, times, strict=True) for t in row]
    directions = np.repeat(np.array([line.direction for line in lines]), times.shape[1], axis=0)
    derivatives = probe.derivatives(Geometries.of(systems), directions)
    return derivatives.reshape(ORDERS, *times.shape, *derivatives.shape[2:])


def jump(right: np.ndarray, left: np.ndarray) -> np.ndarray:
    """J from values at the first two steps to either side, on the first axis, whose ratio is 10."""
    near, far = right[0] - left[0], right[1] - left[1]
    return near - (far - near) / (STEPS[1] / STEPS[0] - 1.0)


def crossings(probe: Probe, lines: Sequence[Line]) -> list[Crossing]:
    """Measure what happens at t = 0 of lines."""
    times = np.array([0.0, *STEPS, *(-h for h in STEPS)])
    together = max(1, probe.chunk // len(times))
    examined = []
    for start in range(0, len(lines), together):
        piece = lines[start : start + together]
        values = along(probe, piece, np.tile(times, (len(piece), 1)))
        examined += [_crossing(line, values[:, i], probe.scales[:, 0]) for i, line in enumerate(piece)]
    return examined


@np.errstate(invalid="ignore")  # infinities of broken descriptors
def _crossing(line: Line, values: np.ndarray, scales: np.ndarray) -> Crossing:
    """What happens on a line, from derivatives at 0, at the steps and at minus the steps, shape (4, times, r, D)."""
    values = np.moveaxis(values, 1, 0)
    centre, right, left = values[0], values[1 : len(STEPS) + 1], values[len(STEPS) + 1 :]
    bend = np.abs((right[1] - right[0]) - (left[0] - left[1])) / (STEPS[1] / STEPS[0] - 1.0)
    # a place is known to a step: what a bend changes within it is no jump
    jumps = np.maximum(np.abs(jump(right, left)) - bend, 0.0) / scales
    near, far = ((right - left)[i, :-1] / (2.0 * STEPS[i]) for i in (1, 2))
    # where the derivative has a bend, differences are wrong in proportion to the step
    bent = near - (far - near) / (STEPS[2] / STEPS[1] - 1.0)
    errors = np.min([np.abs(slope - centre[1:]) / scales[1:] for slope in (near, far, bent)], axis=0)
    where = np.array([np.unravel_index(np.argmax(order), order.shape) for order in jumps])  # of NaN, where there is one
    sides = np.array([[side[0, k][tuple(w)] for side in (left, right)] for k, w in enumerate(where)])
    finite = np.isfinite(values).all(axis=(0, 2, 3))
    return Crossing(line, jumps.max(axis=(1, 2)), where, sides, errors.max(axis=(1, 2)), finite)


# -- search --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Suspect:
    """An interval of a path where one order of one feature changes more than beside it; values at its ends, sign of the jump."""

    path: Line
    left: float
    right: float
    place: tuple[int | np.integer, ...]  # order, row, feature
    low: float
    high: float
    sign: float

    def halve(self, middle: float, value: float) -> None:
        """Keep the half that holds the jump: what is smooth changes by the same over both. Where a value is not finite, that is
        the place."""
        if not np.isfinite(value):
            self.left = self.right = middle
        elif ((value - self.low) - (self.high - value)) * self.sign > 0:
            self.right, self.high = middle, value
        else:
            self.left, self.low = middle, value


def search(probe: Probe, paths: Sequence[Line]) -> list[Line]:
    """Places on paths where a value or derivative most likely jumps, from a grid whose suspect intervals are halved."""
    places, suspects = [], []
    for path in paths:
        fastest = np.linalg.norm(path.direction, axis=1).max() * path.length
        times = np.linspace(0.0, path.length, int(np.clip(fastest / SPACING, *POINTS)))
        values = along(probe, [path], times[None])[:, 0]
        finite = np.isfinite(values).all(axis=(0, 2, 3))
        if finite.all():
            suspects += _suspects(path, times, values)
        else:
            places.append(_stopped(path, times[np.argmin(finite)]))
    for _ in range(HALVINGS if suspects else 0):
        middles = np.array([0.5 * (s.left + s.right) for s in suspects])
        values = along(probe, [s.path for s in suspects], middles[:, None])[:, :, 0]
        for i, suspect in enumerate(suspects):
            order, row, feature = suspect.place
            suspect.halve(middles[i], values[order, i, row, feature])
    distinct = {(id(s.path), round(0.5 * (s.left + s.right), 6)): s for s in suspects}
    return places + [_stopped(s.path, 0.5 * (s.left + s.right)) for s in distinct.values()]


def _suspects(path: Line, times: np.ndarray, values: np.ndarray) -> Iterator[_Suspect]:
    """Intervals whose difference Δ_i stands out: |Δ_i − ½(Δ_i−1 + Δ_i+1)| against the median of that around it.

    `values`: derivatives at the times, shape (4, T, r, D). Where several orders agree on an interval the clearest is kept.
    """
    best: dict[int, tuple[float, _Suspect]] = {}
    for k in range(ORDERS):
        change = np.diff(values[k], axis=0)
        padded = np.concatenate([2 * change[:1] - change[1:2], change, 2 * change[-1:] - change[-2:-1]])
        contrast = change - 0.5 * (padded[:-2] + padded[2:])
        surrounding = [np.roll(np.abs(contrast), s, axis=0) for s in range(-6, 7) if abs(s) > 1]
        typical = np.abs(values[k]).max(axis=(0, 1), keepdims=True)
        typical = np.maximum(typical, 1e-3 * typical.max())
        score = np.abs(contrast) / (np.median(surrounding, axis=0) + 1e-4 * typical + 1e-300)
        for i in np.argsort(-score.max(axis=(1, 2)))[:SUSPECTS]:
            row, feature = np.unravel_index(np.argmax(score[i]), score[i].shape)
            ends = values[k, i : i + 2, row, feature]
            sign = np.sign(contrast[i, row, feature])
            suspect = _Suspect(path, times[i], times[i + 1], (k, row, feature), *ends, sign)
            clearer = score[i, row, feature] > best.get(i, (CONTRAST, None))[0]
            if clearer:
                best[i] = (score[i, row, feature], suspect)
    yield from (suspect for _, suspect in best.values())


def _stopped(path: Line, t: float) -> Line:
    """A place on a path."""
    return dataclasses.replace(path, system=path.system.replace(positions=path.at(t)), length=0.0)
