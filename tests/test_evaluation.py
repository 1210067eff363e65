"""Errors as numbers: against their definitions, and training frames kept out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlff
from mlff.data.batches import LabelledFrames
from mlff.operators import STRESS
from mlff.potentials.errors import error_text, short
from mlff.potentials.predictions import require_comparable

LAPLACIAN = mlff.Operator("laplacian", lambda u, x: jnp.trace(jax.hessian(u)(x).reshape(x.size, x.size)), "eV/Å²")


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
    assert str(evaluation).startswith("50 frames: energy MAE")
    assert "forces" not in str(evaluation)
    assert "nan" not in str(evaluation)


def test_another_molecule(water_model, ethanol):
    with pytest.raises(ValueError, match="the force field is for OHH"):
        mlff.evaluate(water_model, ethanol)


@pytest.fixture(scope="module")
def answered(water_model, water):
    """Frames whose labels are what the model says, and a known error more."""
    rng, frames = np.random.default_rng(3), []
    for frame in water[60:63]:
        x, vectors, pairs = frame.positions, rng.standard_normal((2, 3, 3)), rng.standard_normal((4, 2, 3, 3))
        energy, forces = water_model.energy_and_forces(x)
        hessian = water_model.hessian(x)
        labels = {
            "energy": energy - 0.03, "forces": forces + 0.01, "hessian": hessian - 0.001,
            "hessian_products": np.array([hessian @ v.ravel() for v in vectors]).reshape(2, 3, 3) + 0.02,
            "hessian_product_vectors": vectors,
            "curvatures": np.array([v.ravel() @ hessian @ w.ravel() for v, w in pairs]) - 0.04, "curvature_vectors": pairs,
            "laplacian": np.array(np.trace(hessian) + 0.05),
        }  # fmt: skip
        frames.append(mlff.Frame(frame.system, labels))
    return mlff.Dataset(frames)


def test_every_kind_of_label_has_an_error(water_model, answered):
    found = mlff.evaluate(water_model, answered)
    wanted = {"energy": 0.03, "forces": 0.01, "hessian": 0.001, "hessian_products": 0.02, "curvatures": 0.04}
    assert {name: errors.mae for name, errors in found.errors.items()} == pytest.approx(wanted, rel=1e-6)
    assert {name: errors.rmse for name, errors in found.errors.items()} == pytest.approx(wanted, rel=1e-6)
    assert found.errors["curvatures"].count == 12
    assert found.errors["hessian_products"].unit == "eV/Å²"
    assert found.energy_mae_per_atom == pytest.approx(0.01, rel=1e-6)
    assert found.not_compared == {}
    assert found.summary()["errors"]["curvatures"]["mae"] == found.errors["curvatures"].mae
    text = str(found)
    assert "energy MAE 30.00 meV, RMSE 30.00 meV; energy per atom MAE 10.00 meV/atom" in text
    assert "forces MAE 10.00 meV/Å" in text
    assert "Hessian products MAE 0.0200 eV/Å²" in text


def test_operators_of_ones_own(water_model, answered):
    found = mlff.evaluate(water_model, answered, labels=("forces", LAPLACIAN))
    assert {name: e.mae for name, e in found.errors.items()} == pytest.approx(
        {"forces": 0.01, "laplacian": 0.05}, rel=1e-6
    )
    assert "energy" not in str(found)
    wrong = mlff.Operator("laplacian", lambda u, x: jnp.diagonal(jax.hessian(u)(x).reshape(9, 9)), "eV/Å²")
    with pytest.raises(
        ValueError, match="laplacian cannot be compared: operator laplacian returns 9 numbers for frame 0, its"
    ):
        mlff.evaluate(water_model, answered, labels=(wrong,))


def test_labels_that_some_frames_lack(water_model, answered):
    first = mlff.Frame(answered[0].system, {"energy": answered[0].labels["energy"]})
    second = mlff.Frame(answered[1].system, {"forces": answered[1].labels["forces"]})
    found = mlff.evaluate(water_model, mlff.Dataset([first, second]))
    assert (found.energy_mae, found.forces_mae) == pytest.approx((0.03, 0.01), rel=1e-6)
    assert (found.errors["energy"].count, found.errors["forces"].count) == (1, 9)
    assert np.isnan(found.energies[0]).tolist() == [False, True]


def test_what_cannot_be_compared_is_named(water_model, answered, water):
    """No energies in the training, no cell, an operator that the file does not hold, a derivative that does not exist."""
    rough = mlff.GlobalKernel(water_model.kernel.descriptor, mlff.Matern32(lengthscale=3.0))
    training = mlff.Dataset([mlff.Frame(f.system, {"forces": f.labels["forces"]}) for f in water[:8]])
    model = mlff.fit(rough, training)
    model = model.replace(record={**model.record, "own_operators": ["laplacian"]})
    frames = [mlff.Frame(f.system, {**f.labels, "stress": np.eye(3)}) for f in answered]
    found = mlff.evaluate(model, mlff.Dataset(frames))
    assert set(found.errors) == {"forces"}
    reasons = found.not_compared
    assert "fitted without energies" in reasons["energy"]
    assert reasons["stress"] == "its descriptor takes no cell"
    assert "does not exist for Matérn-3/2" in reasons["hessian"]
    assert "operator of its own" in reasons["laplacian"]
    assert "stress not compared: its descriptor takes no cell" in str(found)
    assert found.summary()["energy_mae"] is None
    with pytest.raises(
        ValueError, match="data: energy cannot be compared: the force field was fitted without energies"
    ):
        mlff.evaluate(model, mlff.Dataset(frames), labels=("energy", "forces"))
    with pytest.raises(ValueError, match="no frame has curvatures; there are energy, forces"):
        mlff.evaluate(model, water[70:], labels=("curvatures",))


def test_stress(silicon_model, silicon):
    """Against the model's own stress and against the potential's, whose sign a flip would show."""
    atoms = silicon.copy()
    atoms.set_cell(atoms.cell.array * 1.02, scale_atoms=True)
    atoms.rattle(0.03, seed=1)
    atoms.calc = silicon.calc
    reference = atoms.get_stress(voigt=False)
    system = mlff.System(atoms.positions, atoms.numbers.astype(np.int32), atoms.cell.array, np.ones(3, bool))
    frame = mlff.Frame(system, {"energy": atoms.get_potential_energy(), "stress": reference})
    found = mlff.evaluate(silicon_model, mlff.Dataset([frame]))
    own = silicon_model.stress(atoms.positions, atoms.cell.array, numbers=atoms.numbers)
    assert found.errors["stress"].mae == pytest.approx(np.abs(own - reference).mean(), rel=1e-9)
    assert found.errors["stress"].rmse < 0.2 * np.sqrt(np.mean(reference**2))
    assert f"stress MAE {short(np.abs(own - reference).mean() * 160.21766, 4)} GPa" in str(found)
    isolated = mlff.Frame(system.replace(cell=np.zeros((3, 3)), pbc=np.zeros(3, bool)), frame.labels)
    with pytest.raises(ValueError, match="frame 0 has no cell"):
        require_comparable(silicon_model, LabelledFrames.of(mlff.Dataset([isolated])), STRESS)


def test_records_of_earlier_versions_are_read():
    old = {"energy_mae": 0.001, "energy_rmse": 0.002, "forces_mae": None, "forces_rmse": None}
    assert error_text(old) == "energy MAE 1.00 meV, RMSE 2.00 meV"
    assert error_text({**old, "energy_mae": None}) == "no errors"
    assert [short(value) for value in (12.345, 0.1, 0.0123456, 0.0)] == ["12.35", "0.10", "0.012", "0.00"]
