"""The command line: `mlff fit`, `mlff test`, `mlff md`, `mlff show`. Every heavy import waits until it is needed."""

from __future__ import annotations

import pathlib
import time
from enum import StrEnum
from typing import Annotated

import typer

from mlff import terminal

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


SHORTEST_DRIFT = 500.0  # fs; over less a slope is fluctuation


class Kernel(StrEnum):
    """Radial functions by the names of the command line."""

    matern32 = "matern32"
    matern52 = "matern52"
    matern72 = "matern72"
    rbf = "rbf"
    rational_quadratic = "rational-quadratic"


class Reach(StrEnum):
    """Which permutations of identical atoms count."""

    dynamics = "dynamics"
    graph = "graph"
    none = "none"


class Labels(StrEnum):
    """Which labels are fitted."""

    forces = "forces"
    energy = "energy"
    both = "both"


Units = Annotated[
    str | None, typer.Option(help="What the file holds: kcal/mol, hartree/bohr, eV … (energy, or energy/length).")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Key = Annotated[list[str] | None, typer.Option(help="A label under another name, label=key; repeat for several.")]
Data = Annotated[pathlib.Path, typer.Argument(help="Reference frames: anything ASE reads, or npz.")]
Model = Annotated[pathlib.Path, typer.Argument(help="A model file that mlff fit wrote.")]


@app.callback()
def _root() -> None:
    """Force fields from reference calculations.

    \b
    mlff fit ethanol.extxyz --train 200 --out ethanol.mlff
    mlff md ethanol.mlff --temperature 300 --steps 20000 --out run.traj
    """


@app.command()
def fit(
    data: Data,
    frames: Annotated[str, typer.Option(help="Training frames in ASE's index syntax, 0:200 or ::10.")] = ":",
    train: Annotated[int | None, typer.Option(help="Train on this many frames, drawn with --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of --train and of the frames that the search holds out.")] = 0,
    test: Annotated[pathlib.Path | None, typer.Option(help="Frames to test on; else those --train leaves.")] = None,
    units: Units = None,
    key: Key = None,
    labels: Annotated[
        Labels, typer.Option(help="Energies fix the constant, or are labels of their own.")
    ] = Labels.forces,
    kernel: Annotated[Kernel, typer.Option(help="Radial function.")] = Kernel.matern52,
    lengthscale: Annotated[float | None, typer.Option(help="Without it, found by validation.")] = None,
    noise: Annotated[
        list[str] | None, typer.Option(help="Of the labels: 0.001, or forces=0.001 (eV/Å) and energy=0.001 (eV).")
    ] = None,
    reach: Annotated[
        Reach, typer.Option(help="Permutations: those the dynamics reaches, all of the bond graph, none.")
    ] = Reach.dynamics,
    out: Annotated[pathlib.Path | None, typer.Option(help="Model file to write; DATA with .mlff without it.")] = None,
    report: Annotated[pathlib.Path | None, typer.Option(help="Folder for report.md, report.json and pictures.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Fit a force field to reference frames and say how good it is.

    \b
    mlff fit datasets/ethanol.extxyz --train 200 --report report
    mlff fit train.npz --units kcal/mol --frames 0:200 --test test.npz --lengthscale 10 --out ethanol.mlff
    """
    from mlff import archive
    from mlff.dataset import Dataset
    from mlff.fitting import fit as fit_model
    from mlff.force_field import require_same_order
    from mlff.metrics import evaluate, require_disjoint
    from mlff.report import fit_summary, write_report
    from mlff.symmetry import find_permutations

    target = out or pathlib.Path(data.with_suffix(".mlff").name)
    _require_writable(target)
    with terminal.progress() as progress:
        progress("read", 0.0)
        everything = Dataset.read(data, units=units, keys=_keys(key), index=frames)
        held = None
        if train is not None:
            left = len(everything) - train
            everything, *rest = everything.split(train, *([left] if left > 0 and test is None else []), seed=seed)
            held = rest[0] if rest else None
        if test is not None:
            held = Dataset.read(test, units=units, keys=_keys(key))
        progress("read", 1.0)
        group = None if reach == Reach.none else find_permutations(everything, reach=reach.value)
        model = _model(kernel, lengthscale, group)
        chosen = ("energy", "forces") if labels == Labels.both else (labels.value,)
        if held is not None:  # before the work, not after it
            require_disjoint(everything.fingerprints(), held)
            if not model.transferable:
                require_same_order(everything.uniform_numbers(), held.uniform_numbers(), held.source)
        fitted = fit_model(model, everything, chosen, _noise(noise), seed, progress)
        archive.save(fitted, target)
        evaluation = None if held is None else evaluate(fitted, held)
        written = [target]
        if report is not None:
            progress("self-check", 0.0)
            written += write_report(report, fitted, evaluation, _checks(fitted, everything))
            progress("self-check", 1.0)
    summary = fit_summary(fitted, evaluation)
    if as_json:
        return terminal.print_json(summary)
    _say_fit(everything, fitted, summary, evaluation)
    for path in written:
        terminal.say(f"wrote {path}")


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
    from mlff.archive import load, write_whole
    from mlff.dataset import Dataset
    from mlff.metrics import evaluate

    with terminal.progress() as progress:
        force_field = load(model)
        progress("test", 0.0)
        started = time.perf_counter()
        evaluation = evaluate(force_field, Dataset.read(data, units=units, keys=_keys(key), index=frames))
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
    _require_writable(out)
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


# -- shared by the commands ----------------------------------------------------------------------------------------


def _model(kernel: Kernel, lengthscale: float | None, group):
    from descriptors import inverse_distances
    from mlff import radial
    from mlff.kernels import GlobalKernel

    classes = {
        Kernel.matern32: radial.Matern32, Kernel.matern52: radial.Matern52,
        Kernel.matern72: radial.Matern72, Kernel.rbf: radial.RBF,
        Kernel.rational_quadratic: radial.RationalQuadratic,
    }  # fmt: skip
    return GlobalKernel(inverse_distances, classes[kernel](lengthscale=lengthscale), group)


def _checks(force_field, data):
    from mlff.selfcheck import self_check

    frame = data[0]
    return self_check(force_field, frame.positions, frame.cell if frame.system.pbc.any() else None)


def _start(force_field, path: pathlib.Path | None):
    """Atoms with the calculator: those of a file, or a training geometry relaxed."""
    from ase import Atoms
    from ase.optimize import BFGS

    from mlff.calculator import Calculator
    from mlff.force_field import require_atoms
    from mlff.readers import read_geometry

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


def _say_fit(data, force_field, summary: dict, evaluation) -> None:
    from mlff.report import scale_text

    size, tried = summary["permutations"], len(summary["lengthscales_tried"])
    terminal.say(f"{data}; units {data.units}")
    terminal.say(
        f"{len(data)} training frames, {size} permutation{'s' * (size != 1)}, "
        f"length scale {scale_text(force_field.kernel)}" + (f" ({tried} tried)" if tried else "")
    )
    terminal.say(f"fit in {summary['fit_seconds']:.1f} s, peak memory {summary['peak_memory_mb']:.0f} MB")
    terminal.say(f"test on {evaluation}" if evaluation else "no test frames; give --test or --train N")


def _keys(pairs: list[str] | None) -> dict[str, str]:
    keys = {}
    for pair in pairs or ():
        label, separator, name = pair.partition("=")
        if not separator or not label or not name:
            raise ValueError(f"--key {pair}: write label=key, for example --key energy=energy_ref")
        keys[label] = name
    return keys


def _noise(given: list[str] | None) -> float | dict[str, float] | None:
    """--noise 0.001, or --noise forces=0.001 --noise energy=0.01."""
    if not given:
        return None
    try:
        if len(given) == 1 and "=" not in given[0]:
            return float(given[0])
        return {label: float(value) for label, _, value in (pair.partition("=") for pair in given)}
    except ValueError as error:
        raise ValueError(f"--noise {' '.join(given)}: write 0.001, or forces=0.001 and energy=0.001") from error


def _require_writable(path: pathlib.Path) -> None:
    """Before the work, not after it."""
    if path.is_dir():
        raise ValueError(f"--out {path}: is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}; make it first")


def main() -> None:
    """Entry point of the `mlff` command."""
    terminal.run(app)
