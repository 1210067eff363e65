"""Elastic constants against differences of the stress, atoms relaxed anew at every strain."""

import ase.build
import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.optimize import BFGS

import mlff
from mlff.dynamics.motion import motions
from mlff.properties.elasticity import _response

STRAINS = [[[1, 0, 0], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 0, 1]]]
STRAINS += [
    [[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]],
    [[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]],
    [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]],
]
STRAINS = np.array(STRAINS)


@pytest.fixture
def crystal(silicon, silicon_model):
    atoms = silicon.copy()
    atoms.calc = mlff.Calculator(silicon_model)
    return atoms


def slopes(atoms, voigt, relaxed):
    """∂E/∂η per volume of `atoms` in a strained cell, from its stress: dF is a strain F⁻¹dF of the strained cell."""
    strained, deformation = atoms.copy(), np.eye(3) + np.tensordot(voigt, STRAINS, axes=1)
    strained.calc = atoms.calc
    strained.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    if relaxed:
        assert BFGS(strained, logfile=None).run(fmax=5e-8, steps=200)
    stress = strained.get_stress(voigt=False) * strained.get_volume() / atoms.get_volume()
    return np.einsum("ij,kij->k", stress, np.linalg.inv(deformation) @ STRAINS)


def by_differences(atoms, relaxed, step=1e-3):
    columns = [(slopes(atoms, step * e, relaxed) - slopes(atoms, -step * e, relaxed)) / (2 * step) for e in np.eye(6)]
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("relaxed", [True, False])
@pytest.mark.parametrize("strain", [[0, 0, 0, 0, 0, 0], [0.02, -0.01, 0.0, 0.03, 0.01, -0.02]])
def test_against_differences_of_the_stress(crystal, relaxed, strain):
    """In the crystal's own cell, and in one of no symmetry under stress."""
    crystal.set_cell(crystal.cell.array @ (np.eye(3) + np.tensordot(strain, STRAINS, axes=1)), scale_atoms=True)
    assert BFGS(crystal, logfile=None).run(fmax=1e-7, steps=200)
    constants = mlff.elastic_constants(crystal, relaxed=relaxed)
    np.testing.assert_allclose(constants, by_differences(crystal, relaxed), atol=2e-5 * constants.max())
    np.testing.assert_array_equal(constants, constants.T)
    if any(strain):
        assert np.abs(crystal.get_stress()).max() > 0.01


def test_silicon_is_silicon(crystal):
    """Tersoff's potential has C11 = 142.5, C12 = 75.4, C44 = 69.0 and, with clamped atoms, 118.8 GPa."""
    constants, clamped = (mlff.elastic_constants(crystal, relaxed=r) / units.GPa for r in (True, False))
    np.testing.assert_allclose(constants[[0, 0, 3], [0, 1, 3]], [142.5, 75.4, 69.0], rtol=0.15)
    assert clamped[3, 3] == pytest.approx(118.8, rel=0.02)
    np.testing.assert_allclose(clamped[:3, :3], constants[:3, :3], atol=1e-6)


def test_a_crystal_of_one_atom_has_nothing_to_relax():
    internal = motions(Atoms("Cu", cell=np.eye(3), pbc=True)).internal  # translations are all there is
    np.testing.assert_array_equal(_response(np.zeros((3, 3)), np.ones((6, 3)), internal), np.zeros((3, 6)))


def test_what_is_refused(crystal, water_model, water, monkeypatch):
    with pytest.raises(ValueError, match=r"elastic_constants needs mlff\.Calculator"):
        mlff.elastic_constants(ase.build.bulk("Cu"))
    molecule = water[0].to_ase()
    molecule.calc = mlff.Calculator(water_model)
    with pytest.raises(ValueError, match="takes no cell, so there is no strain"):
        mlff.elastic_constants(molecule)
    crystal.positions[0, 0] += 0.01
    with pytest.raises(ValueError, match="elastic_constants needs a minimum"):
        mlff.elastic_constants(crystal)
    crystal.positions[0, 0] -= 0.01
    hessian = mlff.ForceField.hessian
    with monkeypatch.context() as patched:
        patched.setattr(mlff.ForceField, "hessian", lambda *args, **kwargs: -hessian(*args, **kwargs))
        with pytest.raises(ValueError, match="the atoms are at no minimum"):
            mlff.elastic_constants(crystal)
    crystal.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="remove the constraints"):
        mlff.elastic_constants(crystal)
