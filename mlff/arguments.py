"""Arguments that many functions take, checked in one place: seeds, numbers and sizes."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping

import numpy as np

LARGEST_SEED = 2**63 - 1
LARGEST = 1e100  # of a number whose square, and what is divided by it, must be numbers too
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_THOUSANDS = " kmgt"  # powers of 1000, with an i behind them of 1024


def checked_seed(seed) -> int:
    """Check a seed of random numbers.

    Raises:
        ValueError: no integer, or a negative one.
    """
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed={seed!r} must be an integer from 0 to 2**63 - 1")
    return int(seed)


def is_number(value) -> bool:
    """Whether a value is a real number; True and False are none, though Python counts with them."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def whole_number(name: str, value, least: int = 1) -> int:
    """A number of things that are counted.

    Raises:
        ValueError: no whole number, or one that is less.
    """
    if not (is_number(value) and float(value).is_integer() and value >= least):
        raise ValueError(f"{name}={value!r:.60} must be a whole number, {least} or more")
    return int(value)


def bytes_of(size) -> int:
    """Bytes of a size as people write it: 8GB and 500MB count in thousands, 2GiB in 1024, plain numbers in bytes.

    Raises:
        ValueError: no size, or less than a byte.
    """
    written = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if written and not (written[3] and not written[2]):
        base = 1024 if written[3] else 1000
        count = int(float(written[1]) * base ** _THOUSANDS.index(written[2].lower() or " "))
    else:
        count = int(size) if is_number(size) and float(size).is_integer() else 0
    if count < 1:
        raise ValueError(f"memory={size!r:.60} must be a size in bytes, such as 8GB, 500MB, 2GiB, or a whole number")
    return count


def unwrapped(value):
    """A number, where it comes as an array without axes, of NumPy or JAX; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def require_positive(name: str, value, rest: str = "") -> None:
    """Refuse a number, or an array of numbers, that is not positive and finite; tracers, which have no values yet, pass.

    Raises:
        ValueError: naming the argument, and `rest` after it.
    """
    odd = isinstance(value, np.ndarray) and value.dtype.kind not in "fiu"
    if odd or isinstance(value, (bool, np.bool_, str, bytes, complex, np.complexfloating, Mapping)):
        raise ValueError(f"{name}={value!r} must be a positive number{rest}")
    if isinstance(value, (numbers.Real, np.ndarray)):
        array = np.asarray(value, dtype=np.float64)
        if not np.all((array >= 1.0 / LARGEST) & (array <= LARGEST)):
            raise ValueError(
                f"{name}={value} must be positive and finite{rest} (from {1.0 / LARGEST:g} to {LARGEST:g})"
            )
