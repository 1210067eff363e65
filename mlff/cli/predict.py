"""`mlff predict`: frames from one file to another through a force field."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mlff.cli import terminal
from mlff.cli.options import AsJSON, Key, Model, Trust, Units, parse_keys, parse_trust


def predict(
    model: Model,
    data: Annotated[pathlib.Path, typer.Argument(help="Frames, read one after another: anything ASE reads, or npz.")],
    out: Annotated[pathlib.Path, typer.Option(help="Extended xyz file to write, whole or not at all.")],
    std: Annotated[bool, typer.Option("--std", help="Standard deviations too, of a model with error bars.")] = False,
    memory: Annotated[
        str | None, typer.Option(help="That frames and arrays may take, 2GB, 500MB.  [default: 256MiB]")
    ] = None,
    float32: Annotated[
        bool, typer.Option("--float32", help="In single precision; its error is measured on the first frames.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on behind the last whole frame of a run that was stopped, if there is one."),
    ] = False,
    units: Units = None,
    key: Key = None,
    trust: Trust = None,
    as_json: AsJSON = False,
) -> None:
    """Energies, forces and stresses of all frames of a file, of millions as of ten.

    Errors against labels in the file are told too; mlff test looks whether the model was trained on them.

    \b
    mlff predict ethanol.mlff frames.extxyz --out predicted.extxyz
    mlff predict ethanol.mlff frames.extxyz --out predicted.extxyz --float32 --memory 2GB
    mlff predict ethanol.mlff frames.extxyz --out predicted.extxyz --resume
    """
    from mlff.batching import BATCH_MEMORY
    from mlff.potentials.errors import error_text, short
    from mlff.potentials.model_files import load
    from mlff.quality.report import peak_memory_mb
    from mlff.workflows.prediction import DOUBLE, MEASURED, SINGLE
    from mlff.workflows.prediction import predict as run

    with terminal.progress() as progress:
        progress("load", 0.0)
        force_field = load(model, parse_trust(trust))
        progress("load", 1.0)
        found = run(
            force_field,
            data,
            out,
            units,
            parse_keys(key),
            std,
            BATCH_MEMORY if memory is None else memory,
            SINGLE if float32 else DOUBLE,
            resume,
            progress,
        )
    summary = found.summary()
    if as_json:
        return terminal.print_json({**summary, "peak_memory_mb": peak_memory_mb(), "out": str(out)})
    behind = f" behind the first {found.first}" if found.first else ""
    terminal.say(
        f"{found.frames - found.first} frames{behind} in {found.seconds:.1f} s, {summary['frames_per_second']:.0f} a second"
    )
    if found.float32 is not None:
        energy, forces = (short(1e3 * each) for each in found.float32)
        terminal.say(f"float32, first {MEASURED} frames: off by up to {energy} meV and {forces} meV/Å")
    if found.errors:
        terminal.say(f"against labels in {data.name}: {error_text(summary)}")
    for name, reason in found.not_compared.items():
        terminal.say_line(f"{name} not compared: {reason}")
    terminal.say(f"wrote {out}")
