"""Force constants for phonopy, against phonopy's own from displacements."""

import builtins

import numpy as np
import pytest

import mlff

phonopy = pytest.importorskip("phonopy", reason='pip install "mlff[phonons]"')

MATRIX = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]  # four primitive cells, the cube


@pytest.fixture
def crystal(silicon, silicon_model):
    atoms = silicon.copy()
    atoms.calc = mlff.Calculator(silicon_model)
    return atoms


def by_displacements(crystal, supercell):
    """Phonopy's workflow: displaced supercells, their forces, a fit."""
    reference = mlff.phonopy_of(crystal, supercell)
    fresh = phonopy.Phonopy(reference.unitcell, supercell_matrix=reference.supercell_matrix, primitive_matrix="P")
    fresh.generate_displacements(distance=0.002, is_plusminus=True)
    force_field = crystal.calc.force_field
    fresh.forces = [
        force_field.forces(cell.positions, cell.cell, np.ones(3, bool), cell.numbers)
        for cell in fresh.supercells_with_displacements
    ]
    fresh.produce_force_constants(calculate_full_force_constants=True)
    return fresh


def test_against_phonopys_displacements(crystal):
    reference = by_displacements(crystal, MATRIX)
    constants = mlff.phonon_force_constants(crystal, MATRIX)
    assert constants.shape == (8, 8, 3, 3)
    np.testing.assert_allclose(constants, reference.force_constants, atol=2e-5 * np.abs(constants).max())
    np.testing.assert_allclose(constants.sum(axis=1), 0, atol=1e-9)
    ours = mlff.phonopy_of(crystal, MATRIX)
    np.testing.assert_allclose(ours.force_constants, constants[ours.primitive.p2s_map], atol=1e-10)
    assert ours.force_constants.shape == (2, 8, 3, 3)
    points = [[0, 0, 0], [0.5, 0.5, 0], [0.1, 0.2, 0.3]]
    found, expected = (crystal.run_qpoints(points).frequencies for crystal in (ours, reference))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert 14 < found[0][-1] < 18  # THz, silicon's optical mode


def test_a_supercell_matrix_and_a_unit_cell_that_is_not_primitive(silicon, crystal):
    """The same bands from the cube of eight atoms as from the primitive cell, in one and the same supercell."""
    import ase.build

    cube = ase.build.bulk("Si", cubic=True, a=5.432)
    cube.calc = crystal.calc
    from_cube, from_primitive = mlff.phonopy_of(cube, [1, 1, 1], "F"), mlff.phonopy_of(crystal, MATRIX)
    assert len(from_cube.supercell) == len(from_primitive.supercell) == 8
    assert from_cube.force_constants.shape == (2, 8, 3, 3)
    points = np.array([[0.0, 0.0, 0.0], [0.25, 0.1, 0.4]])
    cartesian = np.linalg.solve(from_primitive.primitive.cell, points.T)
    turned = (from_cube.primitive.cell @ cartesian).T
    expected = from_primitive.run_qpoints(points).frequencies
    np.testing.assert_allclose(from_cube.run_qpoints(turned).frequencies, expected, atol=1e-4)
    kept = mlff.phonopy_of(cube, [1, 1, 1])
    assert kept.force_constants.shape == (8, 8, 3, 3)


def test_what_is_refused(crystal, water_model, water, monkeypatch):
    molecule = water[0].to_ase()
    molecule.calc = mlff.Calculator(water_model)
    with pytest.raises(ValueError, match="crystals periodic in all directions"):
        mlff.phonon_force_constants(molecule, [1, 1, 1])
    crystal.calc = None
    with pytest.raises(ValueError, match=r"needs mlff\.Calculator"):
        mlff.phonopy_of(crystal, [1, 1, 1])
    original = builtins.__import__

    def absent(name, *args):
        if name.startswith("phonopy"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match=r'pip install "mlff\[phonons\]"'):
        mlff.phonon_force_constants(crystal, [1, 1, 1])
