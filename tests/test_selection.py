"""Which frames to label: against the definition, in dense linear algebra."""

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.regression.system.features import compute_features
from mlff.regression.system.kernel_blocks import kernel_between
from mlff.workflows import selection

KERNEL = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0))


@pytest.fixture(scope="module")
def water():
    return mlff.Dataset.read("datasets/water.extxyz")[:40]


def test_variances_are_those_of_dense_linear_algebra(water):
    """What is left after two frames are known."""
    frames = selection._asked(water)
    features = compute_features(KERNEL.completed([8, 1, 1]), frames, {"forces": 1.0})
    shares = selection._shares(KERNEL, features)
    state = selection._Conditioned.of(features, features.take(range(10)), shares)
    known = [3, 17]
    for place in known:
        state.add(features.take([place]))
    K = kernel_between(features, features, shares)
    ends = np.concatenate([[0], features.ends])
    rows = np.concatenate([np.arange(ends[j], ends[j + 1]) for j in known])
    C = K[np.ix_(rows, rows)] + selection.NOISE * np.eye(len(rows))
    left = K - K[:, rows] @ np.linalg.solve(C, K[rows])
    np.testing.assert_allclose(state.variance, np.diagonal(left), atol=1e-8)
    np.testing.assert_allclose(state.covariance, left[:, : ends[10]], atol=1e-8)
    np.testing.assert_allclose(np.mean(np.diagonal(K)), 1.0, rtol=0.2)


def test_choices_are_different_frames_and_worth_more_than_random_ones(water):
    chosen = mlff.select(water, 8, KERNEL)
    assert len(set(chosen.tolist())) == 8
    again = mlff.select(water, 8, KERNEL)
    np.testing.assert_array_equal(chosen, again)

    def left(places):
        features = compute_features(KERNEL.completed([8, 1, 1]), selection._asked(water), {"forces": 1.0})
        state = selection._Conditioned.of(features, features.take([0]), selection._shares(KERNEL, features))
        for place in places:
            state.add(features.take([int(place)]))
        return state.variance.sum()

    at_random = [left(mlff.select(water, 8, by="random", seed=seed)) for seed in range(10)]
    assert left(chosen) < min(at_random)
    # what is known already is not chosen again
    more = mlff.select(water, 4, KERNEL, known=water[chosen])
    assert not set(more.tolist()) & set(chosen.tolist())
    assert len(set(mlff.select(water, 8, KERNEL, by="farthest").tolist())) == 8


def test_what_is_refused(water):
    with pytest.raises(ValueError, match="from 1 to the 40 candidates"):
        mlff.select(water, 41)
    with pytest.raises(ValueError, match="must be one of variance, farthest, random"):
        mlff.select(water, 4, by="entropy")
