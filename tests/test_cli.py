"""The command line: what is printed, written, and how it ends."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io.trajectory import Trajectory

import mlff
from mlff.files import reserved
from mlff.potentials.errors import short


def mlff_command(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "mlff", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def called(*arguments, cwd, code=0) -> subprocess.CompletedProcess:
    """The same in this process, which has imported and compiled already what the command needs."""
    from mlff.cli import main as cli

    out, messages = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(messages):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["mlff", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == code, messages.getvalue()
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), messages.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, datasets):
    """A fit with everything on: model, report, JSON."""
    folder = tmp_path_factory.mktemp("cli")
    done = mlff_command(
        "fit", datasets / "water.extxyz", "--recipe", "sgdml", "--frames", "0:200", "--train", 40, "--seed", 1, "--out", "w.mlff",
        "--report", "report", "--json", cwd=folder,
    )  # fmt: skip
    (folder / "fit.json").write_text(done.stdout)
    (folder / "fit.stages").write_text(done.stderr)
    return folder


def test_fit_prints_json_and_writes_model_and_report(folder):
    numbers = json.loads((folder / "fit.json").read_text())
    for key in ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "n_train", "n_test", "permutations",
                "fit_seconds", "peak_memory_mb"):  # fmt: skip
        assert numbers[key] > 0, key
    assert numbers["n_train"] == 40
    assert numbers["n_test"] == 160
    assert numbers["permutations"] == 2
    assert {path.name for path in folder.iterdir()} == {"w.mlff", "report", "fit.json", "fit.stages"}
    assert {path.name for path in (folder / "report").iterdir()} == {"report.md", "report.json", "parity.png"}


def test_stages_are_told_where_there_is_no_terminal(folder):
    """Every stage of a fit by a line at its start and one with its seconds; standard output stays pure JSON."""
    lines = (folder / "fit.stages").read_text().splitlines()
    started = [line.removesuffix(" …") for line in lines if line.endswith(" …")]
    assert [name for name in started if name != "length scale"] == [
        "read", "model", "descriptors", "factorise", "training errors", "test", "self-check",
    ]  # fmt: skip
    assert "length scale" in started
    # on a slow machine there are lines of stages that go on, too, which end with a share
    ended = [re.fullmatch(r"(.+): [\d.]+ s", line)[1] for line in lines if not line.endswith((" …", " %"))]
    assert ended == started


def test_test_agrees_with_fit_and_with_python(folder, datasets):
    numbers = json.loads(
        called("test", "w.mlff", datasets / "water.extxyz", "--frames", "200:", "--json", cwd=folder).stdout
    )
    evaluation = mlff.evaluate(mlff.load(folder / "w.mlff"), mlff.Dataset.read(datasets / "water.extxyz", index="200:"))
    assert numbers["forces_mae"] == pytest.approx(evaluation.forces_mae, rel=1e-9)
    text = called("test", "w.mlff", datasets / "water.extxyz", "--frames", "200:", "--plot", "p.png", cwd=folder).stdout
    assert f"{1e3 * evaluation.forces_mae:.2f} meV/Å" in text
    assert "forces on O" in text
    assert (folder / "p.png").exists()
    energies = called(
        "test", "w.mlff", datasets / "water.extxyz", "--frames", "200:220", "--labels", "energy", "--json", cwd=folder
    )
    assert set(json.loads(energies.stdout)["errors"]) == {"energy"}
    assert "meV/atom" in text


def test_show(folder):
    text = called("show", "w.mlff", cwd=folder).stdout
    assert "H2O" in text
    assert "order 2" in text
    assert "(1 2)" in text
    numbers = json.loads(called("show", "w.mlff", "--json", cwd=folder).stdout)
    assert numbers["descriptor"] == "descriptors.distances:inverse_distances"
    assert numbers["n_train"] == 40
    fitted = json.loads((folder / "fit.json").read_text())
    assert numbers["test"]["forces_mae"] == fitted["forces_mae"]
    assert numbers["test"]["source"] == "water.extxyz"
    assert f"test on 160 frames of water.extxyz: energy MAE {short(1e3 * fitted['energy_mae'])} meV" in text
    assert f"amplitude {fitted['amplitude']:.4g} eV²" in text
    assert not re.search(r"\d\.\d{7}", text)  # of no use to anybody


def test_sums_and_potentials_without_frames_are_tested_and_shown(tmp_path, datasets):
    """They have no number of training frames of their own, which ended `mlff test --json` in a traceback."""
    file = datasets / "ethanol.extxyz"
    data = mlff.Dataset.read(file, index=":6")
    kernel = mlff.recipe("sgdml", data, mlff.RBF(lengthscale=5.0), reach="none")[0]
    first, repulsion = mlff.fit(kernel, data), mlff.ForceField.of(mlff.PairRepulsion(cutoff=0.9), data[0].numbers)
    corrected = mlff.fit(kernel, mlff.Dataset.read(file, index="4:10"), baseline=first)  # shares two frames
    for potential, frames, told in (
        (repulsion, None, 0),
        (repulsion + first, 6, 1),
        (corrected, 10, 2),
    ):
        potential.save(tmp_path / "one.mlff")
        tested = called("test", "one.mlff", file, "--frames", "20:23", "--json", cwd=tmp_path)
        assert json.loads(tested.stdout)["n_train"] == frames
        shown = called("show", "one.mlff", cwd=tmp_path).stdout
        assert shown.count("  trained on 6 frames of ethanol.extxyz") == told
        facts = json.loads(called("show", "one.mlff", "--json", cwd=tmp_path).stdout)
        assert [term["n_train"] for term in facts.get("terms", ()) if "n_train" in term] == [6] * told


def test_a_device_that_is_not_there(folder, datasets):
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    done = subprocess.run(
        [sys.executable, "-m", "mlff", "test", "w.mlff", str(datasets / "water.extxyz"), "--frames", "300:302", "--json"],
        cwd=folder, capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"].startswith("JAX_PLATFORMS=cuda: JAX finds no such device")
    assert "Traceback" not in done.stderr


def test_md_nve_and_thermostat_and_resume(folder):
    numbers = json.loads(
        mlff_command("md", "w.mlff", "--nve", "--steps", 1200, "--out", "nve.traj", "--json", cwd=folder).stdout
    )
    assert abs(numbers["drift_mev_per_atom_per_ps"]) < 1.0
    text = called("md", "w.mlff", "--steps", 40, "--out", "nvt.traj", "--temperature", 500, cwd=folder).stdout
    assert "wrote nvt.traj" in text
    called("md", "w.mlff", "--steps", 100, "--out", "nvt.traj", "--resume", cwd=folder)
    with Trajectory(folder / "nvt.traj") as trajectory:
        assert [atoms.info["step"] for atoms in trajectory] == [0, 20, 40, 60, 80, 100]


def test_md_from_a_file(folder, datasets):
    called("md", "w.mlff", "--start", datasets / "water.extxyz", "--steps", 20, "--out", "s.traj", cwd=folder)
    last = mlff.Dataset.read(datasets / "water.extxyz")[-1]
    with Trajectory(folder / "s.traj") as trajectory:
        np.testing.assert_allclose(trajectory[0].positions, last.positions)


def test_md_keeps_the_masses_and_constraints_of_its_start(folder, datasets):
    heavy = mlff.Dataset.read(datasets / "water.extxyz")[-1].system.to_ase()
    heavy.set_masses([16.0, 2.014, 2.014])
    heavy.set_constraint(FixAtoms([0]))
    heavy.info["REF_energy"] = 1.0
    with Trajectory(folder / "heavy.traj", "w") as trajectory:
        trajectory.write(heavy)
    called("md", "w.mlff", "--start", "heavy.traj", "--steps", 40, "--out", "d.traj", cwd=folder)
    with Trajectory(folder / "d.traj") as trajectory:
        for frame in trajectory:
            np.testing.assert_array_equal(frame.get_masses(), [16.0, 2.014, 2.014])
            np.testing.assert_array_equal(frame.positions[0], heavy.positions[0])
            assert "REF_energy" not in frame.info
        assert np.abs(frame.positions[1:] - heavy.positions[1:]).max() > 0.001


def refused(arguments, cwd) -> str:
    """The one line of an error."""
    done = called(*arguments, cwd=cwd, code=2)
    assert done.stdout == ""
    return done.stderr


def test_md_goes_on_with_what_it_began_with(folder):
    """What was typed has to be what is stored, and what was not typed is taken from there."""
    run = ["md", "w.mlff", "--out", "set.traj"]
    called(*run, "--steps", 20, "--temperature", 500, "--timestep", 0.25, "--interval", 10, cwd=folder)
    before = (folder / "set.traj").read_bytes()
    for typed, expected in {
        ("--temperature", 300): r"--temperature 300: set.traj was made with 500.0; leave out --temperature to",
        ("--timestep", 0.5): r"--timestep 0.5: set.traj was made with 0.25; leave out --timestep to",
        ("--interval", 20): r"--interval 20: set.traj was made with 10;",
        ("--seed", 1): r"--seed 1: set.traj was made with 0;",
        ("--friction", 0.1): r"--friction 0.1: set.traj was made with 0.01;",
        ("--nve",): r"--nve: set.traj was made with a thermostat of 500.0 K; leave out --nve",
        ("--nve", "--friction", 0.1): r"--friction 0.1 and --nve: at constant energy there is no thermostat",
        ("--start", "nvt.traj"): r"--start nvt.traj and --resume: a run that goes on has its own geometry",
        ("--steps", 20): r"--resume: set.traj is at step 20 already, nothing is left up to --steps 20",
    }.items():
        steps = () if "--steps" in typed else ("--steps", 60)
        assert f"error: {expected}" in refused([*run, *steps, *typed, "--resume"], folder)
    assert (folder / "set.traj").read_bytes() == before
    numbers = json.loads(called(*run, "--steps", 60, "--temperature", 500, "--resume", "--json", cwd=folder).stdout)
    assert (numbers["first_step"], numbers["settings"]["timestep"], numbers["settings"]["temperature"]) == (
        20,
        0.25,
        500,
    )
    with Trajectory(folder / "set.traj") as trajectory:
        assert [atoms.info["step"] for atoms in trajectory] == [0, 10, 20, 30, 40, 50, 60]


@pytest.mark.parametrize(
    "typed", ["--timestep=0", "--temperature=-3", "--temperature=nan", "--friction=-1", "--interval=0", "--seed=-1"]
)
def test_md_names_options_as_they_were_typed(folder, typed):
    line = refused(["md", "w.mlff", "--nve", typed] if "friction" not in typed else ["md", "w.mlff", typed], folder)
    assert line.startswith(f"error: {typed.split('=')[0]} ")
    assert "must" in line


def test_md_never_replaces_what_it_reads_or_what_is_there(folder):
    model = (folder / "w.mlff").read_bytes()
    assert "--out w.mlff: would replace a file that is in use" in refused(["md", "w.mlff", "--out", "w.mlff"], folder)
    (folder / "first.xyz").write_text("3\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\n")
    command = ["md", "w.mlff", "--start", "first.xyz", "--out"]
    assert "first.xyz: would replace" in refused([*command, "first.xyz"], folder)
    with reserved({"--out": folder / "busy.traj"}):
        assert "busy.traj: another process is writing it" in refused([*command, "busy.traj"], folder)
    assert (folder / "w.mlff").read_bytes() == model
    assert not (folder / "busy.traj").exists()


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_md_killed_before_its_first_frame_begins_at_step_0(folder, resume):
    whole = folder / "nothing.traj"
    for left in (b"", b"- of UlmASE-Traj"):
        whole.write_bytes(left)
        done = called("md", "w.mlff", "--steps", 20, "--out", whole.name, *resume, cwd=folder)
        assert "nothing.traj holds no whole frame; the run begins at step 0" in done.stderr
        with Trajectory(whole) as trajectory:
            assert [atoms.info["step"] for atoms in trajectory] == [0, 20]


@pytest.mark.parametrize("command", [(), ("fit",), ("test",), ("md",), ("show",), ("audit",)])
def test_help_has_examples(command, tmp_path):
    text = called(*command, "--help", cwd=tmp_path).stdout
    assert f"mlff {command[0] if command else 'fit'} " in text
    assert ".mlff" in text or command == ("audit",)


def test_help_is_quick(tmp_path):
    """0.7 s on a quiet machine: the heavy packages are not imported."""
    code = "import sys, mlff.cli; print(sorted({'jax', 'numpy', 'ase', 'scipy', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    started = time.perf_counter()
    mlff_command("--help", cwd=tmp_path)
    assert time.perf_counter() - started < 5.0


SORTED = """
import jax.numpy as jnp
from descriptors import inverse_distances


def ranked(positions):
    return jnp.sort(inverse_distances(positions))
"""


def test_audit_passes_a_good_descriptor_and_fails_one_with_kinks(tmp_path, datasets):
    water = datasets / "water.extxyz"
    arguments = ("audit", "descriptors.distances:inverse_distances", water, "--frames", ":40", "--json")
    good = called(*arguments, cwd=tmp_path)
    assert json.loads(good.stdout)["passed"]
    (tmp_path / "mine.py").write_text(SORTED)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    bad = subprocess.run(
        [sys.executable, "-m", "mlff", "audit", "mine:ranked", str(water), "--frames", ":40"],
        cwd=tmp_path, capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert bad.returncode == 1, bad.stderr
    assert "continuity 1" in bad.stdout.splitlines()[-1]
