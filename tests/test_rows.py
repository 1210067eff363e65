"""Rows of the linear system: what a descriptor cannot answer leaves, and nothing else; repeated labels are one."""

import jax
import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.operators import FORCES, HESSIAN, functionals
from mlff.regression.system.features import compute_features
from mlff.regression.system.rows import measured, orders, pack

BENT = np.array([[0.0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48], [0.8, 0.1, 0.9]])
LINEAR = np.array([[0.0, 0, 0], [0, 0, 1.2], [0, 0, 2.3], [0, 0, 3.7]])
PLANAR = np.array([[0.0, 0, 0], [1.1, 0.3, 0], [-0.9, 0.8, 0], [0.2, -1.3, 0]])
NUMBERS = np.array([6, 1, 1, 1])


def labels_of(x, labels, noise):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.0)).completed(NUMBERS)
    frames = LabelledFrames.uniform(x[None], NUMBERS, {name: np.asarray(value)[None] for name, value in labels.items()})
    (observed,) = compute_features(kernel, frames, noise).observations
    return observed


def derivatives(x):
    """J, shape (D, 3n), and D²φ, shape (D, 3n, 3n)."""

    def features(flat):
        return inverse_distances(flat.reshape(x.shape))

    with jax.enable_x64(True):
        first, second = jax.jit(lambda y: (jax.jacfwd(features)(y), jax.hessian(features)(y)))(x.ravel())
        return np.asarray(first), np.asarray(second)


@pytest.mark.parametrize(("x", "rank"), [(BENT, 6), (LINEAR, 3)])
def test_forces_have_as_many_rows_as_internal_motions(x, rank, rng):
    label = labels_of(x, {"forces": rng.standard_normal((4, 3))}, {"forces": 0.1})
    assert label.rows.directions.shape == (rank, 12)
    np.testing.assert_allclose(label.rows.directions @ label.rows.directions.T, np.eye(rank), atol=1e-12)
    np.testing.assert_array_equal(label.rows.noise, 0.1)
    assert (orders(label.rows) == 1).all()


def test_forces_within_reach_lose_nothing(rng):
    J, _ = derivatives(BENT)
    forces = (J.T @ rng.standard_normal(len(J))).reshape(4, 3)
    label = labels_of(BENT, {"forces": forces}, {"forces": 0.1})
    np.testing.assert_allclose(-label.rows.directions.T @ label.rows.labels, forces.ravel(), atol=1e-12)
    assert label.unseen < 1e-12


def test_share_outside_reach():
    net = np.ones((4, 3))
    with_energy = {"energy": 1.0}
    label = labels_of(BENT, {"forces": net, **with_energy}, {"forces": 0.1, "energy": 0.1})
    assert label.unseen == pytest.approx(1.0)
    still = labels_of(BENT, {"forces": 0 * net, **with_energy}, {"forces": 0.1, "energy": 0.1})
    assert still.unseen == 0.0


@pytest.mark.parametrize(("x", "rank"), [(BENT, 6), (PLANAR, 5), (LINEAR, 3)])
def test_hessian_rows_span_what_first_and_second_derivatives_reach(x, rank, rng):
    """At planar and linear geometries modes live in the descriptor's second derivative alone, and stay."""
    J, bent = derivatives(x)
    H = rng.standard_normal((12, 12))
    label = labels_of(x, {"hessian": H + H.T}, {"hessian": 0.1})
    products = np.einsum("ax,by->abxy", J, J).reshape(-1, 12, 12)
    reach = pack(np.concatenate([products + products.transpose(0, 2, 1), bent]), np.sqrt(2.0))
    # a direction of the span is lost or kept whole: compare orthogonal projectors
    _, singular, vectors = np.linalg.svd(reach, full_matrices=False)
    wanted = vectors[singular > 1e-9 * singular[0]]
    matrices = label.basis.T @ label.rows.matrices @ label.basis
    kept = pack(matrices, np.sqrt(2.0))
    assert np.linalg.matrix_rank(J, 1e-8) == rank
    assert len(kept) == len(wanted) > rank * (rank + 1) // 2
    np.testing.assert_allclose(kept.T @ kept, wanted.T @ wanted, atol=1e-8)
    assert (orders(label.rows) == 2).all()


def test_repeated_measurements_are_averaged(rng):
    """Both triangles of a Hessian: the mean with half the variance, in the scale of the others' noise."""
    H = rng.standard_normal((12, 12))
    found = functionals(HESSIAN, 2, 12, BENT[None], ())
    rows = measured(found, 0, H.ravel(), 0.3)
    assert len(rows.labels) == 78
    packed = pack(0.5 * (H + H.T), np.sqrt(2.0))
    np.testing.assert_allclose(rows.labels, packed, rtol=1e-13)
    np.testing.assert_allclose(np.tensordot(rows.matrices, H, 2), packed, rtol=1e-13)
    np.testing.assert_array_equal(rows.noise, 0.3)


def test_missing_entries(rng):
    found = functionals(FORCES, 1, 12, BENT[None], ())
    forces = rng.standard_normal(12)
    forces[[2, 7]] = np.nan
    rows = measured(found, 0, forces, 0.1)
    np.testing.assert_array_equal(rows.labels, forces[~np.isnan(forces)])
    np.testing.assert_array_equal(rows.directions, -np.delete(np.eye(12), [2, 7], axis=0))


def test_all_labels_of_a_frame(rng):
    labels = {"energy": -3.0, "forces": np.ones((4, 3)), "hessian": np.eye(12)}
    label = labels_of(BENT, labels, {"energy": 0.01, "forces": 0.1, "hessian": 1.0})
    np.testing.assert_array_equal(label.rows.values, [1.0] + [0.0] * (len(label.rows.values) - 1))
    assert label.rows.labels[0] == -3.0
    assert label.rows.noise.tolist() == [0.01] + 6 * [0.1] + (len(label.rows.values) - 7) * [1.0]
    assert orders(label.rows).tolist() == [0.0] + 6 * [1.0] + (len(label.rows.values) - 7) * [2.0]
