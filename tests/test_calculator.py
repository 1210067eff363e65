"""The ASE calculator: results as ASE wants them, nothing stale, wrong atoms refused."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from alloys import alloy_frames
from ase import Atoms
from ase.calculators.fd import calculate_numerical_forces
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from moments import moments

import mlff
from mlff.data.neighbors import closest_pairs
from mlff.dynamics import calculator


@pytest.fixture
def atoms(water, water_model):
    atoms = Atoms("OH2", water[70].positions)
    atoms.calc = mlff.Calculator(water_model)
    return atoms


def test_results(atoms, water_model):
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert type(energy) is float
    assert type(atoms.calc.results["free_energy"]) is float
    assert forces.dtype == np.float64
    assert energy == water_model.energy_and_forces(atoms.positions)[0]
    np.testing.assert_array_equal(forces, water_model.forces(atoms.positions))
    SinglePointCalculator(atoms, **atoms.calc.results)


def test_forces_against_ases_own_differences(atoms):
    forces = atoms.get_forces()
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-5)


def test_nothing_is_stale_and_nothing_is_computed_twice(atoms, monkeypatch):
    calls = []
    original = mlff.ForceField.energy_and_forces
    monkeypatch.setattr(mlff.ForceField, "energy_and_forces", lambda *a, **k: calls.append(1) or original(*a, **k))
    first = atoms.get_potential_energy()
    hessian = atoms.calc.get_hessian(atoms)
    atoms.get_forces(), atoms.get_potential_energy()
    assert len(calls) == 1
    assert atoms.calc.get_hessian(atoms) is not None
    atoms.positions[0, 0] += 0.05
    assert atoms.get_potential_energy() != first
    assert not np.allclose(atoms.calc.get_hessian(atoms), hessian)
    atoms.set_initial_charges([0.1, 0, 0])
    atoms.get_forces()
    assert len(calls) == 2


def test_another_charge_of_atoms_that_have_not_moved(atoms):
    """ASE looks for changes in arrays and cell alone."""
    energy = atoms.get_potential_energy()
    for state, back in (
        (lambda: atoms.info.update(charge=1), lambda: atoms.info.pop("charge")),
        (lambda: atoms.set_initial_charges([1, 0, 0]), lambda: atoms.set_initial_charges(None)),
        (lambda: atoms.info.update(total_charge="much"), lambda: atoms.info.pop("total_charge")),
    ):
        state()
        for _ in range(2):
            with pytest.raises(ValueError, match="charge"):
                atoms.get_potential_energy()
        back()
        assert atoms.get_potential_energy() == energy


def test_hessian(atoms, water_model):
    hessian = atoms.calc.get_hessian(atoms)
    assert hessian.shape == (9, 9)
    np.testing.assert_array_equal(hessian, water_model.hessian(atoms.positions))


def test_relaxes(atoms):
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=100)


@pytest.mark.parametrize("symbols", ["OH3", "HOH", "SH2", "OHH2"])
def test_other_atoms_are_refused(water_model, symbols, rng):
    atoms = Atoms(symbols, rng.uniform(0, 3, (len(Atoms(symbols)), 3)))
    atoms.calc = mlff.Calculator(water_model)
    with pytest.raises(ValueError, match="the force field is for OHH, in this order of atoms"):
        atoms.get_forces()


def test_periodic_atoms_are_refused(atoms):
    atoms.cell, atoms.pbc = [10, 10, 10], True
    with pytest.raises(ValueError, match="takes no cell"):
        atoms.get_forces()


def test_no_stress_of_a_molecule(atoms):
    from ase.calculators.calculator import PropertyNotImplementedError

    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_from_a_file(tmp_path, water_model, atoms):
    water_model.save(tmp_path / "w.mlff")
    energy = atoms.get_potential_energy()
    atoms.calc = mlff.Calculator(tmp_path / "w.mlff")
    assert atoms.get_potential_energy() == energy


def test_atoms_closer_than_any_in_the_data_are_named_once(water_model, water, caplog):
    atoms = water[0].to_ase()
    atoms.calc = mlff.Calculator(water_model)
    with caplog.at_level("WARNING"):
        atoms.get_potential_energy()
        assert not caplog.text
        for _ in range(2):
            atoms.positions[1] += 0.2 * (atoms.positions[0] - atoms.positions[1])
            atoms.get_potential_energy()
    assert caplog.text.count("atoms H-O are") == 1
    assert "in the training frames the closest are 0." in caplog.text


def test_atoms_of_a_cell_are_looked_at_again_before_they_can_be_too_close(caplog, monkeypatch):
    """In small steps a warning comes at the same step as from a calculator that never saw the atoms; most steps need no look."""
    data = mlff.Dataset(alloy_frames(4, rare=False), "alloy")
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
    force_field = mlff.fit(kernel, data, ("energy", "forces"), {"energy": 1e-2, "forces": 3e-2})
    looks = []
    monkeypatch.setattr(calculator, "closest_pairs", lambda *a: looks.append(1) or closest_pairs(*a))
    atoms, towards = data[0].to_ase(), 0.02 * np.array([0.0, 1.0, 1.0]) / 2**0.5
    ours = mlff.Calculator(force_field)

    def warns(calculator, atoms) -> bool:
        caplog.clear()
        with caplog.at_level("WARNING"):
            calculator.calculate(atoms)
        return "apart" in caplog.text

    steps = [warns(ours, atoms)]
    while not steps[-1] and len(steps) < 100:
        atoms.positions[0] += towards
        steps.append(warns(ours, atoms))
        taken = len(looks)
        assert steps[-1] == warns(mlff.Calculator(force_field), atoms)
        del looks[taken:]
    assert 10 < len(steps) < 100
    assert len(looks) < len(steps) / 2
    atoms.set_cell(0.8 * atoms.cell.array)  # atoms that stay, in a cell that moves its images closer
    assert warns(ours, atoms)


def test_a_local_force_field_takes_atoms_in_any_order(water):
    import functools

    from descriptors import fchl19

    kernel = mlff.LocalKernel(functools.partial(fchl19, radial2=4, radial3=3), mlff.RBF(lengthscale=2.0))
    force_field = mlff.fit(kernel, water[:10], labels=("energy", "forces"), noise={"energy": 1e-3, "forces": 1e-3})
    atoms = water[20].to_ase()
    atoms.calc = mlff.Calculator(force_field)
    turned = atoms[[2, 0, 1]]
    turned.calc = mlff.Calculator(force_field)
    assert turned.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
    np.testing.assert_allclose(turned.get_forces(), atoms.get_forces()[[2, 0, 1]], atol=1e-7)
    turned.numbers[0] = 16
    with pytest.raises(ValueError, match="the force field knows H, O, not S"):
        turned.get_potential_energy()


def test_one_calculator_serves_many_threads(water, water_model):
    """Every thread gets the energy and forces of its own atoms."""
    calculator = mlff.Calculator(water_model)
    expected = [water_model.energy_and_forces(frame.positions) for frame in water[:16]]

    def work(k: int) -> bool:
        atoms = Atoms("OH2", calculator=calculator)
        right = True
        for _ in range(30):
            k = (k + 1) % 16
            atoms.positions = water[k].positions
            right &= atoms.get_potential_energy() == expected[k][0]
            right &= atoms.get_potential_energy(force_consistent=True) == expected[k][0]
            right &= bool((atoms.get_forces() == expected[k][1]).all())
        return right

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_copies_and_pickles(atoms):
    energy = atoms.get_potential_energy()
    for twin in (copy.deepcopy(atoms.calc), pickle.loads(pickle.dumps(atoms.calc))):
        atoms.calc = twin
        assert atoms.get_potential_energy() == energy
