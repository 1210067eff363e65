"""What a descriptor sees: motions of the atoms, and elements."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from mlff.data.system import System
from mlff.quality.audit.findings import Finding
from mlff.quality.audit.places import SIGHT, Pairs, named
from mlff.quality.audit.probes import Geometries, Probe
from mlff.units import symbols

RANK_TOLERANCE = 1e-9  # singular values below this share of the largest one count as zero
UNSEEN = 1e-12  # a derivative below this share of the largest one counts as zero
SHARE = 0.9  # of the cutoff: what is nearer must be seen; what is farther has almost faded


def constants(probe: Probe) -> Iterator[Finding]:
    """Features that no atom changes; a few are channels of what the frames lack, but not all."""
    if probe.atoms == 1 and not probe.periodic:
        yield Finding.of("constants", 0.0, 1.0, "a lone atom has nothing to see")
        return
    still = ~(np.abs(probe.jacobians) > 0).any(axis=(0, 1, 3, 4))
    total = len(still)
    text = f"{still.sum()} of {total} features change with no atom"
    if still.all():
        text += "; the descriptor sees nothing: let it depend on positions without stop_gradient, round or sign"
    elif still.any():
        shown = ", ".join(str(i) for i in np.flatnonzero(still)[:6])
        text += f" ({shown}{', …' if still.sum() > 6 else ''}): channels of elements or distances that the frames lack?"
    yield Finding("constants", float(still.mean()), 1.0 - 1.0 / total, text, not still.all())


def species(probe: Probe) -> Iterator[Finding]:
    """Every element is seen by every other, and where atomic numbers are taken no two elements look the same."""
    largest = np.abs(probe.jacobians).max(axis=(2, 4))  # (m, r, n)
    seen = largest > UNSEEN * max(largest.max(), 1e-300)
    blind: dict[str, None] = {}
    for i in range(len(probe.general)):
        system = probe.general.system(i)
        near = _near(probe, system)
        for a in np.unique(system.numbers):
            for b in np.unique(system.numbers):
                mine = near & (system.numbers[:, None] == a) & (system.numbers[None] == b)
                if mine.any() and not (seen[i] & mine if probe.local else seen[i] & mine.any(axis=0)[None]).any():
                    who = f"atoms of {symbols([a])[0]} do not see {symbols([b])[0]}" if probe.local else None
                    blind[who or f"no feature depends on atoms of {symbols([b])[0]}"] = None
    alike = list(_alike(probe)) if not blind else []
    text = "; ".join([*blind, *alike])
    if text:
        text += "; give every element a channel: take `elements` as an argument, it is filled in from the data"
    yield Finding.of("species", len(blind) + len(alike), 0.0, text or "every element is seen")


def _near(probe: Probe, system: System) -> np.ndarray:
    """Which pairs of different atoms surely see each other, (n, n)."""
    cutoff = probe.descriptor.cutoff
    pairs = Pairs.of(system, (SIGHT if probe.periodic else np.inf) if cutoff is None else 0.7 * cutoff)
    near = np.zeros((len(system), len(system)), dtype=bool)
    near[pairs.first, pairs.second] = True
    return near & ~np.eye(len(system), dtype=bool)


def _alike(probe: Probe) -> Iterator[str]:
    """Pairs of elements whose exchange changes no feature."""
    if "numbers" not in probe.descriptor.uses:
        return
    still = np.zeros_like(probe.general.positions)
    values = probe.derivatives(probe.general, still)[0]
    for a, b in itertools.combinations(np.unique(probe.general.numbers), 2):
        first, second = (probe.general.numbers == z for z in (a, b))
        both = first.any(axis=1) & second.any(axis=1)
        if both.any():
            numbers = np.where(first, b, np.where(second, a, probe.general.numbers)).astype(np.int32)
            swapped = Geometries(probe.general.positions, numbers, probe.general.cells, probe.general.pbc)
            change = np.abs(probe.derivatives(swapped, still)[0] - values) / probe.scales[0]
            if not (change[both] > UNSEEN).any():
                yield f"{symbols([a])[0]} and {symbols([b])[0]} look the same"


def rank(probe: Probe) -> Iterator[Finding]:
    """Rank of the Jacobian at general geometries against that of all distances within sight.

    Distances between an atom's neighbours count, as angles show them. Without a cutoff that is 3n − 6 (3n − 5 for two atoms,
    3n − 3 for a crystal); fragments that do not see each other take their relative motions away.
    """
    for i in range(len(probe.general)):
        system = probe.general.system(i)
        reach = np.inf if probe.descriptor.cutoff is None else SHARE * probe.descriptor.cutoff
        rigidity = _rigidity(system, reach)
        jacobian = probe.jacobians[i] / probe.scales[1, 0, 0][:, None, None]
        rows = jacobian.reshape(-1, 3 * probe.atoms)
        triangle = np.linalg.qr(np.concatenate([rows, np.zeros((3 * probe.atoms, rows.shape[1]))]), mode="r")
        _, singular, right = np.linalg.svd(triangle)
        have = int((singular > RANK_TOLERANCE * max(singular[0], 1e-300)).sum())
        values, vectors = np.linalg.eigh(rigidity)
        seen = values > 1e-10 * max(values[-1], 1e-300)
        wanted = int(seen.sum())
        text = f"rank {have} of {wanted} at {probe.labels[i]}, {rows.shape[0]} features"
        if have < wanted:
            unseen = right[have:] @ vectors[:, seen] @ vectors[:, seen].T
            text += f"; unseen: {_motion(unseen, system)}; add features that change with it"
        yield Finding.of("rank", max(wanted - have, 0), 0.0, text)


def _rigidity(system: System, reach: float) -> np.ndarray:
    """Σ u uᵀ over all distances within sight, u = ∂r/∂x, shape (3n, 3n)."""
    n = len(system)
    if np.isinf(reach) and np.any(system.pbc):
        reach = float(np.linalg.norm(system.cell, axis=1).max())
    pairs = Pairs.of(system, reach)
    edges = [(pairs.first, pairs.second, pairs.vectors)]
    if np.isfinite(reach):
        for i in range(n):
            mine = np.flatnonzero(pairs.first == i)
            p, q = (mine[index] for index in np.triu_indices(len(mine), k=1))
            edges.append((pairs.second[p], pairs.second[q], pairs.vectors[q] - pairs.vectors[p]))
    first, second, vectors = (np.concatenate(column) for column in zip(*edges, strict=True))
    different = first != second
    first, second, vectors = first[different], second[different], vectors[different]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    blocks = unit[:, :, None] * unit[:, None, :]
    total = np.zeros((n, n, 3, 3))
    for a, b, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
        np.add.at(total, (a, b), sign * blocks)
    return total.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)


def _motion(unseen: np.ndarray, system: System) -> str:
    """One unseen motion, that in which a single atom has as large a share as possible, in words."""
    _, singular, basis = np.linalg.svd(unseen, full_matrices=False)
    basis = basis[singular > 0.1].reshape(-1, len(system), 3)
    shares = [np.linalg.norm(basis[:, atom], ord=2) for atom in range(len(system))]
    atom = int(np.argmax(shares))
    weights = np.linalg.svd(basis[:, atom])[0][:, 0]
    motion = np.linalg.norm(np.tensordot(weights, basis, axes=1), axis=1)
    order = [a for a in np.argsort(-motion, kind="stable") if motion[a] > 0.2 * motion.max()]
    moved = ", ".join(f"{named(system, a)} by {motion[a] / motion.max():.2f}" for a in order[:6])
    return f"{len(basis)} motion{'s' if len(basis) > 1 else ''}, one of them of atoms {moved}" + (
        ", …" if len(order) > 6 else ""
    )
