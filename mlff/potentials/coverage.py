"""How far a geometry lies from the training frames, in units of how far these lie from each other.

Every environment e of a geometry has a nearest training environment of its species (a molecule as a whole: a nearest image of
a training frame), and so has every training environment among the others:

    distance = max_e min_k |φ_e − φ_k| / max_j min_{k≠j} |φ_j − φ_k|

Frames drawn as the training frames were have about 0.5 to 1.3; a geometry far above that is one of which the labels say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.precision import Array

# Measured: ethanol, malonaldehyde and acetylacetone from 50 to 200 frames, inverse distances and FCHL19, have at most 1.4 on
# frames of the same dynamics, and torsions that no frame shows 1.5 to 24, where energies are wrong by 0.3 to 9 eV.
OUTSIDE = 1.5
LOOKED_AT = 500  # points whose distances to all others are taken
_ROUNDING = 1e-7  # of the size of the features: what |a|² + |b|² − 2a·b leaves of a distance of zero


def spacings(parts: Sequence) -> tuple[np.ndarray, ...]:
    """The largest distance from a training point to its nearest neighbour, for every part by channels, in length scales.

    Infinite where there is none to tell it by: a single point, or points that coincide.
    """
    return tuple(np.array([_spacing(part, k) for k in range(len(part.channels))]) for part in parts)


def _spacing(part, channel: int) -> float:
    points, origin = (np.asarray(array) for array in (part.channels[channel].points, part.channels[channel].origin))
    if len(points) < 2:
        return np.inf
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), LOOKED_AT)).astype(int))
    images = np.arange(points.shape[1])[None] if part.images is None else np.asarray(part.images)
    squares = np.sum(points**2, axis=1)
    nearest = np.full(len(chosen), np.inf)
    for image in images:
        seen = (points[chosen] + origin)[:, image] - origin
        apart = np.sum(seen**2, axis=1)[:, None] + squares - 2.0 * seen @ points.T
        apart[np.arange(len(chosen)), chosen] = np.inf
        nearest = np.minimum(nearest, apart.min(axis=1))
    largest = float(np.sqrt(max(nearest.max(), 0.0)))
    return largest if largest > _ROUNDING * np.sqrt(squares.max()) else np.inf


def training_distance(
    parts: Sequence, spacings: tuple, positions, numbers, cell, neighbors, members
) -> Float[Array, ""]:
    """The distance of the equation above, over all parts of a sum."""
    ratios = [
        distances / spacing
        for part, scales in zip(parts, spacings, strict=True)
        for distances, spacing in zip(part.nearest(positions, numbers, cell, neighbors, members), scales, strict=True)
    ]
    return jnp.max(jnp.concatenate(ratios))
