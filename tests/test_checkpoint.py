"""Checkpoints: a fit that was killed wherever it was ends in the same model, with nothing done twice; folders of others stay."""

import contextlib
import errno
import functools
import itertools
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_cli import called

import mlff
from descriptors import inverse_distances, powered_distances
from mlff.regression import checkpoint, exact, iterative
from mlff.regression.checkpoint import NOWHERE, Checkpoint, fingerprint
from mlff.regression.linalg.tiles import SymmetricTiles
from mlff.regression.planning import pilot, sizes
from mlff.regression.system import kernel_blocks

KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0))
NOISE = 1e-3


class Killed(BaseException):
    """As a signal ends a process: nobody expects it."""


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Several columns of tiles and several blocks of pivots, each written at once."""
    monkeypatch.setattr(checkpoint, "SHARE", 1e12)
    monkeypatch.setattr(checkpoint, "WORTH", 0.0)
    monkeypatch.setattr(kernel_blocks, "TILE_ROWS", 24)
    monkeypatch.setattr(exact, "TILE_ROWS", 24)
    monkeypatch.setattr(iterative, "PIVOTS", 12)
    monkeypatch.setattr(pilot, "ROWS", 30)
    monkeypatch.setattr(pilot, "GEMM", 64)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    return tmp_path / "kept"


def assert_same(one, other):
    """In every number that they compute with."""
    assert one.kernel.radial == other.kernel.radial
    for a, b in zip(jax.tree.leaves(one.model), jax.tree.leaves(other.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(one.model)) > 100


def counting(monkeypatch, owner, name, dies=None) -> list[int]:
    """How often a function was called since the last look, which kills at one of its calls, before or after its work."""
    work, calls = getattr(owner, name), []

    def counted(*arguments, **named):
        calls.append(1)
        if dies == (len(calls), "before"):
            raise Killed
        result = work(*arguments, **named)
        if dies == (len(calls), "after"):
            raise Killed
        return result

    monkeypatch.setattr(owner, name, counted)
    return calls


@contextlib.contextmanager
def killed(monkeypatch, owner, name, at):
    """What is done in a `with` block is killed in one of its calls of a function."""
    with monkeypatch.context() as patch:
        counting(patch, owner, name, at)
        with pytest.raises(Killed):
            yield


WORK = {  # what takes long, by method
    "exact": [(SymmetricTiles, "factorise_column")],
    "iterative": [(iterative, "_more_columns"), (iterative, "_step")],
}


# -- killed -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", WORK)
def test_killed_at_every_step_of_the_work(method, when, water, folder, monkeypatch):
    """Process after process is killed in its second step: each does one more, none of what was written is done again."""
    fit = functools.partial(mlff.fit, KERNEL, water[:24], noise=NOISE, method=method)
    for owner, name in WORK[method]:
        with monkeypatch.context() as patch:
            calls = counting(patch, owner, name)
            undisturbed = fit()
            steps = len(calls)
        assert steps >= 3
        for _ in range(steps - 1):
            with killed(monkeypatch, owner, name, (2, when)):
                fit(checkpoint=folder)
        assert json.loads((folder / "fit.json").read_text())["plain"]["plan"]["method"] == method
        with monkeypatch.context() as patch:
            calls = counting(patch, owner, name)
            resumed = fit(checkpoint=folder)
        assert len(calls) == 1
        assert_same(resumed, undisturbed)
        assert not folder.exists()


@pytest.mark.parametrize("method", WORK)
def test_killed_whenever_it_says_how_far_it_is(method, water, folder):
    """Every stage, and the search for a length scale: the same call, again and again, comes to the end."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52())
    fit = functools.partial(mlff.fit, kernel, water[:12], noise=0.01, method=method)
    undisturbed, said = fit(), []
    limit = itertools.count(1, 7)

    def dying(most):
        left = itertools.count(1)

        def progress(stage, fraction):
            said.append(stage)
            if next(left) >= most:
                raise Killed

        return progress

    deaths = 0
    while True:
        try:
            resumed = fit(progress=dying(next(limit)), checkpoint=folder)
            break
        except Killed:
            deaths += 1
    assert deaths >= 3
    assert {"length scale", "descriptors"} < set(said)
    assert_same(resumed, undisturbed)
    assert resumed.record["lengthscales_tried"] == undisturbed.record["lengthscales_tried"]
    assert not folder.exists()


def test_trials_are_not_made_again(water, folder, monkeypatch):
    from mlff.regression.validation import Validation

    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52())
    with killed(monkeypatch, Validation, "error", (4, "before")):
        mlff.fit(kernel, water[:12], noise=NOISE, checkpoint=folder)
    calls = counting(monkeypatch, Validation, "error")
    resumed = mlff.fit(kernel, water[:12], noise=NOISE, checkpoint=folder)
    assert len(calls) == len(resumed.record["lengthscales_tried"]) - 3


PROCESS = f"""
import os, signal, sys
import jax, numpy as np, mlff
from descriptors import inverse_distances
from mlff.regression import checkpoint, exact
from mlff.regression.system import kernel_blocks

checkpoint.SHARE, checkpoint.WORTH, kernel_blocks.TILE_ROWS, exact.TILE_ROWS = 1e12, 0.0, 24, 24
folder, replace = sys.argv[2], os.replace


def dying(old, new):
    if "factor_1" in str(new):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)


if not os.path.exists(folder):
    os.replace = dying
frames = mlff.Dataset.read(sys.argv[1], index="0:60:2")
kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0))
one, two = (mlff.fit(kernel, frames, noise={NOISE}, checkpoint=kept) for kept in (folder, None))
for a, b in zip(jax.tree.leaves(one.model), jax.tree.leaves(two.model), strict=True):
    np.testing.assert_array_equal(a, b)
"""


def test_a_killed_process(datasets, folder):
    """kill −9 while the second column is on its way to its place; another process goes on."""
    command = [sys.executable, "-c", PROCESS, datasets / "water.extxyz", folder]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list(folder.glob("*factor_0.npz"))) == 1
    assert list(folder.glob(".*.partial"))
    subprocess.run(command, check=True)
    assert not folder.exists()


# -- folders ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(water, folder, monkeypatch) -> pathlib.Path:
    with killed(monkeypatch, SymmetricTiles, "factorise_column", (3, "before")):
        mlff.fit(KERNEL, water[:30], noise=NOISE, checkpoint=folder)
    return folder


def test_another_fit_is_refused(water, unfinished):
    shorter = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.999))
    there = sorted(unfinished.iterdir())
    for kernel, data, changed in (
        (KERNEL, water[1:31], {}),
        (KERNEL, water[:30], {"noise": 1.001e-3}),
        (shorter, water[:30], {}),
        (KERNEL, water[:30], {"labels": "energy"}),
        (KERNEL, water[:30], {"seed": 1}),
        (KERNEL, water[:30], {"method": "exact"}),
        (KERNEL, water[:30], {"posterior": True}),
    ):
        with pytest.raises(ValueError, match=r"holds another fit .* repeat that one, or remove the folder"):
            mlff.fit(kernel, data, **{"noise": NOISE, "checkpoint": unfinished, **changed})
    assert sorted(unfinished.iterdir()) == there


def test_what_is_no_checkpoint_is_refused_and_stays(water, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "fit.json").write_text('{"recipe": "sgdml"}')
    for path, message in (
        (tmp_path, "holds no fit, but something else, .* name another folder"),
        (tmp_path / "other", "holds no fit, but something else, .* name another folder"),
        (tmp_path / "notes.txt", "is a file; name a folder"),
        (5, "checkpoint=5 must be the name of a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            mlff.fit(KERNEL, water[:10], noise=NOISE, checkpoint=path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "other" / "fit.json").exists()


def test_what_others_put_beside_it_stays(water, unfinished):
    (unfinished / "notes.txt").write_text("mine")
    mlff.fit(KERNEL, water[:30], noise=NOISE, checkpoint=unfinished)
    assert [path.name for path in unfinished.iterdir()] == ["notes.txt"]


def test_damage_is_said(water, unfinished, tmp_path, caplog):
    """Whatever is left of a file of arrays, or a bit that is another: it is computed anew."""
    content = max(unfinished.glob("*factor_1.npz")).read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    whole = mlff.fit(KERNEL, water[:30], noise=NOISE)
    for i, damaged in enumerate((b"", content[: len(content) // 2], flipped)):
        folder = shutil.copytree(unfinished, tmp_path / f"copy{i}")
        max(folder.glob("*factor_1.npz")).write_bytes(damaged)
        caplog.clear()
        resumed = mlff.fit(KERNEL, water[:30], noise=NOISE, checkpoint=folder)
        assert "factor_1.npz: damaged; what it held is computed anew" in caplog.text
        np.testing.assert_array_equal(resumed.forces(water[0].positions), whole.forces(water[0].positions))
    (unfinished / "fit.json").write_text('{"fit": ')
    with pytest.raises(ValueError, match=r"or what is damaged; name another folder"):
        mlff.fit(KERNEL, water[:30], noise=NOISE, checkpoint=unfinished)
    assert unfinished.exists()


def test_killed_before_anything_was_whole(water, folder):
    """An empty folder, or one with a part of the first file, is begun in."""
    for name in (None, ".fit.json.x1.partial"):
        folder.mkdir()
        if name:
            (folder / name).write_text("{")
        mlff.fit(KERNEL, water[:5], noise=NOISE, checkpoint=folder)
        assert not folder.exists()


def test_fits_that_end_in_an_error_leave_nothing(water, folder, monkeypatch):
    """What the message says to change is changed in another fit."""
    twice = mlff.Dataset([*water[:5], *water[:5]])
    with pytest.raises(ValueError, match="not positive definite"):
        mlff.fit(KERNEL, twice, noise=0.0, checkpoint=folder)
    assert not folder.exists()
    monkeypatch.setattr(iterative, "MOST", 3)
    monkeypatch.setattr(sizes, "MOST", 10**9)
    with pytest.raises(ValueError, match="conjugate gradients: after 3 iterations"):
        mlff.fit(KERNEL, water[:20], noise=1e-5, method="iterative", checkpoint=folder)
    assert not folder.exists()


def test_nothing_is_kept_without_a_folder(water):
    """Not even between fits: each has its own plan and its own trials."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52())
    one, two = (mlff.fit(kernel, water[:count], noise=NOISE) for count in (10, 14))
    assert one.record["lengthscales_tried"] != two.record["lengthscales_tried"]
    assert [NOWHERE.plain("plan", lambda value=value: value) for value in (1, 2)] == [1, 2]
    NOWHERE.keep("factor_0", {"0": np.zeros(3)})
    NOWHERE.replace("iterations", lambda: pytest.fail("nobody asks for the state"))
    NOWHERE.remove()
    assert NOWHERE.read("factor_0") is None


# -- writing ----------------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_no_fit(water, folder, monkeypatch, caplog):
    """A warning for every file that could not be written; with room again all is written, and the fit can be gone on with."""
    undisturbed = mlff.fit(KERNEL, water[:30], noise=NOISE)
    write, tries = checkpoint.write_whole, []

    def full_at_first(path, content):
        tries.append(pathlib.Path(path).name)
        if len(tries) <= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_whole", full_at_first)
    with caplog.at_level("WARNING"), killed(monkeypatch, SymmetricTiles, "factorise_column", (4, "before")):
        mlff.fit(KERNEL, water[:30], noise=NOISE, checkpoint=folder)
    warnings = [record.getMessage() for record in caplog.records if "checkpoint" in record.getMessage()]
    assert len(warnings) == 3
    assert all("(No space left on device); the fit goes on, and tries again later" in text for text in warnings)
    assert sorted(path.name.split("_", 1)[-1] for path in folder.glob("*.npz")) == [f"factor_{j}.npz" for j in range(3)]
    assert "plan" in json.loads((folder / "fit.json").read_text())["plain"]
    calls = counting(monkeypatch, SymmetricTiles, "factorise_column")
    assert_same(mlff.fit(KERNEL, water[:30], noise=NOISE, checkpoint=folder), undisturbed)
    assert len(calls) == 1


def test_a_disk_that_stays_full(water, folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_whole", full)
    for method in WORK:
        one, two = (mlff.fit(KERNEL, water[:12], noise=NOISE, method=method, checkpoint=at) for at in (None, folder))
        assert_same(one, two)
    assert not folder.exists()


def test_writing_takes_a_share_of_the_time(folder, monkeypatch):
    """Arrays wait until so much time has passed; then all that wait are written."""
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "SHARE", 0.1)
    monkeypatch.setattr(checkpoint, "BANDWIDTH", 8e3)
    kept = Checkpoint(folder).begin("a fit")
    part = kept.beneath("part")
    part.keep("a", {"x": np.arange(1000.0)})  # 1 s to write
    assert not folder.exists()
    now[0] = 15.0
    part.keep("b", {"x": np.arange(1000.0)})
    assert not folder.exists()
    now[0] = 31.0
    part.keep("c", {"x": np.arange(1000.0)})
    assert {path.name for path in folder.glob("*.npz")} == {"part_a.npz", "part_b.npz", "part_c.npz"}
    now[0] = 40.0
    part.keep("d", {"x": np.arange(1000.0)})
    assert part.read("d") is None
    part.forget()
    now[0] = 1000.0
    part.keep("e", {"x": np.arange(2.0)})
    again = Checkpoint(folder).begin("a fit").beneath("part")
    np.testing.assert_array_equal(again.read("c")["x"], np.arange(1000.0))
    assert again.read("d") is None
    assert again.read("e") is not None


# -- what a fit is known by ---------------------------------------------------------------------------------------------------


KNOWN = (
    "import functools, numpy as np, mlff\n"
    "from descriptors import inverse_distances, powered_distances\n"
    "from mlff.regression.checkpoint import fingerprint\n"
    "powered = functools.partial(powered_distances, power=-2.0)\n"
    "kernels = [mlff.GlobalKernel(d, mlff.Matern52(lengthscale=3.0)) for d in (inverse_distances, powered)]\n"
    "print(fingerprint(mlff.SumKernel(tuple(kernels)), ('forces',), np.arange(3.0), max))\n"
)


def test_known_again_by_another_process():
    done = subprocess.run([sys.executable, "-c", KNOWN], capture_output=True, text=True, check=True)
    powered = functools.partial(powered_distances, power=-2.0)
    kernels = [mlff.GlobalKernel(d, mlff.Matern52(lengthscale=3.0)) for d in (inverse_distances, powered)]
    assert fingerprint(mlff.SumKernel(tuple(kernels)), ("forces",), np.arange(3.0), max) == done.stdout.strip()


def test_what_differs_is_told_apart():
    def power(value):
        return mlff.GlobalKernel(functools.partial(powered_distances, power=value), mlff.RBF(lengthscale=3.0))

    many = [np.random.default_rng(seed).permutation(2000) for seed in (0, 1)]
    told = [
        (KERNEL,),
        (mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0 + 1e-12)),),
        (mlff.GlobalKernel(inverse_distances, mlff.Matern32(lengthscale=3.0)),),
        (mlff.GlobalKernel(inverse_distances, mlff.Matern52()),),
        (mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), [[0, 1, 2], [0, 2, 1]]),),
        *((mlff.GlobalKernel(inverse_distances, mlff.RBF(), [np.arange(2000), _swapped(i)]),) for i in (500, 900)),
        (power(-1.0),),
        (power(-2.0),),
        (KERNEL, "forces"),
        (KERNEL, "energy"),
        (KERNEL, 1),
        (KERNEL, 1.0),
        (KERNEL, None),
        *((array,) for array in many),
        (np.zeros(3),),
        (np.zeros((3, 1)),),
        (np.zeros(3, dtype=np.float32),),
    ]
    assert len({fingerprint(*parts) for parts in told}) == len(told)


def _swapped(i: int) -> np.ndarray:
    order = np.arange(2000)
    order[[i, i + 1]] = i + 1, i
    return order


# -- the command line -------------------------------------------------------------------------------------------------------


def options(datasets, *more):
    return (
        "fit", datasets / "water.extxyz", "--frames", "0:60", "--train", "20", "--recipe", "gdml", "--lengthscale", "3",
        "--noise", "0.001", "--out", "w.mlff", *more,
    )  # fmt: skip


def test_a_dry_run_writes_nothing(tmp_path, datasets):
    said = called(*options(datasets, "--dry-run", "--method", "iterative", "--report", "r"), cwd=tmp_path).stdout
    assert said.startswith("iterative: 60 unknowns of 20 frames, preconditioner of rank ")
    told = json.loads(called(*options(datasets, "--dry-run", "--memory", "100GB", "--json"), cwd=tmp_path).stdout)
    assert (told["method"], told["unknowns"], told["budget"]) == ("exact", 60, 10**11)
    assert told["memory"] == max(stage["memory"] for stage in told["stages"])
    tuned = json.loads(called(*options(datasets, "--dry-run", "--tune", "--json"), cwd=tmp_path).stdout)
    assert (tuned["tuning"]["method"], tuned["tuning"]["frames"]) == ("tune", 20)
    said = called(*options(datasets, "--dry-run", "--tune"), cwd=tmp_path).stdout.splitlines()
    assert said[0].startswith("tune: 60 unknowns of 20 frames; ")
    assert said[0].endswith(" (where no search ends early; all frames)")
    assert said[2].startswith("exact: 60 unknowns of 20 frames")
    assert not any("length scale" in line for line in said)  # which the search finds
    refused = called(*options(datasets, "--dry-run", "--memory", "1KB"), cwd=tmp_path, code=2)
    assert "memory: 0 MB are too few" in refused.stderr
    assert "must be a size in bytes" in called(*options(datasets, "--memory", "much"), cwd=tmp_path, code=2).stderr
    assert not list(tmp_path.iterdir())


def test_a_killed_command_is_gone_on_with(tmp_path, datasets, monkeypatch):
    with killed(monkeypatch, SymmetricTiles, "factorise_column", (3, "before")):
        called(*options(datasets), cwd=tmp_path)
    folder = tmp_path / "w.mlff.checkpoint"
    assert folder.is_dir()
    refused = called(*options(datasets), cwd=tmp_path, code=2)
    assert "keeps a fit that was not finished; go on with it by --resume, or remove the folder" in refused.stderr
    other = called(*options(datasets, "--resume", "--seed", "1"), cwd=tmp_path, code=2)
    assert "holds another fit" in other.stderr
    calls = counting(monkeypatch, SymmetricTiles, "factorise_column")
    resumed = json.loads(called(*options(datasets, "--resume", "--json"), cwd=tmp_path).stdout)
    done = len(calls)
    assert [path.name for path in tmp_path.iterdir()] == ["w.mlff"]
    anew = json.loads(called(*options(datasets, "--resume", "--json"), cwd=tmp_path).stdout)  # nothing there: begins
    assert len(calls) == 2 * done + 2
    assert resumed["forces_mae"] == anew["forces_mae"]
