"""The report: files that are there, numbers that agree, pictures that are pictures."""

import json

import numpy as np
import pytest

import mlff
from mlff.report import parity_figure, png, write_report


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
    assert len(png(parity_figure(mlff.evaluate(water_model, bare)))) > 5_000
