"""What solves a linear system, and the energy that it makes: weights of the labels, constants, the expansion."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from mlff.data.batches import LabelledFrames
from mlff.potentials.expansion import Expansion
from mlff.potentials.force_field import ForceField
from mlff.potentials.potential import Potential
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.system.rows import orders

RANK_CUTOFF = 1e-10  # of the largest singular value of Hᵀ C⁻¹ H, in least squares for the constants


@dataclasses.dataclass(frozen=True)
class Weights:
    """What solves a linear system: y = K a + H c.

    Attributes:
        rows: a, in units of the inverse scale of the system, shape (rows,).
        constants: c, eV.
        responses: C⁻¹ H, where least squares found the constants.
    """

    rows: Float[np.ndarray, " rows"]
    constants: Float[np.ndarray, " constants"]
    responses: Float[np.ndarray, "rows constants"] | None


def find_weights(system: LinearSystem, factor) -> Weights:
    """a and the constants c by generalised least squares: Hᵀ C⁻¹ (y − H c) = 0, C a = y − H c.

    Arguments:
        factor: what a solver gives: `factor.solve(right)` is C⁻¹ times the columns of a matrix.
    """
    constants = np.zeros(system.design.shape[1]) if system.given is None else system.given
    if system.given is not None or not system.design.any():
        return Weights(factor.solve(system.labels[:, None])[:, 0], constants, None)
    # from about where they will be: energies are large beside what they differ by, and digits of these would be lost
    start = np.linalg.lstsq(system.design, system.labels, rcond=RANK_CUTOFF)[0]
    solutions = factor.solve(np.column_stack([system.labels - system.design @ start, system.design]))
    weights, responses = solutions[:, 0], solutions[:, 1:]
    normal = system.design.T @ responses
    constants = np.linalg.lstsq(normal, system.design.T @ weights, rcond=RANK_CUTOFF)[0]
    return Weights(weights - responses @ constants, start + constants, responses)


def expand(system: LinearSystem, weights: Weights) -> Expansion:
    """The energy as a function of a geometry: the sum over all labels, contracted to points in descriptor space."""
    parts = tuple(
        term.expand(system.features.observations, share * weights.rows)
        for term, share in zip(system.features.terms, system.shares, strict=True)
    )
    return Expansion(parts, weights.constants, system.elements, label_order=highest_order(system))


def energies_of(potential: Potential, frames: LabelledFrames) -> Float[np.ndarray, " frames"]:
    """Energies of frames, batch after batch, eV."""
    batches = frames.batches
    return np.concatenate([ForceField(potential, b.numbers).energy(b.positions, b.cells, b.pbc) for b in batches])


def highest_order(system: LinearSystem) -> int:
    """The highest derivative among the labels."""
    return max(int(orders(frame.rows).max(initial=0.0)) for frame in system.features.observations)
