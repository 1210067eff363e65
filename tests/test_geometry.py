"""Geometry that descriptors share: smooth at every geometry without coincident atoms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from descriptors.geometry import Environments, lengths, pair_distances, triangles


def test_linear_molecule_has_finite_derivatives_of_every_order():
    line = np.array([[0.0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]])
    with jax.enable_x64(True):
        third = jax.jit(jax.jacfwd(jax.jacfwd(jax.jacrev(pair_distances))))(line)
        hessian = jax.jit(jax.jacfwd(jax.jacrev(pair_distances)))(line)
    assert np.isfinite(third).all()
    # perpendicular stretching of a bond r: ∂²r/∂x² = 1/r
    np.testing.assert_allclose(hessian[0, 1, 0, 1, 0], 1 / 1.16, rtol=1e-12)


def test_triangles_have_the_angles_between_their_sides(rng):
    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    vectors, numbers = rng.standard_normal((4, 3)), np.array([1, 6, 6, 8])
    with jax.enable_x64(True):
        seen = triangles(Environments(vectors, numbers), lengths(vectors))
    for place, (j, k) in enumerate(itertools.combinations(range(4), 2)):
        to_j, to_k, across = vectors[j], vectors[k], vectors[k] - vectors[j]
        sides = [side @ side for side in (to_j, to_k, across)]
        expected = (j, k, sides[2], np.prod(sides), cosine(to_j, to_k), cosine(-to_j, across) * cosine(to_k, across))
        np.testing.assert_allclose([field[place] for field in seen], expected, rtol=1e-13)


def test_triangles_with_empty_slots_have_finite_derivatives():
    vectors, numbers = np.array([[0.0, 0, 1.1], [9.0, 0, 0], [9.0, 0, 0]]), np.array([6, 0, 0])

    def summed(vectors):
        _, _, *values = triangles(Environments(vectors, numbers), lengths(vectors))
        return sum((value**2).sum() for value in values) + jnp.sqrt(values[0]).sum()

    with jax.enable_x64(True):
        opposite = jax.jit(lambda vectors: triangles(Environments(vectors, numbers), lengths(vectors)).opposite)
        np.testing.assert_array_equal(opposite(vectors), 1.0)
        assert np.isfinite(jax.jit(jax.hessian(summed))(vectors)).all()
