"""A correction to a baseline: the labels that are left, and the sum as a force field."""

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.potentials.differences import remaining

LABELS = ("energy", "forces")


def springs(positions):
    """A rough guess of water, eV."""
    first, second = positions[1] - positions[0], positions[2] - positions[0]
    return 7.0 * sum((d @ d - 0.92) ** 2 for d in (first, second))


@pytest.fixture(scope="module")
def baseline():
    return mlff.ForceField.of(springs)


def kernel():
    return mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0))


def test_remaining_labels_and_baseline_add_up(water, baseline):
    rest = remaining(water[:4], baseline)
    for frame, left in zip(water[:4], rest, strict=True):
        energy, forces = baseline.energy_and_forces(frame.positions, numbers=frame.numbers)
        assert left.labels["energy"] + energy == pytest.approx(frame.labels["energy"], abs=1e-10)
        np.testing.assert_allclose(left.labels["forces"] + forces, frame.labels["forces"], atol=1e-12)
    assert np.abs(rest[0].labels["forces"] - water[0].labels["forces"]).max() > 0.1


def test_a_correction_to_a_cheaper_method_needs_few_frames(water):
    """Forty frames of a method that is off by a tenth, and three of the right one."""
    cheap = [mlff.Frame(f.system, {name: 0.9 * value for name, value in f.labels.items()}) for f in water[60:100]]
    baseline = mlff.fit(kernel(), mlff.Dataset(cheap), LABELS, {"energy": 1e-3, "forces": 1e-2})
    train, test = water[:3], water[20:60]
    without, corrected = mlff.fit(kernel(), train, LABELS), mlff.fit(kernel(), train, LABELS, baseline=baseline)
    alone, found = mlff.evaluate(without, test), mlff.evaluate(corrected, test)
    assert found.forces_mae < 0.4 * alone.forces_mae
    # it meets its training labels, and its forces are those of its energy
    assert corrected.record["training"]["forces_mae"] < 0.02 * found.forces_mae + 1e-3
    x, step = test[0].positions, 1e-4 * np.eye(9)[4].reshape(3, 3)
    slope = (corrected.energy(x + step) - corrected.energy(x - step)) / 2e-4
    assert corrected.forces(x).ravel()[4] == pytest.approx(-slope, rel=1e-5, abs=1e-6)
    with pytest.raises(ValueError, match="were trained on"):
        mlff.evaluate(corrected, train)


def test_a_sum_of_fitted_models_is_a_file(water, tmp_path):
    rough = mlff.fit(kernel(), water[:5], LABELS)
    fine = mlff.fit(kernel(), water[5:10], LABELS, baseline=rough)
    fine.save(tmp_path / "sum.mlff")
    again = mlff.load(tmp_path / "sum.mlff")
    x = water[30].positions
    assert again.energy(x) == fine.energy(x)
    assert again.record["training"] == fine.record["training"]
    with pytest.raises(ValueError, match="were trained on"):
        mlff.evaluate(again, water[8:12])


def test_a_baseline_is_tuned_with_its_correction(water, baseline):
    tuned = mlff.tune(kernel(), water[:8], baseline=baseline)
    fitted = mlff.fit(tuned, water[:8])
    assert fitted.record["terms"][-1]["tuned"]["errors"]["forces"] > 0.0
    plain = mlff.evaluate(mlff.fit(kernel(), water[:8], LABELS, baseline=baseline), water[20:60])
    assert mlff.evaluate(fitted, water[20:60]).forces_mae < plain.forces_mae
    with pytest.raises(ValueError, match="tuned with another, or with none"):
        mlff.fit(tuned, water[:8], baseline=mlff.ForceField.of(lambda positions: 0.0 * positions.sum()))


def test_a_baseline_of_other_frames_is_a_warning(water, baseline, caplog):
    stiff = mlff.ForceField.of(lambda positions: 10.0 * springs(positions))
    mlff.fit(kernel(), water[:4], LABELS, baseline=baseline)
    assert "are left to be learnt" not in caplog.text
    mlff.fit(kernel(), water[:4], LABELS, baseline=stiff)
    assert "of the squared forces are left to be learnt" in caplog.text


def test_refusals(water, ethanol, baseline):
    with pytest.raises(ValueError, match="with a baseline they are those of neither"):
        mlff.fit(kernel(), water[:4], LABELS, atomic_energies={"O": 0.0, "H": 0.0}, baseline=baseline)
    other = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=9.0)), ethanol[:4], LABELS)
    with pytest.raises(ValueError, match="the force field is for CCOHHHHHH"):
        mlff.fit(kernel(), water[:4], LABELS, baseline=other)
