"""Constants from energies that are no labels: by least squares in which a few energies that are far off count little."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from mlff.data.batches import LabelledFrames
from mlff.potentials.expansion import Expansion, composition
from mlff.regression.system.coefficients import RANK_CUTOFF, energies_of

HUBER = 1.345  # standard deviations within which energies count fully: 95 % of the efficiency of least squares
TO_STD = 1.4826  # of normally distributed numbers, their standard deviation over the median of their sizes
ROUNDING = 1e-12  # of the largest energy
CONVERGED, ITERATIONS = 1e-10, 100  # change of weights


def energies_left(model: Expansion, frames: LabelledFrames) -> Float[np.ndarray, " frames"]:
    """What a model leaves of the energies of frames, y − E u, batch after batch, eV."""
    return frames.values("energy") - energies_of(model, frames)


def constants_mixing(
    elements: tuple[int, ...] | None, frames: LabelledFrames, left: Float[np.ndarray, " frames"]
) -> Float[np.ndarray, "z frames"]:
    """M, which makes the constants of what a model leaves of the energies: c = M (y − E u).

    Arguments:
        elements: of the constants; None for one of a whole molecule.
        frames: that have energies.
        left: y − E u, up to any constants, eV.
    """
    design = [np.tile(composition(elements, batch.numbers), (len(batch), 1)) for batch in frames.batches]
    return robust_inverse(np.concatenate(design), left)


def robust_inverse(design: Float[np.ndarray, "n z"], values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "z n"]:
    """M of iteratively reweighted least squares, c = M y, with the weights of its last iteration.

        M = (√W H)⁺ √W,   w_j = min(1, 1.345 σ/|r_j|),   r = (y − H c)/√s,   σ = 1.4826 median |r|

    s are the row sums of H, the numbers of atoms where constants are of these.

    Arguments:
        design: H, not negative, no row zero.
        values: y.
    Source: Huber, Ann. Math. Stat. 35, 73 (1964), doi 10.1214/aoms/1177703732; Holland, Welsch, Commun. Stat. A 6, 813 (1977),
        doi 10.1080/03610927708827533.
    """
    roots, weights = np.sqrt(design.sum(axis=1)), np.ones(len(values))
    smallest = ROUNDING * np.abs(values).max(initial=0.0) + np.finfo(float).tiny
    for _ in range(ITERATIONS):
        inverse = np.linalg.pinv(np.sqrt(weights)[:, None] * design, rcond=RANK_CUTOFF) * np.sqrt(weights)
        sizes = np.abs(values - design @ (inverse @ values)) / roots
        limit = max(HUBER * TO_STD * float(np.median(sizes)), smallest)
        before, weights = weights, limit / np.maximum(sizes, limit)
        if np.abs(weights - before).max() < CONVERGED:
            break
    return inverse
