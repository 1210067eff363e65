"""Units: eV and Å inside; every conversion factor has a name, and its value comes from ASE."""

import re
from collections.abc import Sequence

import ase.units
import numpy as np
from ase.data import atomic_numbers as atomic_numbers
from ase.data import chemical_symbols, covalent_radii

KB = ase.units.kB  # eV/K
FEMTOSECOND = ase.units.fs  # in ASE's unit of time
INVERSE_CM = ase.units.invcm  # eV
TERAHERTZ = 1e12 * ase.units._hplanck / ase.units._e  # eV
HEAVIEST = len(chemical_symbols) - 1  # atomic number
GPA = ase.units.GPa  # eV/Å³
COVALENT_RADII = np.asarray(covalent_radii)  # Å, by atomic number

ENERGIES = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": ase.units.Hartree,
    "ha": ase.units.Hartree,
    "eh": ase.units.Hartree,
    "au": ase.units.Hartree,
    "rydberg": ase.units.Rydberg,
    "ry": ase.units.Rydberg,
    "kcal/mol": ase.units.kcal / ase.units.mol,
    "kj/mol": ase.units.kJ / ase.units.mol,
}
LENGTHS = {
    "å": 1.0, "ang": 1.0, "angstrom": 1.0, "a": 1.0, "bohr": ase.units.Bohr, "a0": ase.units.Bohr, "au": ase.units.Bohr,
    "nm": 10.0,
}  # fmt: skip
_ATOMIC = ("au", "atomic", "atomicunits")  # of energy and length
_NO_UNITS = ("float32", "float64")  # which lists of units name too


def parse_units(text: str) -> tuple[float, float]:
    """Factors to eV and Å of units written as energy, or energy/length: "kcal/mol", "hartree/bohr", "eV/Ang", "au".

    The length is that of the positions, and forces are energy per that length; without one it is Å. A list with commas
    states several quantities, "A, eV, eV/A, eV/A^2", which have to agree.

    Returns:
        (eV per energy unit, Å per length unit).
    Raises:
        ValueError: a name that is not known, with those that are, or quantities that do not agree.
    """
    if "MeV" in text:
        raise _unknown(text)  # a mega-electronvolt is no meV
    name = re.sub(r"\s+", "", text).lower().replace("kcalmol-1", "kcal/mol").replace("kjmol-1", "kj/mol")
    name = name.replace("a.u.", "au").replace("a.u", "au")
    if "," in name:
        return _listed(text, [part for part in name.split(",") if part not in _NO_UNITS])
    if name in _ATOMIC:
        return ENERGIES["au"], LENGTHS["au"]
    if name in ENERGIES:
        return ENERGIES[name], 1.0
    energy, _, length = re.sub(r"(\^|\*\*)?[23]$", "", name).rpartition("/")
    if energy in ENERGIES and length in LENGTHS:
        return ENERGIES[energy], LENGTHS[length]
    raise _unknown(text)


def _listed(text: str, parts: list[str]) -> tuple[float, float]:
    """Of quantities that name energies, lengths, or energies by lengths; one of each kind decides, the others agree."""
    energies = [ENERGIES[part] for part in parts if part in ENERGIES]
    lengths = [LENGTHS[part] for part in parts if part in LENGTHS and part not in ENERGIES]
    for part in parts:
        if part not in ENERGIES and part not in LENGTHS:
            energy, length = parse_units(part)
            energies, lengths = [*energies, energy], [*lengths, length]
    if len({*energies}) != 1 or len({*lengths}) != 1:
        raise ValueError(
            f"units={text!r} states {len({*energies})} units of energy and {len({*lengths})} of length, expected one of each; write "
            "for example 'eV, Ang'"
        )
    return energies[0], lengths[0]


def agreed_units(where: str, given: str | None, inside: str | None) -> tuple[float, float, str]:
    """Factors to eV and Å, and who stated them: the user, or the file.

    Raises:
        ValueError: beginning with `where`; neither states them, they are not known, or the two contradict each other.
    """
    if given is None and inside is None:
        raise ValueError(
            f"{where}: its units are not stated; say units='kcal/mol', 'eV' or 'hartree/bohr' (energy, or energy/length)"
        )
    if given is None:
        return *_parsed_at(where, inside), f"{inside} (as stated by the file)"
    factors = parse_units(given)
    try:
        stated = factors if inside is None else parse_units(inside)
    except ValueError:
        stated = factors  # what the user says is the remedy for words that are not known
    if not np.allclose(stated, factors, rtol=1e-4):
        raise ValueError(
            f"{where}: states units {inside!r}, and units={given!r} says otherwise; leave units= out, or correct the file"
        )
    return *factors, f"{given} (as stated by the user)"


def _parsed_at(where: str, text: str) -> tuple[float, float]:
    try:
        return parse_units(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _unknown(text: str) -> ValueError:
    return ValueError(
        f"units {text!r} are not known; write energy or energy/length with an energy of "
        f"{', '.join(ENERGIES)} and a length of {', '.join(LENGTHS)}, for example 'kcal/mol' or 'hartree/bohr'"
    )


def symbols(numbers: np.ndarray | Sequence) -> list[str]:
    """Chemical symbols of atomic numbers."""
    return [chemical_symbols[int(number)] for number in numbers]


def formula(numbers: np.ndarray) -> str:
    """Chemical formula of atomic numbers, in Hill order (C, H, then alphabetical)."""
    from ase.formula import Formula

    return Formula.from_list(symbols(numbers)).format("hill")
