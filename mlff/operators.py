"""Label operators: what a label is, as a linear functional of the energy.

In coordinates a label of first order is L u = v u(x) + d·∇u(x): a value weight v and a direction d. By the chain
rule it acts on a function g of the descriptor as v g(φ) + (J_φ d)·∇g(φ). Energies are v = 1, forces are d = −e_i.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RANK_CUTOFF = 1e-8  # of the largest singular value of the descriptor's Jacobian


@dataclasses.dataclass(frozen=True)
class Operator:
    """A kind of label: its name, order of derivative and unit."""

    name: str
    order: int
    unit: str


ENERGY = Operator("energy", 0, "eV")
FORCES = Operator("forces", 1, "eV/Å")
OPERATORS = {operator.name: operator for operator in (ENERGY, FORCES)}


class Rows(NamedTuple):
    """The labels of one frame, as rows of the linear system.

    values: weights of the value, shape (rows,).
    directions: directions of differentiation, shape (rows, 3n).
    labels: what the functionals of the true energy are, shape (rows,).
    noise: standard deviation of each label, shape (rows,).
    unseen: share of the squared force labels that no direction of the descriptor can express.
    """

    values: Float[np.ndarray, " rows"]
    directions: Float[np.ndarray, "rows coordinates"]
    labels: Float[np.ndarray, " rows"]
    noise: Float[np.ndarray, " rows"]
    unseen: float


def energy_rows(energy: float, noise: float, coordinates: int) -> Rows:
    """One row: the value itself."""
    return Rows(np.ones(1), np.zeros((1, coordinates)), np.array([energy]), np.array([noise]), 0.0)


def force_rows(forces: np.ndarray, noise: float, jacobian: np.ndarray) -> Rows:
    """The forces of a frame in the right-singular basis of its descriptor's Jacobian.

    J = U S Vᵀ, cut at 1e-8 of the largest singular value. The model's forces lie in span V, where
    −Vᵀ∇u is a complete set of labels with independent noise of the same size; components outside
    (rigid motions, and whatever the descriptor does not see) carry no information. Exact.

    Arguments:
        forces: reference forces, shape (n, 3), eV/Å.
        noise: standard deviation of one force component, eV/Å.
        jacobian: ∂φ/∂x at the frame, all features of all environments, shape (D, 3n).
    """
    if len(jacobian) > 2 * jacobian.shape[1]:
        jacobian = np.linalg.qr(jacobian, mode="r")  # the same right singular vectors
    _, singular, vectors = np.linalg.svd(jacobian, full_matrices=False)
    basis = vectors[singular > RANK_CUTOFF * singular[0]]
    labels = basis @ forces.ravel()
    total = float(np.sum(forces**2))
    unseen = max(0.0, 1.0 - float(labels @ labels) / total) if total > 0 else 0.0
    return Rows(np.zeros(len(basis)), -basis, labels, np.full(len(basis), noise), unseen)


def stack(parts: list[Rows]) -> Rows:
    """All the labels of one frame below each other."""
    values, directions, labels, noise, unseen = zip(*parts, strict=True)
    return Rows(
        np.concatenate(values), np.concatenate(directions), np.concatenate(labels), np.concatenate(noise), max(unseen)
    )
