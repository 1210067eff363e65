"""What must hold at every ordinary geometry: everything finite, invariance, and like atoms that are alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from mlff.data.system import System
from mlff.quality.audit.findings import Finding
from mlff.quality.audit.places import named
from mlff.quality.audit.probes import ORDINALS, Geometries, Probe

INVARIANCE_LIMIT = 1e-8  # rounding leaves 1e-14, or 1e-9 where something is ill-conditioned; float32 1e-6
EXCHANGE_LIMIT = 1e-8
EXCHANGES = 40  # transpositions of like atoms that are tried


def finite(probe: Probe) -> Iterator[Finding]:
    """Values and derivatives to third order on the frames."""
    good = np.isfinite(probe.sample).all(axis=(2, 3))
    if good.all():
        yield Finding.of("finite", 0.0, 0.0, f"values and three derivatives on {good.shape[1]} geometries")
        return
    order, index = np.argwhere(~good)[0]
    row, feature = np.argwhere(~np.isfinite(probe.sample[order, index]))[0]
    of = f"feature {feature}" + (f" of atom {named(probe.frames.system(0), row)}" if probe.local else "")
    cause = (
        "a division by zero or a logarithm or power of zero in it"
        if order == 0
        else "its value is finite, so this is the derivative of a square root, norm or power at zero, as of the distance of an "
        "atom from itself: leave those pairs out, or mask the argument before the root, where(d2 > 0, d2, 1), not its "
        "result after"
    )
    text = f"{ORDINALS[order]} of {of} is not finite at {probe.labels[index % len(probe.labels)]}: {cause}"
    yield Finding("finite", float((~good).sum()), 0.0, text, False)


def invariances(probe: Probe) -> Iterator[Finding]:
    """Translation, rotation, reflection: the features and their derivatives along the moved direction stay what they are."""
    rng = np.random.default_rng(probe.seed)
    frames, directions = probe.frames, probe.directions(len(probe.frames), 1)
    shift = rng.normal(scale=2.0, size=3)
    turn = Rotation.random(rng=rng).as_matrix()
    mirror = turn @ np.diag([1.0, 1.0, -1.0])
    yield _invariance(
        probe, "translation", frames.at(_wrapped(frames, frames.positions + shift)), directions,
        "use differences of positions alone" + (", and the images that the cell gives" if probe.periodic else ""),
    )  # fmt: skip
    for name, matrix, cure in (
        ("rotation", turn, "use lengths, angles and other scalar products of difference vectors, not their components"),
        (
            "reflection",
            mirror,
            "energies are the same for both mirror images: use no triple products or signed torsions",
        ),
    ):
        moved = Geometries(frames.positions @ matrix.T, frames.numbers, frames.cells @ matrix.T, frames.pbc)
        yield _invariance(probe, name, moved, directions @ matrix.T, cure)


def _invariance(probe: Probe, name: str, moved: Geometries, directions: np.ndarray, cure: str) -> Finding:
    count = len(moved)
    change = np.abs(probe.derivatives(moved, directions) - probe.sample[:, :count]) / probe.scales
    order, index, _, feature = np.unravel_index(np.argmax(change), change.shape)
    text = f"largest change: {ORDINALS[order]} of feature {feature}, {probe.labels[index]}"
    if change.max() < 1e-5:
        cure = f"cancellation, or a constant of single precision; else {cure}"
    return Finding.of(name, change.max(), INVARIANCE_LIMIT, text, cure)


def _wrapped(frames: Geometries, positions: np.ndarray) -> np.ndarray:
    """Positions carried back into the cell, in periodic directions."""
    if not frames.pbc.any():
        return positions
    whole = np.where(frames.pbc[:, :, None] | ~frames.cells.any(axis=2, keepdims=True), frames.cells, 0.0)
    basis = np.where(whole.any(axis=2, keepdims=True), whole, np.eye(3))
    fractional = np.linalg.solve(np.swapaxes(basis, 1, 2), np.swapaxes(positions, 1, 2))
    return positions - np.swapaxes(np.floor(fractional) * frames.pbc[:, :, None], 1, 2) @ frames.cells


def exchange(probe: Probe) -> Iterator[Finding]:
    """Exchange of like atoms: rows of environments follow the atoms; distances between two molecules' features stay."""
    swaps = [
        (i, j)
        for i, j in itertools.combinations(range(probe.atoms), 2)
        if all(numbers[i] == numbers[j] for numbers in probe.frames.numbers)
    ]
    rng = np.random.default_rng(probe.seed)
    swaps = [swaps[i] for i in sorted(rng.permutation(len(swaps))[:EXCHANGES])]
    if not swaps:
        yield Finding.of("exchange", 0.0, EXCHANGE_LIMIT, f"no two like atoms in {probe.labels[0]}")
        return
    both = _joined(probe.frames, probe.general)
    orders = np.tile(np.arange(probe.atoms), (len(swaps), 1))
    for order, (i, j) in zip(orders, swaps, strict=True):
        order[[i, j]] = j, i
    values = probe.derivatives(both, np.zeros_like(both.positions))[0]
    stacked = both.take(np.tile(np.arange(len(both)), len(swaps)))
    moved = np.concatenate([both.positions[:, order] for order in orders])
    images = probe.derivatives(stacked.at(moved), np.zeros_like(moved))[0].reshape(len(swaps), *values.shape)
    if probe.local:
        expected = np.stack([values[:, order] for order in orders])
        change = np.abs(images - expected).max(axis=(1, 2)) / probe.scales[0, 0, 0]
        change = change.max(axis=-1)
        cure = "the row of an atom must be the same sum over its neighbours, whatever their order"
    else:
        squares = _squares(values[:, 0])
        change = np.array([np.abs(_squares(image[:, 0]) / squares - 1.0).max() for image in images])
        cure = "an index is wrong, or the order of like atoms is used: their exchange may only rearrange the features"
    worst = int(np.argmax(change))
    text = f"largest for atoms {named(probe.frames.system(0), *swaps[worst])}, of {len(swaps)} exchanges"
    yield Finding.of("exchange", change.max(), EXCHANGE_LIMIT, text, cure)


def supercell(probe: Probe) -> Iterator[Finding]:
    """Environments of a crystal in a cell twice as long are the same ones, twice."""
    if not (probe.periodic and probe.local):
        return
    frame = probe.frames.system(0)
    axis = min(np.flatnonzero(frame.pbc), key=lambda i: np.linalg.norm(frame.cell[i]))
    cell = frame.cell.copy()
    cell[axis] *= 2.0
    positions = np.concatenate([frame.positions, frame.positions + frame.cell[axis]])
    doubled = System(positions, np.tile(frame.numbers, 2), cell, frame.pbc)
    larger = Probe(probe.descriptor, Geometries.of([doubled]), probe.labels[:1], probe.seed)
    values = np.asarray(larger.value(larger.descriptor, *larger.first(larger.frames)))
    change = np.abs(values - np.tile(probe.sample[0, 0], (2, 1))) / probe.scales[0, 0]
    text = f"{probe.labels[0]} in a cell twice as long"
    cure = "an atom must see all images of its neighbours within the cutoff: take `neighbors`, and each of its entries"
    yield Finding.of("supercell", change.max(), INVARIANCE_LIMIT, text, cure)


def _joined(*parts: Geometries) -> Geometries:
    fields = ("positions", "numbers", "cells", "pbc")
    return Geometries(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def _squares(features: np.ndarray) -> np.ndarray:
    """Squared distances between the features of all pairs of geometries."""
    first, second = np.triu_indices(len(features), k=1)
    squares = np.sum((features[first] - features[second]) ** 2, axis=-1)
    return np.maximum(squares, 1e-20 * max(squares.max(), 1e-280))
