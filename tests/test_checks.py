"""Forces against energies along neighbouring frames: wrong ones are noticed, right ones are not."""

import logging

import ase.io
import ase.units
import numpy as np
import pytest

import mlff
from mlff.data.checks import force_energy_slope, warn_of_slope

KCAL = ase.units.kcal / ase.units.mol


@pytest.mark.parametrize(
    ("factor", "word"), [(-1.0, "point up the energy"), (1 / KCAL, "units"), (0.529, "units"), (1 / 0.529, "units")]
)
def test_wrong_forces_are_a_warning_with_the_slope(tmp_path, datasets, factor, word, caplog):
    frames = ase.io.read(datasets / "ethanol.extxyz", "::4")
    for atoms in frames:
        atoms.arrays["REF_forces"] *= factor
    ase.io.write(tmp_path / "e.extxyz", frames)
    with caplog.at_level("WARNING"):
        data = mlff.Dataset.read(tmp_path / "e.extxyz")
    assert word in caplog.text
    assert force_energy_slope(data)[0] == pytest.approx(1 / factor, rel=0.15)


def test_right_forces_are_no_warning(datasets, caplog):
    with caplog.at_level("WARNING"):
        for name in ("ethanol", "malonaldehyde", "benzene", "water"):
            for index in (":", ":50", "::40"):
                mlff.Dataset.read(datasets / f"{name}.extxyz", index=index)
    assert not caplog.records


def shaken(count, step, factor, rng):
    """Five atoms that attract and repel each other, E = Σ k (d − d₀)²/2 + c sin(b d), each shaken from one geometry."""
    start = 1.5 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1.0]])
    first, second = np.triu_indices(5, k=1)
    k, b = rng.uniform(1.0, 20.0, 10), rng.uniform(5.0, 15.0, 10)
    rest = np.linalg.norm(start[first] - start[second], axis=1)
    frames = []
    for x in start + step * rng.standard_normal((count, 5, 3)):
        apart = x[first] - x[second]
        d = np.linalg.norm(apart, axis=1)
        pull = (k * (d - rest) + 2.0 * b * np.cos(b * d))[:, None] * apart / d[:, None]
        forces = np.zeros((5, 3))
        np.add.at(forces, first, -pull)
        np.add.at(forces, second, pull)
        energy = np.sum(0.5 * k * (d - rest) ** 2 + 2.0 * np.sin(b * d))
        system = mlff.System(x, np.array([6, 1, 1, 8, 7]), np.zeros((3, 3)), np.zeros(3, bool))
        frames.append(mlff.Frame(system, {"energy": energy, "forces": factor * forces}))
    return frames


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("factor", "word"), [(-1.0, "point up"), (1 / KCAL, "units"), (0.529, "units"), (-0.02, "units")]
)
def test_frames_that_are_near_tell(factor, word, seed, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_slope(shaken(50, 0.003, factor, np.random.default_rng(seed)), "set")
    assert word in caplog.text
    assert ("point up" in caplog.text) == (word == "point up")


@pytest.mark.parametrize("step", [0.003, 0.05, 0.1, 0.2, 0.6])
def test_right_forces_are_no_warning_however_far_apart(step, caplog):
    """Far apart the median is anything between 0 and 1."""
    slopes = []
    for seed in range(6):
        frames = shaken(50, step, 1.0, np.random.default_rng(seed))
        slopes.append(force_energy_slope(frames)[0])
        with caplog.at_level(logging.WARNING):
            warn_of_slope(frames, "set")
    assert not caplog.records
    assert min(slopes) > 0.9 if step < 0.05 else step < 0.2 or min(slopes) < 0.75


@pytest.mark.parametrize(("slope", "word"), [(-0.002, ""), (-0.9, "point up"), (-0.04, ""), (-23.0, "units")])
def test_forces_point_up_the_energy_near_minus_one_alone(slope, word, monkeypatch, caplog):
    monkeypatch.setattr("mlff.data.checks.force_energy_slope", lambda frames: (slope, 1.1 * slope, 0.9 * slope))
    with caplog.at_level(logging.WARNING):
        warn_of_slope([], "set")
    assert ("point up" in caplog.text) == (word == "point up")
    monkeypatch.setattr("mlff.data.checks.force_energy_slope", lambda frames: (np.nan, np.nan, np.nan))
    caplog.clear()
    warn_of_slope([], "set")
    assert not caplog.records
