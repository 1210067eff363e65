"""Molecular dynamics through ASE: NVE by velocity Verlet, NVT by Langevin, with a trajectory that can be resumed."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet

from mlff.units import FEMTOSECOND, KB

DIVERGED = 50.0  # Å; an atom further than this from the centre of an isolated molecule has left it


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run recorded, every `interval` steps.

    times: fs, shape (k,); total, potential: eV, shape (k,); positions: Å, shape (k, n, 3); temperatures: of the internal
    degrees of freedom, K, shape (k,): kinetic energy less that of the motion and rotation of the whole, over 3n − 6
    degrees (3n − 5 linear, 3n − 3 periodic).
    """

    times: np.ndarray
    total: np.ndarray
    potential: np.ndarray
    temperatures: np.ndarray
    positions: np.ndarray

    @property
    def drift(self) -> float:
        """Slope of the total energy, meV/atom/ps; zero within fluctuations when forces and energies agree (NVE)."""
        slope = np.polyfit(self.times / 1000.0, self.total, 1)[0]
        return float(1000.0 * slope / self.positions.shape[1])


def internal_temperature(atoms: Atoms) -> float:
    """Temperature of the internal degrees of freedom, K; motion and rotation of the whole stay out of energy and count."""
    momenta, degrees = atoms.get_momenta(), 3 * len(atoms) - 3
    energy = atoms.get_kinetic_energy() - np.sum(momenta.sum(axis=0) ** 2) / (2 * atoms.get_masses().sum())
    if not atoms.pbc.any():
        inertia = atoms.get_moments_of_inertia(vectors=True)
        turning = inertia[0] > 1e-4 * inertia[0].max()
        along = inertia[1][turning] @ atoms.get_angular_momentum()
        energy -= np.sum(along**2 / (2 * inertia[0][turning]))
        degrees -= int(turning.sum())
    return float(2 * energy / (degrees * KB)) if degrees > 0 else 0.0


def thermalise(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell–Boltzmann momenta at `temperature` (K), without motion or rotation of the whole molecule.

    Raises:
        ValueError: a temperature that is negative or not finite.
    """
    if not 0 <= temperature < np.inf:
        raise ValueError(f"temperature={temperature} (K) must not be negative")
    thermalize_momenta(atoms, temperature, rng=rng)
    Stationary(atoms)
    ZeroRotation(atoms)


def run(
    atoms: Atoms,
    steps: int,
    timestep: float = 0.5,
    temperature: float | None = None,
    friction: float = 0.01,
    interval: int = 20,
    seed: int = 0,
    trajectory: str | pathlib.Path | None = None,
    first_step: int = 0,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> Run:
    """Run molecular dynamics from the present positions and momenta.

    Arguments:
        atoms: with a calculator and, for NVE, momenta (see `thermalise`).
        steps: time steps to make.
        timestep: fs.
        temperature: of a Langevin thermostat, K; None for NVE.
        friction: of the thermostat, 1/fs.
        interval: steps between records, and frames of the trajectory.
        seed: of the thermostat's noise.
        trajectory: an ASE trajectory to append frames to; each carries its step, so that a run can be resumed.
        first_step: step number of the present geometry, when resuming.
    Raises:
        ValueError: arguments out of range; the molecule flies apart (the step and atom are named).
    """
    if steps < 1 or interval < 1 or not 0 < timestep < np.inf:
        raise ValueError(f"steps={steps}, interval={interval} and timestep={timestep} must be positive")
    if temperature is not None and not (0 <= temperature < np.inf and 0 <= friction < np.inf):
        raise ValueError(f"temperature={temperature} (K) and friction={friction} (1/fs) must not be negative")
    atoms.get_potential_energy()  # what is wrong with the atoms shows before anything is written
    if temperature is None:
        dynamics = VelocityVerlet(atoms, timestep * FEMTOSECOND)
    else:
        dynamics = Langevin(
            atoms, timestep * FEMTOSECOND, temperature_K=temperature, friction=friction / FEMTOSECOND,
            fixcm=False, rng=np.random.default_rng([seed, first_step]),
        )  # fmt: skip
    records: list[tuple] = []
    writer = Trajectory(trajectory, "a", atoms) if trajectory is not None else None

    def record() -> None:
        step = first_step + dynamics.nsteps
        _require_bound(atoms, step)
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        records.append(
            (step * timestep, potential + kinetic, potential, internal_temperature(atoms), atoms.positions.copy())
        )
        if writer is not None and (dynamics.nsteps > 0 or first_step == 0):
            atoms.info["step"] = step
            writer.write()
        progress("dynamics", dynamics.nsteps / steps)

    dynamics.attach(record, interval=interval)
    try:
        dynamics.run(steps)
        if steps % interval:
            record()
    finally:
        if writer is not None:
            writer.close()
    times, total, potential, temperatures, positions = map(np.array, zip(*records, strict=True))
    return Run(times, total, potential, temperatures, positions)


def resume(trajectory: str | pathlib.Path) -> tuple[Atoms, int]:
    """Last whole frame of a trajectory that `run` wrote, with its momenta, and its step.

    Raises:
        ValueError: no such trajectory, or not one of `run`.
    """
    try:
        with Trajectory(trajectory, "r") as reader:
            atoms = reader[-1]
            step = int(atoms.info["step"])
    except (OSError, IndexError, KeyError, ValueError) as error:
        raise ValueError(
            f"{trajectory}: no trajectory of mlff md to resume ({error or 'it is empty'}); leave out --resume"
        ) from error
    atoms.calc = None
    return atoms, step


def _require_bound(atoms: Atoms, step: int) -> None:
    if atoms.pbc.any():
        return
    distances = np.linalg.norm(atoms.positions - atoms.positions.mean(axis=0), axis=1)
    if not np.isfinite(distances).all() or distances.max() > DIVERGED:
        raise ValueError(
            f"step {step}: atom {int(np.argmax(distances))} has left the molecule; the run went where the force field "
            "has no data: train on such geometries, or lower temperature or time step"
        )
