"""Frame: one geometry with its labels, in eV and Å."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mlff.data.system import System

LABELS = (
    "energy", "forces", "stress", "hessian", "hessian_products", "hessian_product_vectors", "curvatures", "curvature_vectors",
)  # fmt: skip
CHARGE_KEYS = ("charge", "total_charge", "net_charge")  # in capitals too, and behind REF_
GROUP_KEYS, ISOLATED = ("config_type", "group"), "isolatedatom"
RESULTS = ("energy", "forces", "stress")  # that ASE's calculators have and its forms keep
INTEGRAL = 1e-3  # e; charges of atoms whose sum is as near to an integer state a total charge


@dataclasses.dataclass(frozen=True)
class Frame:
    """One geometry with its labels.

    Attributes:
        system: the geometry, Å.
        labels: by name, energy (eV), forces (n, 3) (eV/Å), stress (3, 3) (eV/Å³), hessian (3n, 3n) (eV/Å²), and what
            operators of second order and of your own take.
        atoms: what the frame was read from, for masses, constraints, charges, momenta and everything else that is no label;
            without calculator, and kept as it was, so that only the geometry is converted.
    """

    system: System
    labels: Mapping[str, np.ndarray | float]
    atoms: Atoms | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def positions(self) -> np.ndarray:
        return self.system.positions

    @property
    def numbers(self) -> np.ndarray:
        return self.system.numbers

    @property
    def cell(self) -> np.ndarray:
        return self.system.cell

    @property
    def group(self) -> str | None:
        """The configuration group that the frame says it is of, `config_type` or `group`; None where it says nothing."""
        said = {} if self.atoms is None else self.atoms.info
        return next((str(said[key]) for key in GROUP_KEYS if key in said), None)

    @property
    def is_isolated_atom(self) -> bool:
        """Whether it is there for the energy of a lone atom, as its group says."""
        return len(self.numbers) == 1 and (self.group or "").replace("_", "").lower() == ISOLATED

    @property
    def stated_charge(self) -> float | None:
        """Total charge that the frame states, e; None where nothing is stated. Raises as `stated_charge`."""
        return None if self.atoms is None else stated_charge(self.atoms)

    @property
    def charge(self) -> float:
        """Total charge, e; 0 where nothing is stated. Raises as `stated_charge`."""
        return self.stated_charge or 0.0

    def to_ase(self) -> Atoms:
        """Atoms with the labels under the keys that `Dataset.read` prefers, and with all that they were read with. Energy, forces
        and stress are there as a calculator's results too, as ASE's own forms (.traj) keep no other arrays."""
        atoms = self.system.to_ase()
        if self.atoms is not None and np.array_equal(self.atoms.numbers, self.numbers):
            atoms = self.atoms.copy()
            atoms.set_cell(self.cell)
            atoms.set_pbc(self.system.pbc)
            atoms.set_positions(self.positions, apply_constraint=False)
        for name, value in self.labels.items():
            if name == "forces":
                atoms.arrays["REF_forces"] = np.array(value)
            elif np.size(value):  # the extxyz form has no empty arrays
                atoms.info[f"REF_{name}"] = float(value) if np.ndim(value) == 0 else np.array(value)
        results = {name: np.array(self.labels[name]) for name in RESULTS if name in self.labels}
        if "stress" in results:
            results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def fingerprint(self) -> bytes:
        """The geometry as bytes: equal for equal positions, numbers and cells."""
        system = self.system
        return system.positions.tobytes() + system.numbers.astype(np.int32).tobytes() + system.cell.tobytes()


def is_charge(key: str) -> bool:
    """Whether a key is a name of the total charge."""
    return key.lower().removeprefix("ref_") in CHARGE_KEYS


def stated_charge(atoms: Atoms) -> float | None:
    """Total charge that `Atoms` state, e: `charge`, `total_charge` or `net_charge`, else the sum of the atoms' initial charges
    where these are not all zero and it is an integer; None where nothing is stated.

    Raises:
        ValueError: what is stated is no whole number, or several keys contradict each other.
    """
    stated = {}
    for key in filter(is_charge, atoms.info):
        try:
            stated[key] = float(atoms.info[key])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key} is no number ({atoms.info[key]!r:.40}); mend it, or rename it") from error
        if not abs(stated[key] - np.round(stated[key])) <= INTEGRAL:
            raise ValueError(f"{key} is {stated[key]:g}, no whole number of elementary charges; mend it, or rename it")
        stated[key] = float(np.round(stated[key]))
    if len(set(stated.values())) > 1:
        said = ", ".join(f"{key} {value:+g}" for key, value in stated.items())
        raise ValueError(f"its total charges contradict each other ({said}); keep the one that is right")
    if stated:
        return next(iter(stated.values()))
    charges = atoms.get_initial_charges()
    total = float(charges.sum())
    return float(round(total)) if charges.any() and abs(total - round(total)) <= INTEGRAL else None


def joined(one: Atoms | None, other: Atoms | None) -> Atoms | None:
    """What two readings of one geometry say besides labels: all of the first, and of the second what the first does not say."""
    if one is None or other is None:
        return other if one is None else one
    whole = one.copy()
    whole.info = {**other.info, **whole.info}
    for name in set(other.arrays) - set(whole.arrays):
        whole.set_array(name, other.arrays[name])
    if not whole.constraints:
        whole.set_constraint([constraint.copy() for constraint in other.constraints])
    return whole
