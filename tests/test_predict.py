"""Prediction at scale: the numbers of `ForceField`, in the order of the input, to the same bytes however often it was stopped."""

import contextlib
import errno
import gzip
import io
import json
import sys

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from moments import moments

import mlff
from mlff import files
from mlff.data.extended_xyz import extended_xyz
from mlff.data.streams import FrameStream
from mlff.files import partial_of
from mlff.potentials.evaluator import Evaluator, SingleEvaluator
from mlff.workflows import prediction
from mlff.workflows.prediction import predict

WINDOW = 2 * 4 * 13_000  # bytes: of four frames of water


@pytest.fixture(scope="module")
def frames(water, tmp_path_factory):
    """Thirty labelled frames of water on which the model was not fitted."""
    path = tmp_path_factory.mktemp("predict") / "frames.extxyz"
    path.write_bytes(extended_xyz([frame.to_ase() for frame in water[50:80]]))
    return path


@pytest.fixture(scope="module")
def undisturbed(water_model, frames):
    out = frames.with_name("undisturbed.extxyz")
    predict(water_model, frames, out, memory=WINDOW)
    return out.read_bytes()


@pytest.fixture(scope="module")
def local_model() -> mlff.ForceField:
    """Of a few shaken molecules and made-up labels, with error bars."""
    rng, frames = np.random.default_rng(0), []
    for name in ("H2O", "CH3OH", "CH4"):
        atoms = ase.build.molecule(name)
        for _ in range(3):
            x = atoms.positions + 0.05 * rng.standard_normal(atoms.positions.shape)
            labels = {"energy": rng.standard_normal() - 500.0, "forces": rng.standard_normal(x.shape)}
            frames.append(mlff.Frame(mlff.System(x, atoms.numbers, np.zeros((3, 3)), np.zeros(3, bool)), labels))
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0), amplitude=1.0)
    noise = {"energy": 0.1, "forces": 0.1}
    return mlff.fit(kernel, mlff.Dataset(frames), ("energy", "forces"), noise=noise, posterior=True)


@pytest.fixture
def mixed(tmp_path, rng):
    """Molecules of several compositions, in no order."""
    path, images = tmp_path / "mixed.extxyz", []
    for name in ("CH4", "H2O", "CH3OH", "H2O", "CH4", "H2O"):
        images.append(ase.build.molecule(name))
        images[-1].rattle(0.03, rng=rng)
    ase.io.write(path, images)
    return path


def test_numbers_are_those_of_the_force_field_and_labels_are_kept(water_model, frames, undisturbed, water):
    written = ase.io.read(io.StringIO(undisturbed.decode()), index=":", format="extxyz")
    assert len(written) == 30
    for atoms, frame in zip(written, water[50:80], strict=True):
        energy, forces = water_model.energy_and_forces(frame.positions)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-6)
        assert atoms.info["REF_energy"] == pytest.approx(frame.labels["energy"])
        np.testing.assert_allclose(atoms.arrays["REF_forces"], frame.labels["forces"], atol=1e-7)


def test_errors_are_those_of_evaluate(water_model, frames, water, tmp_path):
    found = predict(water_model, frames, tmp_path / "out.xyz", memory=WINDOW)
    expected = mlff.evaluate(water_model, water[50:80]).errors
    assert set(found.errors) == {"energy", "forces", "energy per atom"}
    for name, errors in expected.items():
        assert found.errors[name].mae == pytest.approx(errors.mae, rel=1e-4)
        assert found.errors[name].rmse == pytest.approx(errors.rmse, rel=1e-4)
        assert found.errors[name].count == errors.count


def test_mixed_compositions_keep_their_order(local_model, mixed, tmp_path):
    for memory in (1, "1GB"):  # a frame a window, and all in one
        predict(local_model, mixed, tmp_path / "out.extxyz", memory=memory, std=True)
        written = ase.io.read(tmp_path / "out.extxyz", index=":")
        for atoms, given in zip(written, ase.io.read(mixed, index=":"), strict=True):
            where = {"positions": given.positions, "numbers": given.numbers}
            np.testing.assert_array_equal(atoms.numbers, given.numbers)
            energy, forces = local_model.energy_and_forces(**where)
            assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
            np.testing.assert_allclose(atoms.get_forces(), forces, atol=2e-8)
            energy_std, forces_std = local_model.energy_and_forces_std(**where)
            assert atoms.info["energy_std"] == pytest.approx(energy_std, rel=1e-9)
            np.testing.assert_allclose(atoms.arrays["forces_std"], forces_std, atol=2e-8)


def test_crystals_have_stress_and_what_they_hold_is_kept(silicon_model, tmp_path, rng):
    cells = [ase.build.bulk("Si", cubic=True, a=5.4 + 0.02 * i) * (1, 1, 1 + i % 2) for i in range(4)]
    for i, atoms in enumerate(cells):
        atoms.rattle(0.05, rng=rng)
        atoms.set_tags(range(len(atoms)))
        atoms.info |= {"step": i, "energy_std": 1.0}
        atoms.calc = SinglePointCalculator(atoms, energy=float(i), stress=np.arange(6.0))
    ase.io.write(tmp_path / "cells.traj", cells)
    found = predict(silicon_model, tmp_path / "cells.traj", tmp_path / "out.extxyz")
    assert found.errors["stress"].count == 9 * len(cells)
    for i, (atoms, given) in enumerate(zip(ase.io.read(tmp_path / "out.extxyz", ":"), cells, strict=True)):
        stress = silicon_model.stress(given.positions, given.cell.array, given.pbc, given.numbers)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=1e-6, atol=1e-10)
        np.testing.assert_array_equal(atoms.get_tags(), given.get_tags())
        assert (atoms.info["step"], atoms.info["REF_energy"], atoms.info["input_energy_std"]) == (i, i, 1.0)
        np.testing.assert_allclose(atoms.info["REF_stress"], [[0, 5, 4], [5, 1, 3], [4, 3, 2]])


def test_npz_and_compressed_files(water_model, water, frames, undisturbed, tmp_path):
    few = [water[i] for i in range(50, 80)]
    np.savez(
        tmp_path / "frames.npz", R=[f.positions for f in few], E=[f.labels["energy"] for f in few], z=few[0].numbers,
        F=[f.labels["forces"] for f in few], units="eV",
    )  # fmt: skip
    found = predict(water_model, tmp_path / "frames.npz", tmp_path / "of_npz.extxyz")
    assert found.frames == 30
    assert found.errors["forces"].mae == pytest.approx(mlff.evaluate(water_model, water[50:80]).forces_mae)
    (tmp_path / "frames.extxyz.gz").write_bytes(gzip.compress(frames.read_bytes()))
    predict(water_model, tmp_path / "frames.extxyz.gz", tmp_path / "of_gz.extxyz", memory=WINDOW)
    assert (tmp_path / "of_gz.extxyz").read_bytes() == undisturbed


def test_a_window_is_all_that_is_held(water_model, frames, tmp_path, monkeypatch):
    read, held = [], []
    whole = FrameStream.frames

    def counted(self, start=0):
        for frame in whole(self, start):
            read.append(1)
            yield frame

    def evaluated(self, window, start):
        held.append((len(window), len(read)))
        return found(self, window, start)

    found = prediction._Run._found
    monkeypatch.setattr(FrameStream, "frames", counted)
    monkeypatch.setattr(prediction._Run, "_found", evaluated)
    predict(water_model, frames, tmp_path / "out.extxyz", memory=WINDOW)
    assert held == [(4, 4 * i) for i in range(1, 8)] + [(2, 30)]  # no frame is read before its window


def test_many_compositions_are_not_kept(local_model, monkeypatch):
    monkeypatch.setattr("mlff.potentials.entrance.ARRANGED", 2)
    fresh = local_model.replace()
    for name in ("H2O", "CH4", "CH3OH"):
        atoms = ase.build.molecule(name)
        fresh.energy_and_forces_std(atoms.positions, numbers=atoms.numbers)
        fresh.energy(atoms.positions, numbers=atoms.numbers)
    assert len(fresh._entrance._prepared) == len(fresh._committee_entrance._prepared) == 2


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.77, 0.999, 1.0])
def test_a_killed_run_goes_on_to_the_same_bytes(water_model, frames, undisturbed, tmp_path, share):
    out = tmp_path / "out.extxyz"
    partial_of(out).write_bytes(undisturbed[: int(share * len(undisturbed))])
    found = predict(water_model, frames, out, memory=WINDOW, resume=True)
    assert out.read_bytes() == undisturbed
    assert found.first == undisturbed[: int(share * len(undisturbed))].count(b"\n") // 5  # lines of a frame
    assert found.errors["forces"].count == 270
    assert [path.name for path in tmp_path.iterdir()] == ["out.extxyz"]
    expected = predict(water_model, frames, tmp_path / "again.extxyz", memory=WINDOW).errors
    assert found.errors["energy"].rmse == pytest.approx(expected["energy"].rmse, rel=1e-6)


def test_a_cut_at_any_byte_of_a_frame(water_model, frames, undisturbed, tmp_path):
    """Between frames, inside of a number of atoms, before the end of a line."""
    out, starts = tmp_path / "out.extxyz", undisturbed.find(b"\n3\n") + 1
    for cut in (starts, starts + 1, starts + 2, starts - 1, starts - 3):
        partial_of(out).write_bytes(undisturbed[:cut])
        predict(water_model, frames, out, memory=WINDOW, resume=True)
        assert out.read_bytes() == undisturbed


def test_a_run_goes_on_with_the_same_alone(water_model, local_model, frames, mixed, undisturbed, tmp_path):
    out = tmp_path / "out.extxyz"
    half = undisturbed[: undisturbed.rindex(b"\n3\n", 0, len(undisturbed) // 2) + 20]  # within a frame
    others = (
        (local_model, frames, {}), (water_model, frames, {"precision": "float32"}), (local_model, mixed, {}),
        (local_model, frames, {"std": True}),
    )  # fmt: skip
    for force_field, path, options in others:
        partial_of(out).write_bytes(half)
        with pytest.raises(ValueError, match=r"had another model, other options or other frames .* same, or leave out"):
            predict(force_field, path, out, memory=WINDOW, resume=True, **options)
        assert partial_of(out).read_bytes() == half[: half.rindex(b"\n3\n") + 1]  # whole frames, not one lost


def test_a_full_disk_leaves_what_was_there_and_is_gone_on_from(water_model, frames, undisturbed, tmp_path, monkeypatch):
    out, room = tmp_path / "out.extxyz", len(undisturbed) // 3
    predict(water_model, frames, out, memory="1GB")
    before = out.read_bytes()
    opened = open

    class Full(io.FileIO):
        def write(self, piece):
            if self.tell() >= room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(piece[: room - self.tell()])

    def small(path, mode="r", **options):
        return Full(path, mode) if str(path).endswith(".partial") else opened(path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", small, raising=False)
        done = called("predict", saved(water_model, tmp_path), frames, "--out", out, "--memory", WINDOW, code=2)
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"error: {out}: no space is left on its disk; make room, and go on with --resume behind")
    assert out.read_bytes() == before
    assert partial_of(out).stat().st_size == room
    assert predict(water_model, frames, out, memory=WINDOW, resume=True).first > 5
    assert out.read_bytes() == undisturbed


@pytest.mark.parametrize("name", ["water_model", "local_model", "silicon_model"])
def test_single_precision_is_single_and_its_error_is_measured(name, request, water, rng):
    """Crystals too, whose environments other threads work out."""
    force_field = request.getfixturevalue(name)
    crystal = ase.build.bulk("Si", cubic=True, a=5.432) * (3, 2, 2)
    crystal.rattle(0.05, rng=rng)
    frames = [mlff.Frame(mlff.System.from_ase(crystal), {})] if name == "silicon_model" else [*water[50:55]]
    double, single = Evaluator(force_field)(frames), SingleEvaluator(force_field)(frames)
    # weights of silicon's fit are 1e5 eV and cancel; constants, of hundreds of eV in the molecules, are not rounded
    largest = {"energy": 20.0 if name == "silicon_model" else 0.005, "forces": 0.05, "stress": 1e-3}
    for one, other in zip(double, single, strict=True):
        assert one.keys() == other.keys()
        for label in largest.keys() & one.keys():
            assert 1e-10 < np.abs(np.asarray(one[label]) - other[label]).max() < largest[label]
    again = Evaluator(force_field)(frames)
    assert again[0]["energy"] == double[0]["energy"]  # nothing of it stays


def test_float32_is_said(water_model, frames, tmp_path):
    done = called(
        "predict", saved(water_model, tmp_path), frames, "--out", tmp_path / "out.extxyz", "--float32", "--json"
    )
    said = json.loads(done.stdout)
    assert 0.0 < said["float32"]["energy_max"] < 5e-3
    assert 0.0 < said["float32"]["forces_max"] < 0.1
    assert (said["frames"], said["first_frame"]) == (30, 0)
    assert said["frames_per_second"] > 0
    assert said["errors"]["energy"]["count"] == 30
    text = called("predict", saved(water_model, tmp_path), frames, "--out", tmp_path / "out.extxyz", "--float32").stdout
    assert "float32, first 32 frames: off by up to" in text
    assert b"-float32" in (tmp_path / "out.extxyz").read_bytes()


def test_what_is_refused_names_file_and_frame(water_model, local_model, silicon_model, frames, tmp_path):
    images = ase.io.read(frames, index=":3")
    other, charged, apart, unknown = (image.copy() for image in images[:1] * 4)
    other.set_atomic_numbers([1, 8, 1])
    charged.info["charge"] = 1
    apart.positions[1] = apart.positions[0]
    unknown.set_atomic_numbers([14, 1, 1])
    periodic = images[0].copy()
    periodic.set_cell(np.eye(3) * 9.0)
    periodic.pbc = True
    cases = (
        (water_model, other, "in this order of atoms"), (water_model, charged, r"states the total charge \+1"),
        (local_model, unknown, "knows H, C, O, not Si"), (water_model, periodic, "periodic, but .* takes no cell"),
        (water_model, apart, "not finite"),
    )  # fmt: skip
    for force_field, wrong, message in cases:
        ase.io.write(tmp_path / "wrong.extxyz", [*images, wrong])
        with pytest.raises(ValueError, match=rf"^wrong.extxyz: frame 3.*{message}"):
            predict(force_field, tmp_path / "wrong.extxyz", tmp_path / "out.extxyz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wrong.extxyz"]
    (tmp_path / "wrong.extxyz").write_bytes(b"".join(frames.read_bytes().splitlines(True)[:-1]))
    with pytest.raises(ValueError, match=r"wrong.extxyz: frame 29 claims 3 atoms"):
        predict(water_model, tmp_path / "wrong.extxyz", tmp_path / "out.extxyz")
    np.savez(tmp_path / "none.npz", R=np.zeros((0, 3, 3)), z=images[0].numbers, units="eV")
    with pytest.raises(ValueError, match=r"none.npz: no frames"):
        predict(water_model, tmp_path / "none.npz", tmp_path / "out.extxyz")


def test_arguments_that_are_none(water_model, frames, tmp_path):
    for options, message in (
        ({"precision": "float16"}, "precision='float16' must be 'float64' or 'float32'"),
        ({"memory": "much"}, "memory='much' must be a size in bytes"),
        ({"std": True}, "std: the model has no error bars"),
        ({"units": "apples"}, "units 'apples' are not known"),
        ({"keys": {"enrgy": "E"}}, "keys: 'enrgy' is not known"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(water_model, frames, tmp_path / "out.extxyz", **options)
    for out, message in (
        (tmp_path / "out.traj", "is written as extended xyz"), (frames, "would replace a file that is in use"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            predict(water_model, frames, out)
    (tmp_path / "data.extxyz").write_bytes(frames.read_bytes())
    with pytest.raises(ValueError, match="is there and was not written by mlff"):
        predict(water_model, frames, tmp_path / "data.extxyz")
    program = water_model + mlff.ForceField.of(mlff.Reference("emt"))
    with pytest.raises(ValueError, match="has a precision of its own; leave float32 out"):
        predict(program, frames, tmp_path / "out.extxyz", precision="float32")


def saved(force_field, folder):
    force_field.save(folder / "model.mlff")
    return folder / "model.mlff"


def called(*arguments, code=0):
    """A command in this process: what it says."""
    from mlff.cli import main as cli

    out, messages = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(messages):
        patch.setattr(sys, "argv", ["mlff", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == code, messages.getvalue()
    return type("Said", (), {"stdout": out.getvalue(), "stderr": messages.getvalue()})
