"""Radial functions: values and derivatives against mpmath, at and near coincidence, and their orders."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import mlff
from mlff.kernels.radial import RADIALS, require_order

REFERENCE = {
    "Matern32": lambda s: (1 + mpmath.sqrt(3 * s)) * mpmath.exp(-mpmath.sqrt(3 * s)),
    "Matern52": lambda s: (1 + mpmath.sqrt(5 * s) + 5 * s / 3) * mpmath.exp(-mpmath.sqrt(5 * s)),
    "Matern72": lambda s: (
        (1 + mpmath.sqrt(7 * s) + 14 * s / 5 + 7 * s * mpmath.sqrt(7 * s) / 15) * mpmath.exp(-mpmath.sqrt(7 * s))
    ),
    "RBF": lambda s: mpmath.exp(-s / 2),
    "RationalQuadratic": lambda s: 1 / (1 + s / 2),
    "Polynomial": lambda s: (1 - s / 2) ** 4,
}
CASES = [(name, count) for name in RADIALS for count in range(5)]


@pytest.mark.parametrize(("name", "count"), CASES)
def test_derivatives_match_multiprecision(name, count):
    radial = RADIALS[name](lengthscale=1.0)
    with jax.enable_x64(True):
        s = jnp.array([1e-6, 0.01, 0.3, 1.0, 4.0])
        values = np.asarray(jax.jit(lambda s: radial.derivatives(s, count)[count])(s))
    with mpmath.workdps(60):
        reference = [float(mpmath.diff(REFERENCE[name], mpmath.mpf(float(x)), count)) for x in s]
    np.testing.assert_allclose(values, reference, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", RADIALS)
def test_derivatives_at_coincidence_within_the_order(name):
    """d^k f/ds^k at s = 0 exists for 2k ≤ order; the limit is taken in multiprecision."""
    radial = RADIALS[name](lengthscale=1.0)
    for count in range(5):
        if 2 * count > radial.order:
            continue
        with jax.enable_x64(True):
            value = float(jax.jit(lambda s, k=count: radial.derivatives(s, k)[k])(jnp.zeros(())))
        with mpmath.workdps(80):
            limit = float(mpmath.diff(REFERENCE[name], mpmath.mpf(10) ** -24, count, h=mpmath.mpf(10) ** -40))
        assert value == pytest.approx(limit, rel=1e-9)


def test_mixed_second_derivative_of_matern52_at_coincidence():
    """∂x ∂y κ(x, y) at x = y is (5/3ℓ²)·1, by forward over reverse."""
    radial = mlff.Matern52(lengthscale=2.0)

    def kappa(x, y):
        return radial.value(jnp.sum((x - y) ** 2) / radial.lengthscale**2)

    with jax.enable_x64(True):
        x = jnp.array([0.3, -0.2, 0.5])
        mixed = jax.jit(jax.jacfwd(jax.grad(kappa, argnums=1), argnums=0))(x, x)
    np.testing.assert_allclose(mixed, 5 / 12 * np.eye(3), atol=1e-15)


def test_fourth_mixed_derivative_of_matern72_at_coincidence():
    """∂x² ∂y² of Matérn-7/2 along one axis at x = y: f⁗-free, 12 f″(0)·… = 49·3/5/ℓ⁴·… by multiprecision."""
    radial = mlff.Matern72(lengthscale=1.0)

    def kappa(x, y):
        return radial.value((x - y) ** 2)

    with jax.enable_x64(True):
        second_y = jax.grad(jax.grad(kappa, argnums=1), argnums=1)
        value = float(jax.jit(jax.grad(jax.grad(second_y)))(0.4, 0.4))
    with mpmath.workdps(60):
        exact = mpmath.diff(lambda d: REFERENCE["Matern72"](d * d), mpmath.mpf(10) ** -15, 4, h=mpmath.mpf(10) ** -18)
    assert value == pytest.approx(float(exact), rel=1e-9)


def test_slightly_negative_squares_are_zero():
    """|a|² + |b|² − 2a·b can round below 0; no square root of that."""
    with jax.enable_x64(True):
        for name in RADIALS:
            radial = RADIALS[name](lengthscale=1.0)
            below, at = map(float, jax.jit(lambda s, f=radial: f.derivatives(s, 1)[1])(jnp.array([-1e-17, 0.0])))
            assert below == pytest.approx(at, rel=1e-12)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_lengthscale_must_be_positive(bad):
    with pytest.raises(ValueError, match="lengthscale"):
        mlff.RBF(lengthscale=bad)


def test_orders_refuse_what_does_not_exist():
    require_order(mlff.Matern52(), 1, 3, "cubic constants")
    with pytest.raises(ValueError, match="Matern72 or RBF"):
        require_order(mlff.Matern52(), 1, 4, "quartic constants")
    with pytest.raises(ValueError, match="Matern52, Matern72"):
        require_order(mlff.Matern32(), 1, 2, "the Hessian")
    require_order(mlff.RBF(), 2, 40, "anything")


@pytest.mark.parametrize(
    "radial",
    [mlff.RBF(), mlff.Matern32(), mlff.Matern52(), mlff.Matern72(), mlff.RationalQuadratic(alpha=1.5)],
    ids=lambda r: r.label,
)
def test_frequencies_have_the_spectral_density(radial):
    """The mean of w cos(ω·δ) is f(|δ|²): over 400 000 waves to five standard errors, 5/√(2·10⁵)."""
    vectors, weights = radial.frequencies(np.random.default_rng(0), 400_000, 3)
    np.testing.assert_allclose(weights.mean(), 1.0)
    for distance in (0.3, 1.0, 2.5):
        found = np.mean(weights * np.cos(vectors @ np.array([distance, 0.0, 0.0])))
        np.testing.assert_allclose(found, float(radial.value(jnp.array(distance**2))), atol=0.02)
