"""Thermochemistry against tables and closed formulas: symmetry numbers, water, springs."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixAtoms
from surfaces import Springs

import mlff
from mlff.properties.thermochemistry import _spin, rotations_onto_itself
from mlff.units import INVERSE_CM


@pytest.fixture
def relaxed(water, water_model):
    atoms = Atoms("OH2", water[0].positions)
    atoms.calc = mlff.Calculator(water_model)
    mlff.relax(atoms)
    return atoms


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("H2O", 2), ("NH3", 3), ("CH4", 12), ("C6H6", 12), ("C2H6", 6), ("C2H4", 4), ("CH3CH2OH", 1), ("CO2", 2),
        ("CO", 1), ("N2", 2), ("HCN", 1), ("C2H2", 2), ("CH3OH", 1), ("CH3Cl", 3), ("BF3", 6), ("C60", 60), ("O", 1),
    ],
)  # fmt: skip
def test_symmetry_numbers_of_the_tables(name, number, rng):
    atoms = molecule(name)
    atoms.rotate(200 * rng.uniform(), rng.normal(size=3))
    atoms.rattle(0.002, rng=rng)
    atoms = atoms[rng.permutation(len(atoms))]
    assert rotations_onto_itself(atoms) == number


def test_octahedron_and_isotopes():
    axes = 1.5 * np.concatenate([np.eye(3), -np.eye(3)])
    octahedron = Atoms("SF6", np.concatenate([np.zeros((1, 3)), axes]))
    assert rotations_onto_itself(octahedron) == 24
    water = molecule("H2O")
    water.set_masses([16.0, 1.0, 2.0])
    assert rotations_onto_itself(water) == 1


def test_water(relaxed):
    """The standard entropy of water vapour is 188.84 J/mol/K (CODATA key values, Cox, Wagman, Medvedev 1989)."""
    gas = mlff.ideal_gas(relaxed)
    entropy = gas.get_entropy(298.15, 1e5, verbose=False) / (units.J / units.mol)
    assert entropy == pytest.approx(188.84, abs=0.5)
    assert gas.get_ZPE_correction() == pytest.approx(mlff.frequencies(relaxed).sum() * INVERSE_CM / 2)
    assert (gas.sigma, gas.spin, gas.geometry) == (2, 0.0, "nonlinear")
    once = mlff.ideal_gas(relaxed, symmetry_number=1, spin=1.0)
    more = once.get_entropy(298.15, 1e5, verbose=False) - gas.get_entropy(298.15, 1e5, verbose=False)
    assert more == pytest.approx(units.kB * np.log(2 * 3))


def test_linear_and_monatomic():
    """Nitrogen from a spring; helium: the Sackur–Tetrode entropies that the tables have, J/mol/K."""
    spring = 140.0 * np.kron([[1, -1], [-1, 1]], np.diag([0, 0, 1.0]))
    nitrogen = Atoms("N2", [[0, 0, 0], [0, 0, 1.0977]])
    nitrogen.calc = Springs(nitrogen.positions, spring)
    gas = mlff.ideal_gas(nitrogen)
    assert (gas.geometry, gas.sigma) == ("linear", 2)
    assert gas.get_entropy(298.15, 1e5, verbose=False) / (units.J / units.mol) == pytest.approx(191.61, abs=0.3)
    helium = Atoms("He", [[0, 0, 0]])
    helium.calc = Springs(helium.positions, np.zeros((3, 3)))
    gas = mlff.ideal_gas(helium)
    assert gas.get_entropy(298.15, 1e5, verbose=False) / (units.J / units.mol) == pytest.approx(126.15, abs=0.05)


def test_an_odd_electron_has_spin():
    spring = 90.0 * np.kron([[1, -1], [-1, 1]], np.diag([0, 0, 1.0]))
    radical = Atoms("NO", [[0, 0, 0], [0, 0, 1.15]])
    radical.calc = Springs(radical.positions, spring)
    assert mlff.ideal_gas(radical).spin == 0.5


def test_saddles_and_slopes_are_refused_unless_told(water):
    hessian = np.diag([30.0, 30, 30, 30, 30, 30, 30, 30, 30])
    atoms = molecule("H2O")
    bend = np.zeros(9)
    bend[[4, 7]] = 1 / np.sqrt(2), -1 / np.sqrt(2)
    atoms.calc = Springs(atoms.positions, hessian - 60.0 * np.outer(bend, bend))
    assert mlff.frequencies(atoms)[0] < 0 < mlff.frequencies(atoms)[1]
    with pytest.raises(ValueError, match="has 1 imaginary frequencies here where imaginary=0"):
        mlff.ideal_gas(atoms)
    saddle = mlff.ideal_gas(atoms, imaginary=1)
    assert saddle.get_ZPE_correction() == pytest.approx(mlff.frequencies(atoms)[1:].sum() * INVERSE_CM / 2)
    with pytest.raises(ValueError, match="has 1 imaginary"):
        mlff.harmonic(atoms)
    assert len(mlff.harmonic(atoms, imaginary=1).modes) == 2
    atoms.calc = Springs(atoms.positions, hessian)
    with pytest.raises(ValueError, match="0 imaginary frequencies here where imaginary=1"):
        mlff.ideal_gas(atoms, imaginary=1)
    atoms.positions[0, 2] += 0.1
    atoms.positions[1, 2] -= 0.1
    with pytest.raises(ValueError, match="not at a stationary point"):
        mlff.ideal_gas(atoms)


def test_an_adsorbate_vibrates_among_fixed_atoms():
    """One atom on springs beside a fixed one: three oscillators, Helmholtz energy in closed form."""
    stiffness, mass, temperature = np.array([2.0, 5.0, 9.0]), 15.999, 300.0
    atoms = Atoms("CuO", [[0, 0, 0], [0, 0, 1.8]], cell=[6, 6, 20], pbc=[True, True, False])
    atoms.set_masses([63.5, mass])
    hessian = np.zeros((6, 6))
    hessian[3:, 3:] = np.diag(stiffness)
    atoms.calc = Springs(atoms.positions, hessian)
    with pytest.raises(ValueError, match="none is fixed"):
        mlff.harmonic(atoms)
    atoms.set_constraint(FixAtoms([0]))
    quanta = units._hbar * np.sqrt(stiffness / mass * units._e / units._amu) * 1e10 / units._e
    expected = np.sum(quanta / 2 + units.kB * temperature * np.log(1 - np.exp(-quanta / (units.kB * temperature))))
    assert mlff.harmonic(atoms).get_helmholtz_energy(temperature, verbose=False) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="periodic, and no ideal gas"):
        mlff.ideal_gas(atoms)
    atoms.pbc = False
    with pytest.raises(ValueError, match="fixed atoms"):
        mlff.ideal_gas(atoms)


def test_spins_and_symmetry_numbers_that_none_can_be(relaxed):
    for spin in (0.5, 0.3, -1.0, float("nan")):
        with pytest.raises(ValueError, match="H2O with 10 electrons can have 0, 1, 2"):
            mlff.ideal_gas(relaxed, spin=spin)
    ion = relaxed.copy()
    ion.info["charge"] = 1
    assert _spin(ion, None) == 0.5
    for number in (0, -1):
        with pytest.raises(ValueError, match=r"symmetry_number=.* must be a positive integer"):
            mlff.ideal_gas(relaxed, symmetry_number=number)
    with pytest.raises(ValueError, match="imaginary=-1 must be how many"):
        mlff.ideal_gas(relaxed, imaginary=-1)


def test_a_lone_atom_has_no_vibrations():
    with pytest.raises(ValueError, match="He has no vibrations here"):
        mlff.harmonic(Atoms("He"))
