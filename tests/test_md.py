"""Dynamics: energy is conserved, the thermostat holds, a run killed at any moment goes on."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase import Atoms
from ase.io.trajectory import Trajectory

import mlff
from mlff import md


@pytest.fixture
def atoms(water, water_model):
    atoms = Atoms("OH2", water[0].positions)
    atoms.calc = mlff.Calculator(water_model)
    md.thermalise(atoms, 300.0, np.random.default_rng(0))
    return atoms


def test_energy_is_conserved_to_second_order(atoms):
    """Velocity Verlet: the fluctuation of the total energy falls with the square of the time step."""
    spreads = []
    start = atoms.copy()
    for timestep in (0.5, 0.25):
        run_atoms = start.copy()
        run_atoms.calc = atoms.calc
        run = md.run(run_atoms, int(500 / timestep), timestep=timestep, interval=5)
        spreads.append(run.total.std())
        assert abs(run.drift) < 0.5
    assert 3.0 < spreads[0] / spreads[1] < 5.5


def test_thermostat_holds_the_temperature(atoms):
    run = md.run(atoms, 20_000, timestep=0.5, temperature=400.0, friction=0.05, interval=10, seed=3)
    assert run.temperatures[200:].mean() == pytest.approx(400, rel=0.12)


def test_no_motion_of_the_whole(atoms):
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_angular_momentum(), 0, atol=1e-10)


def test_seed_repeats_the_run(atoms):
    start = atoms.copy()
    runs = []
    for _ in range(2):
        again = start.copy()
        again.calc = atoms.calc
        runs.append(md.run(again, 50, temperature=300.0, seed=5).positions[-1])
    np.testing.assert_array_equal(*runs)


def test_resumes_after_kill_9(tmp_path, water_model):
    """Killed in the middle of writing frames; the trajectory reads, and the run goes on at its last step."""
    water_model.save(tmp_path / "w.mlff")
    command = [sys.executable, "-m", "mlff", "md", "w.mlff", "--steps", "1000000", "--interval", "1", "--out", "w.traj"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        time.sleep(0.1)
        if (tmp_path / "w.traj").exists() and (tmp_path / "w.traj").stat().st_size > 50_000:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    atoms, step = md.resume(tmp_path / "w.traj")
    assert step > 10
    assert np.abs(atoms.get_momenta()).max() > 0
    command[command.index("1000000")] = str(step + 20)
    subprocess.run([*command, "--resume"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    with Trajectory(tmp_path / "w.traj") as trajectory:
        steps = [frame.info["step"] for frame in trajectory]
    assert steps == list(range(step + 21))


def test_flying_apart_is_an_error(atoms):
    atoms.set_momenta(1e4 * np.sign(atoms.positions + 1e-9))
    with pytest.raises(ValueError, match=r"step \d+: atom \d has left the molecule"):
        md.run(atoms, 200, interval=1)


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"steps": 5, "timestep": 0.0}, {"steps": 5, "interval": 0}])
def test_arguments_must_be_positive(atoms, arguments):
    with pytest.raises(ValueError, match="must be positive"):
        md.run(atoms, **arguments)
