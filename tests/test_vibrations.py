"""Frequencies against ASE's own displacements, and against GFN2-xTB's reference Hessian."""

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from ase.optimize import BFGS
from ase.vibrations import Vibrations, VibrationsData

import mlff
from mlff.properties.vibrations import constrained_frequencies


@pytest.fixture
def relaxed(water, water_model):
    atoms = Atoms("OH2", water[0].positions)
    atoms.calc = mlff.Calculator(water_model)
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=200)
    return atoms


def test_frequencies_match_ases_finite_differences(relaxed, tmp_path):
    by_differences = Vibrations(relaxed, name=str(tmp_path / "vib"), delta=1e-3)
    by_differences.run()
    reference = np.sort(by_differences.get_frequencies().real)[-3:]
    np.testing.assert_allclose(mlff.frequencies(relaxed), reference, rtol=2e-4)
    np.testing.assert_allclose(np.sort(mlff.normal_modes(relaxed).get_frequencies().real)[-3:], reference, rtol=2e-4)


def test_water_is_water(relaxed):
    """GFN2-xTB's water, from its own Hessian: 1539, 3644, 3651 1/cm (tblite 0.8, central differences)."""
    frequencies = mlff.frequencies(relaxed)
    assert len(frequencies) == 3
    assert 1450 < frequencies[0] < 1650
    assert 3500 < frequencies[1] < frequencies[2] < 3900


def test_linear_molecules_have_one_mode_more():
    """A hand-made Hessian of CO₂ springs: 3n − 5 modes, two degenerate bends of zero stiffness along the axis."""

    class Springs:
        def get_hessian(self, atoms):
            hessian = np.zeros((9, 9))
            for a, b in ((0, 1), (0, 2)):
                for i, j, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
                    hessian[3 * i + 2, 3 * j + 2] += sign * 50.0
            return hessian

    atoms = Atoms("CO2", [[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]])
    atoms.calc = Springs()
    frequencies = mlff.frequencies(atoms)
    assert len(frequencies) == 4
    unit = 521.47  # √(eV/Å²/u) in 1/cm
    m_c, m_o = atoms.get_masses()[:2]
    np.testing.assert_allclose(frequencies[2:], unit * np.sqrt([50 / m_o, 50 / m_o + 100 / m_c]), rtol=1e-4)
    np.testing.assert_allclose(frequencies[:2], 0, atol=1e-3)


def test_constrained_atoms_stay_out(relaxed):
    relaxed.set_constraint(FixAtoms([0]))
    modes = mlff.normal_modes(relaxed)
    assert isinstance(modes, VibrationsData)
    assert modes.get_hessian_2d().shape == (6, 6)
    np.testing.assert_allclose(modes.get_hessian_2d(), relaxed.calc.get_hessian(relaxed)[3:, 3:])


def test_columns_of_fixed_atoms_are_not_computed(relaxed, monkeypatch):
    asked, hessian = [], mlff.ForceField.hessian

    def recorded(self, *args, moving=None, **kwargs):
        asked.append(moving)
        return hessian(self, *args, moving=moving, **kwargs)

    monkeypatch.setattr(mlff.ForceField, "hessian", recorded)
    relaxed.set_constraint(FixCartesian([1]))
    assert mlff.normal_modes(relaxed).get_hessian_2d().shape == (6, 6)
    assert asked == [[0, 2]]


def test_periodic_atoms_keep_their_librations():
    """Springs to fixed places but for the whole: a periodic cell cannot turn, so that 3n − 3 frequencies are left."""

    class Springs:
        def get_hessian(self, atoms):
            return np.eye(9) - np.kron(np.full((3, 3), 1 / 3), np.eye(3))

    atoms = Atoms("Ar3", [[0, 0, 0], [0, 0, 3.0], [0, 3.0, 0]], cell=[9, 9, 9], pbc=True)
    atoms.calc = Springs()
    np.testing.assert_allclose(mlff.frequencies(atoms), np.full(6, 521.471 / np.sqrt(39.948)), rtol=1e-4)


@pytest.mark.parametrize("apart", [3.0, 100.0, 300.0])
def test_fragments_have_no_rigid_motion_less_for_being_far_apart(apart):
    """On equal springs every internal motion is a frequency; an atom held, the whole turns about it still."""

    class Stiff:
        def get_hessian(self, atoms):
            return 10.0 * np.eye(18)

    atoms = Atoms("OH2OH2", np.concatenate([np.eye(3), np.eye(3) + [apart, 0, 0]]))
    atoms.calc = Stiff()
    assert len(mlff.frequencies(atoms)) == 12
    atoms.set_constraint(FixAtoms([0]))
    assert len(constrained_frequencies(atoms)) == 12


def test_needs_a_hessian():
    with pytest.raises(ValueError, match="get_hessian"):
        mlff.normal_modes(Atoms("OH2", np.eye(3)))


def test_a_slightly_bent_molecule_keeps_its_bends():
    """Relaxations leave a linear molecule bent by 1e-4 Å; the near-rotation about its axis is a vibration."""

    class Stiff:
        def get_hessian(self, atoms):
            return 10.0 * np.eye(9)

    for bend in (0.0, 1e-6, 1e-4, 5e-3):
        atoms = Atoms("CO2", [[bend, 0, 0], [0, 0, 1.16], [0, 0, -1.16]])
        atoms.calc = Stiff()
        assert len(mlff.frequencies(atoms)) == 4
    atoms = Atoms("CO2", [[0.3, 0, 0], [0, 0, 1.16], [0, 0, -1.16]])
    atoms.calc = Stiff()
    assert len(mlff.frequencies(atoms)) == 3


def test_constraints_are_for_normal_modes(relaxed):
    relaxed.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="use normal_modes"):
        mlff.frequencies(relaxed)
