"""Label rows: rigid-motion reduction keeps every force that a model can have, in as many rows as there are."""

import jax
import numpy as np
import pytest

from descriptors import inverse_distances
from mlff.operators import energy_rows, force_rows, stack

BENT = np.array([[0.0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48], [0.8, 0.1, 0.9]])
LINEAR = np.array([[0.0, 0, 0], [0, 0, 1.2], [0, 0, 2.3], [0, 0, 3.7]])


def jacobian(x):
    with jax.enable_x64(True):
        return np.asarray(jax.jacfwd(inverse_distances)(x)).reshape(-1, x.size)


@pytest.mark.parametrize(("x", "rank"), [(BENT, 6), (LINEAR, 3)])
def test_rank(x, rank, rng):
    rows = force_rows(rng.standard_normal((4, 3)), 0.1, jacobian(x))
    assert rows.directions.shape == (rank, 12)
    np.testing.assert_allclose(rows.directions @ rows.directions.T, np.eye(rank), atol=1e-12)
    np.testing.assert_array_equal(rows.noise, 0.1)


def test_forces_within_reach_lose_nothing(rng):
    J = jacobian(BENT)
    forces = (J.T @ rng.standard_normal(len(J))).reshape(4, 3)
    rows = force_rows(forces, 0.1, J)
    np.testing.assert_allclose(-rows.directions.T @ rows.labels, forces.ravel(), atol=1e-12)
    assert rows.unseen < 1e-12


def test_share_outside_reach():
    net = np.ones((4, 3))
    assert force_rows(net, 0.1, jacobian(BENT)).unseen == pytest.approx(1.0)
    assert force_rows(np.zeros((4, 3)), 0.1, jacobian(BENT)).unseen == 0.0


def test_stacked():
    rows = stack([energy_rows(-3.0, 0.01, 12), force_rows(np.ones((4, 3)), 0.1, jacobian(BENT))])
    np.testing.assert_array_equal(rows.values, [1, 0, 0, 0, 0, 0, 0])
    assert rows.labels[0] == -3.0
    assert rows.noise[0] == 0.01
    assert not rows.directions[0].any()
