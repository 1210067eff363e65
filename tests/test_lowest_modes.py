"""The lowest modes without a Hessian, against the Hessian's."""

import ase.build
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize import BFGS
from scipy.sparse.linalg import ArpackNoConvergence

import mlff
import mlff.properties.lowest_modes
from mlff.dynamics.motion import motions
from mlff.properties.vibrations import FREQUENCY_UNIT, wavenumbers


@pytest.fixture(scope="module")
def relaxed(ethanol_model):
    atoms = Atoms(ethanol_model.numbers, ethanol_model.record["geometry"])
    atoms.calc = mlff.Calculator(ethanol_model)
    BFGS(atoms, logfile=None).run(fmax=1e-4, steps=500)
    return atoms


class Recorded:
    """A force field whose Hessian is given; the calculator checks its type alone."""

    def __init__(self, hessian):
        self.hessian = hessian

    def hessian_vector_product(self, positions, vectors, **geometry):
        return (self.hessian @ vectors.ravel()).reshape(vectors.shape)


def with_hessian(atoms, hessian, monkeypatch):
    monkeypatch.setattr(
        "mlff.properties.lowest_modes.located", lambda atoms, what: (Recorded(hessian), {"positions": atoms.positions})
    )
    return atoms


@pytest.mark.parametrize("k", [1, 5, 21])
def test_the_lowest_frequencies_are_those_of_the_hessian(relaxed, k):
    found = mlff.lowest_modes(relaxed, k)
    np.testing.assert_allclose(found.frequencies, mlff.frequencies(relaxed)[:k], rtol=1e-6, atol=1e-3)
    assert found.products < 27 * 4


def test_modes_are_those_of_the_hessian(relaxed):
    found = mlff.lowest_modes(relaxed, 6)
    masses = np.repeat(relaxed.get_masses(), 3)
    flat = found.modes.reshape(6, -1)
    np.testing.assert_allclose((flat * masses) @ flat.T, np.eye(6), atol=1e-8)
    curvatures = flat @ relaxed.calc.get_hessian(relaxed) @ flat.T
    np.testing.assert_allclose(curvatures, np.diag(np.diag(curvatures)), atol=1e-6 * curvatures.max())
    np.testing.assert_allclose(wavenumbers(np.diag(curvatures)), found.frequencies, rtol=1e-6)


def test_a_hessian_is_never_built(relaxed, monkeypatch):
    monkeypatch.setattr(mlff.ForceField, "hessian", lambda *args, **kwargs: pytest.fail("a Hessian was built"))
    assert len(mlff.lowest_modes(relaxed, 3).frequencies) == 3


@pytest.mark.parametrize("complete", [0, 400])
def test_every_copy_of_equal_frequencies_is_found(monkeypatch, rng, complete):
    """With restarts and without: a hundred atoms of equal mass, whose lowest eigenvalues, some negative, come in threes."""
    atoms = Atoms("Ar100", rng.uniform(0, 10, (100, 3)))
    monkeypatch.setattr("mlff.properties.lowest_modes.COMPLETE", complete)
    rigid, internal = motions(atoms).rigid, motions(atoms).internal
    spectrum = np.concatenate([np.repeat([-0.2, 0.1, 0.3, 0.5], 3), np.linspace(1, 40, 282)])
    hessian = 39.948 * (internal.T * spectrum) @ internal
    found = mlff.lowest_modes(with_hessian(atoms, hessian, monkeypatch), 8)
    np.testing.assert_allclose(found.frequencies, wavenumbers(np.repeat([-0.2, 0.1, 0.3], [3, 3, 2])), rtol=1e-6)
    assert found.frequencies[0] == pytest.approx(-np.sqrt(0.2) * 521.47, rel=1e-4)
    assert len(rigid) == 6


def test_what_one_run_overlooks_the_next_finds(relaxed, monkeypatch):
    """A run that returns the second to fourth mode as the lowest three, as one that met no copy of the first would."""
    complete, skipped = mlff.properties.lowest_modes._eigsh, []

    def overlooking(product, size, count, which, *rest):
        if which != "SA" or skipped:
            return complete(product, size, count, which, *rest)
        values, vectors = complete(product, size, count + 1, which, *rest)
        skipped.append(np.argmin(values))
        return np.delete(values, skipped), np.delete(vectors, skipped, axis=1)

    monkeypatch.setattr("mlff.properties.lowest_modes._eigsh", overlooking)
    found = mlff.lowest_modes(relaxed, 3)
    assert skipped
    np.testing.assert_allclose(found.frequencies, mlff.frequencies(relaxed)[:3], rtol=1e-6, atol=1e-3)
    masses = np.repeat(relaxed.get_masses(), 3)
    flat = found.modes.reshape(3, -1)
    np.testing.assert_allclose((flat * masses) @ flat.T, np.eye(3), atol=1e-6)


def test_periodic_atoms_have_no_rigid_rotations(monkeypatch):
    atoms = ase.build.bulk("Cu", cubic=True)
    springs = np.eye(12) - np.kron(np.full((4, 4), 0.25), np.eye(3))
    found = mlff.lowest_modes(with_hessian(atoms, springs, monkeypatch), 9)
    np.testing.assert_allclose(found.frequencies, np.full(9, 521.47 / np.sqrt(63.546)), rtol=1e-4)


def test_fixed_atoms_stay_out(relaxed):
    atoms = relaxed.copy()
    atoms.calc = relaxed.calc
    atoms.set_constraint(FixAtoms([0, 4]))
    found = mlff.lowest_modes(atoms, 7)
    dense = mlff.normal_modes(atoms).get_frequencies()
    turning, *rest = np.sort(dense.real - dense.imag)[:8]
    assert abs(turning) < 1.0  # about the line through the two fixed atoms, which is no vibration
    np.testing.assert_allclose(found.frequencies, rest, rtol=1e-6)
    assert not found.modes[:, [0, 4]].any()
    assert found.modes[:, [1, 2, 3, 5, 6, 7, 8]].any(axis=(0, 2)).all()


def test_no_such_number_of_modes(relaxed):
    for k in (0, 22):
        with pytest.raises(ValueError, match=f"k={k} must be from 1 to 21"):
            mlff.lowest_modes(relaxed, k)
    with pytest.raises(ValueError, match=r"lowest_modes needs mlff\.Calculator"):
        mlff.lowest_modes(Atoms("H2"), 1)
    assert pytest.approx(0.0646541, rel=1e-5) == FREQUENCY_UNIT


def test_iterations_that_do_not_converge(relaxed, monkeypatch):
    def stuck(*args, **kwargs):
        raise ArpackNoConvergence("No convergence", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr("mlff.properties.lowest_modes.eigsh", stuck)
    with pytest.raises(ValueError, match="Lanczos iterations for 1 modes of 27 did not converge"):
        mlff.lowest_modes(relaxed, 2)
