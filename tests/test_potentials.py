"""Anything with an energy is a force field: formulas, classes of one's own, networks, sums."""

import functools

import ase.build
import ase.units
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet
from properties import assert_energy_differences

import mlff
from descriptors.geometry import Neighbors, environments, lengths, pair_distances
from mlff.potentials.sums import PotentialSum

ARGON = Atoms("Ar4", positions=[[0, 0, 0], [3.6, 0.2, 0], [1.9, 3.3, 0.1], [1.7, 1.2, 3.1]])


def lennard_jones(positions, *, sigma=3.4, depth=0.0104):
    r = pair_distances(positions)
    return jnp.sum(4.0 * depth * ((sigma / r) ** 12 - (sigma / r) ** 6))


def truncated(positions, numbers, cell=None, neighbors: Neighbors | None = None, *, sigma=3.0, depth=0.01, cutoff=6.0):
    """Lennard-Jones with ASE's smooth end: in crystals, half of what all directed pairs give."""
    r = lengths(environments(positions, numbers, cell, neighbors, cutoff).vectors)
    ratio = (sigma / r) ** 6
    within = jnp.where(r < cutoff, 1.0, 0.0)
    shift = 4.0 * depth * ((sigma / cutoff) ** 12 - (sigma / cutoff) ** 6)
    return 0.5 * jnp.sum(within * (4.0 * depth * (ratio**2 - ratio) - shift))


class Springs(mlff.Potential):
    """Harmonic bonds between all pairs."""

    stiffness: float
    length: float

    def energy(self, positions, numbers, cell, neighbors):
        return 0.5 * self.stiffness * jnp.sum((pair_distances(positions) - self.length) ** 2)


def test_a_formula_is_a_force_field_in_one_line():
    force_field = mlff.ForceField.of(lennard_jones)
    atoms = ARGON.copy()
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=1e4)
    energy, forces = force_field.energy_and_forces(atoms.positions, numbers=atoms.numbers)
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-12)
    hessian = force_field.hessian(atoms.positions, numbers=atoms.numbers)
    v = np.random.default_rng(0).standard_normal(atoms.positions.shape)
    ahead, behind = (force_field.forces(atoms.positions + h * v, numbers=atoms.numbers) for h in (1e-5, -1e-5))
    np.testing.assert_allclose(hessian @ v.ravel(), (behind - ahead).ravel() / 2e-5, rtol=1e-6, atol=1e-9)
    product = force_field.hessian_vector_product(atoms.positions, v, numbers=atoms.numbers)
    np.testing.assert_allclose(product.ravel(), hessian @ v.ravel(), atol=1e-12)
    batch = force_field.forces(
        np.stack([atoms.positions, 1.05 * atoms.positions, atoms.positions]), numbers=atoms.numbers
    )
    np.testing.assert_allclose(batch[2], forces, atol=1e-14)
    assert np.isnan(force_field.training_distance(atoms.positions, numbers=atoms.numbers))
    assert "any composition" in repr(force_field)


def test_a_formula_in_the_calculator_relaxes_and_vibrates():
    atoms = ARGON.copy()
    atoms.calc = mlff.Calculator(mlff.ForceField.of(lennard_jones))
    mlff.relax(atoms)
    assert atoms.get_potential_energy() == pytest.approx(
        -6 * 0.0104, rel=1e-9
    )  # the tetrahedron has six pairs at the minimum
    frequencies = mlff.frequencies(atoms)
    # breathing, twofold and threefold modes of a tetrahedron of springs: 2 : 1 : √2
    np.testing.assert_allclose(frequencies / frequencies[-1], [0.5, 0.5, *[0.5**0.5] * 3, 1.0], rtol=1e-6)


def test_a_formula_with_neighbours_knows_crystals():
    force_field = mlff.ForceField.of(functools.partial(truncated, sigma=2.6))
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = LennardJones(sigma=2.6, epsilon=0.01, rc=6.0, smooth=False)
    other = atoms.copy()
    other.calc = mlff.Calculator(force_field)
    assert other.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), rel=1e-10)
    np.testing.assert_allclose(other.get_forces(), atoms.get_forces(), atol=1e-10)
    np.testing.assert_allclose(other.get_stress(), atoms.get_stress(), atol=1e-10)


def test_a_class_of_ones_own_is_a_potential(rng):
    force_field = mlff.ForceField.of(Springs(stiffness=2.0, length=1.5), numbers=[1, 1, 1])
    x = rng.standard_normal((3, 3))
    r = np.linalg.norm(x[:, None] - x[None], axis=2)[np.triu_indices(3, 1)]
    assert force_field.energy(x) == pytest.approx(np.sum((r - 1.5) ** 2))
    assert_energy_differences(force_field, x)
    assert "Springs" in repr(force_field)


def test_sums_add_up_and_keep_the_strictest_facts(water, water_model, ethanol_model):
    springs = mlff.ForceField.of(Springs(stiffness=2.0, length=1.5))
    both = springs + water_model
    x = water[3].positions
    assert both.energy(x) == pytest.approx(
        springs.energy(x, numbers=water[3].numbers) + water_model.energy(x), rel=1e-12
    )
    assert_energy_differences(both, x, 1e-5)
    np.testing.assert_array_equal(both.numbers, water_model.numbers)
    assert both.closest == water_model.closest
    assert not both.transferable
    assert both.training_distance(x) == pytest.approx(water_model.training_distance(x))
    assert isinstance((both + springs).model, PotentialSum)
    assert len((both + springs).model.terms) == 3
    with pytest.raises(ValueError, match="Matérn-5/2"):
        both.require_derivative(4, "a quartic constant")
    with pytest.raises(ValueError, match="is for"):
        water_model + ethanol_model


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda positions: positions, "one number"),
        (3.0, "function of positions"),
        (lambda: 0.0, "takes no positions"),
    ],
)
def test_what_is_no_energy_is_refused(energy, message):
    with pytest.raises(ValueError, match=message):
        mlff.ForceField.of(energy).energy(np.eye(3), numbers=[1, 1, 1])


def test_derivatives_beyond_what_a_formula_has_are_refused():
    force_field = mlff.ForceField.of(lennard_jones, order=1)
    with pytest.raises(ValueError, match="1 continuous"):
        force_field.hessian(ARGON.positions, numbers=ARGON.numbers)
    with pytest.raises(ValueError, match="knows Ar, not He"):
        mlff.ForceField.of(lennard_jones, elements=[18]).energy(np.eye(3), numbers=[2, 2, 2])


def test_a_trained_network_is_a_force_field(water):
    data = water[:20]
    features = mlff.train_schnet(data, features=8, interactions=1, radial=8, steps=200)
    force_field = mlff.schnet_force_field(features, data)
    x = data[0].positions
    assert_energy_differences(force_field, x)
    assert force_field.record["training"]["forces_mae"] < 2.0
    np.testing.assert_allclose(force_field.hessian(x), force_field.hessian(x).T, atol=1e-12)
    with pytest.raises(ValueError, match="3 continuous"):
        force_field.force_constants(x, np.eye(9).reshape(9, 3, 3)[:1], 4)
    with pytest.raises(ValueError, match="trained on"):
        mlff.evaluate(force_field, data)
    atoms = data[0].system.to_ase()
    atoms.calc = mlff.Calculator(force_field)
    before = atoms.get_potential_energy()
    VelocityVerlet(atoms, 0.2 * ase.units.fs).run(20)
    assert atoms.get_total_energy() == pytest.approx(before, abs=1e-3)
