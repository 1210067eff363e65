"""Dynamics: energy is conserved, the thermostat holds, a run killed at any moment goes on."""

import os
import resource
import signal
import subprocess
import sys
import time
from typing import ClassVar

import ase.build
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.constraints import FixAtoms
from ase.io import ulm
from ase.io.trajectory import Trajectory

import mlff
from mlff.dynamics import md
from mlff.dynamics.checkpoints import whole_frames
from mlff.files import reserved
from mlff.units import KB


def assert_same(frames, expected) -> None:
    """Positions, momenta and the state of the noise, to the last bit."""
    assert len(frames) == len(expected)
    for one, other in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.get_momenta(), other.get_momenta())
        assert one.info == other.info


class Springs(ASECalculator):
    """Springs between all atoms, at rest at the first geometry and as quick as a calculator can be."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self, atoms: Atoms, stiffness: float = 20.0):
        super().__init__()
        self.pairs, self.stiffness = np.triu_indices(len(atoms), 1), stiffness
        self.lengths = np.linalg.norm(self.apart(atoms), axis=1)

    def apart(self, atoms: Atoms) -> np.ndarray:
        return atoms.positions[self.pairs[0]] - atoms.positions[self.pairs[1]]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        apart = self.apart(atoms)
        lengths = np.maximum(np.linalg.norm(apart, axis=1), 1e-9)
        pulls = -self.stiffness * ((lengths - self.lengths) / lengths)[:, None] * apart
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, self.pairs[0], pulls)
        np.add.at(forces, self.pairs[1], -pulls)
        energy = 0.5 * self.stiffness * float(np.sum((lengths - self.lengths) ** 2))
        self.results = {"energy": energy, "forces": forces}


def sprung(atoms: Atoms) -> Atoms:
    atoms.calc = Springs(atoms)
    return atoms


def slab() -> Atoms:
    atoms = ase.build.fcc111("Cu", (2, 2, 3), vacuum=8.0)
    atoms.set_constraint(FixAtoms(range(4)))
    atoms.info = {}  # of ASE's builder
    return atoms


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


@pytest.mark.thorough  # test_langevin_is_canonical asks the same of springs
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
    checkpoint = md.resume(tmp_path / "w.traj")
    step = checkpoint.step
    assert step > 10
    assert np.abs(checkpoint.atoms.get_momenta()).max() > 0
    command[command.index("1000000")] = str(step + 20)
    subprocess.run([*command, "--resume"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    whole = [*command[:-1], "whole.traj"]
    subprocess.run(whole, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    with Trajectory(tmp_path / "w.traj") as trajectory, Trajectory(tmp_path / "whole.traj") as expected:
        steps = [frame.info["step"] for frame in trajectory]
        assert_same(trajectory, expected)
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
    assert md.resume(tmp_path / "w.traj").step == 50


def test_wrong_atoms_leave_no_trajectory(atoms, tmp_path):
    atoms.cell, atoms.pbc = [9, 9, 9], True
    with pytest.raises(ValueError, match="takes no cell"):
        md.run(atoms, 5, trajectory=tmp_path / "w.traj")
    assert not list(tmp_path.iterdir())


def test_start_is_read_in_the_units_of_its_file(tmp_path, atoms, water_model):
    from ase.io import write

    from mlff.data.readers import read_geometry

    scaled = Atoms("OH2", atoms.positions / 0.529177210544)
    scaled.info["units"] = "hartree/bohr"
    write(tmp_path / "bohr.extxyz", scaled)
    np.testing.assert_allclose(read_geometry(tmp_path / "bohr.extxyz").positions, atoms.positions, atol=1e-6)


# -- temperatures ----------------------------------------------------------------------------------------------------

SYSTEMS = {
    "H2": (lambda: ase.build.molecule("H2"), 1),
    "N2": (lambda: ase.build.molecule("N2"), 1),
    "H2O": (lambda: ase.build.molecule("H2O"), 3),
    "CO2": (lambda: ase.build.molecule("CO2"), 4),
    "ethanol": (lambda: ase.build.molecule("CH3CH2OH"), 21),
    "benzene": (lambda: ase.build.molecule("C6H6"), 30),
    "one atom in a cell": (lambda: ase.build.bulk("Cu"), 0),
    "Cu4": (lambda: ase.build.bulk("Cu", cubic=True), 9),
    "a slab with fixed atoms": (slab, 24),
    "two waters far apart": (
        lambda: ase.build.molecule("H2O") + Atoms("OH2", [[300, 0, 0], [301, 0, 0], [300, 1, 0]]),
        12,
    ),
}


def assert_canonical(energies: np.ndarray, degrees: int, temperature: float, width: float = 4.5) -> None:
    """Mean f kT/2 and variance f (kT)²/2 of independent kinetic energies, within their own standard errors."""
    variance, count = 0.5 * degrees * (KB * temperature) ** 2, len(energies)
    assert abs(energies.mean() - 0.5 * degrees * KB * temperature) <= width * np.sqrt(variance / count)
    if degrees:
        assert abs(energies.var() / variance - 1) < width * np.sqrt((2 + 12 / degrees) / count)


@pytest.mark.parametrize("name", SYSTEMS)
def test_draws_are_canonical(name):
    make, degrees = SYSTEMS[name]
    atoms, rng, energies, temperatures = make(), np.random.default_rng(1), [], []
    for _ in range(1000):
        md.thermalise(atoms, 300.0, rng)
        energies.append(atoms.get_kinetic_energy())
        temperatures.append(md.internal_temperature(atoms))
    assert_canonical(np.array(energies), degrees, 300.0)
    np.testing.assert_allclose(np.array(energies), np.array(temperatures) * degrees * KB / 2, atol=1e-12)
    held = [i for c in atoms.constraints for i in c.get_indices()]
    np.testing.assert_array_equal(atoms.get_momenta()[held], 0)


def test_a_crystal_keeps_its_rotation():
    """Angular momentum means nothing in a cell, and the draw leaves it in."""
    atoms = ase.build.bulk("Cu", cubic=True)
    md.thermalise(atoms, 300.0, np.random.default_rng(0))
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-12)
    assert np.linalg.norm(atoms.get_angular_momentum()) > 1.0


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("H2", "CO2", "a slab with fixed atoms")),
        "H2O",
        "one atom in a cell",
    ],
)
def test_langevin_is_canonical(name):
    make, degrees = SYSTEMS[name]
    atoms = sprung(make())
    md.thermalise(atoms, 300.0, np.random.default_rng(2))
    steps = 12_000 if degrees else 300  # where nothing may move a few are as good as many
    run = md.run(atoms, steps, timestep=1.0, temperature=300.0, friction=0.1, interval=30, seed=1)
    bent = {"CO2": 3}.get(name, degrees)  # no more linear, it turns about a third axis
    assert_canonical(0.5 * bent * KB * run.temperatures[1:], bent, 300.0)


def test_fixed_atoms_are_no_degrees_of_freedom():
    atoms = slab()
    momenta = np.random.default_rng(0).standard_normal((12, 3))
    momenta[:4] = 0
    atoms.set_momenta(momenta)
    assert md.internal_temperature(atoms) == pytest.approx(2 * atoms.get_kinetic_energy() / (24 * KB), rel=1e-12)


def test_ends_of_a_run_from_a_minimum_share_the_energy():
    """Springs: what begins at a minimum has half of its kinetic energy on average, whatever was drawn."""
    atoms = sprung(ase.build.molecule("H2O"))
    md.thermalise(atoms, 300.0, np.random.default_rng(0))
    drawn = md.internal_temperature(atoms)
    run = md.run(atoms, 4000, timestep=0.5, interval=10)
    assert run.temperatures[0] == pytest.approx(drawn)
    assert run.temperatures.mean() == pytest.approx(drawn / 2, rel=0.05)
    assert 0 < run.temperature_error < 0.1 * drawn


# -- what has left ---------------------------------------------------------------------------------------------------


def test_sixty_atoms_in_a_row_run_and_leave_when_they_fly():
    row = sprung(Atoms("C60", np.arange(60)[:, None] * [0, 0, 2.6]))
    run = md.run(row, 20, temperature=100.0)
    assert np.ptp(run.positions[-1, :, 2]) > 150
    row.calc = Springs(row, 0.0)
    row.set_momenta(np.sign(row.positions - row.positions.mean(axis=0)) * 200.0)
    with pytest.raises(ValueError, match=r"step \d+: atom \d+ has left the molecule"):
        md.run(row, 1000, timestep=1.0, interval=1)


def test_fragments_may_drift_and_adsorbates_may_not_fly_away():
    pair = Atoms("Ar2", [[0, 0, 0], [0, 0, 4.0]])
    pair.calc = Springs(pair, 0.0)
    pair.set_momenta([[0, 0, -4.0], [0, 0, 4.0]])
    assert np.ptp(md.run(pair, 500, timestep=1.0).positions[-1, :, 2]) > 10
    slab = Atoms("Cu4H", [[0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0], [1, 1, 1.5]], cell=[4, 4, 30], pbc=[1, 1, 0])
    slab.calc = Springs(slab, 0.0)
    slab.set_momenta([[40.0, 0, 0]] + 4 * [[0, 0, 0]])
    assert np.ptp(md.run(slab, 2000, timestep=1.0).positions[-1, :, 0]) > 100  # from cell to cell
    slab.set_momenta(4 * [[0, 0, 0]] + [[0, 0, 1.0]])
    with pytest.raises(ValueError, match="atom 4 has left"):
        md.run(slab, 2000, timestep=1.0)


# -- going on --------------------------------------------------------------------------------------------------------


def started(name: str = "a slab with fixed atoms") -> Atoms:
    atoms = sprung(SYSTEMS[name][0]())
    md.thermalise(atoms, 300.0, np.random.default_rng(3))
    return atoms


def frames(path) -> list[Atoms]:
    with Trajectory(path) as trajectory:
        return list(trajectory)


def go_on(path, steps: int, name: str = "a slab with fixed atoms") -> md.Run:
    checkpoint = md.resume(path)
    checkpoint.atoms.calc = Springs(SYSTEMS[name][0]())
    return md.advance(checkpoint, steps - checkpoint.step, path)


NVT = {"timestep": 1.0, "temperature": 300.0, "friction": 0.05, "interval": 10, "seed": 4}


@pytest.mark.parametrize("settings", [NVT, {"timestep": 0.7, "interval": 10}])
def test_going_on_is_bit_identical_and_stays_on_the_grid(tmp_path, settings):
    whole = md.run(started(), 60, **settings, trajectory=tmp_path / "whole.traj")
    md.run(started(), 20, **settings, trajectory=tmp_path / "parts.traj")
    go_on(tmp_path / "parts.traj", 33)
    rest = go_on(tmp_path / "parts.traj", 60)
    parts, expected = frames(tmp_path / "parts.traj"), frames(tmp_path / "whole.traj")
    assert [frame.info["step"] for frame in parts] == [0, 10, 20, 30, 40, 50, 60]
    assert_same(parts, expected)
    np.testing.assert_array_equal(rest.total[-3:], whole.total[-3:])
    np.testing.assert_array_equal(rest.times[-3:], whole.times[-3:])
    assert parts[0].constraints[0].index.tolist() == [0, 1, 2, 3]
    assert md.resume(tmp_path / "parts.traj").settings == md.Settings(**settings)


def test_a_crystal_goes_on_whatever_its_force_field_saw_before(tmp_path, silicon, silicon_model):
    """Neighbour lists as wide as the geometry asks for: no bit depends on what the process did earlier."""
    crystal = ase.build.bulk("Si", a=5.432)
    crystal.rattle(0.05, seed=0)
    silicon_model.save(tmp_path / "si.mlff")
    moments = silicon_model.kernel.descriptor
    known = {moments.name: moments.function}
    for name, parts in (("whole", (40,)), ("parts", (20, 20))):
        atoms = crystal.copy()
        atoms.calc = mlff.Calculator(mlff.load(tmp_path / "si.mlff", descriptors=known))
        md.thermalise(atoms, 600.0, np.random.default_rng(1))
        checkpoint = md.begin(atoms, md.Settings(temperature=600.0, timestep=2.0))
        for steps in parts:
            md.advance(checkpoint, steps, tmp_path / f"{name}.traj")
            force_field = mlff.load(tmp_path / "si.mlff", descriptors=known)
            dense = crystal.cell.array * 0.7
            force_field.energy(crystal.positions * 0.7, dense, [True] * 3, crystal.numbers)
            checkpoint = md.resume(tmp_path / f"{name}.traj")
            checkpoint.atoms.calc = mlff.Calculator(force_field)
    assert_same(frames(tmp_path / "parts.traj"), frames(tmp_path / "whole.traj"))


def test_a_file_cut_anywhere_goes_on_or_begins_anew(tmp_path):
    """At every few bytes: whole frames are kept, half ones dropped, and the end is what it would have been."""
    md.run(started(), 40, **NVT, trajectory=tmp_path / "whole.traj")
    whole, content = frames(tmp_path / "whole.traj"), (tmp_path / "whole.traj").read_bytes()
    cut, kept = tmp_path / "cut.traj", set()
    with ulm.open(tmp_path / "whole.traj", "a") as writer:
        index_end = writer.pos0 + 8 * 5
    for size in (*range(0, 100, 9), *range(100, len(content), 101), len(content) - 1):
        cut.write_bytes(content[:size])
        if 40 <= size < index_end:  # nothing is removed
            with pytest.raises(ValueError, match="its index of 5 frames is lost"):
                whole_frames(cut)
            assert cut.read_bytes() == content[:size]
            continue
        count = whole_frames(cut)
        kept.add(count)
        if count:
            assert_same(frames(cut), whole[:count])
            go_on(cut, 40)
        else:
            with pytest.raises(ValueError, match=r"no whole frame.*start the run anew"):
                md.resume(cut)
            md.run(started(), 40, **NVT, trajectory=cut)
        assert_same(frames(cut), whole)
    assert kept == {0, 2, 3, 4}
    assert {path.name for path in tmp_path.iterdir()} == {"whole.traj", "cut.traj"}


def test_a_frame_killed_while_it_is_written_is_dropped(tmp_path):
    """As a process leaves it: arrays of a frame at the end of the file, and an index that does not know them."""
    md.run(started(), 20, **NVT, trajectory=tmp_path / "w.traj")
    with (tmp_path / "w.traj").open("ab") as file:
        file.write(b"half a frame")
    md.run(started(), 40, **NVT, trajectory=tmp_path / "whole.traj")
    go_on(tmp_path / "w.traj", 40)
    assert_same(frames(tmp_path / "w.traj"), frames(tmp_path / "whole.traj"))


def test_outputs_are_locked_and_never_replaced(tmp_path):
    path = tmp_path / "w.traj"
    with (
        reserved({"--out": path}),
        pytest.raises(ValueError, match=r"trajectory .*w\.traj: another process is writing it"),
    ):
        md.run(started(), 5, trajectory=path)
    assert not path.exists()
    md.run(started(), 5, trajectory=path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"w\.traj exists; go on with md\.resume"):
        md.run(started(), 5, trajectory=path)
    path.with_name("data.extxyz").write_text("mine")
    with pytest.raises(ValueError, match=r"data\.extxyz exists"):
        md.run(started(), 5, trajectory=path.with_name("data.extxyz"))
    with pytest.raises(ValueError, match=r"data\.extxyz: no trajectory"):
        md.resume(path.with_name("data.extxyz"))
    assert path.read_bytes() == content


def test_another_model_and_foreign_trajectories_are_refused(tmp_path, atoms, ethanol_model):
    md.run(atoms, 5, trajectory=tmp_path / "w.traj")
    checkpoint = md.resume(tmp_path / "w.traj")
    checkpoint.atoms.calc = mlff.Calculator(ethanol_model)
    with pytest.raises(ValueError, match="the run began with the model"):
        md.advance(checkpoint, 5)
    with Trajectory(tmp_path / "foreign.traj", "w") as writer:
        writer.write(atoms)
    with pytest.raises(ValueError, match="hold no state of a run"):
        md.resume(tmp_path / "foreign.traj")
    with pytest.raises(ValueError, match="no such file"):
        md.resume(tmp_path / "none.traj")


def test_a_checkpoint_stays_and_a_trajectory_that_went_on_is_told(tmp_path):
    """Twice from the same state is twice the same; but not twice into one file."""
    path = tmp_path / "w.traj"
    md.run(started(), 10, **NVT, trajectory=path)
    checkpoint = md.resume(path)
    checkpoint.atoms.calc = Springs(SYSTEMS["a slab with fixed atoms"][0]())
    first, second = md.advance(checkpoint, 20), md.advance(checkpoint, 20, path)
    np.testing.assert_array_equal(first.positions, second.positions)
    with pytest.raises(ValueError, match=r"w\.traj: is at step 30, the checkpoint at 10"):
        md.advance(checkpoint, 20, path)
    with reserved({"--out": path}), pytest.raises(ValueError, match="another process is writing it"):
        md.advance(md.resume(path), 20, path)


def test_frames_carry_no_labels_of_the_start(tmp_path):
    atoms = started()
    atoms.info = {"REF_energy": 1.0, "charge": 0, "stress": [0.0] * 6}
    md.run(atoms, 5, trajectory=tmp_path / "w.traj")
    assert set(frames(tmp_path / "w.traj")[1].info) == {"charge", "step", "dynamics"}


def test_geometries_are_read_whole(tmp_path, atoms):
    from mlff.data.readers import read_geometry

    atoms.set_masses([16.0, 2.014, 2.014])
    atoms.set_constraint(FixAtoms([1]))
    atoms.info["units"], atoms.info["charge"] = "hartree/bohr", -1
    atoms.cell, atoms.pbc = [4.0, 5.0, 6.0], [True, False, True]
    atoms.calc = None
    with Trajectory(tmp_path / "w.traj", "w") as writer:
        writer.write(atoms)
    read = read_geometry(tmp_path / "w.traj")
    np.testing.assert_allclose(read.positions, atoms.positions * 0.529177210544, rtol=1e-9)
    np.testing.assert_allclose(read.cell.lengths(), np.array([4, 5, 6]) * 0.529177210544, rtol=1e-9)
    np.testing.assert_array_equal(read.get_masses(), [16.0, 2.014, 2.014])
    np.testing.assert_array_equal(read.get_momenta(), atoms.get_momenta())
    np.testing.assert_array_equal(read.pbc, [True, False, True])
    assert read.constraints[0].index.tolist() == [1]
    assert read.info == {"charge": -1}
    assert read.calc is None


def test_a_friction_too_strong_for_the_time_step_is_no_thermostat():
    """Oscillators were at 330 K instead of 300 at 3/fs and half a femtosecond."""
    for friction in (3.0, 0.0):
        with pytest.raises(ValueError, match=r"friction=.* must be positive, and at most 1 in a time step of 0\.5 fs"):
            md.Settings(temperature=300.0, friction=friction, timestep=0.5)
    md.Settings(temperature=300.0, friction=2.0, timestep=0.5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ASE's writer cannot close such a file
def test_a_full_disk_is_told_with_the_way_on(tmp_path):
    """A limit on the size of files stands for it; what was written before is whole."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"run\.traj: cannot be written .* go on with --resume"):
            md.run(started(), 400, **NVT, trajectory=tmp_path / "run.traj")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    step = md.resume(tmp_path / "run.traj").step
    assert step > 0
    go_on(tmp_path / "run.traj", step + 20)
    assert [frame.info["step"] for frame in frames(tmp_path / "run.traj")] == list(range(0, step + 21, 10))
