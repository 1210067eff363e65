"""Geometries are the same to the rounding of the coarser file, and only then."""

import ase.build
import ase.io
import numpy as np
import pytest

import mlff
from mlff.data.identity import among, copies, exact_hash, fingerprints, twins


def moved(frame, positions, **changes):
    return mlff.Frame(frame.system.replace(positions=np.asarray(positions), **changes), frame.labels)


@pytest.mark.parametrize("digits", [3, 4, 5, 6, 8, 12])
def test_rounded_frames_are_recognised_and_neighbours_are_not(digits, ethanol):
    """Rounding boundaries lie everywhere: 200 frames of 27 coordinates meet thousands of them."""
    rounded = [moved(frame, np.round(frame.positions, digits)) for frame in ethanol]
    known = fingerprints(ethanol.frames[::2])
    found = among(rounded, known)
    assert found[::2].all()
    assert not found[1::2].any()


def test_float32_and_shifts_of_a_digit(ethanol, rng):
    known = fingerprints(ethanol.frames)
    single = [moved(frame, frame.positions.astype(np.float32).astype(np.float64)) for frame in ethanol]
    assert among(single, known).all()
    shifted = [moved(frame, frame.positions + rng.choice([-5e-9, 5e-9], frame.positions.shape)) for frame in ethanol]
    assert among(shifted, known).all()
    assert (twins([*ethanol, *shifted])[len(ethanol) :] == np.arange(len(ethanol))).all()


@pytest.mark.parametrize("distance", [1e-4, 1e-3, 1e-2])
def test_one_coordinate_displaced_is_another_geometry(distance, rng):
    """As the frames of finite differences are, in a cell of 64 atoms too."""
    crystal = ase.build.bulk("Si", cubic=True).repeat((2, 2, 2))
    crystal.rattle(0.05, seed=1)
    frame = mlff.Frame(mlff.System.from_ase(crystal), {})
    frames = [frame]
    for j in range(0, 192, 7):
        x = crystal.positions.copy()
        x.flat[j] += distance
        frames.append(moved(frame, x))
    assert (twins(frames) == np.arange(len(frames))).all()
    if distance > 5e-4:  # the means of blocks of 75 numbers see no less
        assert not among(frames[1:], fingerprints([frame])).any()


def test_wrapped_atoms_are_the_same_geometry_and_another_cell_is_not(silicon):
    atoms = silicon.repeat((2, 1, 1))
    atoms.rattle(0.1, seed=3)
    frame = mlff.Frame(mlff.System.from_ase(atoms), {})
    wrapped = moved(frame, atoms.positions + atoms.cell.array.T @ [1, -2, 0])
    strained = mlff.Frame(frame.system.replace(cell=frame.cell * 1.001), {})
    slab = mlff.Frame(frame.system.replace(pbc=np.array([True, True, False])), {})
    isolated = mlff.Frame(frame.system.replace(pbc=np.zeros(3, bool)), {})
    shifted = moved(frame, atoms.positions + atoms.cell.array[0])
    assert twins([frame, wrapped, strained, slab, isolated, shifted]).tolist() == [0, 0, 2, 3, 4, 0]
    assert not among([strained, slab, isolated], fingerprints([frame])).any()
    assert among([shifted], fingerprints([frame])).all()


def test_many_equal_frames_take_no_time(water):
    first = twins([water[0]] * 3000 + [water[1]])
    assert first[:3000].max() == 0
    assert first[3000] == 3000


def test_fingerprints_of_earlier_models(water):
    """Hashes of exact coordinates, sixteen characters: exact frames are recognised."""
    known = [exact_hash(frame) for frame in water[:10]]
    assert all(len(text) == 16 for text in known)
    assert among(water.frames, known).sum() == 10


def test_a_test_file_with_other_digits_is_no_test(tmp_path, water_model, water):
    """Written with eight digits, read with rounding of 5e-9 Å: all twenty are recognised."""
    rounded = [moved(frame, np.round(frame.positions, 6)) for frame in water[:20]]
    with pytest.raises(ValueError, match="20 of its 20 frames were trained on"):
        mlff.evaluate(water_model, mlff.Dataset(rounded))
    old = water_model.replace(record={**water_model.record, "fingerprints": [exact_hash(f) for f in water[:40]]})
    with pytest.raises(ValueError, match="20 of its 20 frames were trained on"):
        mlff.evaluate(old, water[:20])


def test_duplicates_in_a_file_to_rounding(tmp_path, water):
    frames = [frame.to_ase() for frame in water[:10]]
    again = frames[3].copy()
    again.positions += 5e-8
    ase.io.write(tmp_path / "w.extxyz", [*frames, again])
    with pytest.raises(ValueError, match=r"w\.extxyz: frame 10 repeats the geometry of frame 3"):
        mlff.Dataset.read(tmp_path / "w.extxyz")
    again.set_pbc(True)
    again.set_cell([9, 9, 9])
    larger = again.copy()
    larger.set_cell([9, 9, 10])
    ase.io.write(tmp_path / "w.extxyz", [*frames, again, larger])
    assert len(mlff.Dataset.read(tmp_path / "w.extxyz")) == 12


def test_sets_are_joined_to_rounding(water):
    hessians = [moved(frame, np.round(frame.positions, 6)) for frame in water[5:8]]
    hessians = [mlff.Frame(frame.system, {"hessian": np.eye(9)}) for frame in hessians]
    both = water[:6] + mlff.Dataset(hessians, "hessians")
    assert len(both) == 8
    assert sorted(both[5].labels) == ["energy", "forces", "hessian"]


def rigid_copies(frames, rng):
    """Translated, rotated and inverted."""
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn *= np.linalg.det(turn)
    moves = (lambda x: x + [0.3, -2.0, 11.0], lambda x: x @ turn.T, lambda x: -x)
    return [[moved(frame, move(frame.positions)) for frame in frames] for move in moves]


@pytest.mark.parametrize("digits", [4, 6, 12])
def test_rigid_copies_are_recognised_and_neighbours_are_not(digits, ethanol, rng):
    known = fingerprints(ethanol.frames[:100:2])
    for copied in rigid_copies(ethanol.frames[:100], rng):
        rounded = [moved(frame, np.round(frame.positions, digits)) for frame in copied]
        found = among(rounded, known)
        assert found[::2].all()
        assert not found[1::2].any()
        together = [moved(frame, np.round(frame.positions, digits)) for frame in ethanol[:100]] + rounded
        assert (copies(together)[100:] == np.arange(100)).all()
        assert (twins(together) == np.arange(200)).all()


def test_rigid_copies_are_no_test_frames(water_model, water, rng):
    for copied in rigid_copies(water.frames[:10], rng):
        with pytest.raises(ValueError, match="10 of its 10 frames were trained on"):
            mlff.evaluate(water_model, mlff.Dataset(copied))


def test_rigid_copies_within_a_file_and_in_a_sum_are_named_and_their_labels_kept_apart(tmp_path, water, rng, caplog):
    for copied in rigid_copies(water.frames[:4], rng):
        hessians = mlff.Dataset([mlff.Frame(frame.system, {"hessian": np.eye(9)}) for frame in copied], "hessians")
        caplog.clear()
        both = water[:4] + hessians
        assert [sorted(frame.labels) for frame in both] == 4 * [["energy", "forces"]] + 4 * [["hessian"]]
        assert "4 of its 8 frames repeat the geometry of others, moved or turned" in caplog.text
        caplog.clear()
        ase.io.write(tmp_path / "w.extxyz", [frame.to_ase() for frame in (*water[:4], copied[2])])
        assert len(mlff.Dataset.read(tmp_path / "w.extxyz")) == 5
        assert "1 of its 5 frames repeat" in caplog.text
        assert "in place 4, of the one in place 2" in caplog.text


def test_finite_displacements_out_of_a_plane_are_no_twins(water):
    """Each is the other one turned, and nobody's mistake."""
    flat = water[0].positions - water[0].positions[0]
    normal = np.cross(flat[1], flat[2]) / np.linalg.norm(np.cross(flat[1], flat[2]))
    up, down = (moved(water[0], flat + [[0, 0, 0], sign * 0.01 * normal, [0, 0, 0]]) for sign in (1, -1))
    assert twins([up, down]).tolist() == [0, 1]
    assert copies([up, down]).tolist() == [0, 0]
