"""Error bars of what is derived: first order against samples of the posterior, and against linear algebra where it is exact."""

import functools

import ase
import ase.io
import numpy as np
import pytest

import mlff
from descriptors import inverse_distances, soap
from mlff.potentials.sums import PotentialSum
from mlff.properties.relaxation import internal_directions


@pytest.fixture(scope="module")
def relaxed():
    """Water, 12 frames, relaxed with its force field."""
    data = mlff.Dataset.read("datasets/water.extxyz")
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0))
    force_field = mlff.fit(kernel, data[:12], ("energy", "forces"), {"energy": 1e-3, "forces": 3e-2}, posterior=True)
    return relaxed_with(force_field, data[0])


def relaxed_with(force_field, start):
    atoms = ase.Atoms(start.numbers, start.positions, calculator=mlff.Calculator(force_field))
    mlff.relax(atoms, fmax=1e-6)
    return atoms


@pytest.fixture(scope="module")
def sampled(relaxed):
    """Relaxed geometries of sixty samples."""
    force_field = relaxed.calc.force_field
    return [relaxed_with(force_field.sample(seed), relaxed) for seed in range(60)]


def test_frequencies_and_geometry_against_samples(relaxed, sampled):
    """The standard deviation of sixty samples is uncertain by 1/√120 of it: four times that is allowed, and second order."""
    frequencies = mlff.frequency_error_bars(relaxed)
    np.testing.assert_allclose(frequencies.value, mlff.frequencies(relaxed), atol=1e-6)
    found = np.std([mlff.frequencies(atoms) for atoms in sampled], axis=0)
    np.testing.assert_allclose(found / frequencies.std, 1.0, atol=0.4)
    zero_point = mlff.zero_point_energy(relaxed)
    np.testing.assert_allclose(zero_point.value[0], 0.5 * frequencies.value.sum() / 8065.544, rtol=1e-5)
    assert zero_point.std[0] <= 0.5 * frequencies.std.sum() / 8065.5
    internal = internal_directions(relaxed)
    moved = [internal @ internal.T @ (atoms.positions - relaxed.positions).ravel() for atoms in sampled]
    bars = mlff.geometry_error_bars(relaxed)
    np.testing.assert_allclose(np.std(moved, axis=0).reshape(3, 3), bars, atol=0.3 * bars.max())


def test_differences_of_energies(relaxed):
    other = relaxed.copy()
    other.positions += 0.05 * np.random.default_rng(0).standard_normal((3, 3))
    other.calc = relaxed.calc
    found = mlff.energy_differences([relaxed, other])
    np.testing.assert_allclose(found.value, other.get_potential_energy() - relaxed.get_potential_energy(), atol=1e-9)
    c = relaxed.calc.force_field.covariance("energy", np.stack([relaxed.positions, other.positions]))
    np.testing.assert_allclose(found.covariance, c[0, 0] + c[1, 1] - 2 * c[0, 1], rtol=1e-6)
    assert str(found).count("±") == 1


def test_what_is_refused(relaxed):
    moved = relaxed.copy()
    moved.positions[0, 0] += 0.2
    moved.calc = relaxed.calc
    with pytest.raises(ValueError, match="needs a minimum of the energy"):
        mlff.frequency_error_bars(moved)
    with pytest.raises(ValueError, match="two geometries or more"):
        mlff.energy_differences([relaxed])
    without = relaxed.copy()
    without.calc = mlff.Calculator(relaxed.calc.force_field.replace(posterior=None))
    with pytest.raises(ValueError, match="fit it with posterior=True"):
        mlff.geometry_error_bars(without)


def test_a_run_ends_where_forces_are_not_known(relaxed, tmp_path, caplog):
    from mlff.dynamics import md

    atoms = relaxed.copy()
    atoms.calc = relaxed.calc
    md.thermalise(atoms, 3000.0, np.random.default_rng(0))
    usual = float(relaxed.calc.get_property("forces_std", relaxed).max())
    watch = md.Watch(2.0 * usual, path=tmp_path / "unknown.extxyz")
    run = md.run(atoms, 400, temperature=3000.0, interval=5, watch=watch)
    assert run.stopped is not None
    assert run.times[-1] == run.stopped * 0.5
    written = ase.io.read(tmp_path / "unknown.extxyz")
    np.testing.assert_allclose(written.positions, run.positions[-1], atol=1e-7)
    assert written.calc is None
    assert written.info["step"] == run.stopped
    assert "the run ends here" in caplog.text
    goes_on = md.run(atoms, 20, temperature=3000.0, interval=5, watch=md.Watch(1e-9, stops=False))
    assert goes_on.stopped is None


@pytest.mark.thorough
def test_elastic_constants_follow_the_model_to_first_order(silicon, monkeypatch):
    """Atoms and cell of no symmetry: what the operator says of a change of the energy, against constants of the changed one."""
    frames = []
    for seed in range(6):
        atoms = silicon.copy()
        atoms.rattle(0.08, seed=seed)
        atoms.calc = silicon.calc
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }
        frames.append(mlff.Frame(mlff.System.from_ase(atoms), labels))
    kernel = mlff.LocalKernel(functools.partial(soap, cutoff=3.5, n_max=2, l_max=2), mlff.RBF(lengthscale=1.0))
    noise = {"energy": 1e-2, "forces": 0.1, "stress": 1e-2}
    fitted = mlff.fit(kernel, mlff.Dataset(frames), tuple(noise), noise=noise, posterior=True).replace(calibration=None)
    atoms = silicon.copy()
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + 0.01 * np.array([[1, 2, 0], [2, -1, 1], [0, 1, 0.5]])), scale_atoms=True
    )
    change = fitted.posterior.deviation(0)

    def constants(share):
        moved = atoms.copy()
        moved.calc = mlff.Calculator(fitted.replace(model=PotentialSum((fitted.model, change.scaled(share)))))
        mlff.relax(moved)
        return mlff.elastic_constants(moved), moved

    asked, covariance = {}, mlff.ForceField.covariance

    def recorded(force_field, operator, arguments, **where):
        asked.update(operator=operator, arguments=arguments)
        return covariance(force_field, operator, arguments=arguments, **where)

    monkeypatch.setattr(mlff.ForceField, "covariance", recorded)
    _, relaxed = constants(0.0)
    found = mlff.elastic_constants_error_bars(relaxed)
    where = relaxed.positions, relaxed.cell.array, relaxed.pbc, None

    def slope_along(deviation):
        other = mlff.ForceField(deviation, fitted.numbers, record={"periodic": True})
        return other.apply(asked["operator"], *where, arguments=asked["arguments"]) / relaxed.get_volume()

    slope = slope_along(change)
    step = 1e-3
    differences = (constants(step)[0] - constants(-step)[0]) / (2.0 * step)
    np.testing.assert_allclose(slope, differences[np.triu_indices(6)], atol=1e-4 * np.abs(differences).max())
    assert found.std.shape == (36,)
    np.testing.assert_allclose(found.std.reshape(6, 6), found.std.reshape(6, 6).T)
    slopes = np.array([slope, *(slope_along(fitted.posterior.deviation(seed)) for seed in range(1, 12))])
    ratios = slopes / found.std.reshape(6, 6)[np.triu_indices(6)]
    assert 0.6 < np.sqrt(np.mean(ratios**2)) < 1.5
