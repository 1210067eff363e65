"""Error bars of phonons: first order against what changed energies and samples of the posterior have."""

import functools

import ase.build
import numpy as np
import pytest
from ase.calculators.emt import EMT

import mlff
from descriptors import soap
from mlff.potentials.sums import PotentialSum

phonopy = pytest.importorskip("phonopy", reason='pip install "mlff[phonons]"')

POINTS = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.1, 0.2, 0.3]])


def fitted(frames, calculator, noise):
    """A force field of shaken cells."""
    made = []
    for atoms in frames:
        atoms.calc = calculator
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        made.append(mlff.Frame(mlff.System.from_ase(atoms), labels))
    kernel = mlff.LocalKernel(functools.partial(soap, cutoff=4.0, n_max=3, l_max=2), mlff.RBF(lengthscale=1.0))
    levels = {"energy": noise / 3.0, "forces": noise}
    return mlff.fit(kernel, mlff.Dataset(made), tuple(levels), levels, posterior=True)


@pytest.fixture(scope="module")
def copper():
    """Copper with effective medium theory: one atom, whose supercells are of 27."""
    frames = []
    for seed in range(4):
        frames.append(ase.build.bulk("Cu", cubic=True, a=3.6))
        frames[-1].rattle(0.1, seed=seed)
    atoms = ase.build.bulk("Cu", a=3.6)
    atoms.calc = mlff.Calculator(fitted(frames, EMT(), 3e-2))
    return atoms


def test_frequencies_are_phonopys_and_motions_of_the_whole_are_known(copper):
    found = mlff.phonon_error_bars(copper, [2, 2, 2], POINTS)
    wanted = mlff.phonopy_of(copper, [2, 2, 2]).run_qpoints(POINTS).frequencies
    np.testing.assert_allclose(found.value[3:], wanted.ravel()[3:], rtol=1e-5)
    np.testing.assert_allclose(found.value[:3], 0.0, atol=1e-4)
    assert np.all(found.std[:3] == 0.0)
    assert np.all(found.std[3:] > 0.0)


def test_error_bars_against_samples(copper):
    """The standard deviation of forty samples is uncertain by 1/√80 of it: four times that is allowed."""
    found = mlff.phonon_error_bars(copper, [2, 2, 2], POINTS[1:])
    force_field, drawn = copper.calc.force_field, []
    for seed in range(40):
        sample = copper.copy()
        sample.calc = mlff.Calculator(force_field.sample(seed))
        drawn.append(mlff.phonopy_of(sample, [2, 2, 2]).run_qpoints(POINTS[1:]).frequencies.ravel())
    np.testing.assert_allclose(np.std(drawn, axis=0) / found.std, 1.0, atol=0.45)


@pytest.mark.thorough
def test_eigenvalues_follow_the_model_to_first_order(silicon, monkeypatch):
    """A cell of no symmetry, whose atoms move: what the operator says of a change of the energy, against a changed one's."""
    frames = []
    for seed in range(6):
        frames.append(silicon.copy())
        frames[-1].rattle(0.08, seed=seed)
    model = fitted(frames, silicon.calc, 0.1).replace(calibration=None)
    atoms = silicon.copy()
    strain = 0.01 * np.array([[1, 2, 0], [2, -1, 1], [0, 1, 0.5]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    change, asked, covariance = model.posterior.deviation(0), {}, mlff.ForceField.covariance

    def relaxed(share):
        moved = atoms.copy()
        moved.calc = mlff.Calculator(model.replace(model=PotentialSum((model.model, change.scaled(share)))))
        mlff.relax(moved)
        return moved

    def squares(share):
        found = mlff.phonopy_of(relaxed(share), [2, 1, 1]).run_qpoints(POINTS[1:]).frequencies.ravel()
        return found * np.abs(found)

    def recorded(force_field, operator, arguments, **where):
        asked.update(operator=operator, arguments=arguments, where=where)
        return covariance(force_field, operator, arguments=arguments, **where)

    monkeypatch.setattr(mlff.ForceField, "covariance", recorded)
    found = mlff.phonon_error_bars(relaxed(0.0), [2, 1, 1], POINTS[1:])
    other = mlff.ForceField(change, model.numbers, record={"periodic": True})
    slope = other.apply(asked["operator"], arguments=asked["arguments"], **asked["where"])
    step = 1e-3
    differences = (squares(step) - squares(-step)) / (2.0 * step)
    unit = 1.0 / (2.0 * np.pi * 1e12) ** 2 * 1.602176634e-19 / 1e-20 / 1.66053906660e-27  # eV/Å²/u → THz²
    np.testing.assert_allclose(unit * slope, differences, atol=2e-4 * np.abs(differences).max())
    assert np.abs(np.tensordot(asked["arguments"][2], np.ones((4, 3)), axes=2)).max() < 1e-9
    assert np.abs(asked["arguments"][2]).max() > 1e-3
    np.testing.assert_allclose(found.covariance, found.covariance.T, atol=1e-12)


def test_what_is_refused(copper):
    for points in ([0.0, 0.0, 0.0], np.zeros((0, 3)), [[0.0, 0.0]]):
        with pytest.raises(ValueError, match=r"points: expected shape \(q, 3\)"):
            mlff.phonon_error_bars(copper, [1, 1, 1], points)
    without = copper.copy()
    without.calc = mlff.Calculator(copper.calc.force_field.replace(posterior=None))
    with pytest.raises(ValueError, match="fit it with posterior=True"):
        mlff.phonon_error_bars(without, [1, 1, 1], POINTS)


@pytest.mark.thorough  # cells of several atoms are looked at too
def test_elastic_constants_of_one_atom_a_cell(copper):
    """Nothing moves with the strain; against samples, as above."""
    found = mlff.elastic_constants_error_bars(copper)
    force_field, drawn = copper.calc.force_field, []
    for seed in range(40):
        sample = copper.copy()
        sample.calc = mlff.Calculator(force_field.sample(seed))
        drawn.append(mlff.elastic_constants(sample)[[0, 0, 3], [0, 1, 3]])
    np.testing.assert_allclose(np.std(drawn, axis=0) / found.std.reshape(6, 6)[[0, 0, 3], [0, 1, 3]], 1.0, atol=0.45)
