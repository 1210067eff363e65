"""Numbers that stand where labels should be and are none: some readers and programs fill in what they do not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlff.data.frames import Frame
from mlff.data.neighbors import neighbor_lists
from mlff.data.system import System

REACH, WIDTHS, CANCELLED = 6.0, (1.0, 2.0), 1e-4  # Å, of pairs whose forces may cancel, and what is left where they do
FILLED = ("forces", "stress", "hessian", "hessian_products", "curvatures")  # with zeros
SAME = 1e-6  # of the larger one: forces of two frames whose norms agree so well may be equal by symmetry


def find_placeholders(frames: Sequence[Frame]) -> dict[str, str]:
    """Find labels that are none, by name, and say what shows it.

    Among frames of one composition energies that are all equal are none where the norms of the forces differ (or where they
    are all zero): geometries with other forces lie elsewhere on the surface. Forces, stresses and second derivatives that are
    all exactly zero are none at geometries that differ, but for forces that symmetry cancels, as in perfect crystals under strain.
    """
    kinds: dict[bytes, list[int]] = {}
    for i, frame in enumerate(frames):
        kinds.setdefault(np.sort(frame.numbers).tobytes(), []).append(i)
    placeholders: dict[str, str] = {}
    for members in kinds.values():
        group = [frames[i] for i in members]
        if len(group[0].numbers) < 2:
            continue
        placeholders |= _energies(group)
        for name in FILLED:
            having = [frame for frame in group if name in frame.labels]
            if len(having) < 2 or any(np.any(frame.labels[name]) for frame in having):
                continue
            if name != "forces" or not all(_balanced(frame.system) for frame in having):
                placeholders[name] = (
                    f"{name} of {len(having)} frames are all zero, at geometries that differ: take them out there"
                )
    return placeholders


def _balanced(system: System) -> bool:
    """Whether symmetry cancels all forces: those of pairs do, of two potentials, which without it only chance would make zero."""
    (seen,), (shifts,) = neighbor_lists(system.positions[None], system.cell[None], system.pbc[None], REACH)
    lattice = np.where(system.pbc[:, None], system.cell, 0.0)
    away = system.positions[seen] + shifts @ lattice - system.positions[:, None]
    squares = np.sum(away**2, axis=2)
    for width in WIDTHS:
        weights = np.where(seen >= 0, system.numbers[seen] * np.exp(-0.5 * squares / width**2), 0.0)[..., None]
        forces, sizes = np.sum(weights * away, axis=1), np.sum(np.abs(weights * away), axis=1)
        if (np.abs(forces) > CANCELLED * sizes.max()).any():
            return False
    return True


def _energies(group: Sequence[Frame]) -> dict[str, str]:
    having = [frame for frame in group if "energy" in frame.labels]
    energies = np.array([float(frame.labels["energy"]) for frame in having])
    if len(having) < 2 or (energies != energies[0]).any():
        return {}
    norms = np.array([np.linalg.norm(frame.labels["forces"]) for frame in having if "forces" in frame.labels])
    vary = len(norms) > 1 and np.ptp(norms) > SAME * norms.max()
    if not vary and energies[0] != 0.0:
        return {}
    beside = "their forces differ" if vary else "no calculation gives exactly that"
    return {"energy": f"energies of {len(having)} frames all equal {energies[0]:g} eV, and {beside}"}
