"""The force field as an ASE calculator."""

from __future__ import annotations

import pathlib
from typing import ClassVar

import numpy as np
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mlff.archive import load
from mlff.force_field import ForceField
from mlff.metrics import require_same_atoms

_GEOMETRY = frozenset({"positions", "numbers", "cell", "pbc"})


class Calculator(ASECalculator):
    """ASE calculator: `atoms.calc = mlff.Calculator(mlff.load("ethanol.mlff"))`.

    Results: `energy` and `free_energy` (eV, Python floats), `forces` (eV/Å, float64), `stress` (eV/Å³, Voigt order
    xx yy zz yz xz xy, tension positive) where the descriptor takes a cell, and `hessian` (eV/Å², shape (3n, 3n))
    after `get_hessian`.

    Arguments:
        force_field: a `ForceField`, or the path of a model file.
    Raises:
        ValueError: on calculation, atoms that differ from the force field's in number, kind or order.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "hessian"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(self, force_field: ForceField | str | pathlib.Path, **kwargs):
        super().__init__(**kwargs)
        self.force_field = force_field if isinstance(force_field, ForceField) else load(force_field)
        self._periodic = "cell" in self.force_field.kernel.descriptor.uses
        if self._periodic:
            self.implemented_properties = [*self.implemented_properties, "stress"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        if system_changes:
            self.results = {}
        atoms, cell = self.atoms, None
        if not _GEOMETRY.isdisjoint(system_changes) or not self.results:
            require_same_atoms(self.force_field, atoms.numbers, "atoms")
        if self._periodic:
            cell = atoms.cell.array
        elif atoms.pbc.any():
            raise ValueError(
                f"atoms: periodic, but the descriptor {self.force_field.kernel.descriptor.name} takes no cell; "
                "set atoms.pbc = False for an isolated molecule"
            )
        if "energy" not in self.results:
            energy, forces = self.force_field.energy_and_forces(atoms.positions, cell)
            self.results.update(energy=energy, free_energy=energy, forces=forces)
        if "stress" in properties:
            self.results["stress"] = full_3x3_to_voigt_6_stress(self.force_field.stress(atoms.positions, cell))
        if "hessian" in properties:
            self.results["hessian"] = self.force_field.hessian(atoms.positions, cell)

    def get_hessian(self, atoms=None) -> np.ndarray:
        """Hessian of the energy, eV/Å², shape (3n, 3n), row = 3·atom + xyz."""
        return self.get_property("hessian", atoms)
