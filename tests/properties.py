"""The battery: what every descriptor, kernel and force field must satisfy, whatever it is."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation


def assert_invariant(function, positions: np.ndarray, tolerance: float = 1e-9) -> None:
    """f(R x + t) = f(x) for a rotation R, a reflection, and a translation far away (10⁴ Å, with its rounding)."""
    value = np.asarray(function(positions))
    scale = np.abs(value).max()
    turned = Rotation.random(rng=np.random.default_rng(3)).apply(positions)
    np.testing.assert_allclose(function(turned), value, atol=tolerance * scale)
    np.testing.assert_allclose(function(turned * [1, 1, -1]), value, atol=tolerance * scale)
    np.testing.assert_allclose(function(positions + [1.0, -2.0, 3.0]), value, atol=tolerance * scale)
    np.testing.assert_allclose(function(positions + 1e4), value, atol=1e-7 * scale)


def assert_derivatives(function, point: np.ndarray, order: int, tolerance: float = 1e-6) -> None:
    """Directional derivatives up to `order` by nested forward mode against central differences, each of the last.

    The derivative of order k is compared with fourth-order differences of the one of order k − 1; none may vanish.
    """
    rng = np.random.default_rng(7)
    directions = [rng.standard_normal(point.shape) for _ in range(order)]

    def derivatives(x):
        return _derivatives(function, x, directions)  # all at once: a compiled function is compiled to one more only

    step, at_point = 1e-3, derivatives(point)
    for k, direction in enumerate(directions, start=1):
        near, far = (
            np.asarray(derivatives(point + j * step * direction)[k - 1])
            - np.asarray(derivatives(point - j * step * direction)[k - 1])
            for j in (1, 2)
        )
        numeric, exact = (8 * near - far) / (12 * step), np.asarray(at_point[k])
        scale = np.abs(exact).max()
        assert scale > 1e-8, f"derivative of order {k} vanishes: nothing was tested"
        np.testing.assert_allclose(exact, numeric, atol=tolerance * scale, err_msg=f"order {k}")


def _derivatives(function, x, directions) -> tuple:
    """f, ∂₁f, ∂₂∂₁f, … along the directions given."""
    if not directions:
        return (function(x),)
    *earlier, last = directions
    values, slopes = jax.jvp(lambda y: _derivatives(function, y, earlier), (x,), (jnp.asarray(last),))
    return (*values, slopes[-1])


def assert_jit_vmap_consistent(function, batch: np.ndarray) -> None:
    """One by one, compiled and batched give the same numbers."""
    single = np.stack([np.asarray(function(x)) for x in batch])
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(batch), single, rtol=1e-12, atol=1e-13)


def assert_matches_dense(blocks: np.ndarray, dense: np.ndarray, tolerance: float = 1e-12) -> None:
    """A matrix built from blocks against one by nested differentiation of the definition."""
    assert np.abs(dense).max() > 0
    np.testing.assert_allclose(blocks, dense, atol=tolerance * np.abs(dense).max())


def assert_energy_differences(force_field, positions: np.ndarray, tolerance: float = 1e-7) -> None:
    """Forces against fourth-order differences of the energy along a random direction; neither may vanish."""
    direction, step = np.random.default_rng(7).standard_normal(positions.shape), 1e-3
    near, far = (
        force_field.energy(positions + k * step * direction) - force_field.energy(positions - k * step * direction)
        for k in (1, 2)
    )
    slope = -np.sum(force_field.forces(positions) * direction)
    assert abs(slope) > 1e-6, "the slope vanishes: nothing was tested"
    np.testing.assert_allclose((8 * near - far) / (12 * step), slope, rtol=tolerance)
