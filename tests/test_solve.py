"""The closed-form fit against textbook Gaussian-process regression in all 3N components."""

import jax
import numpy as np
import pytest
from test_gram import WATER, dense_matrix, frames_of

import mlff
from descriptors import inverse_distances
from mlff.data.system import System
from mlff.regression.solution import solve
from mlff.regression.system.rows import Rows

GROUP = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])


def geometries(rng, count=6):
    return [WATER + 0.1 * rng.standard_normal((3, 3)) for _ in range(count)]


def textbook(kernel, frames, noise, amplitude, at):
    """Energy at a geometry by dense regression: every force component a row, energies with a constant by GLS."""
    eye, rows, with_energy = np.eye(9), [], int("energy" in noise)
    (batch,) = frames.batches
    for i in range(len(frames)):
        values = np.concatenate([np.ones(with_energy), np.zeros(9)])
        directions = np.concatenate([np.zeros((with_energy, 9)), -eye])
        labels = np.concatenate([batch.labels["energy"][i : i + 1][:with_energy], batch.labels["forces"][i].ravel()])
        levels = np.concatenate([np.full(with_energy, noise.get("energy", 0.0)), np.full(9, noise["forces"])])
        rows.append(Rows(values, directions, np.zeros((len(values), 0, 0)), labels, levels))
    matrix = amplitude * dense_matrix(kernel, frames, rows)
    matrix += np.diag(np.concatenate([row.noise for row in rows]) ** 2)
    labels = np.concatenate([row.labels for row in rows])
    ones = np.concatenate([row.values for row in rows])
    constant = 0.0
    if "energy" in noise:
        solved = np.linalg.solve(matrix, np.stack([labels, ones], axis=1))
        constant = ones @ solved[:, 0] / (ones @ solved[:, 1])
    weights = np.linalg.solve(matrix, labels - constant * ones)
    total, cursor = constant, 0
    with jax.enable_x64(True):
        here = System(at, batch.numbers, batch.cells[0], np.zeros(3, bool))

        @jax.jit
        def k(x):
            return kernel.evaluate(here, System(x, batch.numbers, batch.cells[0], np.zeros(3, bool)))

        slope = jax.jit(jax.grad(k))
        for x, row in zip(batch.positions, rows, strict=True):
            part = weights[cursor : cursor + len(row.labels)]
            cursor += len(row.labels)
            gradient = np.asarray(slope(x)).ravel()
            total += amplitude * part @ (row.values * float(k(x)) + row.directions @ gradient)
    return total


@pytest.mark.parametrize("noise", [{"forces": 1e-2}, {"energy": 1e-3, "forces": 1e-2}])
def test_matches_textbook_regression(noise, rng):
    """Rigid-motion reduction, images, expansion and constant together change nothing."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), GROUP, amplitude=7.0)
    frames = frames_of(geometries(rng))
    solution = solve(kernel, frames, noise)
    assert solution.rows == 6 * (3 + ("energy" in noise))
    at = WATER + 0.1 * rng.standard_normal((3, 3))
    with jax.enable_x64(True):
        energy = float(jax.jit(solution.model.energy)(at, frames.compositions[0], np.zeros((3, 3))))
    assert energy == pytest.approx(textbook(kernel, frames, noise, 7.0, at), abs=1e-8)


def test_interpolates_energies_and_forces_without_noise(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), GROUP)
    force_field = mlff.fit(kernel, water[:10], labels=("energy", "forces"), noise={"energy": 0.0, "forces": 0.0})
    energies, forces = force_field.energy_and_forces(water[:10].uniform_positions())
    np.testing.assert_allclose(energies, water[:10].array("energy"), atol=1e-7)
    np.testing.assert_allclose(forces, water[:10].array("forces"), atol=1e-6)


def test_energies_alone_train_a_model(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), GROUP)
    force_field = mlff.fit(kernel, water[:60], labels=("energy",), noise=1e-6)
    errors = mlff.evaluate(force_field, water[60:])
    assert errors.energy_rmse < 0.1 * np.std(water.array("energy"))
    assert force_field.model.label_order == 0


def test_amplitude_is_an_energy_scale(water):
    """Labels and noise times ten, amplitude times a hundred: predictions times ten; found by the fit itself."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), GROUP)
    scaled = mlff.Dataset(
        [mlff.Frame(f.system, {name: 10 * value for name, value in f.labels.items()}) for f in water[:20]], "scaled"
    )
    one, ten = mlff.fit(kernel, water[:20], noise=1e-3), mlff.fit(kernel, scaled, noise=1e-2)
    assert ten.kernel.amplitude == pytest.approx(100 * one.kernel.amplitude, rel=1e-10)
    x = water[50].positions
    np.testing.assert_allclose(ten.forces(x), 10 * one.forces(x), rtol=1e-6, atol=1e-9)


def test_singular_system_says_what_to_do(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=500.0))
    with pytest.raises(ValueError, match=r"not positive definite at training frame \d+ of 40.*raise noise"):
        mlff.fit(kernel, water[:40], noise=0.0)


def test_many_tiles_and_one_tile_agree(water, monkeypatch):
    from mlff.regression.system import kernel_blocks

    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), GROUP)
    whole = mlff.fit(kernel, water[:30])
    monkeypatch.setattr(kernel_blocks, "TILE_ROWS", 20)
    tiled = mlff.fit(kernel, water[:30])
    x = water[70:].uniform_positions()
    np.testing.assert_allclose(tiled.forces(x), whole.forces(x), atol=1e-7)


def unguarded(positions):
    """A distance from an atom to itself: 0, with a derivative that is not finite."""
    import jax.numpy as jnp

    return jnp.concatenate(
        [inverse_distances(positions), jnp.sqrt(jnp.sum((positions[:1] - positions[:1]) ** 2))[None]]
    )


def test_descriptor_that_is_not_finite_is_named(water):
    with pytest.raises(
        ValueError, match="test_solve:unguarded or its first derivative is not finite at training frame 0"
    ):
        mlff.fit(mlff.GlobalKernel(unguarded, mlff.Matern52(lengthscale=2.0)), water[:5])


def test_a_matrix_that_cannot_fit_is_refused_before_the_work():
    from mlff.regression.exact import require_memory

    require_memory(10_000)
    with pytest.raises(ValueError, match=r"10000000 linear equations need .* GiB.*fewer frames"):
        require_memory(10_000_000)
