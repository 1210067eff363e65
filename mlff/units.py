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
COVALENT_RADII = np.asarray(covalent_radii)  # Å, by atomic number

ENERGIES = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": ase.units.Hartree,
    "ha": ase.units.Hartree,
    "eh": ase.units.Hartree,
    "rydberg": ase.units.Rydberg,
    "ry": ase.units.Rydberg,
    "kcal/mol": ase.units.kcal / ase.units.mol,
    "kj/mol": ase.units.kJ / ase.units.mol,
}
LENGTHS = {"å": 1.0, "ang": 1.0, "angstrom": 1.0, "a": 1.0, "bohr": ase.units.Bohr, "nm": 10.0}


def parse_units(text: str) -> tuple[float, float]:
    """Factors to eV and Å of units written as energy, or energy/length: "kcal/mol", "hartree/bohr", "eV/Ang".

    The length is that of the positions, and forces are energy per that length; without one it is Å.

    Returns:
        (eV per energy unit, Å per length unit).
    Raises:
        ValueError: a name that is not known; the message lists those that are.
    """
    name = re.sub(r"\s+", "", text).lower().replace("kcalmol-1", "kcal/mol").replace("kjmol-1", "kj/mol")
    if name in ENERGIES:
        return ENERGIES[name], 1.0
    energy, _, length = name.rpartition("/")
    if energy in ENERGIES and length in LENGTHS:
        return ENERGIES[energy], LENGTHS[length]
    raise ValueError(
        f"units={text!r} is not known; write energy or energy/length with an energy of "
        f"{', '.join(ENERGIES)} and a length of {', '.join(LENGTHS)}, for example 'kcal/mol' or 'hartree/bohr'"
    )


def symbols(numbers: np.ndarray | Sequence) -> list[str]:
    """Chemical symbols of atomic numbers."""
    return [chemical_symbols[int(number)] for number in numbers]


def formula(numbers: np.ndarray) -> str:
    """Chemical formula of atomic numbers, in Hill order (C, H, then alphabetical)."""
    from ase.formula import Formula

    return Formula.from_list(symbols(numbers)).format("hill")
