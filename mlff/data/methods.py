"""Methods that are asked for labels by their names, which model files may hold: no name of a stranger's runs anything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mlff.threads import few_threads
from mlff.units import formula

MOST_ADDED = 2  # electrons an atom


def _tblite(method: str) -> Callable[[int, int, float], Any]:
    def make(charge: int, multiplicity: int, accuracy: float):
        from tblite.ase import TBLite

        return TBLite(method=method, charge=charge, multiplicity=multiplicity, accuracy=accuracy, verbosity=0)

    return make


def _dispersion(package: str, functional: str) -> Callable[[int, int, float], Any]:
    def make(charge: int, multiplicity: int, accuracy: float):
        if package == "dftd3":
            from dftd3.ase import DFTD3

            return DFTD3(method=functional, damping="d3bj")
        from dftd4.ase import DFTD4

        return DFTD4(method=functional)

    return make


class _EachAlone(Calculator):
    """A calculator made anew for each geometry: one that takes bonds from the first would answer by what it was asked before."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, make: Callable[[], BaseCalculator]):
        super().__init__()
        self._make = make

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        inner = self._make()
        inner.calculate(self.atoms, list(self.implemented_properties), all_changes)
        self.results = {name: inner.results[name] for name in self.implemented_properties}


class Together(Calculator):
    """The sum of calculators: of what all of them have, the energies those whose gradients the forces are."""

    def __init__(self, parts: Sequence[BaseCalculator]):
        super().__init__()
        self._parts = parts
        stressed = all("stress" in part.implemented_properties for part in parts)
        self.implemented_properties = ["energy", "free_energy", "forces", *(["stress"] if stressed else [])]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        found = []
        for part in self._parts:
            asked = self.atoms.copy()
            asked.calc = part
            found.append(_asked(asked))
        shared = set.intersection(*map(set, found))
        self.results = {name: sum(each[name] for each in found) for name in shared}
        self.results["free_energy"] = self.results["energy"]
        if "stress" in shared:
            self.results["stress"] = full_3x3_to_voigt_6_stress(self.results["stress"])


def _gfnff(charge: int, multiplicity: int, accuracy: float):
    from gfnff import GFNFF

    return _EachAlone(GFNFF)


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
        neutral: whether it is for neutral atoms alone; others that take no charge, as dispersion, do not depend on it.
    """

    label: str
    make: Callable[[int, int, float], Any]
    package: str
    elements: tuple[int, ...]
    charged: bool = True
    neutral: bool = False


_TO_RADON = tuple(range(1, 87))
_FUNCTIONALS = ("pbe", "pbe0", "b3lyp", "r2scan")  # of which there are corrections by name
METHODS = {
    "gfn2": Method("GFN2-xTB", _tblite("GFN2-xTB"), "tblite", _TO_RADON),
    "gfn1": Method("GFN1-xTB", _tblite("GFN1-xTB"), "tblite", _TO_RADON),
    "emt": Method("effective medium theory", _emt, "ase", (1, 6, 7, 8, 13, 28, 29, 46, 47, 78, 79), charged=False),
    # bonds are found in each geometry: where one is broken, energies jump
    "gfnff": Method("GFN-FF of neutral molecules", _gfnff, "gfnff", _TO_RADON, charged=False, neutral=True),
    **{
        f"d{version}-{functional}": Method(
            f"D{version} dispersion for {functional.upper()}", _dispersion(f"dftd{version}", functional), f"dftd{version}", _TO_RADON, False
        )
        for version in (3, 4)
        for functional in _FUNCTIONALS
    },
}  # fmt: skip


def require_method(method: str, charge=0, multiplicity=1) -> None:
    """Refuse what is no method that model files may name, and a charge or multiplicity that none can have.

    Raises:
        ValueError: naming it.
    """
    if method not in METHODS:
        raise ValueError(
            f"method {method!r:.60} is not known; choose from {', '.join(METHODS)}, or give one of ASE's calculators"
        )
    for name, value, least in (("charge", charge, -np.inf), ("multiplicity", multiplicity, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}={value!r:.60} must be a whole number{', 1 or more' if least == 1 else ''}")
    if not METHODS[method].charged and (charge, multiplicity) != (0, 1):
        raise ValueError(f"{METHODS[method].label} knows no charge ({charge:+d}) and no multiplicity ({multiplicity})")


def named_calculator(method: str, charge: int = 0, multiplicity: int = 1, accuracy: float = 1.0):
    """The calculator of a method that model files may name.

    Arguments:
        accuracy: a factor of the usual thresholds of methods that iterate.
    Raises:
        ValueError: no such method, a charge or multiplicity that it cannot have, or a package that is missing.
    """
    require_method(method, charge, multiplicity)
    known = METHODS[method]
    try:
        return known.make(int(charge), int(multiplicity), accuracy)
    except ImportError as error:
        raise ValueError(f"{method}: {known.label} needs {known.package}; pip install {known.package}") from error


def require_calculator(calculator, otherwise: str = "") -> None:
    """Refuse what is none of ASE's calculators.

    Arguments:
        otherwise: what else would do, for the message.
    Raises:
        ValueError: naming what it is.
    """
    if not isinstance(calculator, BaseCalculator):
        shown = f"the class {calculator.__name__}" if isinstance(calculator, type) else f"a {type(calculator).__name__}"
        raise ValueError(f"calculator: expected one of ASE's calculators{otherwise}, received {shown}")


def said(error: Exception) -> str:
    """An error of anybody's program, in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def calculated(atoms: Atoms) -> dict[str, Any]:
    """Energy, forces and, of crystals, stress where there is one, by the calculator of some atoms.

    The energy is the one whose gradient the forces are, where a calculator tells them apart; constraints change nothing.
    """
    with few_threads(len(atoms)):
        return _asked(atoms)


def _asked(atoms: Atoms) -> dict[str, Any]:
    """As `calculated`, with the threads that there are."""
    known = getattr(atoms.calc, "implemented_properties", ())
    labels = {
        "energy": float(atoms.get_potential_energy(force_consistent="free_energy" in known)),
        "forces": np.array(atoms.get_forces(apply_constraint=False), dtype=np.float64),
    }
    if atoms.pbc.all() and "stress" in known:
        labels["stress"] = atoms.get_stress(voigt=False, apply_constraint=False)
    return labels


def require_electrons(method: str, numbers, charge: int, multiplicity: int) -> None:
    """Refuse a charge and multiplicity that some atoms cannot have: a program may die of it without a word.

    Raises:
        ValueError: how many electrons there are, and what would fit.
    """
    if not METHODS[method].charged:
        return
    electrons = sum(_valence(int(z)) for z in numbers) - charge
    what = f"{METHODS[method].label}: {formula(numbers)} of charge {charge:+d}"
    if not electrons > 0 or charge < -MOST_ADDED * len(numbers):
        raise ValueError(f"{what} has {electrons} valence electrons, which it cannot; state another charge")
    if electrons % 2 == multiplicity % 2 or multiplicity - 1 > electrons:
        fits = "1, 3, …" if electrons % 2 == 0 else "2, 4, …"
        raise ValueError(
            f"{what} has {electrons} valence electrons, and so a multiplicity of {fits}, not {multiplicity}; state it"
        )


def lowest_multiplicity(numbers, charge: int) -> int:
    """That of all electrons paired, or all but one."""
    return 1 + (sum(_valence(int(z)) for z in numbers) - charge) % 2


def _valence(z: int) -> int:
    """Electrons of an atom outside of its noble gas and of full d and f shells below, as GFN1- and GFN2-xTB count them."""
    core = max(noble for noble in (0, 2, 10, 18, 36, 54) if noble < z)
    outside = z - core
    if core in (18, 36):
        return outside - 10 if outside >= 12 else outside
    if core == 54:  # lanthanides have three
        return outside - 24 if outside >= 26 else outside - 14 if outside >= 18 else min(outside, 3)
    return outside
