"""Degrees of freedom: of molecules of any shape and size, cells, and what constraints leave."""

import ase.build
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian, FixCom, FixedLine, FixedPlane, Hookean

from mlff.dynamics.motion import motions, moving_atoms


def counted(atoms: Atoms) -> tuple[int, int]:
    """Rigid motions and internal degrees of freedom, after the bases are looked at."""
    free = motions(atoms)
    everything = np.concatenate([free.rigid, free.internal])
    np.testing.assert_allclose(everything @ everything.T, np.eye(len(everything)), atol=1e-10)
    vector = np.random.default_rng(0).standard_normal(3 * len(atoms))
    np.testing.assert_allclose(free.internal_part(vector), free.internal.T @ (free.internal @ vector), atol=1e-10)
    assert len(free.internal) == free.degrees
    return len(free.rigid), free.degrees


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("H2", (5, 1)),
        ("N2", (5, 1)),
        ("CO2", (5, 4)),
        ("C2H2", (5, 7)),
        ("H2O", (6, 3)),
        ("C6H6", (6, 30)),
        ("O", (3, 0)),
    ],
)
def test_molecules(name, expected):
    atoms = ase.build.molecule(name)
    atoms.rotate(37, (1, 2, 3))
    assert counted(atoms) == expected
    atoms.cell, atoms.pbc = np.eye(3) * 9, [True, False, False]
    assert counted(atoms) == (3, 3 * len(atoms) - 3)


@pytest.mark.parametrize("apart", [1.0, 100.0, 300.0, 1e4])
@pytest.mark.parametrize("direction", [[0, 0, 1.0], [0.6, 0, 0.8]])
def test_the_count_does_not_depend_on_the_size(apart, direction):
    """Two waters turn about the line between them, however far apart they are; two atoms do not."""
    water = ase.build.molecule("H2O")
    other = water.copy()
    other.translate(3.0 * apart * np.array(direction))
    assert counted(water + other) == (6, 12)
    assert counted(Atoms("Ar2", [[0, 0, 0], apart * np.array(direction)])) == (5, 1)


def test_a_long_chain_is_linear_until_it_is_bent():
    chain = Atoms("C60", np.arange(60)[:, None] * [0, 0, 1.3])
    assert counted(chain) == (5, 175)
    chain.positions[::2, 0] += 0.1
    assert counted(chain) == (6, 174)


def test_rigid_motions_are_those_of_the_masses():
    """Uniform velocity and rotation about the centre of mass; neither has an internal part."""
    atoms = ase.build.molecule("CH3CH2OH")
    free, roots = motions(atoms), np.sqrt(atoms.get_masses())[:, None]
    turning = np.cross([0.3, -0.2, 0.5], atoms.positions - atoms.get_center_of_mass()) + [1.0, 2.0, -3.0]
    np.testing.assert_allclose(free.internal_part((roots * turning).ravel()), 0, atol=1e-12)
    assert np.linalg.norm(free.internal_part((turning / roots).ravel())) > 0.1
    cartesian = motions(atoms, np.ones(9))
    np.testing.assert_allclose(cartesian.internal_part(turning.ravel()), 0, atol=1e-12)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (FixAtoms([0]), (3, 21)),  # turns about it
        (FixAtoms([0, 1]), (1, 20)),  # about the line
        (FixAtoms([0, 1, 2]), (0, 18)),
        (FixAtoms(range(9)), (0, 0)),
        (FixCartesian([0], (False, False, True)), (5, 21)),
        (FixedPlane(range(9), (0, 1, 1)), (3, 15)),  # two translations, one rotation
        (FixedLine(range(9), (1, 1, 0)), (1, 8)),
        ([FixAtoms([0]), FixedPlane([0, 1], (0, 0, 1))], (2, 21)),
    ],
)
def test_constraints_leave(constraint, expected):
    atoms = ase.build.molecule("CH3CH2OH")
    if isinstance(constraint, FixCartesian):
        atoms.translate([0, 0, -atoms.positions[0, 2]])
    atoms.set_constraint(constraint)
    assert counted(atoms) == expected


def test_a_slab_with_fixed_atoms():
    slab = ase.build.fcc111("Cu", (2, 2, 3), vacuum=8.0)
    assert counted(slab) == (3, 33)
    slab.set_constraint(FixAtoms(range(4)))
    assert counted(slab) == (0, 24)
    np.testing.assert_array_equal(moving_atoms(slab, "this"), np.arange(4, 12))


@pytest.mark.parametrize("constraint", [FixCom(), Hookean(0, 1, 5.0, 1.0)])
def test_constraints_that_are_not_of_single_atoms_are_refused_by_name(constraint):
    atoms = ase.build.molecule("H2O")
    atoms.set_constraint(constraint)
    with pytest.raises(ValueError, match=type(constraint).__name__):
        motions(atoms)


def test_what_cannot_be_counted():
    atoms = ase.build.molecule("H2O")
    atoms.set_constraint([FixedPlane([0], (0, 0, 1)), FixedPlane([0], (0, 1, 1))])
    with pytest.raises(ValueError, match="hold atom 0 in directions"):
        motions(atoms)
    atoms.set_constraint(FixedPlane([1], (0, 0, 1)))
    with pytest.raises(ValueError, match="atom 1 is fixed in some directions only, which normal_modes"):
        moving_atoms(atoms, "normal_modes")
    atoms.set_constraint()
    atoms.set_masses([16.0, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"the mass of atom 2 is 0\.0 u"):
        motions(atoms)
