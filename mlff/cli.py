"""The command line: `mlff fit`, `mlff test`, `mlff md`, `mlff show`. Every heavy import waits until it is needed."""

from __future__ import annotations

import pathlib
import time
from typing import Annotated

import typer

from mlff import cli_fit, terminal
from mlff.options import AsJSON, Data, Key, Model, Units, parse_keys, require_writable

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


SHORTEST_DRIFT = 500.0  # fs; over less a slope is fluctuation


@app.callback()
def _root() -> None:
    """Force fields from reference calculations.

    \b
    mlff fit ethanol.extxyz --train 200 --out ethanol.mlff
    mlff md ethanol.mlff --temperature 300 --steps 20000 --out run.traj
    """


app.command()(cli_fit.fit)


@app.command()
def test(
    model: Model,
    data: Data,
    frames: Annotated[str, typer.Option(help="Test frames in ASE's index syntax.")] = ":",
    units: Units = None,
    key: Key = None,
    plot: Annotated[pathlib.Path | None, typer.Option(help="Write parity plots to this PNG file.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Errors of a force field on reference frames that it was not trained on.

    \b
    mlff test ethanol.mlff other.extxyz --plot parity.png
    mlff test ethanol.mlff test.npz --units kcal/mol --json
    """
    from mlff.archive import load
    from mlff.dataset import Dataset
    from mlff.files import write_whole
    from mlff.metrics import evaluate

    with terminal.progress() as progress:
        force_field = load(model)
        progress("test", 0.0)
        started = time.perf_counter()
        evaluation = evaluate(force_field, Dataset.read(data, units=units, keys=parse_keys(key), index=frames))
        seconds = time.perf_counter() - started
        if plot is not None:
            from mlff.report import parity_figure, png

            write_whole(plot, png(parity_figure(evaluation)))
        progress("test", 1.0)
    if as_json:
        return terminal.print_json(
            {**evaluation.summary(), "n_train": force_field.record["n_train"], "seconds": seconds}
        )
    terminal.say(str(evaluation))
    for symbol, error in evaluation.forces_mae_by_element.items():
        terminal.say(f"  forces on {symbol}: MAE {1e3 * error:.2f} meV/Å")


@app.command()
def md(
    model: Model,
    start: Annotated[
        pathlib.Path | None, typer.Option(help="Geometry to start from; else the model's own, relaxed.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Time steps.")] = 2000,
    timestep: Annotated[float, typer.Option(help="fs")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the thermostat and of the first velocities, K.")] = 300.0,
    nve: Annotated[bool, typer.Option("--nve", help="Constant energy after the first velocities.")] = False,
    friction: Annotated[float, typer.Option(help="Of the thermostat, 1/fs.")] = 0.01,
    interval: Annotated[int, typer.Option(help="Steps between frames.")] = 20,
    seed: Annotated[int, typer.Option(help="Of velocities and thermostat.")] = 0,
    out: Annotated[pathlib.Path, typer.Option(help="ASE trajectory to write.")] = pathlib.Path("md.traj"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last frame of --out up to --steps.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Molecular dynamics with a force field, through ASE.

    \b
    mlff md ethanol.mlff --temperature 300 --steps 20000 --out run.traj
    mlff md ethanol.mlff --nve --temperature 500 --steps 40000
    """
    import numpy as np

    from mlff import md as dynamics
    from mlff.archive import load
    from mlff.calculator import Calculator

    if steps < 1:
        raise ValueError(f"--steps {steps} must be at least 1")
    force_field = load(model)
    require_writable(out)
    if out.exists() and out.stat().st_size and not resume:
        raise ValueError(f"--out {out} exists; go on with --resume, or name another file")
    first = 0
    if resume:
        atoms, first = dynamics.resume(out)
        if first >= steps:
            raise ValueError(f"--resume: {out} is at step {first} already, nothing is left up to --steps {steps}")
        atoms.calc = Calculator(force_field)
    else:
        atoms = _start(force_field, start)
        dynamics.thermalise(atoms, temperature, np.random.default_rng(seed))
    with terminal.progress() as progress:
        result = dynamics.run(
            atoms, steps - first, timestep, None if nve else temperature, friction, interval, seed, out, first, progress
        )
    summary = {
        "steps": steps,
        "first_step": first,
        "temperature_mean": float(result.temperatures.mean()),
        "energy_mean": float(result.total.mean()),
        "drift_mev_per_atom_per_ps": result.drift if nve and np.ptp(result.times) >= SHORTEST_DRIFT else None,
        "trajectory": str(out),
    }
    if as_json:
        return terminal.print_json(summary)
    terminal.say(
        f"{steps - first} steps of {timestep} fs from step {first}: mean temperature {summary['temperature_mean']:.0f} K"
    )
    if summary["drift_mev_per_atom_per_ps"] is not None:
        terminal.say(f"drift of the total energy {result.drift:.4f} meV/atom/ps")
    terminal.say(f"wrote {out}")


@app.command()
def show(model: Model, as_json: AsJSON = False) -> None:
    """What a model file holds: molecule, kernel, data, permutations, errors, versions.

    \b
    mlff show ethanol.mlff
    mlff show ethanol.mlff --json
    """
    from mlff.archive import load
    from mlff.report import fit_summary, made_of, scale_text

    force_field = load(model)
    record, kernel = force_field.record, force_field.kernel
    group = kernel.permutations_used
    certificate = group.certificate() if group else {"order": 1, "generators": []}
    if as_json:
        facts = {name: record[name] for name in ("source", "units", "labels", "data_hash", "versions", "indices")}
        summary = {name: value for name, value in fit_summary(force_field, None).items() if value is not None}
        del summary["peak_memory_mb"]
        described = {
            "descriptor": ", ".join(leaf.descriptor.name for leaf in kernel.leaves),
            "kernel": ", ".join(type(radial).__name__ for radial in kernel.radials),
        }
        return terminal.print_json(
            {"formula": made_of(force_field), **described, **summary, **facts, "symmetry": certificate}
        )
    training = record["training"]
    terminal.say(f"{force_field}")
    terminal.say(
        f"trained on {record['n_train']} frames of {record['source']} ({record['units']}), data {record['data_hash'][:12]}"
    )
    terminal.say(f"length scale {scale_text(kernel)}, amplitude {kernel.amplitude} eV², noise {record['noise']}")
    terminal.say(
        f"training forces MAE {1e3 * training['forces_mae']:.3g} meV/Å" if training["forces_mae"] is not None else ""
    )
    terminal.say(f"permutations: order {certificate['order']}")
    for generator in certificate["generators"]:
        fit_of = "" if generator["residual"] is None else f"  superposition {generator['residual']:.3f} Å"
        terminal.say(f"  {generator['cycles']}{fit_of}")
    terminal.say("written with " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()))


@app.command()
def audit(
    function: Annotated[str, typer.Argument(help="A descriptor, package.module:function.")],
    data: Data,
    frames: Annotated[str, typer.Option(help="Which frames, in ASE's index syntax; a few of them are chosen.")] = ":",
    units: Units = None,
    key: Key = None,
    seed: Annotated[int, typer.Option(help="Of displacements and directions.")] = 0,
    as_json: AsJSON = False,
) -> None:
    """Examine a descriptor before anyone trusts it; exit status 1 when something fails.

    \b
    mlff audit descriptors.fchl19:fchl19 datasets/ethanol.extxyz
    mlff audit mine:descriptor train.npz --units kcal/mol --json
    """
    from mlff.auditing.audit import audit as examine
    from mlff.dataset import Dataset
    from mlff.descriptor import import_descriptor

    descriptor = import_descriptor(function)
    with terminal.progress() as progress:
        progress("audit", 0.0)
        found = examine(descriptor, Dataset.read(data, units=units, keys=parse_keys(key), index=frames), seed=seed)
        progress("audit", 1.0)
    if as_json:
        terminal.print_json(found.to_json())
    else:
        terminal.say(f"{found.descriptor} on {', '.join(found.frames)} of {data.name}")
        terminal.table(("property", "verdict", "measured", "limit", "what was found"), found.table())
        terminal.say(
            "passed" if found.passed else "failed: " + ", ".join(f.name for f in found.findings if not f.passed)
        )
    if not found.passed:
        raise typer.Exit(1)


# -- shared by the commands ----------------------------------------------------------------------------------------


def _start(force_field, path: pathlib.Path | None):
    """Atoms with the calculator: those of a file, or a training geometry relaxed."""
    from ase import Atoms
    from ase.optimize import BFGS

    from mlff.calculator import Calculator
    from mlff.readers import read_geometry
    from mlff.requests import require_atoms

    if path is not None:
        atoms = read_geometry(path).to_ase()
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


def main() -> None:
    """Entry point of the `mlff` command."""
    terminal.run(app)
