"""Exact models on fewer points: what is interpolated, what it costs, and what users see of it."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from alloys import alloy_frames
from moments import moments
from test_cli import called

import mlff
from descriptors import acsf, inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.kernels.jets import feature_values
from mlff.regression.sparse import compression

LOCAL = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
NOISE = {"energy": 1e-2, "forces": 3e-2}
LABELS = ("energy", "forces")


@pytest.fixture(scope="module")
def alloy() -> mlff.Dataset:
    return mlff.Dataset(alloy_frames(6), "alloy")


@pytest.fixture(scope="module")
def exact(alloy) -> mlff.ForceField:
    return mlff.fit(LOCAL, alloy, LABELS, noise=NOISE)


def of(force_field, frame):
    return force_field.energy_and_forces(frame.positions, frame.cell, frame.system.pbc, frame.numbers)


def test_values_and_slopes_are_those_of_the_exact_model_at_the_points(exact, alloy):
    """Looked at where an atom's energy stands alone: in descriptor space, along displacements of the atoms of a frame."""
    smaller = mlff.compressed(exact, alloy, points=16)
    assert sum(smaller.record["compressed"]["points"].values()) == 16
    assert set(smaller.record["compressed"]["points"]) == {"Cu", "Ag", "Au"}
    (part,), (whole,) = smaller.model.parts, exact.model.parts
    frames = LabelledFrames.of(alloy)
    for ours, theirs in zip(part.channels, whole.channels, strict=True):
        at = np.asarray(ours.points) + ours.origin
        value, slope = compression._values_and_slopes(whole.kernel.radial, theirs, at, part.sizes)
        found, along = compression._values_and_slopes(part.kernel.radial, ours, at, part.sizes)
        np.testing.assert_allclose(found, value, atol=1e-5 * np.abs(value).max())
        for batch in frames.batches:
            (features,) = feature_values(exact.kernel, batch)
            for k, environment in np.ndindex(features.shape[:2]):
                place = np.argmin(np.sum((at - features[k, environment]) ** 2, axis=1))
                if np.allclose(at[place], features[k, environment], rtol=0, atol=1e-12):
                    step = 1e-5 * np.random.default_rng(k).standard_normal(batch.positions[k].shape)
                    moved = batch.take([k])
                    moved.positions[0] += step
                    change = feature_values(exact.kernel, moved)[0][0, environment] - at[place]
                    off = 2e-3 * np.abs(slope).max() * np.linalg.norm(change)
                    assert change @ along[place] == pytest.approx(change @ slope[place], abs=off)


@pytest.mark.thorough
def test_more_points_are_nearer_and_all_give_the_exact_model(exact, alloy):
    total = sum(len(channel.points) for channel in exact.model.parts[0].channels)
    tests, changes = alloy_frames(3, seed=7), []
    for points in (8, 24, total - 1):
        smaller = mlff.compressed(exact, alloy, points=points)
        changes.append(np.mean([np.abs(of(smaller, frame)[1] - of(exact, frame)[1]).mean() for frame in tests]))
    assert changes[0] > changes[1] > 10.0 * changes[2]
    size = np.mean([np.abs(of(exact, frame)[1]).mean() for frame in tests])
    assert changes[2] < 1e-3 * size


def test_what_the_record_says_of_the_change_is_so(exact, alloy):
    smaller = mlff.compressed(exact, alloy, points=30)
    said = smaller.record["compressed"]["change"]

    def changed(frames) -> float:
        return float(np.sqrt(np.mean([np.square(of(smaller, frame)[1] - of(exact, frame)[1]) for frame in frames])))

    # no less than on the frames themselves, some of which it meets, and of the size of that on others
    assert said["forces_rmse"] > changed(alloy)
    assert 0.4 < said["forces_rmse"] / changed(alloy_frames(12, seed=7)) < 2.5
    assert smaller.record["training"]["forces_mae"] == pytest.approx(mlff_errors(smaller, alloy))
    assert "test" not in smaller.record


def mlff_errors(force_field, data) -> float:
    return float(np.mean([np.abs(of(force_field, frame)[1] - frame.labels["forces"]) for frame in data]))


def test_forces_are_derivatives_of_energies(exact, alloy):
    """Differences of fourth order, whose steps are wide enough that the rounding of large weights, 1e-11 eV, does not show."""
    smaller, frame, h = mlff.compressed(exact, alloy, points=20), alloy[2], 1e-3
    forces = of(smaller, frame)[1]
    where = (frame.cell, frame.system.pbc, frame.numbers)
    for i, a in ((0, 1), (5, 0)):
        step = h * np.eye(24)[3 * i + a].reshape(8, 3)
        energies = [smaller.energy(frame.positions + k * step, *where) for k in (-2, -1, 1, 2)]
        assert forces[i, a] == pytest.approx(-np.dot([1, -8, 8, -1], energies) / (12 * h), abs=1e-6)


@pytest.mark.thorough
def test_terms_of_sums(water):
    """The local term of a sum is compressed, the global one stays; of molecules, with forces alone as labels."""
    train = water[:20]
    kernel = mlff.SumKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0)),
            mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0)),
        )
    )
    exact = mlff.fit(kernel, train, noise={"forces": 1e-3})
    smaller = mlff.compressed(exact, train, points=30)
    whole, local = smaller.model.parts
    assert whole is exact.model.parts[0]
    assert sum(len(channel.points) for channel in local.channels) == 30
    x = water[30].positions
    np.testing.assert_allclose(smaller.forces(x), exact.forces(x), atol=1e-2)


def test_models_come_back_from_their_files(exact, alloy, tmp_path):
    """The training frames are found among others."""
    both = mlff.Dataset([*alloy_frames(2, seed=9), *alloy], "both")
    smaller = mlff.compressed(exact, both, points=30)
    smaller.save(tmp_path / "small.mlff")
    again = mlff.load(tmp_path / "small.mlff", trusted=("moments",))
    for a, b in zip(of(again, alloy[0]), of(smaller, alloy[0]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "labels", ["energy", pytest.param(("energy", "forces", "hessian"), marks=pytest.mark.thorough)], ids=str
)
def test_files_hold_models_of_labels_of_any_order(labels, datasets, tmp_path):
    data = mlff.Dataset.read(datasets / "ethanol_hessians.extxyz", index=":3")
    kernel = mlff.LocalKernel(functools.partial(acsf, cutoff=3.0), mlff.RBF(lengthscale=2.0))
    smaller = mlff.compressed(mlff.fit(kernel, data, labels), data, points=20)
    smaller.save(tmp_path / "small.mlff")
    x = data[0].positions
    assert mlff.load(tmp_path / "small.mlff").energy(x) == smaller.energy(x)
    with pytest.raises(ValueError, match="was compressed before"):
        mlff.compressed(smaller, data, points=10)


def test_the_command(water, datasets, tmp_path):
    """It finds the training frames among all of the file, and replaces nothing that was not named."""
    mlff.fit(LOCAL, water[:15], LABELS).save(tmp_path / "water.mlff")
    command = ("compress", "water.mlff", datasets / "water.extxyz", "--points", "20", "--trust", "moments")
    said = called(*command, cwd=tmp_path).stdout
    assert "compressed from 45 to 20 points" in said
    assert "wrote water-20.mlff" in said
    assert "compressed to 20 points" in called("show", "water-20.mlff", "--trust", "moments", cwd=tmp_path).stdout
    assert "exists" in called(*command, cwd=tmp_path, code=2).stderr
    told = json.loads(called(*command, "--out", "water-20.mlff", "--json", cwd=tmp_path).stdout)
    assert sum(told["compressed"]["points"].values()) == 20


def test_what_cannot_be_compressed(exact, alloy, water):
    with pytest.raises(ValueError, match="none of local kernels"):
        mlff.compressed(mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0)), water[:5]), water)
    sparse = mlff.fit(LOCAL, alloy, LABELS, noise=NOISE, inducing=12)
    with pytest.raises(ValueError, match="sparse one already"):
        mlff.compressed(sparse, alloy, points=10)
    with pytest.raises(ValueError, match="has 3 of the 6 frames"):
        mlff.compressed(exact, alloy[:3], points=10)
    for points in (0, 2.5, True):
        with pytest.raises(ValueError, match="must be a whole number"):
            compression._points(points, exact.model)
    with pytest.raises(ValueError, match="which is no more than that"):
        mlff.compressed(exact, alloy, points=5000)


@pytest.mark.parametrize(
    ("points", "weights", "most", "expected"),
    [
        (10, [1.0, 3.0, 1.0], [20, 20, 20], [2, 6, 2]),
        (10, [1.0, 98.0, 1.0], [20, 4, 20], [3, 4, 3]),  # what one element has no environments for, others get
        (10, [1.0, 0.0, 1.0], [20, 20, 20], [5, 1, 4]),
        (10, [1.0, 5.0, 1.0], [20, 0, 20], [5, 0, 5]),
        (2, [1.0, 1.0], [1, 1], [1, 1]),
        (45, [0.159, 0.027, 0.076, 0.0], [21, 25, 5, 2], [21, 18, 5, 1]),
        (2, [0.05, 0.95], [20, 100], [1, 1]),
    ],
)
def test_points_are_shared_among_elements(points, weights, most, expected):
    assert compression._shares(points, np.array(weights), most) == expected


def test_frames_that_share_positions_alone_are_others(exact, alloy):
    """Other elements at the same places, or another cell around them, are training frames of their own."""
    start = compression._geometries(exact, alloy[:1])[0]
    turned = dataclasses.replace(start.system, numbers=start.numbers[::-1].copy())
    wider = dataclasses.replace(start.system, cell=1.1 * start.cell)
    systems = (start.system, turned, wider)
    data = mlff.Dataset([mlff.Frame(system, start.labels) for system in systems], "alike")
    assert len(compression._geometries(exact, data)) == 3


def test_elements_have_points_where_something_is_missed(alloy):
    """Of an exact model in which one element's atoms have the same energy everywhere, that element needs the fewest points."""
    whole = mlff.fit(LOCAL, alloy, LABELS, noise=NOISE)
    part = whole.model.parts[0]
    flat = part.channels[0]
    tangents, values = np.zeros_like(flat.tangents), np.zeros_like(flat.values)
    flat = type(flat).build(np.asarray(flat.points), tangents, values, part.sizes)
    channels = (flat, *part.channels[1:])
    silent = whole.replace(model=whole.model.replace(parts=(part.replace(channels=channels),)))
    count = len(flat.points) // 2
    points = [mlff.compressed(each, alloy, count).record["compressed"]["points"] for each in (whole, silent)]
    symbol = next(iter(points[0]))
    assert points[1][symbol] < points[0][symbol]
    assert sum(points[0].values()) == sum(points[1].values()) == count
