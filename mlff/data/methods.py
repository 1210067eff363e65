"""Methods that are asked for labels by their names, which model files may hold: no name of a stranger's runs anything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


def _tblite(method: str) -> Callable[[int, int, float], Any]:
    def make(charge: int, multiplicity: int, accuracy: float):
        from tblite.ase import TBLite

        return TBLite(method=method, charge=charge, multiplicity=multiplicity, accuracy=accuracy, verbosity=0)

    return make


def _emt(charge: int, multiplicity: int, accuracy: float):
    from ase.calculators.emt import EMT

    return EMT()


@dataclasses.dataclass(frozen=True)
class Method:
    """A method that model files may name.

    Attributes:
        label: what it is, in a few words.
        make: (charge, multiplicity, accuracy) → one of ASE's calculators.
        package: what has to be installed for it.
        elements: atomic numbers that it knows.
        charged: whether it takes a charge and a multiplicity.
    """

    label: str
    make: Callable[[int, int, float], Any]
    package: str
    elements: tuple[int, ...]
    charged: bool = True


_TO_RADON = tuple(range(1, 87))
METHODS = {
    "gfn2": Method("GFN2-xTB", _tblite("GFN2-xTB"), "tblite", _TO_RADON),
    "gfn1": Method("GFN1-xTB", _tblite("GFN1-xTB"), "tblite", _TO_RADON),
    "emt": Method("effective medium theory", _emt, "ase", (1, 6, 7, 8, 13, 28, 29, 46, 47, 78, 79), charged=False),
}


def named_calculator(method: str, charge: int = 0, multiplicity: int = 1, accuracy: float = 1.0):
    """The calculator of a method that model files may name.

    Arguments:
        accuracy: a factor of the usual thresholds of methods that iterate.
    Raises:
        ValueError: no such method, a charge or multiplicity that it cannot have, or a package that is missing.
    """
    if method not in METHODS:
        raise ValueError(
            f"method {method!r:.60} is not known; choose from {', '.join(METHODS)}, or give one of ASE's calculators"
        )
    known = METHODS[method]
    for name, value, usual in (("charge", charge, 0), ("multiplicity", multiplicity, 1)):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, np.integer))
            or (name == "multiplicity" and value < 1)
        ):
            raise ValueError(
                f"{name}={value!r:.60} must be a whole number{', 1 or more' if name == 'multiplicity' else ''}"
            )
        if value != usual and not known.charged:
            raise ValueError(f"{name}={value}: {known.label} knows none; leave {name} out")
    try:
        return known.make(int(charge), int(multiplicity), accuracy)
    except ImportError as error:
        raise ValueError(f"{method}: {known.label} needs {known.package}; pip install {known.package}") from error
