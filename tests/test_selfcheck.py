"""The self-check passes on a sound force field and fails on a broken one."""

import numpy as np

import mlff


def test_sound(ethanol_model, ethanol):
    checks = mlff.self_check(ethanol_model, ethanol[0].system)
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) == 5


def test_catches_forces_that_are_no_gradient(water_model, water, monkeypatch):
    original = mlff.ForceField.energy_and_forces

    def wrong(self, positions, *args, **geometry):
        energy, forces = original(self, positions, *args, **geometry)
        return energy, 1.001 * forces

    monkeypatch.setattr(mlff.ForceField, "energy_and_forces", wrong)
    failed = {check.name for check in mlff.self_check(water_model, water[0].system) if not check.passed}
    assert "forces against energy differences" in failed


def absolute(positions):
    """Not invariant: bonds seen from the origin."""
    import jax.numpy as jnp

    return jnp.concatenate([jnp.sum(positions**2, axis=1), positions[:, 2]])


def test_catches_a_descriptor_that_is_not_invariant(water):
    force_field = mlff.fit(mlff.GlobalKernel(absolute, mlff.Matern52(lengthscale=3.0)), water[:20])
    group = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
    force_field = force_field.replace(kernel=force_field.kernel.replace(permutations=group))
    failed = {check.name for check in mlff.self_check(force_field, water[0].system) if not check.passed}
    assert {"energy under rotation", "energy under translation by 10 Å", "energy under 2 permutations"} <= failed


def test_numbers_are_finite(water_model, water):
    assert all(np.isfinite(check.value) for check in mlff.self_check(water_model, water[3].system))


def test_flying_apart_is_a_failed_check(water_model, water, monkeypatch):
    from mlff import md

    def apart(*_):
        raise ValueError("step 3: atom 1 has left the molecule")

    monkeypatch.setattr(md, "run", apart)
    drift = mlff.self_check(water_model, water[0].system)[-1]
    assert not drift.passed
    assert np.isinf(drift.value)
