"""Label operators: their coefficients by AD against what they are by definition, and the refusal of what is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlff
from mlff.operators import (
    CURVATURES,
    ENERGY,
    FORCES,
    HESSIAN,
    HESSIAN_PRODUCTS,
    STRESS,
    Operator,
    find_operator,
    functionals,
    order_of,
)

LAPLACIAN = Operator("laplacian", lambda u, x: jnp.trace(jax.hessian(u)(x).reshape(x.size, x.size)), "eV/Å²")


@pytest.fixture
def x(rng):
    return rng.standard_normal((3, 3))


def single(operator, x, *arguments):
    arguments = tuple(np.asarray(argument)[None] for argument in arguments)
    order = order_of(operator, x[None], arguments)
    found = functionals(operator, order, x.size + 9 * operator.strain, x[None], arguments)
    return order, *(None if array is None else array[0] for array in found)


def test_energy(x):
    order, values, directions, matrices = single(ENERGY, x)
    assert (order, values.tolist(), directions.any(), matrices) == (0, [1.0], False, None)


def test_forces_are_minus_the_gradient(x):
    order, values, directions, matrices = single(FORCES, x)
    assert order == 1
    np.testing.assert_array_equal(directions, -np.eye(9))
    assert not values.any()
    assert matrices is None


def test_hessian(x):
    order, values, directions, matrices = single(HESSIAN, x)
    unit = np.eye(9)
    expected = 0.5 * (np.einsum("ai,bj->abij", unit, unit) + np.einsum("ai,bj->abji", unit, unit))
    assert order == 2
    np.testing.assert_allclose(matrices, expected.reshape(81, 9, 9), atol=1e-15)
    assert not values.any()
    assert not directions.any()


@pytest.mark.parametrize("operator", [ENERGY, FORCES, HESSIAN], ids=lambda operator: operator.name)
def test_orders_that_are_known_are_those_that_polynomials_tell(operator, x):
    assert order_of(operator, x[None], ()) == order_of(Operator("own", operator.function, "eV"), x[None], ())


def test_products_and_curvatures(x, rng):
    v, w = rng.standard_normal((2, 3, 3))
    _, _, _, matrices = single(HESSIAN_PRODUCTS, x, v[None])
    H = rng.standard_normal((9, 9))
    H = H + H.T
    np.testing.assert_allclose(np.tensordot(matrices, H, 2), H @ v.ravel(), rtol=1e-13)
    order, _, _, matrices = single(CURVATURES, x, np.stack([v, w])[None])
    assert order == 2
    np.testing.assert_allclose(np.tensordot(matrices, H, 2), [v.ravel() @ H @ w.ravel()], rtol=1e-13)


def test_stress_is_a_derivative_along_strains(x):
    cell = np.diag([2.0, 3.0, 4.0])
    order, _, directions, _ = single(STRESS, x, cell)
    assert order == 1
    np.testing.assert_allclose(directions, np.hstack([np.zeros((9, 9)), np.eye(9) / 24.0]), rtol=1e-14)


def test_an_operator_of_ones_own_may_mix_orders_and_depend_on_positions(x):
    mixed = Operator("mixed", lambda u, x: 2.0 * u(x) + x[0, 1] * jax.grad(u)(x)[1, 2] + LAPLACIAN.function(u, x), "eV")
    order, values, directions, matrices = single(mixed, x)
    assert order == 2
    np.testing.assert_allclose(values, [2.0])
    assert directions[0, 5] == x[0, 1]
    assert np.count_nonzero(directions) == 1
    np.testing.assert_allclose(matrices[0], np.eye(9), atol=1e-15)


@pytest.mark.parametrize("masses", [None, (16.0, 1.0, 1.0)])
def test_projected_hessian_is_free_of_rigid_motions_and_keeps_the_rest(masses, x, rng):
    operator = mlff.projected_hessian(masses)
    _, _, _, matrices = single(operator, x)
    H = rng.standard_normal((9, 9))
    H = H + H.T
    found = np.tensordot(matrices, H, 2).reshape(9, 9)
    weights = np.ones(3) if masses is None else np.array(masses)
    centred = x - np.average(x, axis=0, weights=weights)
    rigid = np.array(
        [np.tile(e, (3, 1)).ravel() for e in np.eye(3)] + [np.cross(e, centred).ravel() for e in np.eye(3)]
    )
    np.testing.assert_allclose(found @ rigid.T, 0.0, atol=1e-11)
    # along motions that are orthogonal to the rigid ones, in the metric of the masses, nothing changes
    metric = np.repeat(weights, 3)
    _, _, vectors = np.linalg.svd(rigid * metric)
    inner = vectors[6:]
    np.testing.assert_allclose(inner @ found @ inner.T, inner @ H @ inner.T, atol=1e-11)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda u, x: u(x) ** 2, "not linear"),
        (lambda u, x: u(x) + 1.0, "not linear"),
        (lambda u, x: jnp.abs(u(x)), "not linear"),
        (lambda u, x: jnp.abs(jax.grad(u)(x)), "not linear"),
        (lambda u, x: jnp.max(jax.grad(u)(x)), "not linear"),
        (lambda u, x: jax.nn.relu(jnp.trace(jax.hessian(u)(x).reshape(x.size, x.size))), "not linear"),
        (lambda u, x: jax.jacfwd(jax.hessian(u))(x), "derivatives of order 3"),
        (lambda u, x: jnp.log(-1.0 - u(x) * 0.0) + u(x), "not finite"),
        (lambda u, x: u(x) @ x, "cannot be applied"),
    ],
)
def test_refusals(function, message, x):
    with pytest.raises(ValueError, match=message):
        order_of(Operator("bad", function, "eV"), x[None], ())


def test_the_order_is_that_of_all_frames(x, rng):
    """A vector that is zero in the first frame says nothing of the operator."""
    vectors = np.stack([np.zeros((1, 3, 3)), rng.standard_normal((1, 3, 3))])
    assert order_of(HESSIAN_PRODUCTS, np.stack([x, x]), (vectors,)) == 2
    with pytest.raises(ValueError, match="gives zero for every polynomial"):
        order_of(HESSIAN_PRODUCTS, x[None], (vectors[:1],))


def test_names():
    assert find_operator("forces") is FORCES
    assert find_operator(LAPLACIAN) is LAPLACIAN
    with pytest.raises(ValueError, match="'dipole' is not known; there are energy, forces"):
        find_operator("dipole")


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_names_of_results_are_not_for_operators_of_ones_own(name, x):
    with pytest.raises(ValueError, match=f"an Operator of your own is named '{name}'.* give it another name"):
        find_operator(Operator(name, lambda u, x: 2.0 * u(x), "eV"))
    same = Operator("energy", ENERGY.function, "eV")
    assert find_operator(same) == ENERGY
    assert find_operator(mlff.projected_hessian()).name == "hessian"
