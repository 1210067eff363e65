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


def test_temperature_is_of_the_internal_degrees_of_freedom(atoms):
    """Water at 300 K with rigid motions frozen: 3 degrees of freedom, whatever the molecule as a whole does."""
    kinetic = atoms.get_kinetic_energy()
    internal = md.internal_temperature(atoms)
    assert internal == pytest.approx(2 * kinetic / (3 * 8.617333e-5), rel=1e-6)
    atoms.set_momenta(atoms.get_momenta() + atoms.get_masses()[:, None] * np.array([0.1, 0.2, -0.1]))
    assert md.internal_temperature(atoms) == pytest.approx(internal, rel=1e-9)
    centred = atoms.positions - atoms.get_center_of_mass()
    spin = np.cross([0.01, 0.02, -0.03], centred)
    atoms.set_momenta(atoms.get_masses()[:, None] * spin)
    assert md.internal_temperature(atoms) == pytest.approx(0.0, abs=1e-8)


def test_the_last_step_is_recorded(atoms, tmp_path):
    run = md.run(atoms, 50, interval=20, trajectory=tmp_path / "w.traj")
    np.testing.assert_allclose(run.times, [0, 10, 20, 25])
    assert md.resume(tmp_path / "w.traj")[1] == 50


def test_wrong_atoms_leave_no_trajectory(atoms, tmp_path):
    atoms.cell, atoms.pbc = [9, 9, 9], True
    with pytest.raises(ValueError, match="takes no cell"):
        md.run(atoms, 5, trajectory=tmp_path / "w.traj")
    assert not list(tmp_path.iterdir())


def test_start_is_read_in_the_units_of_its_file(tmp_path, atoms, water_model):
    from ase.io import write

    from mlff.readers import read_geometry

    scaled = Atoms("OH2", atoms.positions / 0.529177210544)
    scaled.info["units"] = "hartree/bohr"
    write(tmp_path / "bohr.extxyz", scaled)
    np.testing.assert_allclose(read_geometry(tmp_path / "bohr.extxyz").positions, atoms.positions, atol=1e-6)
