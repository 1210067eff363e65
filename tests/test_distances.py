"""The distance family through the battery of properties."""

import functools

import jax
import numpy as np
import properties
import pytest

from descriptors import exponential_distances, inverse_distances, powered_distances
from descriptors.geometry import pair_distances

FAMILY = [
    inverse_distances,
    functools.partial(powered_distances, power=-2.5),
    functools.partial(exponential_distances, decay=1.5),
]
METHANE_LIKE = np.array([[0.0, 0, 0], [0.63, 0.63, 0.61], [-0.64, -0.6, 0.65], [-0.6, 0.63, -0.62], [0.66, -0.6, -0.6]])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("descriptor", FAMILY)
def test_invariance(descriptor):
    properties.assert_invariant(descriptor, METHANE_LIKE)


@pytest.mark.parametrize("descriptor", FAMILY)
def test_derivatives_to_fourth_order(descriptor):
    properties.assert_derivatives(descriptor, METHANE_LIKE, order=4, tolerance=1e-5)


@pytest.mark.parametrize("descriptor", FAMILY)
def test_jit_and_vmap(descriptor, rng):
    properties.assert_jit_vmap_consistent(descriptor, METHANE_LIKE + 0.05 * rng.standard_normal((3, 5, 3)))


def test_order_of_pairs_and_values():
    line = np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 3]])
    np.testing.assert_allclose(pair_distances(line), [1, 3, 2])
    np.testing.assert_allclose(inverse_distances(line), [1, 1 / 3, 1 / 2])
    np.testing.assert_allclose(powered_distances(line, power=2.0), [1, 9, 4])
    np.testing.assert_allclose(exponential_distances(line, decay=2.0), np.exp([-0.5, -1.5, -1.0]))


@pytest.mark.parametrize("descriptor", FAMILY)
def test_exchange_permutes_the_features(descriptor):
    value, exchanged = descriptor(METHANE_LIKE), descriptor(METHANE_LIKE[[0, 2, 1, 3, 4]])
    assert not np.allclose(value, exchanged)
    np.testing.assert_allclose(np.sort(value), np.sort(exchanged), rtol=1e-13)
