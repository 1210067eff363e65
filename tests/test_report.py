"""The report: files that are there, numbers that agree, pictures that are pictures."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.potentials.errors import Evaluation, LabelErrors
from mlff.quality import report
from mlff.quality.description import description
from mlff.quality.reliability import reliability_texts
from mlff.quality.report import error_bars_text, fit_summary, parity_figure, peak_memory_mb, png, write_report

units = {"forces": "eV/Å", "stress": "eV/Å³"}


@pytest.fixture
def evaluation(water_model, water):
    return mlff.evaluate(water_model, water[40:])


def test_report(tmp_path, water_model, water, evaluation):
    checks = mlff.self_check(water_model, water[0].system)
    written = write_report(tmp_path / "report", water_model, evaluation, checks)
    assert {path.name for path in written} == {"report.md", "report.json", "parity.png"}
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert numbers["forces_mae"] == evaluation.forces_mae
    assert numbers["permutations"] == numbers["symmetry"]["order"] == 2
    assert all(check["passed"] for check in numbers["self_check"])
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"{1e3 * evaluation.forces_mae:.2f}" in page
    assert "(1 2)" in page
    assert "parity.png" in page
    assert (tmp_path / "report" / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_report_of_error_bars(tmp_path, water):
    """Their calibration, how they fare on test frames by bins of their size, and a picture; `mlff show` names both."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0))
    force_field = mlff.fit(kernel, water[:30], noise=1e-2, posterior=True)
    bars, evaluation = mlff.reliability(force_field, water[40:]), mlff.evaluate(force_field, water[40:])
    written = write_report(tmp_path, force_field, evaluation, [], bars)
    assert {path.name for path in written} == {"report.md", "report.json", "parity.png", "error_bars.png"}
    found = json.loads((tmp_path / "report.json").read_text())["error_bars"]
    assert found == bars.summary()
    page = (tmp_path / "report.md").read_text()
    assert error_bars_text(force_field.record) in page
    assert str(bars).split("; ")[0] in page
    assert page.count("\n| forces | ") == len(found["forces"]["bins"])
    assert "](error_bars.png)" in page
    write_report(tmp_path / "untested", force_field, None, [])
    page = (tmp_path / "untested" / "report.md").read_text()
    assert error_bars_text(force_field.record) in page
    assert "error_bars.png" not in page
    tested = force_field.replace(
        record={**force_field.record, "test": {**evaluation.summary(), "source": "others", "error_bars": found}}
    )
    assert f"  {reliability_texts(found)[0]}" in description(tested)
    of_a_sum = description(mlff.ForceField.of(lambda positions: 0.0 * positions.sum()) + force_field)
    assert f"  {error_bars_text(force_field.record)}" in of_a_sum


def test_report_without_test_frames(tmp_path, water_model):
    written = write_report(tmp_path, water_model, None, [])
    assert {path.name for path in written} == {"report.md", "report.json"}
    assert json.loads((tmp_path / "report.json").read_text())["forces_mae"] is None


def test_parity_points_lie_where_they_should(evaluation):
    figure = parity_figure(evaluation)
    offsets = figure.axes[1].collections[0].get_offsets()
    np.testing.assert_allclose(offsets[:, 0], evaluation.forces[0].ravel())
    np.testing.assert_allclose(offsets[:, 1], evaluation.forces[1].ravel())
    assert len(png(figure)) > 10_000


def test_parity_without_forces(water_model, water):
    bare = mlff.Dataset([mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[50:]])
    figure = parity_figure(mlff.evaluate(water_model, bare))
    assert [ax.get_xlabel() for ax in figure.axes] == ["reference energy (eV)"]
    assert len(png(figure)) > 5_000


def made(values, sizes):
    """An evaluation of given references and predictions."""
    errors = {name: LabelErrors.of(*pair, units.get(name, "eV")) for name, pair in values.items()}
    nothing = (np.full(len(sizes), np.nan),) * 2
    return Evaluation(
        0.0, 0.0, 0.0, 0.01, 1.0, len(sizes), {}, values.get("energy", nothing), nothing,
        energy_mae_per_atom=0.02 if "energy" in values else np.nan, energy_rmse_per_atom=0.03, errors=errors, values=values,
        sizes=np.array(sizes),
    )  # fmt: skip


def test_panels_of_what_there_is(rng):
    """Energies an atom where sizes differ, stresses in GPa, no panel of what is not there; force errors last."""
    forces, stress = rng.standard_normal((2, 9)), rng.standard_normal((2, 9))
    energies = np.array([-30.0, -70.0]), np.array([-30.3, -69.3])
    figure = parity_figure(made({"energy": energies, "forces": tuple(forces), "stress": tuple(stress)}, [3, 7]))
    shown = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_xlabel() for ax in shown] == [
        "reference energy per atom (eV/atom)", "reference forces (eV/Å)", "reference stress (GPa)", "force error (meV/Å)",
    ]  # fmt: skip
    assert shown[0].get_title() == "MAE 20.00 meV/atom"
    np.testing.assert_allclose(shown[0].collections[0].get_offsets(), [[0.0, -0.1], [0.0, 0.1]], atol=1e-12)
    np.testing.assert_allclose(shown[2].collections[0].get_offsets()[:, 0], 160.2176634 * stress[0])
    only = parity_figure(made({"forces": tuple(forces)}, [3]))
    assert [ax.get_xlabel() for ax in only.axes] == ["reference forces (eV/Å)", "force error (meV/Å)"]
    with pytest.raises(ValueError, match="nothing was compared"):
        parity_figure(made({}, [3]))


def test_report_of_what_cannot_be_compared(tmp_path, water_model, water):
    """No picture, and the reason in its place."""
    nothing = dataclasses.replace(made({}, [3, 3]), not_compared={"stress": "its descriptor takes no cell"})
    written = write_report(tmp_path, water_model, nothing, [])
    assert {path.name for path in written} == {"report.md", "report.json"}
    page = (tmp_path / "report.md").read_text()
    assert "Not compared: stress, its descriptor takes no cell." in page
    assert "nan" not in page
    assert "| training, 40 | energy per atom |" in page


def test_memory_is_that_of_the_process_itself():
    """Not of the one that started it, though Linux counts on from there."""
    large = np.ones(150_000_000)
    mine = peak_memory_mb()
    line = "from mlff.quality.report import peak_memory_mb; print(peak_memory_mb())"
    told = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout
    assert mine > large.nbytes / 1e6 > float(told) > 10


def test_memory_where_the_system_does_not_tell(monkeypatch, water_model, tmp_path):
    monkeypatch.setattr(report, "STATUS", tmp_path / "none")
    assert peak_memory_mb() > 10
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory_mb() is None
    assert json.loads(json.dumps(fit_summary(water_model, None)))["peak_memory_mb"] is None
    monkeypatch.undo()
    assert peak_memory_mb() > 10
