"""Local descriptors as functions of one environment: the features and derivatives of whole geometries."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from alloys import alloy_frames
from moments import moments

import mlff
from descriptors import acsf, fchl19, mbdf, soap
from descriptors.geometry import environments
from mlff.data.batches import LabelledFrames
from mlff.kernels.environments import Surrounded, environment_jets, environment_values, sees_alone
from mlff.kernels.jets import feature_values, jets
from mlff.kernels.surroundings import reach_of

OTHERS = [
    functools.partial(soap, n_max=3, l_max=2, cutoff=4.0), functools.partial(fchl19, cutoff=4.0),
    functools.partial(acsf, cutoff=4.0), functools.partial(mbdf, cutoff=4.0),
]  # fmt: skip
LOCAL = [
    functools.partial(soap, n_max=3, l_max=2, cutoff=4.0, normalised=True),
    moments,
    *(pytest.param(descriptor, marks=pytest.mark.thorough) for descriptor in OTHERS),
]


def kernel_of(descriptor, numbers) -> mlff.LocalKernel:
    return mlff.LocalKernel(descriptor, mlff.RBF(lengthscale=1.3)).completed(numbers)


@pytest.mark.parametrize("descriptor", LOCAL, ids=lambda d: getattr(d, "func", d).__name__)
@pytest.mark.parametrize("periodic", [True, False], ids=["crystal", "molecule"])
def test_environments_have_the_features_and_derivatives_of_geometries(descriptor, periodic, water):
    frames = LabelledFrames.of(mlff.Dataset(alloy_frames(1)) if periodic else water[:2])
    batch = frames.batches[0]
    kernel, n = kernel_of(descriptor, batch.numbers), len(batch.numbers)
    surrounded = Surrounded.of((batch,), reach_of(kernel.descriptors))
    ((_, (whole,), (slopes,)),) = [(p, f, j) for p, (f, j) in jets(kernel, batch, 3 * n + 9)]
    size = np.abs(whole).max()
    values = environment_values(kernel, surrounded, 4)
    np.testing.assert_allclose(values, whole.reshape(values.shape), atol=1e-12 * size)
    found = np.zeros((len(batch), n, values.shape[1], 3 * n + 9))
    for chosen, at, along in environment_jets(kernel, surrounded, 4):
        np.testing.assert_allclose(at, values[chosen], atol=1e-12 * size)
        for e, environment in enumerate(chosen):
            frame, atom = divmod(int(environment), n)
            into = found[frame, atom]
            for k, other in enumerate(surrounded.others[environment, : len(along) // 3]):
                if other >= 0:
                    slope, vector = along[3 * k : 3 * k + 3, e].T, surrounded.seen.vectors[environment, k]
                    into[:, 3 * (other % n) : 3 * (other % n) + 3] += slope
                    into[:, 3 * atom : 3 * atom + 3] -= slope
                    into[:, 3 * n :] += (vector[:, None] * slope[:, None]).reshape(len(slope), 9)
    np.testing.assert_allclose(found, slopes, atol=1e-10 * np.abs(slopes).max())


def test_who_looks_at_the_neighbours_of_neighbours_is_not_taken_for_local():
    def passed_on(positions, numbers, cell=None, neighbors=None, *, cutoff=4.0):
        first = moments(positions, numbers, cell, neighbors, cutoff=cutoff)
        if neighbors is None:
            return first
        return first + first[jnp.abs(neighbors.indices[:, 0])]

    batch = LabelledFrames.of(mlff.Dataset(alloy_frames(1))).batches[0]
    assert sees_alone(kernel_of(moments, batch.numbers), batch)
    assert not sees_alone(kernel_of(passed_on, batch.numbers), batch)


def test_who_takes_no_list_is_not_taken_for_local(water):
    def everything(positions, numbers):
        return environments(positions, numbers, None, None, 9.0).vectors[..., 0]

    batch = LabelledFrames.of(water[:1]).batches[0]
    assert not sees_alone(kernel_of(everything, batch.numbers), batch)
    np.testing.assert_allclose(feature_values(kernel_of(everything, batch.numbers), batch)[0].shape, (1, 3, 2))
