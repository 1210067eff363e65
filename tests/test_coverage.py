"""The distance from the training frames: against its definition, and said where a geometry leaves them."""

import itertools
import logging

import numpy as np
import pytest
from ase import Atoms

import mlff
from descriptors import inverse_distances
from mlff.potentials.coverage import OUTSIDE
from mlff.precision import double_precision


def by_definition(force_field, train, x) -> float:
    """For one molecule: its nearest image of a training frame, over the largest such distance among them."""
    scale = force_field.kernel.radial.lengthscale

    @double_precision
    def features(positions):
        return np.asarray(inverse_distances(positions)) / scale

    def apart(one, two):
        images = [features(one[p]) for p in force_field.kernel.permutations]
        return min(float(np.linalg.norm(image - features(two))) for image in images)

    frames = [frame.positions for frame in train]
    own = [min(apart(a, b) for j, b in enumerate(frames) if j != i) for i, a in enumerate(frames)]
    return min(apart(x, frame) for frame in frames) / max(own)


def test_global_model_against_its_definition(water, water_model):
    for x in (water[70].positions, 1.2 * water[71].positions):
        expected = by_definition(water_model, water[:40], x)
        assert water_model.training_distance(x) == pytest.approx(expected, rel=1e-6)
    assert water_model.training_distance(water[3].positions) < 1e-5
    exchanged = water[70].positions[[0, 2, 1]]
    assert water_model.training_distance(exchanged) == pytest.approx(
        water_model.training_distance(water[70].positions), rel=1e-9
    )


def test_frames_of_the_same_dynamics_lie_near_and_others_far(ethanol, ethanol_model):
    """The hydroxyl bond pulled to twice its length: no frame shows that."""
    _, test = ethanol.split(60, 100, seed=1)
    usual = [ethanol_model.training_distance(frame.positions) for frame in test[:40]]
    assert 0.3 < np.median(usual) < 1.0
    assert max(usual) < OUTSIDE
    atoms = test[0].to_ase()
    hydroxyl = int(np.argmin(np.where(atoms.numbers == 1, atoms.get_distances(2, range(9)), np.inf)))
    atoms.set_distance(2, hydroxyl, 1.9, fix=0)
    assert ethanol_model.training_distance(atoms.positions) > 1.5 * OUTSIDE


def test_local_model_sees_its_farthest_environment(silicon_model, silicon):
    """One atom pushed out of a crystal; a strain that the training frames lack."""
    cell = silicon.repeat((2, 2, 2))
    where = {"cell": cell.cell.array, "numbers": cell.numbers, "pbc": cell.pbc}
    positions = cell.positions.copy()
    assert silicon_model.training_distance(positions, **where) < OUTSIDE
    positions[5] += [0.9, 0.0, 0.0]
    assert silicon_model.training_distance(positions, **where) > 2 * OUTSIDE


def test_the_calculator_says_it_once_and_again_when_it_is_twice_as_far(water, water_model, caplog):
    atoms = Atoms("OH2", water[70].positions, calculator=mlff.Calculator(water_model))
    with caplog.at_level(logging.WARNING, "mlff.dynamics.calculator"):
        atoms.get_potential_energy()
        assert not caplog.messages
        said = []
        for length in np.arange(1.0, 3.0, 0.02):
            atoms.set_distance(0, 1, length, fix=0)
            atoms.get_potential_energy()
            said.append(sum("training frame as those lie from each other" in text for text in caplog.messages))
    assert said[-1] >= 2
    ratios = [float(text.split(" times as far")[0].split()[-1]) for text in caplog.messages if "times as far" in text]
    assert ratios[0] > OUTSIDE
    assert all(second >= 1.9 * first for first, second in itertools.pairwise(ratios))


def test_a_single_frame_cannot_tell(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0))
    assert mlff.fit(kernel, water[:1]).training_distance(water[9].positions) == 0.0
