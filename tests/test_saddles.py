"""Saddle points and reaction paths against closed solutions and finite differences; Sella leaves JAX as it was."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.vibrations import Vibrations
from surfaces import DoubleWell

import mlff


@pytest.fixture
def near() -> Atoms:
    """Beside the saddle of the double well."""
    atoms = Atoms("OOH", [[-1.05, 0, 0.02], [1, 0, 0], [0.12, 1.1, 0.05]])
    atoms.calc = DoubleWell()
    return atoms


@pytest.mark.parametrize("hessian_every", [0, 1, 3])
def test_the_saddle_of_a_double_well(near, hessian_every):
    """E‡ = 1/16 eV at r = 2, z = 0, ρ = 1, curvature −1 eV/Å² along z with G = 1/m_H + (1/4 + ρ²/r²) 2/m_O."""
    saddle = mlff.transition_state(near, hessian_every=hessian_every)
    assert saddle.atoms is near
    assert saddle.energy == pytest.approx(1 / 16, abs=1e-8)
    r, a, b = (near.get_distance(*pair) for pair in ((0, 1), (0, 2), (1, 2)))
    assert (r, a, b) == pytest.approx((2.0, np.sqrt(2), np.sqrt(2)), abs=1e-4)
    inverse_mass = 1 / 1.008 + (1 / 4 + 1 / 4) * 2 / 15.999
    assert saddle.frequency == pytest.approx(-521.47 * np.sqrt(inverse_mass), rel=1e-4)
    axis = (near.positions[1] - near.positions[0]) / r
    assert abs(saddle.mode[2] @ axis) > 0.95
    assert np.linalg.norm(saddle.mode) == pytest.approx(1.0)


def test_fixed_atoms_stay_at_the_saddle(near):
    """With the oxygens held the mass is that of the hydrogen; its way around their axis is no unstable mode."""
    near.positions[:2] = [[-1, 0, 0], [1, 0, 0]]
    near.set_constraint(FixAtoms([0, 1]))
    saddle = mlff.transition_state(near)
    np.testing.assert_allclose(near.positions[:2], [[-1, 0, 0], [1, 0, 0]], atol=1e-12)
    assert near.positions[2, 0] == pytest.approx(0.0, abs=1e-5)
    assert saddle.frequency == pytest.approx(-521.47 / np.sqrt(1.008), rel=1e-4)
    with pytest.raises(ValueError, match="fixed atoms"):
        mlff.reaction_path(near)


def test_exact_hessians_spare_evaluations(near):
    other = near.copy()
    other.calc = DoubleWell()
    exact, estimated = mlff.transition_state(near), mlff.transition_state(other, hessian_every=0)
    assert exact.evaluations < estimated.evaluations
    assert exact.hessians == exact.steps + 1
    assert estimated.hessians == 1


def test_the_way_down(near):
    """Both minima, monotonic energies, and between images the direction of the mass-weighted force."""
    mlff.transition_state(near)
    before = near.positions.copy()
    path = mlff.reaction_path(near, step=0.05)
    np.testing.assert_array_equal(near.positions, before)
    top = int(np.argmax(path.energies))
    assert 5 < top < len(path.images) - 6
    assert np.all(np.diff(path.energies[: top + 1]) > -1e-9)
    assert np.all(np.diff(path.energies[top:]) < 1e-9)
    np.testing.assert_allclose(path.energies[[0, -1]], 0, atol=1e-9)
    assert path.barrier == pytest.approx(1 / 16, abs=1e-7)
    heights = []
    for image in path.images:
        axis = (image.positions[1] - image.positions[0]) / image.get_distance(0, 1)
        heights.append((image.positions[2] - image.positions[:2].mean(axis=0)) @ axis)
    assert sorted([heights[0], heights[-1]]) == pytest.approx([-0.5, 0.5], abs=1e-4)
    roots = np.sqrt(near.get_masses())[:, None]
    for first, middle, last in zip(path.images[:-2], path.images[1:-1], path.images[2:], strict=True):
        force, along = middle.get_forces() / roots, (last.positions - first.positions) * roots
        if np.linalg.norm(middle.get_forces()) > 0.05:
            cosine = np.sum(force * along) / np.linalg.norm(force) / np.linalg.norm(along)
            assert abs(cosine) > 0.99


def test_a_force_fields_saddle(ethanol, ethanol_model, tmp_path):
    """The methyl of ethanol, turned by 60°: one imaginary frequency, that of ASE's own displacements."""
    atoms = Atoms(ethanol[17].numbers, ethanol[17].positions)
    atoms.calc = mlff.Calculator(ethanol_model)
    mlff.relax(atoms)
    low = atoms.get_potential_energy()
    carbon, other = 0, 1
    hydrogens = [i for i in np.flatnonzero(atoms.numbers == 1) if atoms.get_distance(carbon, i) < 1.3]
    assert len(hydrogens) == 3
    atoms.set_dihedral(
        hydrogens[0], carbon, other, 2, atoms.get_dihedral(hydrogens[0], carbon, other, 2) + 60, indices=hydrogens
    )
    saddle = mlff.transition_state(atoms)
    assert 0.05 < saddle.energy - low < 0.3
    by_differences = Vibrations(atoms, name=str(tmp_path / "vib"), delta=2e-3)
    by_differences.run()
    assert by_differences.get_frequencies()[0].imag == pytest.approx(-saddle.frequency, rel=1e-3)
    np.testing.assert_allclose(np.abs(atoms.get_forces()), 0, atol=1e-5)


def test_errors(near, monkeypatch):
    with pytest.raises(ValueError, match="no saddle point after steps=1"):
        mlff.transition_state(near, steps=1)
    minimum = Atoms("OOH", [[-1, 0, 0], [1, 0, 0], [0.5, 1.0, 0]])
    minimum.calc = DoubleWell()
    with pytest.raises(ValueError, match="0 unstable modes"):
        mlff.reaction_path(minimum)
    with pytest.raises(ValueError, match="get_hessian"):
        mlff.transition_state(Atoms("OH2", np.eye(3)))
    mlff.transition_state(near)
    with pytest.raises(ValueError, match="steps=2: the reverse side"):
        mlff.reaction_path(near, steps=2)
    monkeypatch.setitem(sys.modules, "sella", None)
    with pytest.raises(ImportError, match="pip install"):
        mlff.reaction_path(near)


def test_sella_changes_no_setting(datasets, tmp_path):
    """In a process of its own, where Sella is imported first by us: JAX's settings, the environment, the user's folder and
    results stay what they were."""
    code = f"""
import os, jax, numpy as np
settings, environment = dict(jax.config.values), dict(os.environ)
import mlff, descriptors
from surfaces import DoubleWell
from ase import Atoms
data = mlff.Dataset.read({str(datasets / "water.extxyz")!r}, index=":12")
force_field = mlff.fit(mlff.GlobalKernel(descriptors.inverse_distances, mlff.Matern52(lengthscale=3.0)), data)
forces = force_field.forces(data[8].positions)
atoms = Atoms("OOH", [[-1.05, 0, 0.02], [1, 0, 0], [0.12, 1.1, 0.05]], calculator=DoubleWell())
mlff.transition_state(atoms)
mlff.reaction_path(atoms)
import sys
assert "sella" in sys.modules
assert dict(jax.config.values) == settings and not jax.config.jax_enable_x64
assert dict(os.environ) == environment
assert jax.numpy.ones(3).dtype == np.float32
assert np.array_equal(force_field.forces(data[8].positions), forces)
assert not os.path.exists(os.path.join(os.environ["HOME"], ".cache", "sella"))
print("untouched")
"""
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path]),
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.strip() == "untouched", done.stderr
