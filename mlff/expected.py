"""What values from a file may be: data of the right kind, finite and in range, named where they are not."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

LARGEST = 1e300
LAST_ELEMENT = 118
LONGEST = 2**63 - 1  # an integer that arrays can hold


@dataclasses.dataclass(frozen=True)
class Expected:
    """A kind of value: in words, and as a test; of an array also the names of its axes, of one length where names are equal."""

    text: str
    holds: Callable[[Any], bool]
    axes: tuple[str, ...] = ()


def _is_number(value) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= (LONGEST if isinstance(value, int) else LARGEST)  # which NaN is not


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LONGEST


def _is_date(value) -> bool:
    try:
        return bool(datetime.datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


def _is_datum(value) -> bool:
    """Whether numbers are finite; a function or an object was checked when it was found or made."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and bool(np.isfinite(value).all())
    if isinstance(value, (tuple, Mapping)):
        return all(map(_is_datum, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, bool) or not isinstance(value, (int, float)) or _is_number(value)


DATE = Expected("a date", _is_date)
FLAG = Expected("true or false", lambda value: isinstance(value, bool))
TEXT = Expected("text", lambda value: isinstance(value, str))
NUMBER = Expected("a finite number", _is_number)
POSITIVE = Expected("a positive, finite number", lambda value: _is_number(value) and value > 0)
LEVEL = Expected("a finite number that is not negative", lambda value: _is_number(value) and value >= 0)
WHOLE = Expected("a whole number that is not negative", _is_whole)
COUNT = Expected("a positive whole number", lambda value: _is_whole(value) and value > 0)
ELEMENT = Expected("an atomic number", lambda value: _is_whole(value) and 0 < value <= LAST_ELEMENT)


DATUM = Expected("data: finite numbers, text, arrays of numbers, or tuples and mappings of them", _is_datum)


def optional(kind: Expected) -> Expected:
    """A kind of value, or None in its place."""
    return Expected(f"{kind.text}, or nothing", lambda value: value is None or kind.holds(value), kind.axes)


def several(kind: Expected, count: int | None = None, least: int = 0) -> Expected:
    """A row of values of a kind: as many as `count`, or at least so many."""
    length = f"{least} or more" if count is None else str(count)

    def holds(value) -> bool:
        is_row = isinstance(value, (list, tuple)) and count in (None, len(value)) and len(value) >= least
        return is_row and all(map(kind.holds, value))

    return Expected(f"a list of {length}, each {kind.text}", holds)


def named(kind: Expected) -> Expected:
    """Values of a kind by name."""
    return Expected(
        f"by name {kind.text}", lambda value: isinstance(value, Mapping) and all(map(kind.holds, value.values()))
    )


def instance(*classes: type) -> Expected:
    """An object of one of some classes, or of one derived from them."""
    return Expected(" or ".join(cls.__name__ for cls in classes), lambda value: isinstance(value, classes))


def one_of(*kinds: Expected) -> Expected:
    """A value of any of some kinds."""
    return Expected(" or ".join(kind.text for kind in kinds), lambda value: any(kind.holds(value) for kind in kinds))


def array(kind: str, holds: Callable[[np.ndarray], bool], axes: str) -> Expected:
    """An array that fulfils something, its axes named as in "K D"."""
    names = tuple(axes.split())
    return Expected(
        f"a {kind} array ({', '.join(names)})",
        lambda value: isinstance(value, np.ndarray) and value.ndim == len(names) and holds(value),
        names,
    )


def reals(axes: str) -> Expected:
    """A finite array of real numbers in double precision, its axes named as in "K D"."""
    return array("finite float64", lambda value: value.dtype == np.float64 and bool(np.isfinite(value).all()), axes)


def wholes(axes: str) -> Expected:
    """An array of integers, its axes named as in "K D"."""
    return array("integer", lambda value: value.dtype.kind in "iu", axes)


def require(where: str, values: Mapping[str, Any], kinds: Mapping[str, Expected], may_lack: Iterable[str] = ()) -> None:
    """Refuse values that lack a name, or of which one is no such value as expected; names that are not known are let pass.

    Raises:
        ValueError: where, what was expected and what is there.
    """
    lengths: dict[str, int] = {}
    for name, kind in kinds.items():
        if name not in values and name in may_lack:
            continue
        if name not in values:
            raise ValueError(f"{where} has no {name}, expected {kind.text}")
        value = values[name]
        if not kind.holds(value):
            raise ValueError(f"{where}.{name} is {_shown(value)}, expected {kind.text}")
        for axis, length in zip(kind.axes, getattr(value, "shape", ())):  # noqa: B905 no shape where there is nothing
            if lengths.setdefault(axis, int(axis) if axis.isdigit() else length) != length:
                raise ValueError(
                    f"{where}.{name} is {_shown(value)}, expected {kind.text} with {axis} = {lengths[axis]}"
                )


def require_known(where: str, values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse names that are not known.

    Raises:
        ValueError: naming the first.
    """
    if unknown := sorted(set(values) - set(names)):
        raise ValueError(f"{where} has {unknown[0]!r:.60}, which is not known")


def _shown(value) -> str:
    if isinstance(value, np.ndarray):
        finite = value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
        return f"an array of shape {value.shape} of {value.dtype}" + ("" if finite else ", not all finite")
    return " ".join(repr(value).split())[:60]
