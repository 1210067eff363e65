"""The search for a length scale."""

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.regression.validation import FACTOR, data_scale, search_lengthscale


@pytest.fixture
def frames(water):
    data = water[:60]
    return LabelledFrames.uniform(data.uniform_positions(), data.uniform_numbers(), {"forces": data.array("forces")})


KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52())


def test_neighbours_of_the_best_are_worse(frames):
    found, trials = search_lengthscale(KERNEL, frames, {"forces": 1e-3}, seed=1)
    best = found.radial.lengthscale
    errors = {round(np.log(trial.lengthscale / best) / np.log(FACTOR)): trial.error for trial in trials}
    assert len(errors) == len(trials), "a length scale was tried twice"
    assert errors[0] == min(errors.values())
    assert errors[1] > errors[0] or errors[-1] > errors[0]
    assert {-1, 1} <= set(errors)


def test_scale_follows_the_descriptor(frames):
    scale = data_scale(KERNEL, frames)
    doubled = mlff.GlobalKernel(lambda positions: 2.0 * inverse_distances(positions), mlff.Matern52())
    assert data_scale(doubled, frames) == pytest.approx(2 * scale)
    one, _ = search_lengthscale(KERNEL, frames, {"forces": 1e-3})
    two, _ = search_lengthscale(doubled, frames, {"forces": 1e-3})
    assert two.radial.lengthscale == pytest.approx(2 * one.radial.lengthscale)


def test_a_constant_descriptor_is_named(frames):
    constant = mlff.GlobalKernel(lambda positions: 0.0 * inverse_distances(positions) + 1.0, mlff.Matern52())
    with pytest.raises(ValueError, match="is the same for all frames"):
        search_lengthscale(constant, frames, {"forces": 1e-3})


def test_small_sets_are_held_out_in_turn(frames, monkeypatch):
    """Ten frames, two at a time, five times: every frame is predicted once, by a fit that has not seen it."""
    from mlff.regression import validation as hyperparameters

    seen = []

    def spy(kernel, training, validation, noise, atomic_energies, name):
        seen.append((training.batches[0].positions, validation.batches[0].positions))
        return 1.0 / kernel.radial.lengthscale + kernel.radial.lengthscale

    monkeypatch.setattr(hyperparameters, "_validation_error", spy)
    few = frames.take(np.arange(10))
    search_lengthscale(KERNEL, few, {"forces": 1e-3})
    first = seen[:5]
    assert [len(validation) for _, validation in first] == [2] * 5
    predicted = np.concatenate([validation for _, validation in first])
    assert {x.tobytes() for x in predicted} == {x.tobytes() for x in few.batches[0].positions}
    for training, validation in first:
        assert len(training) == 8
        assert not {x.tobytes() for x in training} & {x.tobytes() for x in validation}


def limited(longest: float, sizes: list):
    """A validation error for which matrices are positive definite up to a length scale only."""

    def error(kernel, training, validation, noise, atomic_energies, name):
        sizes.append((len(training), len(validation)))
        scale = kernel.radial.lengthscale
        return np.inf if scale > longest else 1.0 + abs(np.log(scale / (0.3 * longest)))

    return error


def test_singular_beginnings_lead_to_shorter_length_scales(frames, monkeypatch, caplog):
    """However far the first positive definite matrix is, the best length scale is found, and that is said."""
    from mlff.regression import validation as hyperparameters

    start = hyperparameters.START * data_scale(KERNEL, frames)
    for factor in (2**-2.6, 2**-4.1):
        monkeypatch.setattr(hyperparameters, "_validation_error", limited(start * factor, []))
        with caplog.at_level("WARNING"):
            found, trials = search_lengthscale(KERNEL, frames, {"forces": 1e-9})
        assert found.radial.lengthscale == pytest.approx(0.3 * start * factor, rel=FACTOR**0.5)
        assert not np.isfinite(trials[0].error)
        assert "is positive definite, the search begins at" in caplog.text
    monkeypatch.setattr(hyperparameters, "_validation_error", limited(start * 2**-6.5, []))
    with pytest.raises(
        ValueError, match=r"no kernel matrix from .* down to .* is positive definite with noise forces 1e-09"
    ):
        search_lengthscale(KERNEL, frames, {"forces": 1e-9})


def test_frames_without_the_validated_label_are_capped_too(water, monkeypatch):
    from mlff.regression import validation as hyperparameters

    monkeypatch.setattr(hyperparameters, "MAX_FIT", 8)
    bare = [mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[20:60]]
    frames, sizes = LabelledFrames.of(mlff.Dataset([*water[:20], *bare])), []
    monkeypatch.setattr(hyperparameters, "_validation_error", limited(1e9, sizes))
    search_lengthscale(KERNEL, frames, {"energy": 1e-3, "forces": 1e-3})
    assert set(sizes) == {(16, 4)}


def test_frames_without_the_validated_label_stay_in_training(water):
    """A few frames with forces among many with energies alone: every fold holds out some of the few."""
    bare = [mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[6:30]]
    data = mlff.Dataset([*bare[:12], *water[:6], *bare[12:]])
    force_field = mlff.fit(KERNEL, data, ("energy", "forces"), {"energy": 1e-4, "forces": 1e-3})
    assert len(force_field.record["lengthscales_tried"]) > 2
    with pytest.raises(ValueError, match="4 training frames with forces are too few"):
        mlff.fit(KERNEL, mlff.Dataset([*bare, *water[:4]]), ("energy", "forces"), {"energy": 1e-4, "forces": 1e-3})
