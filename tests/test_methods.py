"""Methods by name: the electrons that they count are those of the program."""

import re
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import CalculationFailed

import mlff
from mlff.data.methods import METHODS, lowest_multiplicity, named_calculator, require_electrons


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].charged])
def test_electrons_are_counted_as_the_program_counts_them(method):
    """Of a lone atom of a multiplicity that it cannot have, either says how many there are."""
    pytest.importorskip("tblite")
    for z in METHODS[method].elements:
        numbers = np.array([z])
        wrong = lowest_multiplicity(numbers, 0) + 1
        with pytest.raises(ValueError, match="and so a multiplicity of") as ours:
            require_electrons(method, numbers, 0, wrong)
        atoms = Atoms(numbers=numbers, positions=[[0.0, 0.0, 0.0]])
        atoms.calc = named_calculator(method, multiplicity=wrong)
        with pytest.raises(CalculationFailed) as theirs:
            atoms.get_potential_energy()
        counted = int(re.search(r"electrons \((\d+)\) and", str(theirs.value))[1])
        assert int(re.search(r"has (\d+) valence", str(ours.value))[1]) == counted


@pytest.mark.parametrize("method", ["gfnff", "d3-pbe", "d4-b3lyp"])
def test_force_fields_and_dispersion_by_name(method, ethanol):
    """Forces are the slope of the energy, and answers do not depend on what was asked before."""
    pytest.importorskip(METHODS[method].package)
    reference = mlff.ForceField.of(mlff.Reference(method))
    x, numbers = ethanol[0].positions, ethanol[0].numbers
    energy, forces = reference.energy_and_forces(x, numbers=numbers)
    assert np.abs(forces).max() > 1e-3
    step = np.zeros_like(x)
    step[2, 1] = 1e-3
    slope = (
        reference.energy_and_forces(x + step, numbers=numbers)[0]
        - reference.energy_and_forces(x - step, numbers=numbers)[0]
    ) / 2e-3
    assert forces[2, 1] == pytest.approx(-slope, rel=1e-3, abs=1e-5)
    other = mlff.ForceField.of(mlff.Reference(method))
    other.energy_and_forces(ethanol[7].positions, numbers=numbers)
    assert other.energy_and_forces(x, numbers=numbers)[0] == pytest.approx(energy, abs=1e-9)


def test_bonds_of_gfnff_are_those_of_each_geometry(datasets):
    """A proton that is transferred is bound to another atom, whatever came before."""
    pytest.importorskip("gfnff")
    frames = mlff.Dataset.read(datasets / "malonaldehyde.extxyz", index="::40")[:12]
    forward, backward = named_calculator("gfnff"), named_calculator("gfnff")

    def energies(calculator, order):
        found = {}
        for i in order:
            atoms = frames[i].to_ase()
            atoms.calc = calculator
            found[i] = atoms.get_potential_energy()
        return [found[i] for i in range(len(frames))]

    ours, theirs = energies(forward, range(12)), energies(backward, range(11, -1, -1))
    assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("method", ["gfnff", "d3-pbe", "d4-pbe"])
def test_a_missing_package_is_named(method, monkeypatch):
    package = METHODS[method].package
    for name in (package, f"{package}.ase"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"{method}: .* needs {package}; pip install {package}"):
        named_calculator(method)
    with pytest.raises(ValueError, match="knows no charge"):
        mlff.Reference(method, charge=1)
