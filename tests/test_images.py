"""Features, Jacobians and tangents at permuted images, against the definition."""

import jax
import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.images import image_tangents, jets
from mlff.labelled import LabelledFrames

KERNEL = mlff.GlobalKernel(
    inverse_distances, mlff.RBF(lengthscale=2.0), mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
)


def few_features(positions):
    return inverse_distances(positions)[:2] ** 2


@pytest.mark.parametrize("descriptor", [inverse_distances, few_features])
def test_jets_by_both_modes(water, descriptor):
    """Two features of nine coordinates go backward, three of three forward is never worse; both are the Jacobian."""
    x = water[:5].uniform_positions()
    kernel = mlff.GlobalKernel(descriptor, mlff.RBF(lengthscale=2.0))
    ((piece, ((features,), (jacobians,))),) = list(jets(kernel, LabelledFrames.of(water[:5]).batches[0]))
    assert piece == slice(0, 5)
    step = 1e-5
    for i in range(5):
        with jax.enable_x64(True):
            np.testing.assert_allclose(features[i, 0], descriptor(x[i]) / 2, rtol=1e-13)
            for c in range(9):
                shift = np.zeros(9)
                shift[c] = step
                numeric = (descriptor(x[i] + shift.reshape(3, 3)) - descriptor(x[i] - shift.reshape(3, 3))) / (4 * step)
                np.testing.assert_allclose(jacobians[i, 0][:, c], numeric, atol=1e-8)


def test_tangents_are_of_the_frame_not_of_its_image(water, rng):
    x, directions = water[:3].uniform_positions(), rng.standard_normal((3, 2, 9))
    points, tangents = image_tangents(KERNEL, LabelledFrames.of(water[:3]).batches[0], directions)
    assert points.shape == (3, 2, 3)
    assert tangents.shape == (3, 2, 2, 3)
    step = 1e-6
    for i in range(3):
        for k, p in enumerate(KERNEL.permutations):
            for r in range(2):
                d = step * directions[i, r].reshape(3, 3)
                with jax.enable_x64(True):
                    numeric = (inverse_distances((x[i] + d)[p]) - inverse_distances((x[i] - d)[p])) / (4 * step)
                np.testing.assert_allclose(tangents[i, k, r], numeric, atol=1e-8)
