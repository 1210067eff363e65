"""Cell vectors that count, and those that do not: crystals, slabs, wires, molecules in a box."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from moments import moments

import mlff
from descriptors import inverse_distances
from descriptors.geometry import nearest_image
from mlff.data.cells import periodic_vectors, stated, volume
from mlff.data.neighbors import closest_pairs, neighbor_lists

CELL = np.array([[3.4, 0.2, 0.0], [0.3, 3.6, 0.1], [0.5, 0.4, 9.0]])
NUMBERS = np.array([8, 1, 1], np.int32)
PLACES = np.array([[0.1, 0.2, 0.3], [1.5, 0.4, 0.2], [0.3, 1.7, 1.1]])
KERNEL = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))


def frames(pbc, cell=CELL, count=4, **labels) -> mlff.Dataset:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        system = mlff.System(PLACES + 0.1 * rng.standard_normal((3, 3)), NUMBERS, np.array(cell), np.array(pbc))
        found.append(mlff.Frame(system, {"energy": 0.0, "forces": rng.standard_normal((3, 3)), **labels}))
    return mlff.Dataset(found)


@pytest.fixture(scope="module")
def model() -> mlff.ForceField:
    """Of crystals, slabs and wires: which directions are periodic is the geometry's, not the model's."""
    data = frames([True, True, True]) + frames([True, True, False]) + frames([True, False, False])
    return mlff.fit(KERNEL, data, noise=0.1)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False)])
def test_stress_is_energy_under_strain_and_the_vacuum_does_not_count(model, pbc):
    """Of crystals, slabs and wires, against central differences; other vectors in the vacuum change no energy."""
    step, virial = 1e-4, np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        strain = np.zeros((3, 3))
        strain[i, j] = step
        up, down = (model.energy(PLACES @ d, CELL @ d, pbc) for d in (np.eye(3) + strain, np.eye(3) - strain))
        virial[i, j] = (up - down) / (2 * step)
    stress = model.stress(PLACES, CELL, pbc)
    np.testing.assert_allclose(stress * abs(np.linalg.det(CELL)), virial, atol=2e-6)
    assert np.abs(virial).max() > 0.05
    wide = np.where(np.array(pbc)[:, None], CELL, 2.5 * CELL)
    energy = model.energy(PLACES, CELL, pbc)
    assert model.energy(PLACES, wide, pbc) == energy
    assert model.energy(PLACES, np.where(np.array(pbc)[:, None], CELL, 0.0), pbc) == energy
    np.testing.assert_allclose(
        model.stress(PLACES, wide, pbc) * abs(np.linalg.det(wide)), stress * abs(np.linalg.det(CELL)), rtol=1e-12
    )
    shifted = PLACES.copy()
    shifted[1] += CELL[1]
    assert model.energy(shifted, CELL, pbc) == pytest.approx(energy, abs=1e-10)


def test_no_stress_without_a_period_or_a_volume(model):
    """A cell that no direction is periodic in does not enter the energy, so it gives no stress either."""
    for ask in (model.stress, model.strain_derivatives):
        with pytest.raises(ValueError, match="no direction is periodic"):
            ask(PLACES, CELL, False)
    with pytest.raises(ValueError, match="volume is zero, so there is no stress"):
        model.stress(PLACES, np.diag([3.5, 3.5, 0.0]), [True, True, False])
    atoms = Atoms("OH2", PLACES, cell=CELL, pbc=False)
    atoms.calc = mlff.Calculator(model)
    with pytest.raises(ValueError, match="no direction is periodic"):
        atoms.get_stress()
    assert atoms.get_potential_energy() == model.energy(PLACES, CELL, False)


@pytest.mark.parametrize(
    ("cell", "pbc", "message"),
    [
        ([[3.4, 0, 0], [6.8, 0, 0], [0, 0, 9]], [True, True, False], "parallel or lie in one plane"),
        ([[3.4, 0, 0], [0, 3.4, 0], [3.4, 3.4, 0]], True, "parallel or lie in one plane"),
        ([[3.4, 0, 0], [0, 3.4, 0], [0, 0, 0]], True, "direction 2 is periodic but its cell vector is zero"),
        ([[3.4, 0, 0], [0, np.nan, 0], [0, 0, 9]], True, "not finite"),
        ([3.4, 3.4, 9.0], True, r"expected three cell vectors as rows.*received \(3,\)"),
        (CELL, [True, True], r"pbc: expected which directions"),
    ],
)
def test_cells_that_are_none(model, cell, pbc, message):
    with pytest.raises(ValueError, match=message):
        model.energy(PLACES, cell, pbc)


def test_cells_that_are_none_do_not_reach_the_neighbour_list():
    """Which ends the process where two vectors are parallel."""
    flat, pbc = np.array([[[3.4, 0, 0], [6.8, 0, 0], [0, 0, 9]]]), np.array([[True, True, False]])
    with pytest.raises(ValueError, match="parallel"):
        neighbor_lists(PLACES[None], flat, pbc, 4.0)
    with pytest.raises(ValueError, match="parallel"):
        closest_pairs(PLACES[None], NUMBERS, flat, pbc)
    with pytest.raises(ValueError, match=r"cell of frame 0.*parallel"):
        mlff.fit(KERNEL, frames(pbc[0], flat[0]), noise=0.1)
    assert not periodic_vectors(flat, np.zeros((1, 3), bool)).any()
    np.testing.assert_array_equal(stated(CELL, None, 2)[1], np.ones((2, 3), bool))
    assert volume(flat[0]) == 0.0
    assert volume(CELL) == pytest.approx(abs(np.linalg.det(CELL)))


@pytest.mark.parametrize(("pbc", "cell"), [(False, CELL), ([True, True, False], np.diag([3.4, 3.4, 0.0]))])
def test_stress_labels_without_a_stress_are_refused(pbc, cell):
    data = frames(np.broadcast_to(pbc, 3), cell, stress=0.01 * np.eye(3))
    with pytest.raises(ValueError, match=r"frame 0 has a stress, but pbc=\[.*leave stress out of labels"):
        mlff.fit(KERNEL, data, ("forces", "stress"), {"forces": 0.1, "stress": 0.1})


def to_nearest_images(positions, cell):
    """Nearest images, as far as they go: which that is no parameter tells."""
    first, second = np.triu_indices(len(positions), k=1)
    return 1.0 / jnp.linalg.norm(nearest_image(positions[first] - positions[second], cell), axis=1)


def with_cutoff(positions, cell, *, cutoff):
    return to_nearest_images(positions, cell) * jnp.asarray(cutoff)


def test_nearest_images_are_checked_without_a_cutoff_too():
    """Nothing says how far such a descriptor sees, so nothing says that the cell is large enough."""
    kernel = mlff.GlobalKernel(to_nearest_images, mlff.RBF(lengthscale=1.0))
    with pytest.raises(ValueError, match="to_nearest_images takes a cell but has no parameter cutoff"):
        mlff.fit(kernel, frames([True] * 3), noise=0.1)
    slab = frames([True, True, False], np.diag([3.4, 3.4, 0.0]))
    with pytest.raises(ValueError, match=r"pbc=\[True, True, False\]: use a descriptor that takes neighbors"):
        mlff.fit(kernel, slab, noise=0.1)
    stating = mlff.GlobalKernel(functools.partial(with_cutoff, cutoff=2.0), mlff.RBF(lengthscale=1.0))
    with pytest.raises(ValueError, match="cell of frame 0 is too small for descriptor"):
        mlff.fit(stating, frames([True] * 3), noise=0.1)
    assert mlff.fit(kernel, frames([False] * 3), noise=0.1).record["rows"] == 12


def test_a_period_that_a_descriptor_cannot_see_is_refused(water_model, water):
    """Asked about molecules it was fitted to, in a cell that is periodic: not answered as if they were alone."""
    x = water[0].positions
    energy = water_model.energy(x, CELL, pbc=False)
    assert energy == water_model.energy(x)
    with pytest.raises(ValueError, match="inverse_distances takes no cell"):
        water_model.energy(x, CELL, pbc=True)
    both = mlff.SumKernel((KERNEL, mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.0))))
    force_field = mlff.fit(both, frames([False] * 3), noise=0.1)
    with pytest.raises(ValueError, match="inverse_distances takes no cell"):
        force_field.energy(PLACES, CELL, [True, False, False])
