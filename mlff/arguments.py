"""Arguments that many functions take, checked in one place: seeds and numbers."""

from __future__ import annotations

import numbers

import numpy as np

LARGEST_SEED = 2**63 - 1


def checked_seed(seed) -> int:
    """A seed of random numbers.

    Raises:
        ValueError: no integer, or a negative one.
    """
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed={seed!r} must be an integer from 0 to 2**63 - 1")
    return int(seed)


def is_number(value) -> bool:
    """Whether a value is a real number; True and False are none, though Python counts with them."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
