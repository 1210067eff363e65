"""Molecular dynamics through ASE: NVE by velocity Verlet, NVT by Langevin, with a trajectory that can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet

from mlff.dynamics.checkpoints import Checkpoint, Settings, drop_last, fingerprint, remove_remains, resume, whole_frames
from mlff.dynamics.motion import motions
from mlff.dynamics.watch import Sentinel, Watch
from mlff.files import reserved
from mlff.units import FEMTOSECOND, KB

__all__ = [
    "Checkpoint",
    "Run",
    "Settings",
    "Watch",
    "advance",
    "begin",
    "integrate",
    "internal_temperature",
    "resume",
    "run",
    "thermalise",
]

AWAY = 50.0  # Å beyond twice the first size; an atom so far from the centre of a molecule has left it
BLOCKS = 10  # of a run, whose means tell how well the whole mean is known


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run recorded, every `interval` steps.

    times: fs, shape (k,); total, potential: eV, shape (k,); positions: Å, shape (k, n, 3); temperatures: of the internal
    degrees of freedom, K, shape (k,), see `internal_temperature`; stopped: the step at which a `Watch` ended it, None else.
    """

    times: np.ndarray
    total: np.ndarray
    potential: np.ndarray
    temperatures: np.ndarray
    positions: np.ndarray
    stopped: int | None = None

    @property
    def drift(self) -> float:
        """Slope of the total energy, meV/atom/ps; zero within fluctuations when forces and energies agree (NVE)."""
        slope = np.polyfit(self.times / 1000.0, self.total, 1)[0]
        return float(1000.0 * slope / self.positions.shape[1])

    @property
    def temperature_error(self) -> float | None:
        """Standard error of the mean temperature, K, from the means of ten blocks; None of fewer than 20 records."""
        if len(self.temperatures) < 2 * BLOCKS:
            return None
        means = [block.mean() for block in np.array_split(self.temperatures, BLOCKS)]
        return float(np.std(means, ddof=1) / np.sqrt(BLOCKS))


def internal_temperature(atoms: Atoms) -> float:
    """Temperature of the internal degrees of freedom, K: 2K/(f k), 0 where there are none.

    K is the kinetic energy of the motions that constraints allow less the rigid ones, f their number, m − r of
    `mlff.dynamics.motion`: 3n − 6 of a free molecule, 3n − 5 of a linear one, 3n − 3 of a cell, and 3 for each moving atom where so
    many are fixed that the whole cannot move.
    """
    free = motions(atoms)
    if free.degrees == 0:
        return 0.0
    velocities = free.internal_part(atoms.get_momenta().ravel() / np.sqrt(np.repeat(atoms.get_masses(), 3)))
    return float(velocities @ velocities / (free.degrees * KB))


def thermalise(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Draw momenta of the internal degrees of freedom at `temperature` (K), in place of those that the atoms have.

        p = √m Π √(kT) ξ,  ξ normally distributed, Π the projector on internal motions in coordinates √m x

    Exactly canonical: nothing is scaled, so that kinetic energies have mean f kT/2 and variance f (kT)²/2. The whole neither
    moves nor, where it is periodic in no direction, turns; fixed atoms rest.

    Raises:
        ValueError: a temperature that is negative or not finite; constraints that are not of single atoms.
    """
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature={temperature} (K) must not be negative")
    roots = np.sqrt(np.repeat(atoms.get_masses(), 3))
    drawn = np.sqrt(KB * temperature) * rng.standard_normal(3 * len(atoms))
    momenta = roots * motions(atoms).internal_part(drawn)
    atoms.set_momenta(momenta.reshape(-1, 3), apply_constraint=False)


def run(
    atoms: Atoms,
    steps: int,
    timestep: float = 0.5,
    temperature: float | None = None,
    friction: float = 0.01,
    interval: int = 20,
    seed: int = 0,
    trajectory: str | pathlib.Path | None = None,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
    watch: Watch | None = None,
) -> Run:
    """Run molecular dynamics from the present positions and momenta.

    Arguments:
        atoms: with a calculator and, for NVE, momenta (see `thermalise`).
        steps: time steps to make.
        timestep: fs.
        temperature: of a Langevin thermostat, K; None for NVE.
        friction: of the thermostat, 1/fs.
        interval: steps between records, and frames of the trajectory; the last step is recorded as well.
        seed: of the thermostat's noise.
        trajectory: an ASE trajectory to write, locked for this process until the end; `resume` and `advance` go on with it.
        watch: looks at the error bars of the forces, and ends the run where they are too large.
    Raises:
        ValueError: arguments out of range; a trajectory that exists or that another process writes; an atom flies away (the
            step and atom are named): further from the centre than twice the largest distance at the start and 50 Å.
    """
    settings = Settings(timestep, temperature, friction, interval, seed)
    with reserved({"trajectory": trajectory}):
        checkpoint = begin(atoms, settings)
        if trajectory is not None:
            remove_remains(pathlib.Path(trajectory))
        return integrate(checkpoint, steps, trajectory, progress, watch)


def begin(atoms: Atoms, settings: Settings) -> Checkpoint:
    """A run at its step 0.

    Raises:
        ValueError: constraints that are not of single atoms, or atoms that the calculator does not take.
    """
    atoms.get_potential_energy()
    motions(atoms)
    noise = np.random.PCG64([settings.seed, 1]).state  # not [seed, 0], which draws what velocities of that seed drew
    bound = AWAY + 2.0 * float(_distances(atoms).max())
    return Checkpoint(atoms, 0, settings, noise, bound, fingerprint(atoms.calc))


def advance(
    checkpoint: Checkpoint,
    steps: int,
    trajectory: str | pathlib.Path | None = None,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> Run:
    """Make more steps of a run, to the same bits wherever it was interrupted:

        checkpoint = md.resume("run.traj")
        checkpoint.atoms.calc = mlff.Calculator(mlff.load("ethanol.mlff"))
        md.advance(checkpoint, 20_000, "run.traj")

    The bits are those of one machine and one set of software versions. Frames lie at multiples of the interval from step 0;
    the last one of a run that ended elsewhere is left out when it goes on.

    Arguments:
        checkpoint: from `begin` or `resume`, with a calculator of the model that the run began with; it stays as it is.
        steps: time steps to make.
        trajectory: to append frames to, at the step of the checkpoint; locked for this process until the end.
    Raises:
        ValueError: no steps; another model; a trajectory that is elsewhere, or that another process writes; an atom flies away.
    """
    atoms = checkpoint.atoms.copy()
    atoms.calc = checkpoint.atoms.calc
    with reserved({"trajectory": trajectory}):
        has_frames = trajectory is not None and whole_frames(pathlib.Path(trajectory)) > 0
        if has_frames and (last := resume(trajectory).step) != checkpoint.step:
            raise ValueError(
                f"{trajectory}: is at step {last}, the checkpoint at {checkpoint.step}; take md.resume({str(trajectory)!r})"
            )
        return integrate(dataclasses.replace(checkpoint, atoms=atoms), steps, trajectory, progress)


def integrate(
    checkpoint: Checkpoint,
    steps: int,
    trajectory: str | pathlib.Path | None,
    progress: Callable[[str, float], None],
    watch: Sentinel | None = None,
) -> Run:
    """Make the steps of `run` and `advance`, which hold the lock of the trajectory; the atoms of the checkpoint are moved."""
    if steps < 1:
        raise ValueError(f"steps={steps} must be positive")
    atoms, settings = checkpoint.atoms, checkpoint.settings
    if (model := fingerprint(atoms.calc)) != checkpoint.model:
        raise ValueError(
            f"checkpoint: the run began with the model {checkpoint.model}, received {model}; go on with that one"
        )
    noise = _generator(checkpoint.noise)
    dynamics = _integrator(atoms, settings, noise)
    dynamics.nsteps = checkpoint.step
    ends, stopped = (checkpoint.step, checkpoint.step + steps), None
    records: list[tuple] = []
    if trajectory is not None and checkpoint.step % settings.interval:
        drop_last(pathlib.Path(trajectory))  # the end of a run that goes on now lies between two frames
    with _writing(trajectory) as writer:
        for _ in dynamics.irun(steps):
            if (step := dynamics.nsteps) % settings.interval and step not in ends:
                continue
            _require_bound(atoms, step, checkpoint.bound)
            records.append(_record(atoms, step * settings.timestep))
            if writer is not None and (step == 0 or step > checkpoint.step):
                writer.write(dataclasses.replace(checkpoint, step=step, noise=noise.bit_generator.state).frame())
            progress("dynamics", (step - checkpoint.step) / steps)
            if watch is not None and watch.ends(atoms, step):
                stopped = step
                break
    return Run(*map(np.array, zip(*records, strict=True)), stopped)


@contextlib.contextmanager
def _writing(trajectory):
    """A writer at the end of a trajectory; None without one."""
    if trajectory is None:
        yield None
        return
    try:
        with Trajectory(trajectory, "a") as writer:
            yield writer
    except OSError as error:
        raise OSError(
            f"{trajectory}: cannot be written ({error.strerror}); make room and go on with --resume (md.resume), from the last "
            "frame that could"
        ) from error


def _record(atoms: Atoms, time: float) -> tuple:
    potential = atoms.get_potential_energy()
    total = potential + atoms.get_kinetic_energy()
    return time, total, potential, internal_temperature(atoms), atoms.positions.copy()


def _generator(state: dict) -> np.random.Generator:
    noise = np.random.PCG64()
    noise.state = state
    return np.random.Generator(noise)


def _integrator(atoms: Atoms, settings: Settings, noise: np.random.Generator) -> MolecularDynamics:
    timestep = settings.timestep * FEMTOSECOND
    if settings.temperature is None:
        return VelocityVerlet(atoms, timestep)
    friction = settings.friction / FEMTOSECOND
    return Langevin(atoms, timestep, temperature_K=settings.temperature, friction=friction, fixcm=False, rng=noise)


def _distances(atoms: Atoms) -> np.ndarray:
    """Distances of the atoms from their centre, Å, in directions that are not periodic, shape (n,)."""
    centred = atoms.positions - atoms.positions.mean(axis=0)
    periodic = np.linalg.qr(atoms.cell.array[atoms.pbc].T)[0]
    return np.linalg.norm(centred - centred @ periodic @ periodic.T, axis=1)


def _require_bound(atoms: Atoms, step: int, bound: float) -> None:
    distances = _distances(atoms)
    if not distances.max() <= bound:
        raise ValueError(
            f"step {step}: atom {int(np.argmax(distances))} has left the molecule; the run went where the force field "
            "has no data: train on such geometries, or lower temperature or time step"
        )
