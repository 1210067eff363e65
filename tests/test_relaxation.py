"""Newton relaxation: where it ends, against BFGS; that it goes downhill; that it does not stop at saddles."""

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixBondLength
from ase.optimize import BFGS
from surfaces import DoubleWell, Springs

import mlff
from descriptors import inverse_distances
from mlff.properties.relaxation import internal_directions, trust_region_step


def molecule(data, force_field, frame):
    atoms = Atoms(data[frame].numbers, data[frame].positions)
    atoms.calc = mlff.Calculator(force_field)
    return atoms


def test_relaxes_where_bfgs_does(ethanol, ethanol_model):
    """From a frame at 500 K to 1e-8 eV/Å, in fewer evaluations than BFGS needs for 1e-4."""
    atoms = molecule(ethanol, ethanol_model, 17)
    other = atoms.copy()
    other.calc = mlff.Calculator(ethanol_model)
    before = atoms.get_potential_energy()
    done = mlff.relax(atoms)
    assert np.abs(atoms.get_forces()).max() < 1e-8
    assert done.largest_force < 1e-8
    assert done.lowest_curvature > 0
    assert done.evaluations <= 30
    assert atoms.get_potential_energy() < before - 0.1
    optimizer = BFGS(other, logfile=None)
    optimizer.run(fmax=1e-4, steps=1000)
    assert optimizer.nsteps > 2 * done.evaluations
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(atoms.get_all_distances(), other.get_all_distances(), atol=2e-3)


def test_all_frames_go_downhill(ethanol, ethanol_model):
    """Whatever frame it starts from: a minimum, below the start."""
    for frame in range(20, 30):
        atoms = molecule(ethanol, ethanol_model, frame)
        before = atoms.get_potential_energy()
        done = mlff.relax(atoms)
        assert atoms.get_potential_energy() < before
        assert done.largest_force < 1e-8
        assert np.all(mlff.frequencies(atoms) > 0)


def test_forces_at_their_rounding_are_relaxed(ethanol):
    """Of ill-conditioned equations forces are rounded to 1e-8 eV/Å and more: the default takes that, a demand does not."""
    group = mlff.find_permutations(ethanol)
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=10.0), group)
    force_field = mlff.fit(kernel, ethanol[:60], noise=3e-5)
    atoms = molecule(ethanol, force_field, 17)
    done = mlff.relax(atoms)
    assert 1e-8 < done.largest_force < 1e-6
    assert done.lowest_curvature > 0
    assert done.largest_force == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=1e-8)
    with pytest.raises(ValueError, match=r"fmax=1\.0e-09: forces do not fall below .* rounding is .*e-0[78]"):
        mlff.relax(molecule(ethanol, force_field, 17), fmax=1e-9)


def test_a_saddle_is_left():
    """On the ridge between two wells the slope across vanishes; the negative curvature shows the way down."""
    atoms = Atoms("OOH", [[-1, 0, 0], [1, 0, 0], [0, 1.1, 0]])
    atoms.calc = DoubleWell()
    mlff.relax(atoms, fmax=1e-6)
    axis = (atoms.positions[1] - atoms.positions[0]) / 2.0
    height = (atoms.positions[2] - atoms.positions[:2].mean(axis=0)) @ axis
    assert abs(height) == pytest.approx(0.5, abs=1e-5)
    assert atoms.get_potential_energy() == pytest.approx(0.0, abs=1e-9)


def test_a_single_atom_is_relaxed():
    atoms = Atoms("He", [[0, 0, 0]])
    atoms.calc = Springs(atoms.positions, np.zeros((3, 3)))
    assert mlff.relax(atoms).steps == 0


def test_fixed_atoms_stay(ethanol, ethanol_model):
    atoms = molecule(ethanol, ethanol_model, 17)
    atoms.set_constraint(FixAtoms([0, 1]))
    before = atoms.positions.copy()
    mlff.relax(atoms)
    np.testing.assert_array_equal(atoms.positions[:2], before[:2])
    assert np.abs(atoms.get_forces(apply_constraint=False)[2:]).max() < 1e-8
    assert np.abs(atoms.get_forces(apply_constraint=False)[:2]).max() > 0.05
    assert np.abs(atoms.positions[2:] - before[2:]).max() > 0.05


def test_directions_leave_out_rigid_motions(ethanol):
    atoms = Atoms(ethanol[0].numbers, ethanol[0].positions)
    directions = internal_directions(atoms)
    assert directions.shape == (27, 21)
    np.testing.assert_allclose(directions.T @ directions, np.eye(21), atol=1e-12)
    turned = np.cross([0.3, -0.2, 0.5], atoms.positions) + [1.0, 2.0, 3.0]
    np.testing.assert_allclose(directions.T @ turned.ravel(), 0, atol=1e-12)
    assert internal_directions(Atoms("CO2", [[0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]])).shape == (9, 4)
    atoms.cell, atoms.pbc = np.eye(3) * 10, True
    assert internal_directions(atoms).shape == (27, 24)


@pytest.mark.parametrize("values", [[0.5, 2.0, 7.0], [-1.0, 0.3, 2.0], [-1.0, -0.5, 3.0], [0.0, 1.0, 2.0]])
@pytest.mark.parametrize("radius", [0.05, 0.4, 3.0])
def test_step_is_the_best_within_its_radius(values, radius, rng):
    """Against random steps of the same ball; the last slope has none along the lowest mode."""
    values = np.array(values)
    for slope in (rng.normal(size=3), np.array([0.0, 0.1, -0.2])):
        step = trust_region_step(values, slope, radius)
        assert np.linalg.norm(step) <= radius * (1 + 1e-9)
        others = rng.normal(size=(4000, 3))
        others *= (radius * rng.uniform(0, 1, 4000) ** (1 / 3) / np.linalg.norm(others, axis=1))[:, None]
        others = np.concatenate([others, radius * others / np.linalg.norm(others, axis=1)[:, None]])
        model = others @ slope + 0.5 * others**2 @ values
        assert step @ slope + 0.5 * step**2 @ values <= model.min() + 1e-9


def test_errors(ethanol, ethanol_model):
    atoms = molecule(ethanol, ethanol_model, 17)
    with pytest.raises(ValueError, match="not relaxed after steps=2"):
        mlff.relax(atoms, steps=2)
    with pytest.raises(ValueError, match="rounding"):
        mlff.relax(atoms, fmax=1e-30)
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="FixBondLength"):
        mlff.relax(atoms)
    with pytest.raises(ValueError, match="get_hessian"):
        mlff.relax(Atoms("OH2", np.eye(3)))
