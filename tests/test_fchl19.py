"""FCHL19 against its formula written as loops, and through the battery of properties."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest

from descriptors.fchl19 import fchl19
from mlff.data.neighbors import neighbor_lists

SMALL = {"radial2": 5, "radial3": 4, "cutoff": 4.0}
NUMBERS = np.array([6, 8, 7, 1, 1])
FORMAMIDE_LIKE = np.array([[0.0, 0, 0], [1.1, 0.4, 0.1], [-1.2, 0.5, -0.2], [0.1, -1.0, 0.4], [-1.9, -0.2, 0.3]])
LINE = np.array([[0.0, 0, -1.0], [0.0, 0, 0], [0.0, 0, 1.2], [0.0, 0, 2.2]])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


compiled = jax.jit(fchl19, static_argnames=("elements", "radial2", "radial3", "cutoff_function"))


def molecule(positions, numbers=NUMBERS, **changed):
    return compiled(positions, numbers, elements=(1, 6, 7, 8), **{**SMALL, **changed})


def by_loops(x, numbers, elements, cutoff, inner, radial2, radial3, fade):
    """The formula of the paper, one neighbour and one triangle at a time."""
    eta2, eta3, zeta, decay2, decay3, weight = 0.32, 2.7, np.pi, 1.8, 0.57, 13.4
    r = np.linalg.norm(x[:, None] - x[None], axis=-1)
    two = np.zeros((len(x), len(elements), radial2))
    three = {pair: np.zeros((len(x), radial3, 2)) for pair in itertools.combinations_with_replacement(elements, 2)}

    def angle(at, one, other):
        u, v = x[one] - x[at], x[other] - x[at]
        return np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    for i, j in itertools.permutations(range(len(x)), 2):
        if r[i, j] < cutoff:
            sigma = np.sqrt(np.log(1 + eta2 / r[i, j] ** 2))
            mu = np.log(r[i, j] / np.sqrt(1 + eta2 / r[i, j] ** 2))
            for step in range(radial2):
                grid = cutoff * (step + 1) / radial2
                density = np.exp(-((np.log(grid) - mu) ** 2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi) * grid)
                channel = elements.index(numbers[j])
                two[i, channel, step] += fade(r[i, j] / cutoff) * density / r[i, j] ** decay2
    for i, j, k in itertools.permutations(range(len(x)), 3):
        if j < k and r[i, j] < inner and r[i, k] < inner:
            theta = angle(i, j, k), angle(j, k, i), angle(k, i, j)
            triple = 1 + 3 * np.cos(theta[0]) * np.cos(theta[1]) * np.cos(theta[2])
            triple *= weight * np.sqrt(eta3 / np.pi) / (r[i, j] * r[i, k] * r[j, k]) ** decay3
            triple *= fade(r[i, j] / inner) * fade(r[i, k] / inner)
            pair = tuple(sorted((numbers[j], numbers[k])))
            for step in range(radial3):
                gaussian = np.exp(-eta3 * (0.5 * (r[i, j] + r[i, k]) - inner * (step + 1) / radial3) ** 2)
                fourier = 2 * np.exp(-(zeta**2) / 2) * np.array([np.cos(theta[0]), np.sin(theta[0])])
                three[pair][i, step] += triple * gaussian * fourier
    flat = [two.reshape(len(x), -1)] + [block.reshape(len(x), -1) for block in three.values()]
    return np.concatenate(flat, axis=1)


FADES = {
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
    "smooth": lambda x: 1 - 35 * x**4 + 84 * x**5 - 70 * x**6 + 20 * x**7,
}


@pytest.mark.parametrize("cutoff_function", FADES)
@pytest.mark.parametrize(("cutoff", "inner"), [(4.0, 4.0), (2.2, 2.0)])
def test_formula_of_the_paper(cutoff_function, cutoff, inner):
    elements = (1, 6, 7, 8)
    naive = by_loops(FORMAMIDE_LIKE, NUMBERS, elements, cutoff, inner, 5, 4, FADES[cutoff_function])
    changed = {"cutoff": cutoff, "three_body_cutoff": inner, "cutoff_function": cutoff_function}
    ours = molecule(FORMAMIDE_LIKE, linear_blend=1e-6, **changed)
    assert ours.shape == (5, 4 * 5 + 10 * 4 * 2)
    np.testing.assert_allclose(ours, naive, atol=1e-13 * np.abs(naive).max())


def test_one_triangle_by_hand():
    """Atom 0 of a right angle with sides of 1 Å: cos θ = 0 and the other cosines are 1/√2."""
    corner = np.array([[0.0, 0, 0], [1.0, 0, 0], [0.0, 1, 0]])
    value = compiled(corner, np.array([8, 1, 1]), elements=(1, 8), radial2=2, radial3=2, cutoff=2.0)[0]
    fade = 0.5  # of the smooth cutoff, half way
    triangle = 13.4 * np.sqrt(2.7 / np.pi) * np.sqrt(2) ** -0.57 * fade**2 * 2 * np.exp(-(np.pi**2) / 2)
    np.testing.assert_allclose(value[4:8], [0, triangle, 0, triangle * np.exp(-2.7)], atol=1e-15)
    sigma = np.sqrt(np.log(1.32))
    normal = np.exp(-((np.array([np.log(1.0), np.log(2.0)]) + sigma**2 / 2) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(value[:2], 2 * fade * normal / (np.sqrt(2 * np.pi) * sigma * np.array([1, 2])))
    assert not np.any(value[2:4])
    assert not np.any(value[8:])


def test_defaults_are_the_published_ones():
    published = {"radial2": 24, "radial3": 20, "eta2": 0.32, "eta3": 2.7, "zeta": np.pi, "cutoff": 8.0}
    published |= {"two_body_decay": 1.8, "three_body_decay": 0.57, "three_body_weight": 13.4, "three_body_cutoff": 8.0}
    value = compiled(FORMAMIDE_LIKE, NUMBERS, elements=(1, 6, 7, 8))
    assert value.shape == (5, 4 * 24 + 10 * 20 * 2)
    np.testing.assert_allclose(value, molecule(FORMAMIDE_LIKE, **published), atol=1e-14)


def test_invariance():
    properties.assert_invariant(molecule, FORMAMIDE_LIKE)


def test_exchange_of_like_atoms_exchanges_their_rows():
    swap = [0, 1, 2, 4, 3]
    value = molecule(FORMAMIDE_LIKE)
    np.testing.assert_allclose(molecule(FORMAMIDE_LIKE[swap]), value[np.array(swap)], atol=1e-14)
    assert not np.allclose(value[3], value[4])


def test_derivatives_to_third_order():
    properties.assert_derivatives(molecule, FORMAMIDE_LIKE, order=3)


def test_derivatives_at_the_cutoff():
    at_cutoff = float(np.linalg.norm(FORMAMIDE_LIKE[0] - FORMAMIDE_LIKE[4]))
    properties.assert_derivatives(
        functools.partial(molecule, cutoff=at_cutoff), FORMAMIDE_LIKE, order=3, tolerance=1e-3
    )


def test_jit_and_vmap(rng):
    properties.assert_jit_vmap_consistent(molecule, FORMAMIDE_LIKE + 0.05 * rng.standard_normal((3, 5, 3)))


def test_the_rounded_sine_joins_the_published_one():
    """At the angle where the polynomial ends, value and three derivatives along a bend are those of sin θ."""
    edge = np.arcsin(0.25)

    def feature(theta, blend):
        zero = jnp.zeros_like(theta)
        ends = jnp.stack([jnp.stack([zero + 1, zero, zero]), jnp.stack([-jnp.cos(theta), jnp.sin(theta), zero])])
        return molecule(jnp.concatenate([jnp.zeros((1, 3)), ends]), np.array([6, 8, 8]), linear_blend=blend)[0, -1]

    @jax.jit
    def derivatives(theta, blend):
        """Value and three derivatives, in units of those of a function that changes over the angle `edge`."""
        functions = [feature]
        for _ in range(3):
            functions.append(jax.jacfwd(functions[-1]))
        return jnp.stack([edge**order * function(theta, blend) for order, function in enumerate(functions)])

    for angle, agree in ((edge * (1 + 1e-6), True), (edge * (1 - 1e-6), True), (edge * 0.7, False)):
        rounded, published = derivatives(angle, 0.25), derivatives(angle, 1e-6)
        off = np.abs(rounded - published).max() / np.abs(published).max()
        assert off < 1e-4 if agree else off > 1e-2, (angle, off)


def padded(positions, numbers, cell, periodic, **changed):
    """With a neighbour list, which has empty slots."""
    width = changed.pop("width", 0)
    lists = neighbor_lists(positions[None], cell[None], np.array([[periodic] * 3]), changed.get("cutoff", 4.0), width)
    neighbors = type(lists)(lists.indices[0], lists.shifts[0])
    return functools.partial(molecule, numbers=numbers, cell=cell, neighbors=neighbors, **changed)


def test_a_list_with_empty_slots_changes_nothing():
    listed = padded(FORMAMIDE_LIKE, NUMBERS, np.zeros((3, 3)), False, width=9)
    np.testing.assert_allclose(listed(FORMAMIDE_LIKE), molecule(FORMAMIDE_LIKE), atol=1e-14)


def test_linear_molecules_with_empty_slots_have_three_derivatives():
    listed = padded(LINE, np.array([1, 6, 6, 1]), np.zeros((3, 3)), False, width=6)
    properties.assert_derivatives(listed, LINE, order=3, tolerance=1e-5)


def test_crystal_supercell_and_nearest_images():
    cell = np.array([[4.5, 0, 0], [0.4, 4.4, 0], [-0.3, 0.2, 4.8]])
    one = padded(FORMAMIDE_LIKE, NUMBERS, cell, True)(FORMAMIDE_LIKE)
    doubled = np.concatenate([FORMAMIDE_LIKE, FORMAMIDE_LIKE + cell[0]])
    two = padded(doubled, np.tile(NUMBERS, 2), cell * [[2.0], [1], [1]], True)(doubled)
    np.testing.assert_allclose(two, np.tile(one, (2, 1)), atol=1e-13)
    nearest = molecule(FORMAMIDE_LIKE, cell=cell, cutoff=2.1)
    np.testing.assert_allclose(
        padded(FORMAMIDE_LIKE, NUMBERS, cell, True, cutoff=2.1)(FORMAMIDE_LIKE), nearest, atol=1e-14
    )
    assert not np.allclose(nearest, molecule(FORMAMIDE_LIKE, cutoff=2.1))


def test_lone_atom_and_pair():
    assert not np.any(molecule(np.zeros((1, 3)), np.array([6])))
    pair = molecule(np.array([[0.0, 0, 0], [0.0, 0, 1.1]]), np.array([6, 1]))
    assert np.all(np.isfinite(pair))
    assert np.any(pair[:, :20])
    assert not np.any(pair[:, 20:])


def test_hyperparameters_can_be_differentiated_and_single_precision_stays_single():
    def summed(parameters):
        return jnp.sum(molecule(FORMAMIDE_LIKE, **parameters) ** 2)

    names = ("cutoff", "eta2", "eta3", "zeta", "two_body_decay", "three_body_decay", "three_body_weight")
    given = {name: jnp.asarray(value) for name, value in zip(names, (4.0, 0.3, 2.5, 3.0, 1.7, 0.5, 12.0), strict=True)}
    slopes = jax.grad(summed)(given)
    for name in names:
        near, far = (summed({**given, name: given[name] + step}) for step in (1e-5, -1e-5))
        np.testing.assert_allclose(slopes[name], (near - far) / 2e-5, rtol=1e-6)
    single = molecule(FORMAMIDE_LIKE.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, molecule(FORMAMIDE_LIKE), atol=2e-6)


def test_three_bodies_see_no_further_than_the_list():
    with pytest.raises(ValueError, match=r"three_body_cutoff=5.0 must not exceed cutoff=4.0"):
        fchl19(FORMAMIDE_LIKE, NUMBERS, elements=(1, 6, 7, 8), cutoff=4.0, three_body_cutoff=5.0)
    np.testing.assert_allclose(molecule(FORMAMIDE_LIKE, three_body_cutoff=5.0), molecule(FORMAMIDE_LIKE), atol=1e-14)
