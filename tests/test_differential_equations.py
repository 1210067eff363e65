"""Functions from differential conditions: closed solutions of equations, conditions of every kind, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlff
from mlff.regression.differential_equations import value


def laplacian(u, x):
    return jnp.trace(jax.hessian(u)(x))


def annulus(count, seed=0):
    """Points inside 1 < r < 2, and on both circles."""
    rng = np.random.default_rng(seed)
    r, angle = np.sqrt(rng.uniform(1, 4, 2 * count)), rng.uniform(0, 2 * np.pi, 2 * count)
    inside = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)
    around = 2 * np.pi * np.arange(count) / count
    circle = np.stack([np.cos(around), np.sin(around)], axis=1)
    return inside, np.concatenate([circle, 2 * circle])


def harmonic(x):
    """A solution of Laplace's equation: log r and a quadrupole."""
    return np.log(np.hypot(*x.T)) + 0.3 * (x[:, 0] ** 2 - x[:, 1] ** 2)


def test_laplace_on_an_annulus_converges():
    test, _ = annulus(200, seed=9)
    errors = []
    for count in (8, 16, 64):
        inside, rim = annulus(count)
        conditions = [mlff.Condition(value, rim, harmonic(rim)), mlff.Condition(laplacian, inside, 0.0)]
        u = mlff.fit_function(conditions, mlff.RBF(lengthscale=0.8))
        errors.append(np.abs(u(test) - harmonic(test)).max())
    assert errors[0] > 3 * errors[1] > 30 * errors[2]
    assert errors[2] < 5e-3
    assert np.sqrt(np.mean(u.apply(laplacian, test) ** 2)) < 0.05
    assert u.rows == 64 * 4


def test_values_gradients_hessians_and_curvatures_together(rng):
    def truth(x):
        return jnp.sin(1.3 * x[0]) * jnp.cos(x[1])

    def along(u, x):
        d = jnp.array([0.6, 0.8], x.dtype)
        return d @ jax.hessian(u)(x) @ d

    points = rng.uniform(-2, 2, (4, 12, 2))
    operators = (value, lambda u, x: jax.grad(u)(x), lambda u, x: jax.hessian(u)(x), along)
    with jax.enable_x64(True):
        conditions = [
            mlff.Condition(operator, x, np.asarray(jax.jit(jax.vmap(lambda y, op=operator: op(truth, y)))(x)))
            for operator, x in zip(operators, points, strict=True)
        ]
        test = rng.uniform(-1.5, 1.5, (50, 2))
        exact = np.asarray(jax.jit(jax.vmap(truth))(test))
    together = mlff.fit_function(conditions, mlff.RBF(lengthscale=1.5))
    values_alone = mlff.fit_function(conditions[:1], mlff.RBF(lengthscale=1.5))
    errors = [np.abs(u(test) - exact).max() for u in (together, values_alone)]
    assert errors[0] < 0.05 * errors[1]
    # every condition is met where it was given
    for condition in conditions:
        np.testing.assert_allclose(together.apply(condition.operator, condition.points), condition.values, atol=1e-3)


def test_refusals(rng):
    x = rng.standard_normal((5, 2))
    third = mlff.Condition(lambda u, x: jax.jacfwd(jax.hessian(u))(x).sum(), x, 0.0)
    for conditions, message in (
        ([], "there are none"),
        (
            [mlff.Condition(value, x, 0.0), mlff.Condition(value, x[:, :1], 0.0)],
            r"condition 1 have shape \(5, 1\), expected",
        ),
        ([third], "derivatives of order 3"),
        ([mlff.Condition(lambda u, x: u(x) ** 2, x, 0.0)], "not linear"),
    ):
        with pytest.raises(ValueError, match=message):
            mlff.fit_function(conditions, mlff.RBF(lengthscale=1.0))
    u = mlff.fit_function([mlff.Condition(laplacian, x, 1.0)], mlff.Matern52(lengthscale=1.0))
    assert u.label_order == 2
    with pytest.raises(ValueError, match="a derivative of order 3 does not exist for Matérn-5/2"):
        u.apply(third.operator, x)
