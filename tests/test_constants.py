"""Constants from energies that are no labels: as least squares gives them, and hardly moved by one that is far off."""

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.regression.constants import robust_inverse

KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), amplitude=7.0)
OFF = 4.0  # eV


def counts(rng, n):
    """Atoms of two elements in molecules of several sizes."""
    return rng.integers(1, 6, (n, 2)).astype(float)


def altered(data, j, by):
    """The frames, one of them with another energy."""
    frames = list(data)
    labels = {**frames[j].labels, "energy": frames[j].labels["energy"] + by}
    frames[j] = mlff.Frame(frames[j].system, labels)
    return mlff.Dataset(frames)


def test_what_is_explained_is_found(rng):
    design = counts(rng, 12)
    constants = np.array([-1023.7, 13.6])
    np.testing.assert_allclose(robust_inverse(design, design @ constants) @ (design @ constants), constants, rtol=1e-10)
    np.testing.assert_allclose(
        robust_inverse(design[:1], np.ones(1)) @ [1.0] @ design[0], 1.0
    )  # the smallest constants


def test_of_normal_residuals_it_is_nearly_least_squares(rng):
    design = counts(rng, 400)
    scatter = rng.standard_normal(400) * np.sqrt(design.sum(axis=1))
    found, plain = robust_inverse(design, scatter) @ scatter, np.linalg.lstsq(design, scatter, rcond=None)[0]
    spread = np.sqrt(np.diagonal(np.linalg.inv(design.T @ design) * 7.0))
    assert np.all(np.abs(found - plain) < 0.4 * spread)


@pytest.mark.parametrize("off", [1.0, 1e3, -1e6])
def test_one_that_is_far_off_counts_as_little_wherever_it_lies(off, rng):
    """Its share would be off/40; Huber's weights leave 1.345 σ/40, whatever it is off by."""
    values = 1e-2 * rng.standard_normal(40)
    clean = robust_inverse(np.ones((40, 1)), values) @ values
    values[7] += off
    mixing = robust_inverse(np.ones((40, 1)), values)
    np.testing.assert_allclose(mixing @ np.ones(40), 1.0, rtol=1e-12)
    assert abs(mixing @ values - clean) < 1.345 * 0.02 / 35


def test_an_energy_that_is_far_off_hardly_moves_the_others(water):
    """Energies of a fit to forces, the posterior and samples alike."""
    where = water[50].positions
    fits = [mlff.fit(KERNEL, data, noise=1e-2, posterior=True) for data in (water[:40], altered(water[:40], 11, OFF))]
    clean, found = fits
    assert abs(found.energy(where) - clean.energy(where)) < 0.02 * OFF / 40
    left = LabelledFrames.of(water[:40]).values("energy") - [clean.energy(frame.positions) for frame in water[:40]]
    assert abs(np.mean(left)) < 0.2 * np.std(left)  # it is nearly their mean
    for model in fits:
        anchor = model.posterior.anchor
        np.testing.assert_allclose(
            anchor.mixing @ (anchor.energies - [model.energy(frame.positions) for frame in water[:40]]), 0.0, atol=1e-9
        )
    assert found.posterior.anchor.mixing[0, 11] < 1e-3
    assert found.std("energy", where) == pytest.approx(clean.std("energy", where), rel=0.5)


def test_sparse_samples_have_the_constants_of_the_model(water):
    """A sample explains nothing of the energies, as the model has explained them, with the weights that they had there."""
    found = mlff.fit(KERNEL, altered(water[:40], 11, OFF), noise=1e-2, inducing=range(12), posterior=True)
    posterior = found.posterior
    assert posterior.mixing[0, 11] < 1e-3
    for member in posterior.members(3, 0):
        energies = mlff.ForceField(member, water[0].numbers).energy(np.stack([frame.positions for frame in water[:40]]))
        np.testing.assert_allclose(posterior.mixing @ energies, 0.0, atol=1e-9)
