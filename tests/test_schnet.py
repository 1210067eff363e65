"""SchNet against its layers written as loops over atoms, and through the battery of properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest

from descriptors.geometry import Neighbors
from descriptors.schnet import schnet_energy, schnet_features, schnet_parameters
from mlff.data.neighbors import neighbor_lists
from mlff.kernels.descriptor import Descriptor

SIZES = {"features": 6, "interactions": 2, "radial": 5}
STATIC = (*SIZES, "cutoff_function")
NUMBERS = np.array([6, 8, 7, 1, 1])
FORMAMIDE_LIKE = np.array([[0.0, 0, 0], [1.1, 0.4, 0.1], [-1.2, 0.5, -0.2], [0.1, -1.0, 0.4], [-1.9, -0.2, 0.3]])
LINE = np.array([[0.0, 0, -1.0], [0.0, 0, 0], [0.0, 0, 1.2], [0.0, 0, 2.2]])
CELL = np.array([[4.5, 0, 0], [0.4, 4.4, 0], [-0.3, 0.2, 4.8]])

_features = jax.jit(schnet_features, static_argnames=STATIC)
_energy = jax.jit(schnet_energy, static_argnames=STATIC)


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@functools.cache
def parameters():
    """Random ones, with biases and shifts that are not zero either."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape), schnet_parameters(0, **SIZES))


def atoms(positions, numbers=NUMBERS, **changed):
    return _features(positions, numbers, **{"parameters": parameters(), "cutoff": 4.0, **SIZES, **changed})


def energy(positions, numbers=NUMBERS, **changed):
    return _energy(positions, numbers, **{"parameters": parameters(), "cutoff": 4.0, **SIZES, **changed})


def neighbors_of(positions, cell=None, cutoff=4.0, width=0):
    periodic = np.full((1, 3), cell is not None)
    lists = neighbor_lists(
        positions[None], np.zeros((1, 3, 3)) if cell is None else cell[None], periodic, cutoff, width
    )
    return Neighbors(lists.indices[0], lists.shifts[0])


FADES = {
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
    "smooth": lambda x: 1 - 35 * x**4 + 84 * x**5 - 70 * x**6 + 20 * x**7,
}


def by_loops(x, numbers, cutoff, fade):
    """Features and energy as in figure 2 of the paper, one pair of atoms at a time."""
    weights = parameters()

    def dense(layer, value):
        return (
            np.array([sum(v * w for v, w in zip(value, column, strict=True)) for column in layer["kernel"].T])
            + layer["bias"]
        )

    def ssp(value):
        return np.log(0.5 * np.exp(value) + 0.5)

    spacing = cutoff / (SIZES["radial"] - 1)
    centres = [k * spacing for k in range(SIZES["radial"])]
    state = [weights["embedding"]["embedding"][z] for z in numbers]
    for layer in (weights["interaction_0"], weights["interaction_1"]):
        added = []
        for i in range(len(x)):
            message = np.zeros(SIZES["features"])
            for j in range(len(x)):
                r = np.linalg.norm(x[i] - x[j])
                if i == j or r >= cutoff:
                    continue
                basis = np.array([np.exp(-((r - centre) ** 2) / (2 * spacing**2)) for centre in centres])
                filters = ssp(dense(layer["filter"], ssp(dense(layer["filter_hidden"], basis))))
                message += dense(layer["message"], state[j]) * filters * fade(r / cutoff)
            added.append(dense(layer["update"], ssp(dense(layer["update_hidden"], message))))
        state = [one + more for one, more in zip(state, added, strict=True)]
    total = 0.0
    for z, value in zip(numbers, state, strict=True):
        total += dense(weights["readout"], ssp(dense(weights["readout_hidden"], value)))[0]
        total += weights["shift"]["embedding"][z, 0]
    return np.array(state), total


@pytest.mark.parametrize("cutoff_function", FADES)
@pytest.mark.parametrize("cutoff", [4.0, 1.8])
def test_layers_of_the_paper(cutoff_function, cutoff):
    features, total = by_loops(FORMAMIDE_LIKE, NUMBERS, cutoff, FADES[cutoff_function])
    changed = {"cutoff": cutoff, "cutoff_function": cutoff_function}
    np.testing.assert_allclose(atoms(FORMAMIDE_LIKE, **changed), features, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(energy(FORMAMIDE_LIKE, **changed), total, rtol=1e-13)


def test_invariance():
    properties.assert_invariant(atoms, FORMAMIDE_LIKE)
    properties.assert_invariant(energy, FORMAMIDE_LIKE)


def test_exchange_of_like_atoms_exchanges_their_rows():
    swap = np.array([0, 1, 2, 4, 3])
    value = atoms(FORMAMIDE_LIKE)
    np.testing.assert_allclose(atoms(FORMAMIDE_LIKE[swap]), value[swap], atol=1e-14)
    assert not np.allclose(value[3], value[4])
    np.testing.assert_allclose(energy(FORMAMIDE_LIKE[swap]), energy(FORMAMIDE_LIKE), rtol=1e-14)


def test_derivatives_to_third_order():
    properties.assert_derivatives(atoms, FORMAMIDE_LIKE, order=3)
    properties.assert_derivatives(energy, FORMAMIDE_LIKE, order=1)


def test_derivatives_at_the_cutoff():
    at_cutoff = float(np.linalg.norm(FORMAMIDE_LIKE[0] - FORMAMIDE_LIKE[4]))
    properties.assert_derivatives(functools.partial(atoms, cutoff=at_cutoff), FORMAMIDE_LIKE, order=3, tolerance=1e-3)


def test_jit_and_vmap(rng):
    plain = functools.partial(schnet_features, numbers=NUMBERS, parameters=parameters(), **SIZES)
    properties.assert_jit_vmap_consistent(plain, FORMAMIDE_LIKE + 0.05 * rng.standard_normal((3, 5, 3)))


def test_a_list_with_empty_slots_changes_nothing():
    listed = functools.partial(atoms, neighbors=neighbors_of(FORMAMIDE_LIKE, width=9))
    np.testing.assert_allclose(listed(FORMAMIDE_LIKE), atoms(FORMAMIDE_LIKE), atol=1e-14)
    near = {"cutoff": 1.8, "neighbors": neighbors_of(FORMAMIDE_LIKE, cutoff=1.8)}
    np.testing.assert_allclose(atoms(FORMAMIDE_LIKE, **near), atoms(FORMAMIDE_LIKE, cutoff=1.8), atol=1e-14)


def test_linear_molecules_with_empty_slots_have_three_derivatives():
    line = functools.partial(atoms, numbers=np.array([1, 6, 6, 1]), neighbors=neighbors_of(LINE, width=6))
    properties.assert_derivatives(line, LINE, order=3, tolerance=1e-5)


def test_crystal_supercell_and_nearest_images():
    one = atoms(FORMAMIDE_LIKE, cell=CELL, neighbors=neighbors_of(FORMAMIDE_LIKE, CELL))
    doubled, long = np.concatenate([FORMAMIDE_LIKE, FORMAMIDE_LIKE + CELL[0]]), CELL * [[2.0], [1], [1]]
    two = atoms(doubled, np.tile(NUMBERS, 2), cell=long, neighbors=neighbors_of(doubled, long))
    np.testing.assert_allclose(two, np.tile(one, (2, 1)), atol=1e-13)
    nearest = atoms(FORMAMIDE_LIKE, cell=CELL, cutoff=2.1)
    listed = atoms(FORMAMIDE_LIKE, cell=CELL, cutoff=2.1, neighbors=neighbors_of(FORMAMIDE_LIKE, CELL, 2.1))
    np.testing.assert_allclose(listed, nearest, atol=1e-14)
    assert not np.allclose(nearest, atoms(FORMAMIDE_LIKE, cutoff=2.1))


def test_atoms_of_no_element_have_no_energy():
    """Frames are padded with them; nobody lists them, and so nobody sees them."""
    lists = neighbors_of(FORMAMIDE_LIKE, width=4)
    longer = Neighbors(
        np.pad(lists.indices, ((0, 2), (0, 0)), constant_values=-1), np.pad(lists.shifts, ((0, 2), (0, 0), (0, 0)))
    )
    positions, numbers = np.pad(FORMAMIDE_LIKE, ((0, 2), (0, 0))), np.pad(NUMBERS, (0, 2))
    np.testing.assert_allclose(energy(positions, numbers, neighbors=longer), energy(FORMAMIDE_LIKE), rtol=1e-14)
    slope = jax.grad(functools.partial(energy, numbers=numbers, neighbors=longer))(positions)
    np.testing.assert_allclose(slope[:5], jax.grad(energy)(FORMAMIDE_LIKE), atol=1e-13)
    assert not np.any(slope[5:])


def test_lone_atom_knows_its_element_alone():
    alone, nitrogen = (atoms(np.ones((1, 3)), np.array([z])) for z in (6, 7))
    assert alone.shape == (1, 6)
    assert not np.allclose(alone, nitrogen)
    far = atoms(np.array([[0.0, 0, 0], [0, 0, 4.0]]), np.array([6, 7]))
    np.testing.assert_allclose(far, np.concatenate([alone, nitrogen]), atol=1e-14)


def test_parameters_can_be_differentiated_and_single_precision_stays_single():
    slope = jax.grad(lambda p: jnp.sum(atoms(FORMAMIDE_LIKE, parameters=p) ** 2))(parameters())
    numeric = 0.0
    direction = jax.tree.map(lambda leaf: np.random.default_rng(1).standard_normal(leaf.shape), parameters())
    for sign in (1, -1):
        moved = jax.tree.map(lambda leaf, along, sign=sign: leaf + sign * 1e-5 * along, parameters(), direction)
        numeric += sign * float(np.sum(np.square(atoms(FORMAMIDE_LIKE, parameters=moved)))) / 2e-5
    exact = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(exact, numeric, rtol=1e-7)
    with jax.enable_x64(False):
        single = atoms(FORMAMIDE_LIKE.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, atoms(FORMAMIDE_LIKE), atol=1e-4)


def test_random_parameters_are_reproducible_and_of_the_stated_variance():
    with jax.enable_x64(False):
        first = schnet_parameters(3)
    again, other = schnet_parameters(3), schnet_parameters(4)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(first))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    kernel = first["interaction_0"]["filter"]["kernel"]
    assert not np.array_equal(kernel, other["interaction_0"]["filter"]["kernel"])
    np.testing.assert_allclose(np.std(kernel), 32**-0.5, rtol=0.1)
    np.testing.assert_allclose(np.std(first["embedding"]["embedding"]), 1.0, rtol=0.1)


def test_it_is_a_descriptor_whose_parameters_are_hyperparameters():
    described = Descriptor.wrap(functools.partial(schnet_features, parameters=parameters(), **SIZES))
    assert set(described.arguments) == {"parameters"}
    assert described.cutoff == 5.0
    np.testing.assert_allclose(described(FORMAMIDE_LIKE, NUMBERS, None), atoms(FORMAMIDE_LIKE, cutoff=5.0), atol=1e-13)


@pytest.mark.parametrize(("name", "value"), [("features", 8), ("interactions", 1), ("radial", 4)])
def test_sizes_that_are_not_those_of_the_parameters(name, value):
    with pytest.raises(ValueError, match=f"give {name}={SIZES[name]}"):
        atoms(FORMAMIDE_LIKE, **{name: value})
    with pytest.raises(ValueError, match=f"give {name}={SIZES[name]}"):
        energy(FORMAMIDE_LIKE, **{name: value})
