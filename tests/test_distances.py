"""The distance family through the battery of properties."""

import functools

import jax
import numpy as np
import properties
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

import mlff
from descriptors import (
    exponential_distances,
    inverse_distances,
    logarithmic_distances,
    periodic_distances,
    powered_distances,
)
from descriptors.geometry import pair_distances
from mlff.data.neighbors import neighbor_lists

FAMILY = [
    inverse_distances,
    logarithmic_distances,
    functools.partial(powered_distances, power=-2.5),
    functools.partial(exponential_distances, decay=1.5),
    functools.partial(periodic_distances, cutoff=3.5),
]
METHANE_LIKE = np.array([[0.0, 0, 0], [0.63, 0.63, 0.61], [-0.64, -0.6, 0.65], [-0.6, 0.63, -0.62], [0.66, -0.6, -0.6]])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("descriptor", FAMILY)
def test_invariance(descriptor):
    properties.assert_invariant(jax.jit(descriptor), METHANE_LIKE)


@pytest.mark.parametrize("descriptor", FAMILY)
def test_derivatives_to_fourth_order(descriptor):
    properties.assert_derivatives(jax.jit(descriptor), METHANE_LIKE, order=4, tolerance=1e-5)


@pytest.mark.parametrize("descriptor", FAMILY)
def test_jit_and_vmap(descriptor, rng):
    properties.assert_jit_vmap_consistent(descriptor, METHANE_LIKE + 0.05 * rng.standard_normal((3, 5, 3)))


def test_order_of_pairs_and_values():
    line = np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 3]])
    np.testing.assert_allclose(pair_distances(line), [1, 3, 2])
    np.testing.assert_allclose(inverse_distances(line), [1, 1 / 3, 1 / 2])
    np.testing.assert_allclose(logarithmic_distances(line), np.log([1, 3, 2]))
    np.testing.assert_allclose(powered_distances(line, power=2.0), [1, 9, 4])
    np.testing.assert_allclose(exponential_distances(line, decay=2.0), np.exp([-0.5, -1.5, -1.0]))


@pytest.mark.parametrize("descriptor", FAMILY)
def test_exchange_permutes_the_features(descriptor):
    value, exchanged = descriptor(METHANE_LIKE), descriptor(METHANE_LIKE[[0, 2, 1, 3, 4]])
    assert not np.allclose(value, exchanged)
    np.testing.assert_allclose(np.sort(value), np.sort(exchanged), rtol=1e-13)


CELL = np.array([[4.1, 0, 0], [0.6, 3.9, 0], [-0.3, 0.5, 4.4]])


def in_cell(positions, cell=CELL, pbc=(True, True, True), cutoff=4.0):
    """Sums over images with a neighbour list that has empty slots."""
    lists = neighbor_lists(positions[None], cell[None], np.array([pbc]), cutoff)
    neighbors = type(lists)(lists.indices[0], lists.shifts[0])
    return functools.partial(periodic_distances, cell=cell, neighbors=neighbors, cutoff=cutoff, power=-1.5)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_images_are_summed(pbc):
    """Against ASE's neighbour list, in cells smaller than the cutoff and in slabs."""
    found = jax.jit(in_cell(METHANE_LIKE, pbc=pbc))(METHANE_LIKE)
    i, j, r = neighbor_list("ijd", Atoms("CH4", METHANE_LIKE, cell=CELL, pbc=pbc), 4.0)
    x = r / 4.0
    expected = np.zeros((5, 5))
    np.add.at(expected, (i, j), r**-1.5 * (1 - 35 * x**4 + 84 * x**5 - 70 * x**6 + 20 * x**7))
    np.testing.assert_allclose(found, expected[np.triu_indices(5, 1)], rtol=1e-12)
    molecule = periodic_distances(METHANE_LIKE, cutoff=4.0, power=-1.5)
    assert np.allclose(found, molecule) != any(pbc)


def test_derivatives_in_a_crystal():
    properties.assert_derivatives(jax.jit(in_cell(METHANE_LIKE)), METHANE_LIKE, order=3)


def test_atoms_that_change_their_image_change_nothing():
    moved = METHANE_LIKE + np.array([[0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 0, 2], [1, 1, -1]]) @ CELL
    np.testing.assert_allclose(jax.jit(in_cell(moved))(moved), jax.jit(in_cell(METHANE_LIKE))(METHANE_LIKE), rtol=1e-12)


def test_a_crystal_of_springs_is_learned_from_its_forces(rng):
    """A pair potential in a skewed cell narrower than the cutoff is wide: forces of other frames, and energies against them."""

    def frame():
        atoms = bulk("SiC", "zincblende", a=4.36, cubic=True)
        atoms.set_cell(atoms.cell + [[0, 0, 0], [0.3, 0, 0], [0, -0.2, 0]], scale_atoms=True)
        atoms.positions += 0.05 * rng.standard_normal((8, 3))
        i, d, vectors = neighbor_list("idD", atoms, 3.6)
        slope = (d - 1.9) * (3.6 - d) ** 4 - 2.0 * (d - 1.9) ** 2 * (3.6 - d) ** 3  # of ½ (d − 1.9)² (3.6 − d)⁴
        forces = np.zeros((8, 3))
        np.add.at(forces, i, (slope / d)[:, None] * vectors)
        energy = 0.25 * float(np.sum((d - 1.9) ** 2 * (3.6 - d) ** 4))
        return mlff.Frame(mlff.System.from_ase(atoms), {"energy": energy, "forces": forces})

    data = mlff.Dataset([frame() for _ in range(60)])
    kernel = mlff.GlobalKernel(functools.partial(periodic_distances, cutoff=4.0), mlff.RBF())
    force_field = mlff.fit(kernel, data[:45], ("energy", "forces"), {"energy": 1e-2, "forces": 1e-2})
    assert mlff.evaluate(force_field, data[45:]).forces_rmse < 0.1 * np.sqrt(np.mean(data.array("forces") ** 2))
    atoms = data[50].system.to_ase()
    atoms.calc = mlff.Calculator(force_field)
    direction, energies = 0.1 * rng.standard_normal((8, 3)), []
    for step in (1e-4, -1e-4):
        atoms.positions = data[50].positions + step * direction
        energies.append(atoms.get_potential_energy())
    atoms.positions = data[50].positions
    np.testing.assert_allclose((energies[0] - energies[1]) / 2e-4, -np.sum(atoms.get_forces() * direction), rtol=1e-5)
