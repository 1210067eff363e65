"""The data sets of the project: complete, small, carded, and labelled by what their card says."""

import sys

import numpy as np
import pytest

import mlff

FRAMES = {
    "ethanol": 2000,
    "ethanol_300K": 1000,
    "malonaldehyde": 1000,
    "benzene": 1000,
    "water": 500,
    "ethanol_hessians": 60,
}


def test_sizes_and_cards(datasets):
    files = {path.stem for path in datasets.glob("*.extxyz")}
    assert files == set(FRAMES)
    assert sum(path.stat().st_size for path in datasets.glob("*.extxyz")) < 8e6
    cards = (datasets / "README.md").read_text()
    assert all(f"`{name}.extxyz`" in cards for name in files)


@pytest.mark.parametrize("name", FRAMES)
def test_read_without_being_told_anything(datasets, name):
    data = mlff.Dataset.read(datasets / f"{name}.extxyz")
    assert len(data) == FRAMES[name]
    assert "as stated by the file" in data.units
    forces = data.array("forces")
    assert np.abs(forces.sum(axis=1)).max() < 1e-4
    assert np.abs(np.cross(data.uniform_positions(), forces).sum(axis=1)).max() < 1e-4


def test_hessians_belong_to_the_forces(datasets):
    """Symmetric, free of translations, and turning the forces as a rotation must: H (ω × x) = ω × F, up to sign."""
    data = mlff.Dataset.read(datasets / "ethanol_hessians.extxyz")
    for frame in data[:10]:
        hessian, forces = frame.labels["hessian"], frame.labels["forces"]
        np.testing.assert_array_equal(hessian, hessian.T)
        np.testing.assert_allclose(hessian @ np.tile(np.eye(3), (9, 1)), 0, atol=2e-2)
        turn = np.cross([0.3, -0.5, 0.8], frame.positions)
        np.testing.assert_allclose(
            (hessian @ turn.ravel()).reshape(9, 3), -np.cross([0.3, -0.5, 0.8], forces), atol=2e-2
        )


def test_malonaldehyde_transfers_its_proton(datasets):
    positions = mlff.Dataset.read(datasets / "malonaldehyde.extxyz").uniform_positions()
    nearer = np.linalg.norm(positions[:, 5] - positions[:, 0], axis=1) < np.linalg.norm(
        positions[:, 5] - positions[:, 1], axis=1
    )
    assert 0.2 < nearer.mean() < 0.8
    assert np.sum(nearer[1:] != nearer[:-1]) > 10


def test_labels_are_gfn2(datasets):
    """Three frames of each set calculated again (where tblite is installed)."""
    pytest.importorskip("tblite")
    sys.path.insert(0, str(datasets))
    import generate

    for name in FRAMES:
        for frame in mlff.Dataset.read(datasets / f"{name}.extxyz", index="::200")[:3]:
            atoms = frame.system.to_ase()
            atoms.calc = generate.reference(accuracy=0.01)
            assert atoms.get_potential_energy() == pytest.approx(float(frame.labels["energy"]), abs=1e-5)
            np.testing.assert_allclose(atoms.get_forces(), frame.labels["forces"], atol=1e-4)
