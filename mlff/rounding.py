"""The rounding of a function of positions, measured: how far its values scatter among geometries that are hardly apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

COPIES = 12
APART = 1e-13  # Å; some hundred times what positions are rounded to, and far less than changes any result


def rounding_of(
    function: Callable[[np.ndarray], float | np.ndarray], positions: Float[np.ndarray, "n 3"], rng: np.random.Generator
) -> float:
    """The standard deviation of what a function of positions returns, the largest of its entries.

    An energy is a sum of large terms that cancel; what is left of their last digits differs from one geometry to the next as
    a random number does, while the energy itself changes by 1e-13 Å times the forces.

    Arguments:
        function: positions, shape (n, 3), Å → a number or an array.
        positions: where.
    """
    values = [function(positions + APART * rng.standard_normal(positions.shape)) for _ in range(COPIES)]
    return float(np.max(np.std(np.array(values), axis=0)))
