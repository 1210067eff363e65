"""`mlff fit` with recipes and with descriptors of one's own."""

import errno
import json
import os
import re
import subprocess
import sys

import ase.io
import pytest
from test_cli import called

import mlff

MINE = """
import jax.numpy as jnp
from descriptors.geometry import pair_distances


def screened(positions, *, decay=2.0):
    r = pair_distances(positions)
    return jnp.exp(-r / decay) / r
"""


def mlff_fit(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "mlff", "fit", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "recipe", ["gdml", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("fchl19-gpr", "sfchl19"))]
)
def test_recipes(recipe, tmp_path, datasets):
    chosen = ("--frames", "0:60", "--train", "20", "--recipe", recipe, "--lengthscale", "3", "--noise")
    noise = ("forces=0.01", "--noise", "energy=0.001") if recipe == "fchl19-gpr" else ("0.01",)
    command = ("fit", datasets / "water.extxyz", *chosen, *noise, "--out", "w.mlff", "--json")
    found = json.loads(called(*command, cwd=tmp_path).stdout)
    assert found["recipe"] == recipe
    assert found["forces_mae"] < 0.1
    assert found["permutations"] == (2 if recipe == "sfchl19" else 1)
    assert set(found["noise"]) == ({"energy", "forces"} if recipe == "fchl19-gpr" else {"forces"})


def test_frames_to_test_on_may_lack_what_labels_says(tmp_path, water):
    """As training frames may; and all of them what they need not have."""
    bare = [mlff.Frame(frame.system, {"forces": frame.labels["forces"]}) for frame in water[40:44]]
    for name, frames in (("train", water[:20]), ("some", [*bare, *water[44:48]]), ("none", bare)):
        ase.io.write(tmp_path / f"{name}.extxyz", [frame.to_ase() for frame in frames])
    chosen = ("--labels", "energy,forces", "--recipe", "gdml", "--lengthscale", "3", "--out", "w.mlff", "--json")
    for name, compared in (("some", 4), ("none", 0)):
        ran = called("fit", "train.extxyz", "--test", f"{name}.extxyz", *chosen, cwd=tmp_path)
        errors = json.loads(ran.stdout)["errors"]
        assert errors["forces"]["count"] == 9 * (4 + compared)
        assert errors.get("energy", {"count": 0})["count"] == compared
    refused = called("fit", "train.extxyz", *chosen, "--inducing", "-5", cwd=tmp_path, code=2)
    assert "--inducing -5 must be at least 1" in refused.stderr
    assert "model:" not in refused.stderr  # before the work


def test_a_full_disk_in_the_report_leaves_the_model(tmp_path, datasets, monkeypatch):
    sync = os.fsync

    def full(descriptor):
        if os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).startswith(".parity"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    command = (
        "fit",
        datasets / "water.extxyz",
        "--train",
        "20",
        "--recipe",
        "sgdml",
        "--out",
        "w.mlff",
        "--report",
        "r",
    )
    told = called(*command, cwd=tmp_path, code=2).stderr.splitlines()[-1]
    assert (
        told
        == "error: r/parity.png: no space left on device; the model is written, w.mlff, and mlff test w.mlff tests it anew"
    )
    assert mlff.load(tmp_path / "w.mlff").record["n_train"] == 20
    assert not list((tmp_path / "r").glob("*.partial"))


def test_hyperparameters_are_tuned(tmp_path, datasets):
    arguments = (
        "fit",
        datasets / "water.extxyz",
        "--frames",
        "0:40",
        "--train",
        "8",
        "--recipe",
        "sgdml",
        "--tune",
        "--out",
        "w.mlff",
    )
    said = called(*arguments, cwd=tmp_path).stdout
    assert "tuned: lengthscale of inverse_distances" in said
    assert "RMSE of frames left out: forces" in said
    assert "tuned: lengthscale of inverse_distances" in called("show", "w.mlff", cwd=tmp_path).stdout
    refused = called(*arguments, "--inducing", "20", cwd=tmp_path, code=2)
    assert "--tune: sparse models" in refused.stderr
    argument = ("--tune-argument", "soap.width")
    refused = called(*arguments[:-2], "--out", "v.mlff", *argument, cwd=tmp_path, code=2)
    assert "--tune-argument: 'soap.width' names no real number of a descriptor; there are none" in refused.stderr
    untuned = [word for word in arguments[:-2] if word != "--tune"]
    refused = called(*untuned, "--out", "v.mlff", "--objective", "folds", cwd=tmp_path, code=2)
    assert "--objective: nothing is tuned here; add --tune" in refused.stderr


def test_arguments_of_descriptors_are_tuned(tmp_path, datasets):
    (tmp_path / "mine.py").write_text(MINE)
    arguments = ("--frames", "0:40", "--train", "8", "--descriptor", "mine:screened", "--tune", "--objective", "folds")
    written = ("--tune-argument", "*", "--out", "w.mlff")
    said = called("fit", datasets / "water.extxyz", *arguments, *written, cwd=tmp_path).stdout
    assert re.search(r"tuned: .*, decay of screened [\d.]+ → [\d.]+", said)


def test_a_descriptor_of_ones_own(tmp_path, datasets):
    (tmp_path / "mine.py").write_text(MINE)
    arguments = ("--frames", "0:60", "--train", "30", "--descriptor", "mine:screened", "--out", "w.mlff", "--json")
    found = mlff_fit(tmp_path, datasets / "water.extxyz", *arguments)
    assert found["recipe"] == "mine:screened"
    assert found["forces_mae"] < 0.1
    assert found["permutations"] == 2
