"""The repulsion at short range: against its formula pair by pair, in crystals by blocks, and in a sum that is saved."""

import ase.build
import numpy as np
import pytest
from alloys import alloy_frames
from moments import moments

import mlff

REPULSION = mlff.ForceField.of(mlff.PairRepulsion(cutoff=2.0))


def by_hand(z1: int, z2: int, r: float, cutoff: float) -> float:
    """Ziegler, Biersack and Littmark's formula, with constants in atomic units."""
    hartree, bohr = 27.211386, 0.529177
    a = 0.88534 / (z1**0.23 + z2**0.23)
    x = r / bohr / a
    phi = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x) + 0.28022 * np.exp(-0.4029 * x)
    phi += 0.02817 * np.exp(-0.20162 * x)
    t = r / cutoff
    fade = 1 - 35 * t**4 + 84 * t**5 - 70 * t**6 + 20 * t**7 if t < 1 else 0.0
    return hartree * z1 * z2 / (r / bohr) * phi * fade


@pytest.mark.parametrize(("z1", "z2", "r"), [(14, 14, 0.5), (8, 1, 1.0), (42, 14, 1.9), (6, 6, 2.5)])
def test_two_atoms(z1, z2, r):
    x = np.array([[0.0, 0.0, 0.0], [0.0, r, 0.0]])
    energy, forces = REPULSION.energy_and_forces(x, numbers=[z1, z2])
    assert energy == pytest.approx(by_hand(z1, z2, r, 2.0), rel=1e-6, abs=1e-12)
    h = 1e-5
    slope = (by_hand(z1, z2, r + h, 2.0) - by_hand(z1, z2, r - h, 2.0)) / (2 * h)
    assert forces[1, 1] == pytest.approx(-slope, rel=1e-5, abs=1e-10)


def test_a_crystal_is_the_sum_over_its_pairs():
    atoms = ase.build.bulk("Si", cubic=True, a=4.2)  # pressed: neighbours at 1.82 Å
    atoms.rattle(0.02, seed=1)
    apart = atoms.get_all_distances(mic=True)[np.triu_indices(8, 1)]
    energy, forces, stress = REPULSION.energy_forces_and_stress(
        atoms.positions, atoms.cell.array, numbers=atoms.numbers
    )
    assert energy == pytest.approx(sum(by_hand(14, 14, r, 2.0) for r in apart), rel=1e-6)
    h, eps = 1e-5, np.zeros((3, 3))
    eps[0, 0] = h
    ends = [
        REPULSION.energy(
            atoms.positions @ (np.eye(3) + s * eps), atoms.cell.array @ (np.eye(3) + s * eps), None, atoms.numbers
        )
        for s in (1, -1)
    ]
    assert stress[0, 0] == pytest.approx((ends[0] - ends[1]) / (2 * h) / atoms.get_volume(), rel=1e-6)
    assert np.abs(forces.sum(axis=0)).max() < 1e-9


def test_in_a_sum_with_a_sparse_model(tmp_path):
    data = mlff.Dataset(alloy_frames(6), "alloy")
    model = mlff.fit(
        mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0)), data, ("energy", "forces"), {"energy": 1e-2, "forces": 3e-2},
        inducing=20,
    )  # fmt: skip
    total = REPULSION + model
    frame = data[1]
    where = frame.positions, frame.cell, None, frame.numbers
    np.testing.assert_allclose(total.forces(*where), model.forces(*where) + REPULSION.forces(*where), atol=1e-10)
    assert total.training_distance(*where) == pytest.approx(model.training_distance(*where))
    total.save(tmp_path / "sum.mlff")
    loaded = mlff.load(tmp_path / "sum.mlff", descriptors={"moments:moments": moments})
    np.testing.assert_allclose(loaded.stress(*where), total.stress(*where), atol=1e-12)


def test_a_cutoff_is_positive():
    with pytest.raises(ValueError, match="cutoff"):
        mlff.PairRepulsion(cutoff=0.0)
