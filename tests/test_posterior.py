"""What a fit keeps: posterior covariances from its factor, against textbook linear algebra with the whole matrix."""

import numpy as np
import pytest
from test_gram import WATER, dense_matrix, frames_of

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.regression.features import compute_features
from mlff.regression.solution import solve

GROUP = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), GROUP, amplitude=7.0)


def parts_of(training, asked, noise):
    """C, k*, k** with amplitudes, and H and h*, from nested differentiation of the kernel's definition."""
    positions = np.concatenate([f.batches[0].positions for f in (training, asked)])
    observations = [compute_features(KERNEL, f, noise).observations for f in (training, asked)]
    rows = [frame.rows for part in observations for frame in part]
    kernel = 7.0 * dense_matrix(KERNEL, frames_of(positions), rows)
    n = sum(frame.size for frame in observations[0])
    levels = np.concatenate([frame.rows.noise for frame in observations[0]])
    values = np.concatenate([row.values for row in rows])[:, None]
    return kernel[:n, :n] + np.diag(levels**2), kernel[:n, n:], kernel[n:, n:], values[:n], values[n:]


@pytest.mark.parametrize("noise", [{"forces": 1e-2}, {"energy": 1e-3, "forces": 1e-2}], ids=["forces", "both"])
def test_covariances_match_dense_linear_algebra(noise, rng):
    training = frames_of(WATER + 0.1 * rng.standard_normal((5, 3, 3)))
    asked = frames_of(WATER + 0.1 * rng.standard_normal((2, 3, 3)))
    posterior = solve(KERNEL, training, noise, posterior=True).posterior
    found = posterior.of_features(compute_features(KERNEL, asked, noise))
    C, across, prior, H, h = parts_of(training, asked, noise)
    wanted = prior - across.T @ np.linalg.solve(C, across)
    if "energy" in noise:
        missing = h.T - H.T @ np.linalg.solve(C, across)
        wanted += missing.T @ np.linalg.solve(H.T @ np.linalg.solve(C, H), missing)
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(prior).max())
    assert np.all(np.diagonal(found) > 0)
    assert np.all(np.diagonal(found) < 0.9 * np.diagonal(prior))


def test_of_training_labels_little_more_than_the_noise_is_left(rng):
    frames = frames_of(WATER + 0.1 * rng.standard_normal((5, 3, 3)))
    posterior = solve(KERNEL, frames, {"forces": 1e-2}, posterior=True).posterior
    left = np.diagonal(posterior.of_features(posterior.system.features))
    assert np.all(left <= 1e-4 * (1 + 1e-6))
    assert np.all(left > 0)


def test_the_scale_of_an_amplitude_from_the_data_is_in_it(water):
    """Labels and noise times ten: covariances times a hundred."""
    kernel = KERNEL.replace(amplitude=None).completed([8, 1, 1])
    ten = mlff.Dataset([mlff.Frame(f.system, {"forces": 10 * f.labels["forces"]}) for f in water[:8]])
    asked = compute_features(kernel, LabelledFrames.of(water[20:22]), {"forces": 1.0})
    one, hundred = (
        solve(kernel, LabelledFrames.of(data), {"forces": level}, posterior=True).posterior.of_features(asked)
        for data, level in ((water[:8], 1e-2), (ten, 1e-1))
    )
    np.testing.assert_allclose(hundred, 100 * one, atol=1e-8 * np.abs(hundred).max())


def test_given_constants_are_known(water):
    """Energies of atoms that are given leave no doubt about the constants."""
    kernel = mlff.LocalKernel(lambda x: inverse_rows(x), mlff.RBF(lengthscale=2.0)).completed([8, 1, 1])
    frames, noise = LabelledFrames.of(water[:8]), {"energy": 1e-3, "forces": 1e-2}
    asked = compute_features(kernel, LabelledFrames.of(water[20:22]), noise)
    found = solve(kernel, frames, noise, posterior=True).posterior.of_features(asked)
    given = solve(kernel, frames, noise, {1: -13.0, 8: -2000.0}, posterior=True).posterior
    assert given.weights.responses is None
    known = given.of_features(asked) / given.system.scale
    relative = found / solve(kernel, frames, noise).amplitudes[0]
    assert np.linalg.eigvalsh(relative - known).min() > -1e-9 * np.abs(relative).max()
    assert np.trace(relative - known) > 0


def inverse_rows(positions):
    """Sums of inverse squares, two numbers an atom."""
    import jax.numpy as jnp

    squares = jnp.sum((positions[:, None] - positions + 1e3 * jnp.eye(len(positions))[..., None]) ** 2, axis=-1)
    return jnp.stack([jnp.sum(1.0 / squares, axis=1), jnp.sum(1.0 / (1.0 + squares), axis=1)], axis=1)
