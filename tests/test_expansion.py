"""The expansion: values where energies are labels, centring, and precision near its own points."""

import jax
import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.potentials.expansion import Channel, Expansion, Part


def test_values_are_kept_only_where_there_are_any(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0))
    assert mlff.fit(kernel, water[:4]).model.parts[0].channels[0].values is None
    both = mlff.fit(kernel, water[:4], labels=("energy", "forces"), noise={"energy": 1e-4, "forces": 1e-4})
    assert both.model.parts[0].channels[0].values.shape == (4,)


def test_energy_is_the_sum_it_states(rng, water):
    """Five points with values and tangents, summed by hand."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.7))
    points, tangents, values = rng.uniform(0.3, 0.7, (5, 3)), rng.standard_normal((5, 3)), rng.standard_normal(5)
    channel = Channel.build(points, tangents, values, (3,))
    model = Expansion((Part(kernel.bare(), (channel,), None, (3,)),), np.array([2.5]))
    x = water[0].positions
    with jax.enable_x64(True):
        phi = np.asarray(inverse_distances(x)) / 1.7
        energy = float(jax.jit(model.energy)(x, water[0].numbers, water[0].cell))
    expected = 2.5
    for point, tangent, value in zip(points, tangents, values, strict=True):
        difference = phi - point
        f = np.exp(-0.5 * difference @ difference)
        expected += value * f + f * difference @ tangent  # ∂₂ exp(−|φ−φ′|²/2)·t = f (φ−φ′)·t
    assert energy == pytest.approx(expected, abs=1e-12)


def test_forces_at_a_training_point_are_continuous(ethanol_model, ethanol):
    """|a|² + |b|² − 2a·b loses digits at a training point; the forces of Matérn-5/2 do not show it."""
    kernel_indices = ethanol_model.record["indices"]
    frame = next(f for i, f in zip(ethanol.indices, ethanol, strict=True) if i == kernel_indices[0])
    at = ethanol_model.forces(frame.positions)
    beside = ethanol_model.forces(frame.positions + 1e-10)
    shifted = frame.positions.copy()
    shifted[0, 0] += 1e-9
    np.testing.assert_allclose(beside, at, atol=1e-8)
    np.testing.assert_allclose(ethanol_model.forces(shifted), at, atol=1e-6)
