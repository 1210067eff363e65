"""The self-check passes on a sound force field and fails on a broken one."""

import types

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.dynamics import md
from mlff.rounding import rounding_of


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


@pytest.fixture(scope="module")
def rough_model(ethanol):
    """Of ill-conditioned equations, so that energies are rounded to 1e-8 eV: sound all the same."""
    group = mlff.find_permutations(ethanol)
    return mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=10.0), group), ethanol[:60], noise=3e-5)


def test_rounding_is_no_fault(rough_model, ethanol, monkeypatch):
    """Bounds follow the measured rounding; what is wrong by more than that still fails."""
    monkeypatch.setattr(md, "run", lambda *_: types.SimpleNamespace(drift=0.0))
    system, rng = ethanol[0].system, np.random.default_rng(0)
    assert rounding_of(rough_model.energy, system.positions, rng) > 3e-9
    for seed in range(3):
        checks = mlff.self_check(rough_model, system, seed=seed)
        assert [check.name for check in checks if not check.passed] == []
        assert max(check.bound for check in checks[1:4]) < 1e-6
    original = mlff.ForceField.energy_and_forces

    def drifting(self, positions, *args, **geometry):
        energy, forces = original(self, positions, *args, **geometry)
        return energy + 1e-6 * np.asarray(positions)[..., 0, 0], forces

    monkeypatch.setattr(mlff.ForceField, "energy_and_forces", drifting)
    failed = {check.name for check in mlff.self_check(rough_model, system) if not check.passed}
    assert failed == {"energy under translation by 10 Å", "energy under rotation"}  # the atom is exchanged with none


def test_a_relaxed_geometry_is_no_special_case(water_model, water, monkeypatch):
    """Where forces vanish nothing is divided by them, and forces that are no gradient are found nevertheless."""
    monkeypatch.setattr(md, "run", lambda *_: types.SimpleNamespace(drift=0.0))
    atoms = water[0].system.to_ase()
    atoms.calc = mlff.Calculator(water_model)
    assert mlff.relax(atoms).largest_force < 1e-8
    system = mlff.System.from_ase(atoms)
    assert [check.name for check in mlff.self_check(water_model, system) if not check.passed] == []
    original = mlff.ForceField.energy_and_forces

    def wrong(self, positions, *args, **geometry):
        energy, forces = original(self, positions, *args, **geometry)
        return energy, 1.001 * forces

    monkeypatch.setattr(mlff.ForceField, "energy_and_forces", wrong)
    failed = {check.name for check in mlff.self_check(water_model, system) if not check.passed}
    assert failed == {"forces against energy differences"}


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
    def apart(*_):
        raise ValueError("step 3: atom 1 has left the molecule")

    monkeypatch.setattr(md, "run", apart)
    drift = mlff.self_check(water_model, water[0].system)[-1]
    assert not drift.passed
    assert np.isinf(drift.value)
