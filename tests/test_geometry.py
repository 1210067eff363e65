"""Pair distances: smooth at every geometry without coincident atoms."""

import jax
import numpy as np

from descriptors.geometry import pair_distances


def test_linear_molecule_has_finite_derivatives_of_every_order():
    line = np.array([[0.0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]])
    with jax.enable_x64(True):
        third = jax.jacfwd(jax.jacfwd(jax.jacrev(pair_distances)))(line)
        hessian = jax.jacfwd(jax.jacrev(pair_distances))(line)
    assert np.isfinite(third).all()
    # perpendicular stretching of a bond r: ∂²r/∂x² = 1/r
    np.testing.assert_allclose(hessian[0, 1, 0, 1, 0], 1 / 1.16, rtol=1e-12)
