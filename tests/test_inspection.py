"""Labels that do not fit the others' are found, and named for what they are."""

import numpy as np
import pytest
from moments import moments

import mlff
from mlff.quality import inspection


@pytest.fixture(scope="module")
def water():
    return mlff.Dataset.read("datasets/water.extxyz")[:60]


def altered(frame, **labels):
    return mlff.Frame(frame.system, {**frame.labels, **labels})


def test_planted_faults_are_found_and_named(water):
    frames, rng = list(water), np.random.default_rng(0)
    forces = [np.array(frame.labels["forces"]) for frame in frames]
    frames[7] = altered(frames[7], forces=-forces[7])
    frames[21] = altered(frames[21], forces=0.529 * forces[21])
    frames[33] = altered(frames[33], forces=forces[33] + 0.3 * rng.standard_normal((3, 3)))
    frames[48] = altered(frames[48], energy=frames[48].labels["energy"] + 0.5)
    found = mlff.inspect(mlff.Dataset(frames))
    reasons = {suspect.index: suspect.reason for suspect in found.suspects}
    assert {7, 21, 33, 48} <= set(reasons)
    assert len(reasons) <= 5
    assert reasons[7] == "forces of the other sign"
    assert "times as large" in reasons[21]
    assert reasons[48] == "energy"
    energy = next(suspect for suspect in found.suspects if suspect.index == 48).energy
    np.testing.assert_allclose(energy, 0.5, atol=0.05)
    assert found.to_json()["frames"] == 60
    assert len(found.table()) == len(found.suspects)


def test_nothing_is_found_where_nothing_is(water):
    found = mlff.inspect(water)
    assert len(found.suspects) <= 1
    assert "60 frames" in str(found)


def test_what_is_refused(water):
    with pytest.raises(ValueError, match="it takes 20"):
        mlff.inspect(water[:10])
    bare = mlff.Dataset([mlff.Frame(frame.system, {"energy": frame.labels["energy"]}) for frame in water])
    with pytest.raises(ValueError, match="has no forces"):
        mlff.inspect(bare)


def test_by_models_of_the_others(water, monkeypatch):
    """As crystals and several compositions are looked at; with a small descriptor in place of theirs."""
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5))
    monkeypatch.setattr(inspection, "default_recipe", lambda data: ("fchl19-gpr", "test"))
    monkeypatch.setattr(inspection, "recipe", lambda name, data: (kernel, ("energy", "forces")))
    monkeypatch.setattr(inspection, "POINTS", 60)
    frames = list(water)
    frames[4] = altered(frames[4], forces=-np.asarray(frames[4].labels["forces"]))
    frames[11] = altered(frames[11], energy=frames[11].labels["energy"] + 2.0)
    found = mlff.inspect(mlff.Dataset(frames))
    reasons = {suspect.index: suspect.reason for suspect in found.suspects}
    assert reasons.get(4) == "forces of the other sign"
    assert reasons.get(11) == "energy"
    assert len(reasons) <= 4
