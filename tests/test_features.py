"""Local kernels, sums and products carried to the linear system: against nested differentiation of their definitions."""

import functools

import ase.build
import jax
import numpy as np
import properties
import pytest
from ase.calculators.morse import MorsePotential
from moments import moments
from test_gram import LINEAR, WATER, dense_matrix, frames_of, system_matrix

import mlff
from descriptors import exponential_distances, inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.data.system import System
from mlff.potentials.errors import compare
from mlff.potentials.expansion import Expansion
from mlff.regression.solution import solve
from mlff.regression.system.features import compute_features

WIDE = functools.partial(moments, cutoff=6.0)
SWAP = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])

KERNELS = {
    "local": mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5), amplitude=1.0),
    "local Matérn": mlff.LocalKernel(WIDE, mlff.Matern52(lengthscale=2.0), amplitude=1.0),
    "global of atoms": mlff.GlobalKernel(moments, mlff.RBF(lengthscale=2.0), SWAP, amplitude=1.0),
    "sum": mlff.SumKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), SWAP, amplitude=0.5),
            mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5), amplitude=2.0),
        )
    ),
    "product, global": mlff.ProductKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=1.0), SWAP),
            mlff.GlobalKernel(
                functools.partial(exponential_distances, decay=1.3), mlff.RationalQuadratic(lengthscale=0.7), SWAP
            ),
        ),
        amplitude=1.0,
    ),
    "product, local": mlff.ProductKernel(
        (
            mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5)),
            mlff.LocalKernel(WIDE, mlff.Matern52(lengthscale=3.0)),
        ),
        amplitude=1.0,
    ),
    "length scale a feature": mlff.GlobalKernel(
        inverse_distances, mlff.Matern72(lengthscale=np.array([1.0, 1.0, 2.0])), SWAP, amplitude=1.0
    ),
}


class Weighted:
    """A sum of kernels with its amplitudes, as one `evaluate`."""

    def __init__(self, kernel):
        self.parts = kernel.parts

    def evaluate(self, one, two):
        return sum(part.amplitude * part.evaluate(one, two) for part in self.parts)


THOROUGH = ("product, local", "global of atoms")  # products, local kernels and global ones are checked each by itself
NAMES = [pytest.param(name, marks=pytest.mark.thorough) if name in THOROUGH else name for name in KERNELS]


@pytest.mark.parametrize("name", NAMES)
def test_matrix_matches_dense(name, rng):
    kernel = KERNELS[name].completed([8, 1, 1])
    frames = frames_of([WATER, LINEAR + 0.02 * rng.standard_normal((3, 3)), WATER + 0.1 * rng.standard_normal((3, 3))])
    matrix, rows = system_matrix(kernel, frames, ("energy", "forces"))
    properties.assert_matches_dense(matrix, dense_matrix(Weighted(kernel), frames, rows), 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_expansion_is_the_representer_sum(name, rng, water):
    """Σ_j L_j k(x, x_j) a_j by differentiating the definition, against the expansion, with weights of our own."""
    kernel = KERNELS[name].completed([8, 1, 1])
    frames = LabelledFrames.of(water[:3])
    features = compute_features(kernel, frames, {"energy": 1.0, "forces": 1.0})
    weights = rng.standard_normal(len(features.labels))
    solution = [
        term.expand(features.observations, part.amplitude * weights)
        for term, part in zip(features.terms, kernel.parts, strict=True)
    ]
    model = Expansion(tuple(solution), np.zeros(1)).arranged([8, 1, 1])
    x, numbers, cell = water[50].positions, water[50].numbers, np.zeros((3, 3))
    with jax.enable_x64(True):
        here, total, start = System(x, numbers, cell, np.zeros(3, bool)), 0.0, 0
        k = jax.jit(lambda y: Weighted(kernel).evaluate(here, System(y, numbers, cell, np.zeros(3, bool))))
        slope = jax.jit(jax.grad(k))
        for frame, observed in zip(water[:3], features.observations, strict=True):
            part = weights[start : start + observed.size]
            start += len(part)
            gradient = np.asarray(slope(frame.positions)).ravel()
            total += part @ (observed.rows.values * float(k(frame.positions)) + observed.rows.directions @ gradient)
        energy = float(jax.jit(model.energy)(x, numbers, cell))
    assert energy == pytest.approx(total, rel=1e-10, abs=1e-10)


def test_a_batch_of_several_compositions_is_one_system(ethanol, water):
    """Frames of water and ethanol in one fit: both are interpolated, each by the atoms that it has."""
    data = mlff.Dataset([*water[:4].frames, *ethanol[:3].frames, *water[10:12].frames], "mixed")
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
    force_field = mlff.fit(kernel, data, labels=("energy", "forces"))
    assert force_field.numbers is None
    assert force_field.kernel.elements == (1, 6, 8)
    errors = compare(force_field, data)
    assert errors.forces_mae < 3e-3
    assert errors.energy_mae < 1e-3
    for frame in (data[1], data[5]):
        energy, forces = force_field.energy_and_forces(frame.positions, numbers=frame.numbers)
        assert energy == pytest.approx(float(frame.labels["energy"]), abs=1e-2)
        np.testing.assert_allclose(forces, frame.labels["forces"], atol=1e-2)
    with pytest.raises(ValueError, match="for several compositions; give the atomic numbers"):
        force_field.energy(water[0].positions)
    with pytest.raises(ValueError, match="knows H, C, O, not S"):
        force_field.energy(water[0].positions, numbers=[16, 1, 1])


def test_two_molecules_far_apart_have_twice_the_energy(water):
    """A local kernel is extensive, and like atoms may be in any order."""
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
    force_field = mlff.fit(kernel, water[:10], labels=("energy", "forces"), noise={"energy": 1e-3, "forces": 1e-3})
    x, numbers = water[30].positions, water[30].numbers
    both, kinds = np.concatenate([x, x[::-1] + 50.0]), np.concatenate([numbers, numbers[::-1]])
    energy, forces = force_field.energy_and_forces(x)
    doubled, pair_forces = force_field.energy_and_forces(both, numbers=kinds)
    assert doubled == pytest.approx(2 * energy, abs=1e-6)
    np.testing.assert_allclose(pair_forces[3:][::-1], forces, atol=1e-7)
    np.testing.assert_allclose(pair_forces[:3], forces, atol=1e-7)


def test_lone_atoms_have_the_energy_of_their_element(water):
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
    atoms = {"H": -13.0, "O": -70.0}
    force_field = mlff.fit(
        kernel, water[:10], labels=("energy", "forces"), noise={"energy": 1e-3, "forces": 1e-3}, atomic_energies=atoms
    )
    assert force_field.model.constants.tolist() == [-13.0, -70.0]
    energy, forces = force_field.energy_and_forces(np.zeros((1, 3)), numbers=[8])
    assert np.isfinite(energy)
    np.testing.assert_array_equal(forces, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="atomic_energies: those of O are missing"):
        mlff.fit(kernel, water[:10], atomic_energies={"H": -13.0})


def test_periodic_frames_energies_forces_and_stress(rng):
    """A rattled crystal in a cell far smaller than twice the cutoff: forces and stress against energy differences,
    and a supercell has the same forces."""
    atoms = ase.build.bulk("Si", cubic=True)
    cells, frames = np.array(atoms.cell), []
    for _ in range(4):
        x = atoms.positions + 0.1 * rng.standard_normal((8, 3))
        rattled = ase.Atoms(atoms.numbers, x, cell=cells, pbc=True, calculator=MorsePotential(r0=2.35, rcut2=4.5))
        labels = {"energy": rattled.get_potential_energy(), "forces": rattled.get_forces()}
        frames.append(mlff.Frame(System(x, atoms.numbers.astype(np.int32), cells, np.ones(3, bool)), labels))
    force_field = mlff.fit(mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.0)), mlff.Dataset(frames), noise=1e-2)
    x = frames[0].positions + 0.05 * rng.standard_normal((8, 3))
    energy, forces = force_field.energy_and_forces(x, cells)
    for axis in range(3):
        step = np.zeros_like(x)
        step[2, axis] = 1e-4
        slope = (force_field.energy(x + step, cells) - force_field.energy(x - step, cells)) / 2e-4
        assert forces[2, axis] == pytest.approx(-slope, abs=1e-6)
    stress = force_field.stress(x, cells)
    strain = np.zeros((3, 3))
    strain[0, 1] = 1e-5
    up, down = (force_field.energy(x @ (np.eye(3) + s), cells @ (np.eye(3) + s)) for s in (strain, -strain))
    assert stress[0, 1] == pytest.approx((up - down) / 2e-5 / np.linalg.det(cells), abs=1e-7)
    large = ase.Atoms(atoms.numbers, x, cell=cells, pbc=True) * (2, 1, 1)
    twice, copied = force_field.energy_and_forces(large.positions, large.cell.array, numbers=large.numbers)
    assert twice == pytest.approx(2 * energy, abs=1e-8)
    np.testing.assert_allclose(copied[8:], forces, atol=1e-8)
    wrapped = x.copy()
    wrapped[3] += cells[1]
    assert force_field.energy(wrapped, cells) == pytest.approx(energy, abs=1e-9)


def test_equal_shares_of_a_sum(water):
    """Terms without amplitudes contribute equally to the prior variance of the labels."""
    kernel = mlff.SumKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), SWAP),
            mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5)),
        )
    ).completed([8, 1, 1])
    frames = LabelledFrames.of(water[:12])
    solution = solve(kernel, frames, {"forces": 1e-3})
    traces = []
    for part, amplitude in zip(kernel.parts, solution.amplitudes, strict=True):
        matrix, _ = system_matrix(part.replace(amplitude=1.0), frames, ("forces",))
        traces.append(amplitude * np.trace(matrix))
    assert traces[0] == pytest.approx(traces[1], rel=1e-6)
    force_field = mlff.fit(kernel, water[:12])
    np.testing.assert_allclose(force_field.forces(water[3].positions), water[3].labels["forces"], atol=1e-3)


def test_shares_of_a_sum_are_of_one_kind_of_labels(water):
    """Energies, and stresses of another unit, that join forces change no ratio of the terms."""
    kernel = mlff.SumKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), SWAP),
            mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5)),
        )
    ).completed([8, 1, 1])
    frames = LabelledFrames.of(water[:12])
    bare = [mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[12:40]]
    forces = solve(kernel, frames, {"forces": 1e-3}).amplitudes
    both = solve(kernel, frames, {"energy": 1e-3, "forces": 1e-3}).amplitudes
    more = solve(
        kernel, LabelledFrames.of(mlff.Dataset([*bare, *water[:12]])), {"energy": 1e-3, "forces": 1e-3}
    ).amplitudes
    assert both[1] / both[0] == pytest.approx(forces[1] / forces[0], rel=1e-9)
    assert more[1] / more[0] == pytest.approx(forces[1] / forces[0], rel=1e-9)
    assert both[0] == pytest.approx(forces[0], rel=1e-9)


def test_amplitudes_are_of_the_forces_where_there_are_stresses_too(silicon, rng):
    """Stresses are first derivatives as well, in another unit: with them the amplitude stays that of the forces."""
    found = []
    for _ in range(4):
        atoms = ase.build.bulk("Si", a=5.4)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = silicon.calc
        system = System.from_ase(atoms)
        found.append(mlff.Frame(system, {"forces": atoms.get_forces(), "stress": 5.0 * np.eye(3)}))
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=3.0)).completed([14])
    frames = LabelledFrames.of(mlff.Dataset(found))
    alone, both = (
        solve(kernel, frames, noise).amplitudes[0] for noise in ({"forces": 0.1}, {"forces": 0.1, "stress": 0.1})
    )
    assert both == pytest.approx(alone, rel=1e-9)


def test_length_scales_of_a_sum_are_searched_together(water):
    kernel = mlff.SumKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.Matern52(), SWAP),
            mlff.GlobalKernel(exponential_distances, mlff.RBF(lengthscale=0.9), SWAP),
        )
    )
    force_field = mlff.fit(kernel, water[:30])
    first, second = (radial.lengthscale for radial in force_field.kernel.radials)
    assert second == 0.9
    assert first in [scale for scale, _ in force_field.record["lengthscales_tried"]]
    assert mlff.evaluate(force_field, water[40:60]).forces_mae < 0.05
