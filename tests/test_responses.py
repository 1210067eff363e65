"""Implicit derivatives of relaxed geometries against central differences of geometries relaxed anew."""

import functools

import ase.build
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

import mlff
from descriptors import acsf
from mlff.dynamics.motion import rigid_motions
from mlff.properties.relaxation import internal_directions


class Pulled(ASECalculator):
    """A force field with constant applied forces: E − f·x."""

    implemented_properties = ("energy", "forces")

    def __init__(self, force_field, force):
        super().__init__()
        self.inner, self.force = mlff.Calculator(force_field), force

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        energy = self.inner.get_potential_energy(self.atoms) - np.sum(self.force * self.atoms.positions)
        self.results = {"energy": energy, "forces": self.inner.get_forces(self.atoms) + self.force}

    def get_hessian(self, atoms):
        return self.inner.get_hessian(atoms)


@pytest.fixture(scope="module")
def molecule(ethanol, ethanol_model) -> Atoms:
    atoms = Atoms(ethanol[17].numbers, ethanol[17].positions)
    atoms.calc = mlff.Calculator(ethanol_model)
    mlff.relax(atoms)
    return atoms


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    """Copper of an EMT cell of eight atoms with a vacancy, in a force field of its own, relaxed."""
    rng = np.random.default_rng(3)
    perfect = ase.build.bulk("Cu", cubic=True) * (2, 1, 1)
    del perfect[0]
    frames = []
    for _ in range(12):
        atoms = perfect.copy()
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.08, rng=rng)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        frames.append(mlff.Frame(mlff.System.from_ase(atoms), labels))
    described = functools.partial(acsf, g2=np.array([[1.0, 2.0], [1.0, 2.7], [1.0, 3.4]]), g4=(), cutoff=4.5)
    force_field = mlff.fit(mlff.LocalKernel(described, mlff.RBF(lengthscale=2.0)), mlff.Dataset(frames), noise=1e-2)
    atoms = perfect.copy()
    atoms.calc = mlff.Calculator(force_field)
    mlff.relax(atoms)
    return atoms


def relaxed(atoms, calculator) -> Atoms:
    other = atoms.copy()
    other.calc = calculator
    mlff.relax(other, fmax=1e-9)
    return other


def assert_same(derivative, difference, tolerance=1e-4):
    assert np.abs(derivative).max() > 1e-3
    assert np.abs(derivative - difference).max() < tolerance * np.abs(difference).max()


def internal(atoms, displacement):
    directions = internal_directions(atoms)
    return (directions @ (directions.T @ displacement.ravel())).reshape(-1, 3)


def test_applied_force(molecule, ethanol_model, rng):
    force, step = rng.normal(size=(9, 3)), 1e-3
    ends = [relaxed(molecule, Pulled(ethanol_model, sign * step * internal(molecule, force))) for sign in (1, -1)]
    difference = (ends[0].positions - ends[1].positions) / (2 * step)
    assert_same(mlff.response(molecule).to_force(force), internal(molecule, difference))


def test_fixed_atoms_under_a_force(molecule, ethanol_model, rng):
    atoms = molecule.copy()
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    atoms.calc = mlff.Calculator(ethanol_model)
    force, step = rng.normal(size=(9, 3)), 1e-3
    ends = [relaxed(atoms, Pulled(ethanol_model, sign * step * force)) for sign in (1, -1)]
    derivative = mlff.response(atoms).to_force(force)
    assert_same(derivative, (ends[0].positions - ends[1].positions) / (2 * step))
    np.testing.assert_array_equal(derivative[:3], 0)


def test_strain(crystal, rng):
    strain, step = rng.normal(size=(3, 3)), 2e-4
    ends = []
    for sign in (1, -1):
        atoms = crystal.copy()
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + sign * step * strain), scale_atoms=True)
        ends.append(relaxed(atoms, crystal.calc))
    derivative = mlff.response(crystal).to_strain(strain)
    assert_same(derivative, (ends[0].positions - ends[1].positions) / (2 * step))
    relaxation = derivative - crystal.positions @ strain
    assert_same(relaxation, (ends[0].positions - ends[1].positions) / (2 * step) - crystal.positions @ strain)
    np.testing.assert_allclose(relaxation.mean(axis=0), 0, atol=1e-10)


def test_turning_the_cell_turns_the_atoms(crystal):
    """An antisymmetric strain is a rotation: nothing relaxes."""
    turn = np.array([[0, 0.3, -0.1], [-0.3, 0, 0.7], [0.1, -0.7, 0]])
    np.testing.assert_allclose(mlff.response(crystal).to_strain(turn), crystal.positions @ turn, atol=1e-6)


def weights(model, t, rng_seed=0):
    """All tangents of the training points, each scaled by 1 + t times a random number."""
    (part,) = model.parts
    (channel,) = part.channels
    noise = np.random.default_rng(rng_seed).normal(size=channel.tangents.shape)
    return model.replace(
        parts=(part.replace(channels=(channel.replace(tangents=channel.tangents * (1 + t * noise)),)),)
    )


def length_scale(model, t):
    (part,) = model.parts
    radial = part.kernel.radial
    return model.replace(
        parts=(
            part.replace(kernel=part.kernel.replace(radial=radial.replace(lengthscale=radial.lengthscale * (1 + t)))),
        )
    )


@pytest.mark.parametrize(("path", "step"), [(weights, 1e-7), (length_scale, 1e-5)])
def test_parameters_of_the_model(molecule, ethanol_model, path, step):
    model = ethanol_model.model
    ends = [
        relaxed(molecule, mlff.Calculator(ethanol_model.replace(model=path(model, sign * step)))) for sign in (1, -1)
    ]
    difference = (ends[0].positions - ends[1].positions) / (2 * step)
    derivative = mlff.response(molecule).to_model(lambda t: path(model, t))
    assert isinstance(derivative, np.ndarray)
    assert derivative.dtype == np.float64
    assert_same(derivative, internal(molecule, difference))


def test_parameters_of_a_descriptor_in_a_crystal(crystal):
    """The shift of a radial function, a hyperparameter inside the descriptor of a local model."""
    model = crystal.calc.force_field.model.arranged(crystal.numbers)

    def path(t):
        (part,) = model.parts
        described = part.kernel.descriptor
        arguments = {
            **described.arguments,
            "g2": described.arguments["g2"] + t * np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]),
        }
        kernel = part.kernel.replace(descriptor=described.replace(arguments=arguments))
        return model.replace(parts=(part.replace(kernel=kernel),))

    step, ends = 1e-5, []
    for sign in (1, -1):
        with jax.enable_x64(True):
            other = crystal.calc.force_field.replace(model=jax.tree.map(np.asarray, path(sign * step)))
        ends.append(relaxed(crystal, mlff.Calculator(other)))
    assert_same(mlff.response(crystal).to_model(path), (ends[0].positions - ends[1].positions) / (2 * step))


def test_one_hessian_one_factorisation(crystal, monkeypatch, rng):
    counts = {"eigh": 0, "get_hessian": 0}

    def counted(owner, name):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(np.linalg, "eigh")
    counted(mlff.Calculator, "get_hessian")
    answers = mlff.response(crystal)
    answers.to_force(rng.normal(size=(7, 3)))
    answers.to_strain(np.eye(3))
    answers.to_model(lambda t: weights(crystal.calc.force_field.model, t))
    assert counts == {"eigh": 1, "get_hessian": 1}


def test_no_rigid_motion(molecule, rng):
    moved = mlff.response(molecule).to_force(rng.normal(size=(9, 3)))
    np.testing.assert_allclose(rigid_motions(molecule, np.ones(9)) @ moved.ravel(), 0, atol=1e-10)


def test_errors(molecule, crystal, ethanol, ethanol_model):
    answers = mlff.response(molecule)
    with pytest.raises(ValueError, match="no cell to strain"):
        answers.to_strain(np.eye(3))
    with pytest.raises(ValueError, match=r"force: expected shape \(9, 3\), received \(3, 3\)"):
        answers.to_force(np.eye(3))
    with pytest.raises(ValueError, match=r"path\(0\)"):
        answers.to_model(lambda t: length_scale(ethanol_model.model, t + 0.1))
    with pytest.raises(ValueError, match="no force field"):
        mlff.response(Atoms("OH2", np.eye(3), calculator=EMT()))
    atoms = Atoms(molecule.numbers, ethanol[17].positions, calculator=mlff.Calculator(ethanol_model))
    with pytest.raises(ValueError, match="not relaxed"):
        mlff.response(atoms)
    fixed = crystal.copy()
    fixed.set_constraint(FixAtoms([0]))
    fixed.calc = crystal.calc
    with pytest.raises(ValueError, match="do not follow"):
        mlff.response(fixed).to_strain(np.eye(3))
