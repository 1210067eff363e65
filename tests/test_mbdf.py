"""MBDF against integrals by adaptive quadrature, and through the battery of properties."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest
from scipy.integrate import quad
from scipy.special import eval_chebyt, eval_hermite

from descriptors.mbdf import mbdf
from mlff.data.neighbors import neighbor_lists

NUMBERS = np.array([6, 8, 7, 1, 1])
FORMAMIDE_LIKE = np.array([[0.0, 0, 0], [1.1, 0.4, 0.1], [-1.2, 0.5, -0.2], [0.1, -1.0, 0.4], [-1.9, -0.2, 0.3]])
LINE = np.array([[0.0, 0, -1.0], [0.0, 0, 0], [0.0, 0, 1.2], [0.0, 0, 2.2], [0.0, 0, 3.1]])
SMALL = {"harmonics": 2, "order": 2, "cutoff": 4.0}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


compiled = jax.jit(mbdf, static_argnames=("harmonics", "order", "cutoff_function"))


def molecule(positions, numbers=NUMBERS, **changed):
    return compiled(positions, numbers, **{**SMALL, **changed})


def contribution(weight, order, exponent, interval):
    """h(x) = ∫ g(y) ∂^m/∂y^m exp(−a (y − x)²) dy divided by its root mean square, a function of x."""

    def integrand(y, x):
        u = np.sqrt(exponent) * (y - x)
        return weight(y) * (-np.sqrt(exponent)) ** order * eval_hermite(order, u) * np.exp(-(u**2))

    def value(x):
        return quad(integrand, *interval, args=(x,), epsabs=1e-12, epsrel=1e-11, limit=200)[0]

    nodes, weights = np.polynomial.legendre.leggauss(40)
    start, end = interval
    mean = 0.5 * weights @ np.array([value(start + 0.5 * (end - start) * (1 + node)) ** 2 for node in nodes])
    return lambda x: value(x) / np.sqrt(mean)


def by_loops(x, numbers, atom, radial, angular, cutoff, fade, power):
    """Two blocks (order, weight) of one atom, a neighbour and a triangle at a time."""
    two, three = np.zeros(np.shape(radial)), np.zeros(np.shape(angular))
    z = numbers.astype(float)
    r = np.linalg.norm(x[:, None] - x[None], axis=-1)
    f = np.where(r < cutoff, fade(np.minimum(r / cutoff, 1.0)), 0.0)

    def cosine(at, one, other):
        return (x[one] - x[at]) @ (x[other] - x[at]) / (r[at, one] * r[at, other])

    others = [j for j in range(len(x)) if j != atom]
    for j in others:
        for m, w in np.ndindex(two.shape):
            if f[atom, j]:
                two[m, w] += np.sqrt(z[atom] * z[j]) * f[atom, j] * radial[m][w](r[atom, j])
    for j, k in itertools.combinations(others, 2):
        factor = np.cbrt(z[atom] * z[j] * z[k]) * f[atom, j] * f[atom, k] * f[j, k]
        factor /= (r[atom, j] * r[atom, k] * r[j, k]) ** power
        teller = cosine(j, k, atom) * cosine(k, atom, j)
        for m, w in np.ndindex(three.shape):
            if factor:
                three[m, w] += factor * (teller if w == 0 else 1.0) * angular[m][w](cosine(atom, j, k))
    return np.concatenate([two.ravel(), three.ravel()])


FADES = {
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
    "smooth": lambda x: 1 - 35 * x**4 + 84 * x**5 - 70 * x**6 + 20 * x**7,
}


@functools.cache
def functionals(order, harmonics, exponent, angular_exponent, cutoff):
    weights = [lambda r: np.exp(-1.5 * r), lambda r: np.exp(-5 * r), lambda r: (1 + r) ** -3, lambda r: (1 + r) ** -5]
    radial = [[contribution(g, m, exponent, (0, cutoff)) for g in weights] for m in range(order + 1)]
    polynomials = [functools.partial(eval_chebyt, degree) for degree in range(1, harmonics + 1)]
    angular = [[contribution(g, m, angular_exponent, (-1, 1)) for g in polynomials] for m in range(order + 1)]
    return radial, angular


@pytest.mark.parametrize("cutoff_function", FADES)
def test_formulas(cutoff_function):
    """With exponents and a power of our own; atom 3 has a neighbour beyond this cutoff."""
    radial, angular = functionals(2, 2, 3.0, 1.2, 2.2)
    changed = {"radial_exponent": 3.0, "angular_exponent": 1.2, "triangle_power": 1.5, "cutoff": 2.2}
    ours = molecule(FORMAMIDE_LIKE, cutoff_function=cutoff_function, **changed)
    assert ours.shape == (5, 3 * 4 + 3 * 2)
    for atom in (0, 3):
        naive = by_loops(FORMAMIDE_LIKE, NUMBERS, atom, radial, angular, 2.2, FADES[cutoff_function], 1.5)
        np.testing.assert_allclose(ours[atom], naive, atol=1e-9 * np.abs(naive).max())


def test_defaults():
    value = compiled(FORMAMIDE_LIKE, NUMBERS)
    assert value.shape == (5, 40)
    published = {"decays": np.array([1.5, 5.0]), "powers": np.array([3.0, 5.0]), "harmonics": 4, "order": 4}
    published |= {"radial_exponent": 2.0, "angular_exponent": 2.0, "triangle_power": 2.0, "cutoff": 6.0}
    np.testing.assert_allclose(value, molecule(FORMAMIDE_LIKE, **published), rtol=1e-9, atol=1e-12)
    radial = contribution(lambda r: (1 + r) ** -5, 4, 2.0, (0, 6.0))
    angular = contribution(functools.partial(eval_chebyt, 4), 4, 2.0, (-1, 1))
    naive = by_loops(FORMAMIDE_LIKE, NUMBERS, 0, [[radial]], [[angular, angular]], 6.0, FADES["smooth"], 2.0)
    np.testing.assert_allclose(value[0, [19, 39]], naive[[0, 2]], rtol=1e-8)


def test_one_pair_by_hand():
    """First functional of two atoms, at order 0: ∫ exp(−αr) exp(−a (r − d)²) dr in closed form where d is far from the ends."""
    d, a = 3.0, 8.0
    pair = np.array([[0.0, 0, 0], [0, 0, d]])
    values = molecule(pair, np.array([6, 8]), radial_exponent=a, cutoff=6.0, cutoff_function="cosine", order=1)
    ratio = (
        values[0]
        / molecule(pair, np.array([1, 1]), radial_exponent=a, order=1, cutoff=6.0, cutoff_function="cosine")[0]
    )
    np.testing.assert_allclose(ratio[:8], np.sqrt(48.0))  # √(Z_i Z_j); no triangles
    closer = molecule(pair * [1, 1, 2.9 / 3], np.array([6, 8]), radial_exponent=a, order=1, cutoff=6.0)[0]
    farther = molecule(pair, np.array([6, 8]), radial_exponent=a, order=1, cutoff=6.0)[0]
    fades = FADES["smooth"](2.9 / 6) / FADES["smooth"](0.5)
    np.testing.assert_allclose(closer[0] / farther[0], np.exp(0.15) * fades, rtol=1e-6)


def test_elements_are_told_apart():
    """The same surroundings with another element, in the middle or around it."""
    value = molecule(FORMAMIDE_LIKE)
    for atom in (0, 4):
        changed = molecule(FORMAMIDE_LIKE, np.where(np.arange(5) == atom, 9, NUMBERS))
        assert np.all(np.abs(changed - value).max(axis=1) > 1e-3 * np.abs(value).max(axis=1))


def test_invariance():
    properties.assert_invariant(molecule, FORMAMIDE_LIKE)


def test_exchange_of_like_atoms_exchanges_their_rows():
    swap = np.array([0, 1, 2, 4, 3])
    value = molecule(FORMAMIDE_LIKE)
    np.testing.assert_allclose(molecule(FORMAMIDE_LIKE[swap]), value[swap], atol=1e-12)
    assert not np.allclose(value[3], value[4])


def listed(positions, numbers, cell, periodic, width=0, cutoff=4.0):
    """With a neighbour list, which has empty slots."""
    lists = neighbor_lists(positions[None], cell[None], np.array([[periodic] * 3]), cutoff, width)
    neighbors = type(lists)(lists.indices[0], lists.shifts[0])
    return functools.partial(molecule, numbers=numbers, cell=cell, neighbors=neighbors, cutoff=cutoff)


def test_derivatives_to_third_order():
    """With empty slots, whose vectors are all the same."""
    padded = listed(FORMAMIDE_LIKE, NUMBERS, np.zeros((3, 3)), False, width=6)
    properties.assert_derivatives(padded, FORMAMIDE_LIKE, order=3)


def test_derivatives_at_the_cutoff():
    at_cutoff = float(np.linalg.norm(FORMAMIDE_LIKE[0] - FORMAMIDE_LIKE[4]))
    properties.assert_derivatives(
        functools.partial(molecule, cutoff=at_cutoff), FORMAMIDE_LIKE, order=3, tolerance=1e-3
    )


def test_atoms_on_a_line_have_three_derivatives():
    properties.assert_derivatives(functools.partial(molecule, numbers=np.array([1, 6, 6, 8, 1])), LINE, order=3)


def test_jit_and_vmap(rng):
    properties.assert_jit_vmap_consistent(molecule, FORMAMIDE_LIKE + 0.05 * rng.standard_normal((3, 5, 3)))


def test_a_list_with_empty_slots_changes_nothing():
    padded = listed(FORMAMIDE_LIKE, NUMBERS, np.zeros((3, 3)), False, width=6)
    np.testing.assert_allclose(padded(FORMAMIDE_LIKE), molecule(FORMAMIDE_LIKE), atol=1e-12)


def test_crystal_supercell_and_nearest_images():
    cell = np.array([[4.5, 0, 0], [0.4, 4.4, 0], [-0.3, 0.2, 4.8]])
    one = listed(FORMAMIDE_LIKE, NUMBERS, cell, True)(FORMAMIDE_LIKE)
    doubled = np.concatenate([FORMAMIDE_LIKE, FORMAMIDE_LIKE + cell[0]])
    two = listed(doubled, np.tile(NUMBERS, 2), cell * [[2.0], [1], [1]], True)(doubled)
    np.testing.assert_allclose(two, np.tile(one, (2, 1)), atol=1e-12 * np.abs(one).max())
    nearest = molecule(FORMAMIDE_LIKE, cell=cell, cutoff=2.1)
    near = listed(FORMAMIDE_LIKE, NUMBERS, cell, True, cutoff=2.1)(FORMAMIDE_LIKE)
    np.testing.assert_allclose(near, nearest, atol=1e-12 * np.abs(nearest).max())
    assert not np.allclose(nearest, molecule(FORMAMIDE_LIKE, cutoff=2.1))


def test_lone_atom_and_pair():
    assert not np.any(molecule(np.zeros((1, 3)), np.array([6])))
    pair = molecule(np.array([[0.0, 0, 0], [0.0, 0, 1.1]]), np.array([6, 1]))
    assert np.all(pair[:, :12])
    assert not np.any(pair[:, 12:])


def test_hyperparameters_can_be_differentiated():
    def summed(parameters):
        return jnp.sum(molecule(FORMAMIDE_LIKE, **parameters) ** 2)

    given = {"decays": [1.5, 5.0], "powers": [3.0, 5.0], "radial_exponent": 2.0, "angular_exponent": 2.0}
    given |= {"triangle_power": 2.0, "cutoff": 4.0}
    given = {name: jnp.asarray(value) for name, value in given.items()}
    for name, slopes in jax.grad(summed)(given).items():
        direction = np.random.default_rng(1).standard_normal(slopes.shape)
        near, far = (summed({**given, name: given[name] + step * direction}) for step in (1e-5, -1e-5))
        np.testing.assert_allclose(np.sum(slopes * direction), (near - far) / 2e-5, rtol=1e-5)


def test_single_precision_stays_single():
    padded = listed(FORMAMIDE_LIKE, NUMBERS, np.zeros((3, 3)), False, width=6)
    single = padded(FORMAMIDE_LIKE.astype(np.float32), cell=np.zeros((3, 3), np.float32))
    assert single.dtype == np.float32
    double = molecule(FORMAMIDE_LIKE)
    np.testing.assert_allclose(single, double, atol=1e-5 * np.abs(double).max())
