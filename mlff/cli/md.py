"""`mlff md`: options, what they make of a new run or of one that goes on, and what is said at its end."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

import typer

from mlff.cli import terminal
from mlff.cli.options import AsJSON, Model, Trust, parse_trust

SHORTEST_DRIFT = 500.0  # fs; over less a slope is fluctuation
DEFAULTS = {"timestep": 0.5, "temperature": 300.0, "friction": 0.01, "interval": 20, "seed": 0}  # as the help says


def md(
    model: Model,
    start: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Geometry to start from (the last one of a file), with its masses, cell and constraints (velocities are "
            "drawn anew); else the model's own, relaxed."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Time steps, counted from the start of the run.")] = 2000,
    timestep: Annotated[float | None, typer.Option(help="fs  [default: 0.5]")] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of the thermostat and of the first velocities, K; with --nve of these alone, half of which becomes "
            "potential energy when the start is a minimum.  [default: 300]"
        ),
    ] = None,
    nve: Annotated[bool, typer.Option("--nve", help="Constant energy after the first velocities.")] = False,
    friction: Annotated[float | None, typer.Option(help="Of the thermostat, 1/fs.  [default: 0.01]")] = None,
    interval: Annotated[int | None, typer.Option(help="Steps between frames.  [default: 20]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of velocities and thermostat.  [default: 0]")] = None,
    stop_std: Annotated[
        float | None,
        typer.Option(
            help="End where a force component has a larger standard deviation (eV/Å), looked at with every frame, and write that "
            "geometry beside --out.",
        ),
    ] = None,
    warn_std: Annotated[float | None, typer.Option(help="The same, with a warning in place of an end.")] = None,
    out: Annotated[pathlib.Path, typer.Option(help="ASE trajectory to write.")] = pathlib.Path("md.traj"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last frame of --out up to --steps, with the settings and to the same bits as if the run "
            "had not stopped.",
        ),
    ] = False,
    trust: Trust = None,
    as_json: AsJSON = False,
) -> None:
    """Molecular dynamics with a force field, through ASE.

    \b
    mlff md ethanol.mlff --temperature 300 --steps 20000 --out run.traj
    mlff md ethanol.mlff --steps 40000 --out run.traj --resume
    mlff md ethanol.mlff --nve --temperature 500 --steps 40000
    mlff md ethanol.mlff --temperature 800 --stop-std 0.3
    """
    from mlff.dynamics import md as dynamics
    from mlff.files import reserved
    from mlff.potentials.model_files import load

    if steps < 1:
        raise ValueError(f"--steps {steps} must be at least 1")
    if start is not None and resume:
        raise ValueError(f"--start {start} and --resume: a run that goes on has its own geometry; leave one out")
    if stop_std is not None and warn_std is not None:
        raise ValueError(f"--stop-std {stop_std} and --warn-std {warn_std}: a run ends or goes on; leave one out")
    if nve and friction is not None:
        raise ValueError(f"--friction {friction} and --nve: at constant energy there is no thermostat; leave one out")
    typed = {
        "timestep": timestep, "temperature": temperature, "friction": friction, "interval": interval, "seed": seed,
    }  # fmt: skip
    typed = {name: value for name, value in typed.items() if value is not None}
    force_field = load(model, parse_trust(trust))
    unknown = out.with_name(f"{out.stem}-unknown.extxyz")
    watch = _watch(force_field, stop_std, warn_std, unknown)
    outputs = {"--out": out} | ({} if watch is None else {"the geometry that is not known": unknown})
    with reserved(outputs, [model] if start is None else [model, start]):
        if out.suffix != ".traj":
            raise ValueError(
                f"--out {out}: is written as an ASE trajectory, so name it .traj; ase convert makes others of it"
            )
        if resume and not _nothing_to_go_on_from(out):
            checkpoint = _resumed(force_field, out, steps, typed, nve)
        else:
            checkpoint = _begun(force_field, start, out, typed, nve)
        first = checkpoint.step
        with terminal.progress() as progress:
            result = dynamics.integrate(checkpoint, steps - first, out, progress, watch)
    _tell(result, checkpoint.settings, first, steps, out, as_json, unknown)


def _watch(force_field, stop_std: float | None, warn_std: float | None, path: pathlib.Path):
    """What looks at the error bars; None where nobody asked."""
    from mlff.dynamics.watch import Watch

    limit = warn_std if stop_std is None else stop_std
    if limit is None:
        return None
    option = "--warn-std" if stop_std is None else "--stop-std"
    if not 0.0 < limit < float("inf"):
        raise ValueError(f"{option} {limit} must be a positive number, eV/Å")
    if force_field.posterior is None:
        raise ValueError(f"{option}: the model has no error bars; fit it with --error-bars")
    return Watch(limit, stop_std is not None, path)


def _nothing_to_go_on_from(out: pathlib.Path) -> bool:
    from mlff.dynamics.checkpoints import holds_nothing

    return out.is_file() and holds_nothing(out)


def _resumed(force_field, out: pathlib.Path, steps: int, typed: dict, nve: bool):
    """Read the last frame of a run, if what was typed is what it was made with."""
    from mlff.dynamics.calculator import Calculator
    from mlff.dynamics.checkpoints import resume

    checkpoint = resume(out)
    stored = checkpoint.settings
    made = dataclasses.asdict(stored)
    made["temperature"] = stored.temperature if stored.velocities is None else stored.velocities
    if nve and stored.temperature is not None:
        raise ValueError(
            f"--nve: {out} was made with a thermostat of {stored.temperature} K; leave out --nve to go on with it, or start "
            "a run of its own under another --out"
        )
    for name, value in typed.items():
        if value != made[name]:
            raise ValueError(
                f"--{name} {value:.10g}: {out} was made with {made[name]}; leave out --{name} to go on with that, or start a "
                "run of its own under another --out"
            )
    if checkpoint.step >= steps:
        raise ValueError(
            f"--resume: {out} is at step {checkpoint.step} already, nothing is left up to --steps {steps}; give more"
        )
    checkpoint.atoms.calc = Calculator(force_field)
    return checkpoint


def _begun(force_field, start: pathlib.Path | None, out: pathlib.Path, typed: dict, nve: bool):
    """Begin a run at step 0, its velocities drawn."""
    import numpy as np

    from mlff.dynamics import md as dynamics
    from mlff.dynamics.checkpoints import Settings, remove_remains

    if out.is_file() and not _nothing_to_go_on_from(out):
        raise ValueError(f"--out {out} exists; go on with --resume, or name another file")
    values = DEFAULTS | typed
    drawn = values.pop("temperature")
    Settings(temperature=drawn, **values)  # with --nve too the temperature must be one
    settings = Settings(temperature=None if nve else drawn, velocities=drawn, **values)
    atoms = _start(force_field, start)
    dynamics.thermalise(atoms, drawn, np.random.default_rng(settings.seed))
    checkpoint = dynamics.begin(atoms, settings)
    remove_remains(out)
    return checkpoint


def _start(force_field, path: pathlib.Path | None):
    """Atoms with the calculator: those of a file, or a training geometry relaxed."""
    from ase import Atoms
    from ase.optimize import BFGS

    from mlff.data.readers import read_geometry
    from mlff.dynamics.calculator import Calculator
    from mlff.potentials.arguments import require_atoms

    if path is not None:
        atoms = read_geometry(path)
        require_atoms(force_field, atoms.numbers, str(path))
        atoms.calc = Calculator(force_field)
        return atoms
    record = force_field.record
    atoms = Atoms(
        record["geometry_numbers"], record["geometry"], cell=record["geometry_cell"], pbc=record["geometry_pbc"]
    )
    atoms.calc = Calculator(force_field)
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
    return atoms


def _tell(result, settings, first: int, steps: int, out: pathlib.Path, as_json: bool, unknown: pathlib.Path) -> None:
    made = steps - first if result.stopped is None else result.stopped - first
    long_enough = settings.temperature is None and result.times[-1] - result.times[0] >= SHORTEST_DRIFT
    summary = {
        "steps": steps,
        "first_step": first,
        "settings": dataclasses.asdict(settings),
        "temperature_first": float(result.temperatures[0]),
        "temperature_mean": float(result.temperatures.mean()),
        "temperature_error": result.temperature_error,
        "energy_mean": float(result.total.mean()),
        "drift_mev_per_atom_per_ps": result.drift if long_enough else None,
        "trajectory": str(out),
        "stopped": None if result.stopped is None else {"step": result.stopped, "geometry": str(unknown)},
    }
    if as_json:
        return terminal.print_json(summary)
    error = "" if result.temperature_error is None else f" ± {result.temperature_error:.0f}"
    ensemble = "at constant energy" if settings.temperature is None else f"at {settings.temperature:g} K"
    terminal.say(
        f"{made} steps of {settings.timestep} fs {ensemble} from step {first}: mean temperature "
        f"{summary['temperature_mean']:.0f}{error} K, {summary['temperature_first']:.0f} K at its start"
    )
    if long_enough:
        terminal.say(f"drift of the total energy {result.drift:.4f} meV/atom/ps")
    terminal.say(f"wrote {out}")
    if result.stopped is not None:
        terminal.say(
            f"stopped at step {result.stopped}, where the forces are not known well enough; that geometry is in {unknown}: label it with "
            "your reference, add it to the training frames, fit again, and start again from there (--start)"
        )
