"""ACSF against its formulas written as loops, and through the battery of properties."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest

from descriptors.acsf import ANGULAR, RADIAL, acsf
from mlff.data.neighbors import neighbor_lists

G2 = np.array([[0.5, 0.0], [2.0, 1.3]])
G4 = np.array([[0.05, 1.0, -1.0], [0.02, 4.0, 1.0], [0.1, 2.7, 0.6]])
G5 = np.array([[0.03, 2.0, 1.0], [0.01, 1.0, -1.0]])
ELEMENTS = (1, 6, 7, 8)
NUMBERS = np.array([6, 8, 7, 1, 1])
FORMAMIDE_LIKE = np.array([[0.0, 0, 0], [1.1, 0.4, 0.1], [-1.2, 0.5, -0.2], [0.1, -1.0, 0.4], [-1.9, -0.2, 0.3]])
LINE = np.array([[0.0, 0, -1.0], [0.0, 0, 0], [0.0, 0, 1.2], [0.0, 0, 2.2]])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


compiled = jax.jit(acsf, static_argnames=("elements", "cutoff_function"))


def molecule(positions, numbers=NUMBERS, **changed):
    return compiled(positions, numbers, **{"elements": ELEMENTS, "g2": G2, "g4": G4, "g5": G5, "cutoff": 4.0} | changed)


def by_loops(x, numbers, cutoff, fade):
    """The formulas of the paper, one neighbour and one triangle at a time."""
    r = np.linalg.norm(x[:, None] - x[None], axis=-1)
    f = np.where(r < cutoff, fade(np.minimum(r / cutoff, 1)), 0.0)
    two = np.zeros((len(x), len(ELEMENTS), len(G2)))
    pairs = list(itertools.combinations_with_replacement(ELEMENTS, 2))
    four, five = (np.zeros((len(x), len(pairs), len(rows))) for rows in (G4, G5))
    for i, j in itertools.permutations(range(len(x)), 2):
        for p, (eta, shift) in enumerate(G2):
            two[i, ELEMENTS.index(numbers[j]), p] += np.exp(-eta * (r[i, j] - shift) ** 2) * f[i, j]
    for i, j, k in itertools.permutations(range(len(x)), 3):
        if j > k:
            continue
        cosine = (x[j] - x[i]) @ (x[k] - x[i]) / (r[i, j] * r[i, k])
        pair = pairs.index(tuple(sorted((numbers[j], numbers[k]))))
        for p, (eta, zeta, sign) in enumerate(G4):
            gaussian = np.exp(-eta * (r[i, j] ** 2 + r[i, k] ** 2 + r[j, k] ** 2)) * f[i, j] * f[i, k] * f[j, k]
            four[i, pair, p] += 2 ** (1 - zeta) * (1 + sign * cosine) ** zeta * gaussian
        for p, (eta, zeta, sign) in enumerate(G5):
            gaussian = np.exp(-eta * (r[i, j] ** 2 + r[i, k] ** 2)) * f[i, j] * f[i, k]
            five[i, pair, p] += 2 ** (1 - zeta) * (1 + sign * cosine) ** zeta * gaussian
    return np.concatenate([block.reshape(len(x), -1) for block in (two, four, five)], axis=1)


FADES = {
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
    "smooth": lambda x: 1 - 35 * x**4 + 84 * x**5 - 70 * x**6 + 20 * x**7,
}


@pytest.mark.parametrize("cutoff_function", FADES)
@pytest.mark.parametrize("cutoff", [4.0, 2.0])
def test_formulas_of_the_paper(cutoff_function, cutoff):
    naive = by_loops(FORMAMIDE_LIKE, NUMBERS, cutoff, FADES[cutoff_function])
    ours = molecule(FORMAMIDE_LIKE, cutoff=cutoff, cutoff_function=cutoff_function)
    assert ours.shape == (5, 4 * 2 + 10 * (3 + 2))
    np.testing.assert_allclose(ours, naive, atol=1e-13)


def test_one_triangle_by_hand():
    """A right angle with sides of 1 Å, seen from its corner: θ = 90°, r_jk = √2, cutoff 2 Å."""
    corner = np.array([[0.0, 0, 0], [1.0, 0, 0], [0.0, 1, 0]])
    arguments = {"g2": np.array([[0.3, 0.5]]), "g4": np.array([[0.1, 2.0, 1.0]]), "g5": np.array([[0.1, 1.0, -1.0]])}
    value = molecule(corner, np.array([8, 1, 1]), elements=(1, 8), cutoff=2.0, cutoff_function="cosine", **arguments)[0]
    across = 0.5 * (1 + np.cos(np.pi / np.sqrt(2)))
    four, five = 0.5 * np.exp(-0.1 * 4) * 0.25 * across, np.exp(-0.1 * 2) * 0.25
    np.testing.assert_allclose(value, [np.exp(-0.3 * 0.25), 0, four, 0, 0, five, 0, 0], atol=1e-15)


def test_defaults():
    value = compiled(FORMAMIDE_LIKE, NUMBERS, elements=ELEMENTS)
    assert value.shape == (5, 4 * len(RADIAL) + 10 * len(ANGULAR))
    again = molecule(FORMAMIDE_LIKE, g2=np.array(RADIAL), g4=np.array(ANGULAR), g5=(), cutoff=6.0)
    np.testing.assert_allclose(value, again, atol=1e-14)
    assert np.linalg.matrix_rank(value) == 5


def test_invariance():
    properties.assert_invariant(molecule, FORMAMIDE_LIKE)


def test_exchange_of_like_atoms_exchanges_their_rows():
    swap = np.array([0, 1, 2, 4, 3])
    value = molecule(FORMAMIDE_LIKE)
    np.testing.assert_allclose(molecule(FORMAMIDE_LIKE[swap]), value[swap], atol=1e-14)
    assert not np.allclose(value[3], value[4])


def test_derivatives_at_the_cutoff():
    at_cutoff = float(np.linalg.norm(FORMAMIDE_LIKE[0] - FORMAMIDE_LIKE[4]))
    properties.assert_derivatives(
        functools.partial(molecule, cutoff=at_cutoff), FORMAMIDE_LIKE, order=3, tolerance=1e-3
    )


@pytest.mark.parametrize(("zeta", "tolerance"), [(1.0, 1e-6), (2.0, 1e-6), (3.0, 1e-6), (4.0, 1e-6), (2.5, 1e-4)])
def test_atoms_on_a_line_have_three_derivatives(zeta, tolerance):
    """1 − cos θ = 0 or 1 + cos θ = 0 in every triangle, and it is the only term."""
    rows = np.array([[0.05, zeta, 1.0], [0.05, zeta, -1.0]])
    line = functools.partial(molecule, numbers=np.array([1, 6, 6, 1]), g2=(), g5=rows, g4=rows)
    properties.assert_derivatives(line, LINE, order=3, tolerance=tolerance)


def test_a_bend_by_real_powers_at_the_straight_angle():
    """G⁵ of a bend t has 2^(1−ζ)(1 + cos θ)^ζ = 2 (t/2)^2ζ + …: its second derivative at t = 0 is 1 for ζ = 1, else 0."""

    def bend(t, zeta):
        x = jnp.stack([jnp.array([0.0, 0, 0]), jnp.array([1.0, 0, 0]), jnp.stack([-jnp.cos(t), jnp.sin(t), 0 * t])])
        rows = jnp.stack([jnp.zeros(()), zeta, jnp.ones(())])[None]
        return acsf(x, np.array([6, 8, 8]), elements=(6, 8), g2=(), g4=(), g5=rows, cutoff=1e6)[0, 2]

    second = jax.jit(jax.grad(jax.grad(bend)))
    found = [second(0.0, zeta) for zeta in (1.0, 1.2, 2.0)]
    np.testing.assert_allclose(found, [1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(second(1e-3, 1.2), 2.4 * 1.4 * 2**-1.4 * 1e-3**0.4, rtol=1e-5)
    assert abs(jax.jit(jax.grad(second))(1e-120, 1.0)) < 1e-12  # 0/t⁴ overflows


def test_jit_and_vmap(rng):
    properties.assert_jit_vmap_consistent(molecule, FORMAMIDE_LIKE + 0.05 * rng.standard_normal((3, 5, 3)))


def listed(positions, numbers, cell, periodic, width=0, cutoff=4.0):
    """With a neighbour list, which has empty slots."""
    lists = neighbor_lists(positions[None], cell[None], np.array([[periodic] * 3]), cutoff, width)
    neighbors = type(lists)(lists.indices[0], lists.shifts[0])
    return functools.partial(molecule, numbers=numbers, cell=cell, neighbors=neighbors, cutoff=cutoff)


def test_a_list_with_empty_slots_changes_nothing():
    padded = listed(FORMAMIDE_LIKE, NUMBERS, np.zeros((3, 3)), False, width=6)
    np.testing.assert_allclose(padded(FORMAMIDE_LIKE), molecule(FORMAMIDE_LIKE), atol=1e-14)


def test_derivatives_to_third_order():
    """With empty slots, whose vectors are all the same."""
    padded = listed(FORMAMIDE_LIKE, NUMBERS, np.zeros((3, 3)), False, width=6)
    properties.assert_derivatives(padded, FORMAMIDE_LIKE, order=3)


def test_crystal_supercell_and_nearest_images():
    cell = np.array([[4.5, 0, 0], [0.4, 4.4, 0], [-0.3, 0.2, 4.8]])
    one = listed(FORMAMIDE_LIKE, NUMBERS, cell, True)(FORMAMIDE_LIKE)
    doubled = np.concatenate([FORMAMIDE_LIKE, FORMAMIDE_LIKE + cell[0]])
    two = listed(doubled, np.tile(NUMBERS, 2), cell * [[2.0], [1], [1]], True)(doubled)
    np.testing.assert_allclose(two, np.tile(one, (2, 1)), atol=1e-13)
    nearest = molecule(FORMAMIDE_LIKE, cell=cell, cutoff=2.1)
    np.testing.assert_allclose(listed(FORMAMIDE_LIKE, NUMBERS, cell, True, cutoff=2.1)(FORMAMIDE_LIKE), nearest)
    assert not np.allclose(nearest, molecule(FORMAMIDE_LIKE, cutoff=2.1))


def test_lone_atom_and_pair():
    assert not np.any(molecule(np.zeros((1, 3)), np.array([6])))
    pair = molecule(np.array([[0.0, 0, 0], [0.0, 0, 1.1]]), np.array([6, 1]))
    assert pair.shape == (2, 58)
    assert np.any(pair[:, :8])
    assert not np.any(pair[:, 8:])


def test_hyperparameters_can_be_differentiated():
    def summed(parameters):
        return jnp.sum(molecule(FORMAMIDE_LIKE, **parameters) ** 2)

    given = {"g2": jnp.asarray(G2), "g4": jnp.asarray(G4 * [1, 1, 0.9]), "g5": jnp.asarray(G5 * [1, 1, 0.9])}
    given |= {"cutoff": jnp.asarray(4.0)}
    for name, slopes in jax.grad(summed)(given).items():
        direction = np.random.default_rng(1).standard_normal(slopes.shape)
        near, far = (summed({**given, name: given[name] + step * direction}) for step in (1e-6, -1e-6))
        np.testing.assert_allclose(np.sum(slopes * direction), (near - far) / 2e-6, rtol=1e-6)


def test_single_precision_stays_single():
    single = molecule(FORMAMIDE_LIKE.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, molecule(FORMAMIDE_LIKE), atol=2e-6)
