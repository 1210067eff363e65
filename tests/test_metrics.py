"""Errors as numbers: against their definitions, and training frames kept out."""

import numpy as np
import pytest

import mlff


def test_definitions(ethanol_model, ethanol):
    held = [i for i, index in enumerate(ethanol.indices) if int(index) not in set(ethanol_model.record["indices"])]
    data = ethanol[held]
    evaluation = mlff.evaluate(ethanol_model, data)
    energies, forces = ethanol_model.energy_and_forces(data.uniform_positions())
    de, df = energies - data.array("energy"), forces - data.array("forces")
    assert evaluation.energy_mae == pytest.approx(np.abs(de).mean())
    assert evaluation.energy_rmse == pytest.approx(np.sqrt((de**2).mean()))
    assert evaluation.forces_mae == pytest.approx(np.abs(df).mean())
    assert evaluation.forces_rmse == pytest.approx(np.sqrt((df**2).mean()))
    assert evaluation.slope == pytest.approx(np.polyfit(data.array("energy"), energies, 1)[0], rel=1e-6)
    numbers = ethanol_model.numbers
    assert evaluation.forces_mae_by_element["O"] == pytest.approx(np.abs(df[:, numbers == 8]).mean())
    assert set(evaluation.forces_mae_by_element) == {"H", "C", "O"}
    assert f"{1e3 * evaluation.forces_mae:.2f} meV/Å" in str(evaluation)


def test_training_frames_are_no_test(ethanol_model, ethanol):
    with pytest.raises(ValueError, match="60 of its 200 frames were trained on"):
        mlff.evaluate(ethanol_model, ethanol)


def test_labels_that_are_absent(water_model, water):
    bare = mlff.Dataset([mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[50:]])
    evaluation = mlff.evaluate(water_model, bare)
    assert np.isnan(evaluation.forces_mae)
    assert evaluation.summary()["forces_mae"] is None
    assert evaluation.energy_mae < 0.1


def test_another_molecule(water_model, ethanol):
    with pytest.raises(ValueError, match="the force field is for OHH"):
        mlff.evaluate(water_model, ethanol)
