"""Frames of dynamics with a calculator: its labels, of the temperature that was asked for, drawn by a seed."""

import ase.build
import numpy as np
import pytest
from ase.calculators.emt import EMT

import mlff
from mlff.dynamics import sampling
from mlff.dynamics.md import run


@pytest.fixture(scope="module")
def copper() -> mlff.Dataset:
    rng, frames = np.random.default_rng(0), []
    for _ in range(3):
        atoms = ase.build.bulk("Cu", cubic=True)
        atoms.rattle(0.05, rng=rng)
        frames.append(mlff.Frame(mlff.System.from_ase(atoms), {"energy": 0.0}))
    return mlff.Dataset(frames)


def test_labels_are_the_calculators(copper):
    found = mlff.sampled(EMT(), copper, frames=7, temperature=300.0, interval=5)
    assert len(found) == 7
    for frame in found:
        atoms = frame.system.to_ase()
        atoms.calc = EMT()
        assert frame.labels["energy"] == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-10)
        np.testing.assert_allclose(frame.labels["forces"], atoms.get_forces(), atol=1e-10)
        np.testing.assert_allclose(frame.labels["stress"], atoms.get_stress(voigt=False), atol=1e-10)
    assert len(set(found.fingerprints())) == 7


def test_geometries_of_ase_are_started_from_too(copper):
    atoms = copper[0].system.to_ase()
    expected = mlff.sampled(EMT(), copper[:1], frames=4, interval=3)
    for start in (atoms, [atoms]):
        found = mlff.sampled(EMT(), start, frames=4, interval=3)
        np.testing.assert_array_equal([f.positions for f in found], [f.positions for f in expected])
    assert atoms.calc is None


class Plain(EMT):
    """A calculator that has no free energy, as many."""

    implemented_properties = ("energy", "forces")


def test_calculators_of_energies_and_forces_alone(copper):
    found = mlff.sampled(Plain(), copper, frames=2, interval=2)
    assert set(found[0].labels) == {"energy", "forces"}


def test_seeds_say_what_is_drawn(copper):
    one, same, other = (mlff.sampled(EMT(), copper, frames=4, interval=3, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal([f.positions for f in one], [f.positions for f in same])
    assert np.abs(one[0].positions - other[0].positions).max() > 1e-3


def test_no_two_runs_share_their_noise(copper, monkeypatch):
    """Nor do those of neighbouring seeds."""
    asked = []

    def noted(*arguments, seed, **stated):
        asked.append(seed)
        return run(*arguments, seed=seed, **stated)

    monkeypatch.setattr(sampling, "run", noted)
    for seed in (1, 2):
        mlff.sampled(EMT(), copper, frames=3, interval=1, seed=seed)
    assert len(set(asked)) == 6


def test_hotter_frames_lie_higher(copper):
    """Of harmonic atoms the mean potential energy over the minimum is (3n − 3) kT/2."""
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.calc = EMT()
    lowest = atoms.get_potential_energy()
    frames = mlff.sampled(EMT(), copper, frames=150, temperature=200.0, interval=20)
    excess = np.mean([frame.labels["energy"] for frame in frames]) - lowest
    expected = 9 / 2 * 8.617e-5 * 200.0
    # of 150 frames, about a third of which are independent, the mean is known to √(2/9)/√50 = 7 %: four of them
    assert excess == pytest.approx(expected, rel=0.3)


def test_a_baseline_of_sampled_frames(water, water_model):
    """The way of the documentation: cheap frames, a baseline, a correction."""
    cheap = mlff.sampled(mlff.Calculator(water_model), water[:3], frames=20, temperature=400.0, interval=10)
    kernel, labels = mlff.recipe("sgdml", cheap)
    baseline = mlff.fit(kernel, cheap, labels)
    corrected = mlff.fit(kernel, water[:6], ("energy", "forces"), baseline=baseline)
    alone = mlff.fit(kernel, water[:6], ("energy", "forces"))
    errors = [mlff.evaluate(each, water[50:80]).forces_mae for each in (alone, corrected)]
    assert errors[1] < errors[0]


def test_refusals(copper):
    with pytest.raises(ValueError, match="received the class EMT"):
        mlff.sampled(EMT, copper)
    with pytest.raises(ValueError, match="frames=0 must be a whole number, 1 or more"):
        mlff.sampled(EMT(), copper, frames=0)
    with pytest.raises(ValueError, match="temperature"):
        mlff.sampled(EMT(), copper, temperature=-3.0)
