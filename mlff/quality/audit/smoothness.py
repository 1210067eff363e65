"""Findings on smoothness: derivatives that are right, finite at awkward geometries, continuous wherever one passes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from mlff.quality.audit.crossings import STEPS, Crossing, along, crossings, jump, search
from mlff.quality.audit.findings import Finding
from mlff.quality.audit.places import SIGHT, Line, Pairs, named, paths, places, through
from mlff.quality.audit.probes import ORDERS, ORDINALS, Probe

JUMP_LIMIT = 1e-6
DIFFERENCE_LIMIT = 1e-4
FAR_LIMIT = 1e-8
FAR = 1e4  # Å

RULES_CURE = "correct its custom derivative rules (custom_jvp, custom_vjp), and remove stop_gradient"
FINITE_CURE = (
    "a square root, norm or power of zero, a division by zero or arccos(±1): mask its argument before, not its result after "
    "(where(x > 0, x, 1) inside it), and write angles as functions of cos θ"
)
JUMP_CURE = (
    "multiply what is switched off or on by a function that vanishes there with three derivatives "
    "(descriptors.geometry.smooth_cutoff); choose nothing by where, round, sign or argsort"
)
KINK_CURE = (
    "sort, min, max, abs, ReLU, where and arccos make kinks, and what AD returns there is one element of a set; take smooth "
    "functions instead: softplus, squares, sums over atoms in place of an order, polynomials of cos θ, smooth_cutoff"
)


def derivatives(probe: Probe) -> Iterator[Finding]:
    """AD against finite differences to third order, and the reverse mode against the forward mode, on displaced frames."""
    directions = probe.directions(len(probe.general), 2)
    frames = [Line(probe.general.system(i), d, "frame", probe.labels[i]) for i, d in enumerate(directions)]
    crossing, k = _worst_error(crossings(probe, frames))
    text = f"{ORDINALS[k]} by AD and by finite differences, at {crossing.line.name}"
    yield Finding.of("derivatives", crossing.errors[k - 1], DIFFERENCE_LIMIT, text, RULES_CURE)
    backward = np.asarray(probe.hessian(probe.descriptor, *probe.first(probe.general))[0])
    forward = probe.jacobians[0]
    size = np.abs(forward).sum(axis=(0, 1)).max()
    error = np.abs(backward - forward.sum(axis=(0, 1))).max() / (size if size > 0 else 1.0)
    text = f"first derivative in reverse and in forward mode, at {probe.labels[0]}"
    yield Finding.of("derivatives", error, DIFFERENCE_LIMIT, text, RULES_CURE)


def smoothness(probe: Probe) -> Iterator[Finding]:
    """Derivatives at awkward geometries are finite and right; they are continuous there and at what paths meet."""
    systems = [probe.frames.system(i) for i in range(len(probe.frames))]
    cutoff = probe.descriptor.cutoff
    awkward = [
        list(places(system, cutoff, label, probe.seed + i))
        for i, (system, label) in enumerate(zip(systems, probe.labels, strict=True))
    ]
    at_places = crossings(probe, list(itertools.chain(*awkward)))
    through_places = [through(line) for line in awkward[0]]
    met = crossings(probe, search(probe, [*through_places, *paths(systems, probe.labels, probe.seed)]))
    yield _awkward(at_places, met)
    yield from _continuity(probe, [*at_places, *met])
    yield _cutoff(probe, [crossing for crossing in at_places if crossing.line.kind == "cutoff"])


def far_from_the_origin(probe: Probe) -> Iterator[Finding]:
    """Values and derivatives 10⁴ Å away, where coordinates are rounded by 10⁻¹² Å."""
    far = probe.frames.at(probe.frames.positions + FAR * np.array([1.0, -0.7, 0.4]))
    count = len(probe.frames)
    change = probe.derivatives(far, probe.directions(count, 1)) - probe.sample[:, :count]
    change = np.abs(change / probe.scales).max(axis=(2, 3))
    k, frame = np.unravel_index(np.argmax(change), change.shape)
    text = f"{ORDINALS[k]} of {probe.labels[frame]}, {FAR:g} Å away against at the origin"
    cure = "form differences of positions before anything else, in double precision"
    yield Finding.of("far from the origin", change.max(), FAR_LIMIT, text, cure)


def _awkward(at_places: Sequence[Crossing], met: Sequence[Crossing]) -> Finding:
    """Everything is finite, and AD gives what finite differences say; of what paths met, only whether it is finite is asked."""
    name = "awkward geometries"
    if broken := [crossing for crossing in (*at_places, *met) if not crossing.finite.all()]:
        k, count = int(np.argmin(broken[0].finite)), len(at_places) + len(met)
        text = f"{ORDINALS[k]} is not finite at {broken[0].line.name} ({len(broken)} of {count} places)"
        return Finding.of(name, np.nan, DIFFERENCE_LIMIT, text, FINITE_CURE)
    if not at_places:
        return Finding.of(name, 0.0, DIFFERENCE_LIMIT, "there are none for so few atoms")
    crossing, k = _worst_error(at_places)
    kinds = ", ".join(dict.fromkeys(crossing.line.kind for crossing in at_places))
    text = f"{ORDINALS[k]} by AD and by finite differences, at {crossing.line.name}; {len(at_places)} places: {kinds}"
    cure = f"a kink, see continuity; else {RULES_CURE}"
    return Finding.of(name, crossing.errors[k - 1], DIFFERENCE_LIMIT, text, cure)


def _continuity(probe: Probe, met: Sequence[Crossing]) -> Iterator[Finding]:
    """The largest jump of each order, with its place."""
    if not met:
        for k in range(ORDERS):
            yield Finding.of(f"continuity {k}", 0.0, JUMP_LIMIT, "nothing to cross for so few atoms")
        return
    lowest = None  # order that jumps: what to change there mends the higher ones
    for k in range(ORDERS):
        largest = max(met, key=lambda crossing, k=k: _size(crossing.jumps[k]))
        count = sum(not crossing.jumps[k] <= JUMP_LIMIT for crossing in met)
        text, cure = f"the {ORDINALS[k]} is continuous at {len(met)} places, known and met on paths", ""
        if count:
            text, cure = _describe(probe, largest, k)
            text = f"{text}; {count} of {len(met)} places"
            cure = cure if lowest is None else f"see continuity {lowest}"
            lowest = k if lowest is None else lowest
        yield Finding.of(f"continuity {k}", largest.jumps[k], JUMP_LIMIT, text, cure)


def _cutoff(probe: Probe, met: Sequence[Crossing]) -> Finding:
    """The largest jump, of the lowest order that has one, where a pair of atoms is at the cutoff."""
    if probe.descriptor.cutoff is None:
        text = "no parameter of the name `cutoff`; other ones are passed where paths stretch the molecule"
        return Finding.of("cutoff", 0.0, JUMP_LIMIT, text)
    if not met:
        return Finding.of("cutoff", 0.0, JUMP_LIMIT, "no pair of atoms could be brought to the cutoff")
    largest = [max(met, key=lambda crossing, k=k: _size(crossing.jumps[k])) for k in range(ORDERS)]
    k = next((k for k in range(ORDERS) if not largest[k].jumps[k] <= JUMP_LIMIT), 0)  # higher orders follow
    number = largest[k].jumps[k]
    if number <= JUMP_LIMIT:
        text = f"value and three derivatives are continuous at {probe.descriptor.cutoff:g} Å, for {len(met)} pairs"
        return Finding.of("cutoff", max(c.jumps[k] for k, c in enumerate(largest)), JUMP_LIMIT, text)
    return Finding.of("cutoff", number, JUMP_LIMIT, *_describe(probe, largest[k], k))


def _describe(probe: Probe, crossing: Crossing, k: int) -> tuple[str, str]:
    """A jump in words: what, from where to where, at which place, carried by whom; and what to change."""
    row, feature = crossing.where[k]
    of = f"feature {feature}" + (f" of atom {named(crossing.line.system, row)}" if probe.local else "")
    left, right = crossing.sides[k]
    if np.isnan(crossing.jumps[k]):
        return f"the {ORDINALS[k]} of {of} is not finite at {crossing.line.name}, or right beside it", FINITE_CURE
    text = f"the {ORDINALS[k]} of {of} jumps from {left:.4g} to {right:.4g} at {crossing.line.name}"
    return text + _carriers(probe, crossing, k), JUMP_CURE if k == 0 or crossing.line.kind == "cutoff" else KINK_CURE


def _carriers(probe: Probe, crossing: Crossing, k: int) -> str:
    """The atoms that make a derivative jump when one alone is moved, with what their distances have in common."""
    system, lengths = crossing.line.system, np.linalg.norm(crossing.line.direction, axis=1)
    movable = np.flatnonzero(lengths > 0)
    if len(movable) == 1:
        return ""
    lines = []
    for atom in movable:
        alone = np.zeros_like(crossing.line.direction)
        alone[atom] = crossing.line.direction[atom] / lengths[atom]
        lines.append(dataclasses.replace(crossing.line, direction=alone))
    steps = 10.0 * np.array(STEPS[:2])  # a found place is off by a little, which a single atom must make up for
    derivatives = np.moveaxis(along(probe, lines, np.tile(np.concatenate([steps, -steps]), (len(lines), 1)))[k], 1, 0)
    sizes = np.abs(jump(derivatives[:2], derivatives[2:])).max(axis=(1, 2))
    atoms = movable[sizes > 0.05 * sizes.max()]
    if not 0 < len(atoms) <= 6:
        return ""
    pairs = Pairs.of(system, SIGHT if probe.periodic else np.inf)
    inside = np.isin(pairs.first, atoms) & np.isin(pairs.second, atoms) & (pairs.first < pairs.second)
    distances = pairs.distances[inside]
    equal = np.flatnonzero(np.diff(distances) < 1e-5)
    common = ""
    if len(atoms) == 2 and len(distances):
        common = f", {distances[0]:.4f} Å apart"
    elif len(equal):
        common = f", two of their distances equal, {distances[equal[0]]:.4f} Å"
    return f" (atoms {named(system, *atoms)}{common})"


def _worst_error(met: Sequence[Crossing]) -> tuple[Crossing, int]:
    """The crossing with the largest error of a derivative, and its order: the lowest that fails, as higher ones follow."""
    worst = [max(met, key=lambda crossing, k=k: _size(crossing.errors[k])) for k in range(ORDERS - 1)]
    errors = [crossing.errors[k] for k, crossing in enumerate(worst)]
    k = next((k for k, error in enumerate(errors) if not error <= DIFFERENCE_LIMIT), int(np.argmax(errors)))
    return worst[k], k + 1


def _size(number: float) -> float:
    """A key to find the largest by: what is not a number is larger than everything."""
    return np.inf if np.isnan(number) else float(number)
