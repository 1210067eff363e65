"""Stationary points by a surrogate: of functions whose own are known, with few calls."""

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms
from test_learning import Counting, morse

import mlff
from descriptors.geometry import pair_distances
from mlff.operators import ENERGY, FORCES
from mlff.potentials.springs import springs_around
from mlff.regression.tuning.evidence import most_likely


def inverting(positions):
    """Ammonia whose hydrogen atoms go through their plane: bonds, distances between hydrogen atoms, and a double well in height, eV."""
    bonds, others = pair_distances(positions)[:3], pair_distances(positions)[3:]
    height = jnp.dot(positions[0] - positions[1], jnp.cross(positions[2] - positions[1], positions[3] - positions[1]))
    spread = jnp.sum(20.0 * (bonds - 1.0) ** 2) + jnp.sum(8.0 * (others - 1.68) ** 2)
    return spread + 0.6 * (height**2 - 0.6) ** 2


def test_minimum_of_water():
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    calculator = Counting()
    found = mlff.find_minimum(atoms, calculator, fmax=1e-3)
    assert found.calls == len(calculator.asked) <= 15
    np.testing.assert_allclose(pair_distances(found.atoms.positions), [0.96, 0.96, 1.52], atol=1e-3)
    assert found.energy == pytest.approx(0.0, abs=1e-5)
    assert found.largest_force < 1e-3
    exact = mlff.ForceField.of(morse, [8, 1, 1])
    wanted = mlff.frequencies(_relaxed(found.atoms, exact))
    np.testing.assert_allclose(found.frequencies, wanted[:1], rtol=0.05)
    assert len(found.data) == found.calls
    assert found.atoms.get_potential_energy() - found.energy != 0  # up to the constant of the springs' zero
    np.testing.assert_allclose(found.atoms.get_forces(), 0.0, atol=5e-3)


def _relaxed(atoms, force_field):
    atoms = atoms.copy()
    atoms.calc = mlff.Calculator(force_field)
    mlff.relax(atoms)
    return atoms


def test_saddle_of_an_inversion():
    force_field = mlff.ForceField.of(inverting, [7, 1, 1, 1])
    atoms = molecule("NH3")
    atoms.calc = mlff.Calculator(force_field)
    mlff.relax(atoms, fmax=1e-6)
    atoms.positions[0] -= 0.6 * (atoms.positions[0] - atoms.positions[1:].mean(axis=0))
    atoms.rattle(0.03, seed=2)
    found = mlff.find_saddle(atoms, mlff.Calculator(force_field), fmax=1e-3)
    assert found.calls <= 20
    assert found.frequencies[0] < 0 < found.frequencies[1]
    height = found.atoms.positions[0] - found.atoms.positions[1:].mean(axis=0)
    assert np.linalg.norm(height) < 2e-3
    assert abs(found.mode[0] @ np.cross(*(found.atoms.positions[2:] - found.atoms.positions[1]))) > 0.1
    towards = mlff.find_saddle(atoms, mlff.Calculator(force_field), fmax=1e-3, mode=found.mode)
    np.testing.assert_allclose(
        pair_distances(towards.atoms.positions), pair_distances(found.atoms.positions), atol=2e-3
    )


def test_a_saddle_is_no_minimum():
    """Where forces vanish and nobody has looked around."""
    force_field = mlff.ForceField.of(inverting, [7, 1, 1, 1])
    atoms = molecule("NH3")
    atoms.positions[0] = atoms.positions[1:].mean(axis=0)
    atoms.calc = mlff.Calculator(force_field)
    mlff.transition_state(atoms, fmax=1e-6)
    found = mlff.find_minimum(atoms, mlff.Calculator(force_field), fmax=1e-3)
    height = found.atoms.positions[0] - found.atoms.positions[1:].mean(axis=0)
    assert np.linalg.norm(height) > 0.1
    assert found.frequencies[0] > 0
    assert found.energy < force_field.energy(atoms.positions) - 0.05


def test_fixed_atoms_stay():
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=1)
    atoms.set_constraint(FixAtoms([1]))
    found = mlff.find_minimum(atoms, Counting(), fmax=1e-3)
    np.testing.assert_array_equal(found.atoms.positions[1], atoms.positions[1])
    np.testing.assert_allclose(pair_distances(found.atoms.positions), [0.96, 0.96, 1.52], atol=1e-3)


def test_what_cannot_be_searched_is_refused():
    atoms = molecule("H2O")
    with pytest.raises(ValueError, match="expected one of ASE's calculators"):
        mlff.find_saddle(atoms, "gfn2")
    with pytest.raises(ValueError, match=r"fmax=0.0 must be"):
        mlff.find_saddle(atoms, Counting(), fmax=0.0)
    with pytest.raises(ValueError, match=r"mode: expected displacements of shape \(3, 3\)"):
        mlff.find_saddle(atoms, Counting(), mode=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="two or more"):
        mlff.find_minimum(atoms[:1], Counting())
    held = atoms.copy()
    held.set_constraint(FixAtoms([0, 1, 2]))
    with pytest.raises(ValueError, match="nothing to move"):
        mlff.find_minimum(held, Counting())
    with pytest.raises(ValueError, match="calculator: Counting fails at call 1, RuntimeError: not converged"):
        mlff.find_minimum(atoms, Counting(fails_at=(1,)))
    with pytest.raises(ValueError, match="calls=0 must be a whole number"):
        mlff.find_minimum(atoms, Counting(), calls=0)
    with pytest.raises(ValueError, match=r"calls=2: not found, the largest force is .* allow more"):
        mlff.find_minimum(_far(atoms), Counting(), calls=2)
    atoms.set_cell(np.eye(3) * 8)
    atoms.pbc = True
    with pytest.raises(ValueError, match="periodic; the surrogate is of molecules"):
        mlff.find_saddle(atoms, Counting())


def _far(atoms):
    atoms = atoms.copy()
    atoms.rattle(0.2, seed=5)
    return atoms


def test_springs_are_at_rest_and_as_stiff_as_bonds():
    atoms = molecule("CH3CH2OH")
    springs = springs_around(atoms.positions, atoms.numbers)
    np.testing.assert_allclose(springs.forces(atoms.positions), 0.0, atol=1e-12)
    values = np.linalg.eigvalsh(springs.hessian(atoms.positions))
    assert values[0] > -1e-9
    assert 20.0 < values[-1] < 200.0  # eV/Å², as of C–H, C–C and O–H bonds
    assert np.sum(values > 1e-6) == 3 * 9 - 6


def test_most_likely_kernel_is_that_of_dense_linear_algebra(water):
    from descriptors import inverse_distances
    from mlff.data.batches import LabelledFrames
    from mlff.regression.system.features import compute_features
    from mlff.regression.system.kernel_blocks import kernel_between

    frames, noise = LabelledFrames.of(water[:6]), {ENERGY: 1e-3, FORCES: 1e-2}
    scales = np.array([0.1, 0.3, 1.0, 3.0])
    found = most_likely(mlff.GlobalKernel(inverse_distances, mlff.RBF()).completed([8, 1, 1]), frames, noise, scales)
    best = {}
    for scale in scales:
        kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=scale)).completed([8, 1, 1])
        features = compute_features(kernel, frames, noise)
        K, y = kernel_between(features, features, np.ones(1)), features.labels
        forces = features.places["forces"]
        share = np.sum(y[forces] ** 2) / np.trace(K[np.ix_(forces, forces)])
        C = K + np.diag(features.noise**2) / share
        H = np.concatenate([frame.rows.values for frame in features.observations])[:, None]
        solved = np.linalg.solve(C, np.column_stack([y, H]))
        missed = y - H[:, 0] * (H[:, 0] @ solved[:, 0]) / (H[:, 0] @ solved[:, 1])
        amplitude = missed @ np.linalg.solve(C, missed) / len(y)
        best[scale] = -0.5 * len(y) * np.log(amplitude) - 0.5 * np.linalg.slogdet(C)[1], amplitude
    scale = max(best, key=lambda each: best[each][0])
    assert found.radial.lengthscale == scale
    assert found.amplitude == pytest.approx(best[scale][1], rel=1e-6)
