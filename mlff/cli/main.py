"""The command line, `mlff fit` and all others. Every heavy import waits until it is needed."""

from __future__ import annotations

import pathlib
import time
from typing import Annotated

import typer

from mlff.cli import compare as cli_compare
from mlff.cli import compress as cli_compress
from mlff.cli import distil as cli_distil
from mlff.cli import fit as cli_fit
from mlff.cli import learn as cli_learn
from mlff.cli import md as cli_md
from mlff.cli import predict as cli_predict
from mlff.cli import terminal
from mlff.cli.options import (
    AsJSON,
    Data,
    Key,
    Labels,
    Model,
    Trust,
    Units,
    parse_keys,
    parse_labels,
    parse_trust,
    search_here,
)

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Force fields from reference calculations.

    \b
    mlff compare ethanol.extxyz
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
    labels: Labels = None,
    plot: Annotated[pathlib.Path | None, typer.Option(help="Write parity plots to this PNG file.")] = None,
    trust: Trust = None,
    as_json: AsJSON = False,
) -> None:
    """Errors of a force field on reference frames that it was not trained on.

    \b
    mlff test ethanol.mlff other.extxyz --plot parity.png
    mlff test ethanol.mlff test.npz --units kcal/mol --labels energy,hessian --json
    """
    from mlff.data.dataset import Dataset
    from mlff.files import PNG, reserved, write_whole
    from mlff.potentials.errors import evaluate, group_texts, short
    from mlff.potentials.model_files import load
    from mlff.potentials.record import frames_learnt

    wanted = parse_labels(labels)
    with reserved({"--plot": plot}, [model, data], {"--plot": PNG}), terminal.progress() as progress:
        progress("load", 0.0)
        force_field = load(model, parse_trust(trust))
        progress("read", 0.0)
        read = Dataset.read(data, units=units, labels=wanted, keys=parse_keys(key), index=frames)
        progress("test", 0.0)
        started = time.perf_counter()
        evaluation = evaluate(force_field, read, wanted)
        seconds = time.perf_counter() - started
        bars = None
        if force_field.posterior is not None:
            from mlff.quality.reliability import reliability, reliability_texts

            bars = reliability(force_field, read, progress)
        if plot is not None:
            from mlff.quality.report import parity_figure, png

            write_whole(plot, png(parity_figure(evaluation)))
        progress("test", 1.0)
    if as_json:
        return terminal.print_json(
            {
                **evaluation.summary(), "n_train": frames_learnt(force_field.record), "seconds": seconds,
                **({} if bars is None else {"error_bars": bars.summary()}),
            }
        )  # fmt: skip
    terminal.say(str(evaluation))
    for line in group_texts(evaluation.summary()):
        terminal.say_line(f"  {line}")
    for symbol, error in evaluation.forces_mae_by_element.items():
        terminal.say(f"  forces on {symbol}: MAE {short(1e3 * error)} meV/Å")
    for line in () if bars is None else reliability_texts(bars.summary()):
        terminal.say_line(f"  {line}")
    if plot is not None:
        terminal.say(f"wrote {plot}")


app.command()(cli_predict.predict)
app.command()(cli_compare.compare)
app.command()(cli_compress.compress)
app.command()(cli_distil.distil)
app.command()(cli_md.md)
app.command()(cli_learn.learn)


@app.command()
def show(model: Model, trust: Trust = None, as_json: AsJSON = False) -> None:
    """What a model file holds: molecule, kernel, data, permutations, errors, versions.

    \b
    mlff show ethanol.mlff
    mlff show ethanol.mlff --json
    """
    from mlff.potentials.model_files import load
    from mlff.quality.description import described, description

    with terminal.progress() as progress:
        progress("load", 0.0)
        force_field = load(model, parse_trust(trust))
    if as_json:
        return terminal.print_json(described(force_field))
    for line in description(force_field):
        terminal.say_line(line)


@app.command()
def audit(
    function: Annotated[str, typer.Argument(help="A descriptor, package.module:function.")],
    data: Data,
    frames: Annotated[str, typer.Option(help="Which frames, in ASE's index syntax; a few of them are chosen.")] = ":",
    units: Units = None,
    labels: Labels = None,
    key: Key = None,
    seed: Annotated[int, typer.Option(help="Of displacements and directions.")] = 0,
    as_json: AsJSON = False,
) -> None:
    """Examine a descriptor before anyone trusts it; exit status 1 when something fails.

    \b
    mlff audit descriptors.fchl19:fchl19 datasets/ethanol.extxyz
    mlff audit mine:descriptor train.npz --units kcal/mol --json
    """
    from mlff.data.dataset import Dataset
    from mlff.kernels.descriptor import import_descriptor
    from mlff.quality.audit.audit import audit as examine

    search_here()
    descriptor = import_descriptor(function)
    with terminal.progress() as progress:
        progress("read", 0.0)
        read = Dataset.read(data, units=units, labels=parse_labels(labels), keys=parse_keys(key), index=frames)
        progress("audit", 0.0)
        outcome = examine(descriptor, read, seed=seed)
        progress("audit", 1.0)
    if as_json:
        terminal.print_json(outcome.to_json())
    else:
        terminal.say(f"{outcome.descriptor} on {', '.join(outcome.frames)} of {data.name}")
        terminal.table(("property", "verdict", "measured", "limit", "what was found"), outcome.table())
        terminal.say(
            "passed" if outcome.passed else "failed: " + ", ".join(f.name for f in outcome.findings if not f.passed)
        )
    if not outcome.passed:
        raise typer.Exit(1)


@app.command()
def select(
    pool: Annotated[pathlib.Path, typer.Argument(help="Geometries to choose from: any file that ASE reads, or .npz.")],
    n: Annotated[int, typer.Option("--n", help="How many frames are wanted.")],
    out: Annotated[
        pathlib.Path, typer.Option(help="File to write them to, extended xyz, in the order of what they are worth.")
    ],
    by: Annotated[
        str, typer.Option(help="variance: what they tell about the forces of all; or farthest, random.")
    ] = "variance",
    model: Annotated[
        pathlib.Path | None, typer.Option(help="Model whose kernel it is for; else that of the default recipe.")
    ] = None,
    known: Annotated[pathlib.Path | None, typer.Option(help="Frames that are labelled already.")] = None,
    units: Units = None,
    labels: Labels = None,
    key: Key = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    trust: Trust = None,
    as_json: AsJSON = False,
) -> None:
    """Choose which frames of a pool to label.

    \b
    mlff select pool.extxyz --n 50 --out chosen.extxyz
    mlff select pool.extxyz --n 20 --model m.mlff --known train.extxyz --out more.extxyz
    """
    from mlff.data.dataset import Dataset
    from mlff.data.extended_xyz import extended_xyz
    from mlff.files import reserved, write_whole
    from mlff.potentials.model_files import load
    from mlff.workflows.selection import bare, read_pool, unlabelled
    from mlff.workflows.selection import select as choose

    inputs = [path for path in (pool, model, known) if path is not None]
    with reserved({"--out": out}, inputs), terminal.progress() as progress:
        progress("read", 0.0)
        geometries = read_pool(pool, units)
        candidates = unlabelled(geometries, pool.name)
        stated = {"units": units, "labels": parse_labels(labels), "keys": parse_keys(key)}
        labelled = None if known is None else Dataset.read(known, **stated)
        force_field = None if model is None else load(model, parse_trust(trust))
        progress("read", 1.0)
        chosen = choose(candidates, n, force_field, labelled, by, seed, progress)
        write_whole(out, extended_xyz(bare([geometries[i] for i in chosen])))
    if as_json:
        return terminal.print_json({"chosen": chosen.tolist(), "of": len(candidates), "by": by, "out": str(out)})
    shown = ", ".join(map(str, chosen[:10])) + (", …" if len(chosen) > 10 else "")
    terminal.say(f"{len(chosen)} of {len(candidates)} frames by {by}: {shown}")
    terminal.say(f"wrote {out}")


@app.command()
def inspect(
    data: Data,
    frames: Annotated[str, typer.Option(help="Which frames, in ASE's index syntax.")] = ":",
    units: Units = None,
    labels: Labels = None,
    key: Key = None,
    seed: Annotated[int, typer.Option(help="Of how many frames are divided.")] = 0,
    as_json: AsJSON = False,
) -> None:
    """Look for frames whose labels do not fit the others': wrong sign or unit, not converged; exit status 1 when there are some.

    \b
    mlff inspect train.extxyz
    mlff inspect train.npz --units kcal/mol --json
    """
    from mlff.data.dataset import Dataset
    from mlff.quality.inspection import inspect as look

    with terminal.progress() as progress:
        progress("read", 0.0)
        read = Dataset.read(data, units=units, labels=parse_labels(labels), keys=parse_keys(key), index=frames)
        progress("read", 1.0)
        found = look(read, seed, progress)
        progress("inspect", 1.0)
    if as_json:
        terminal.print_json(found.to_json())
    elif found.suspects:
        terminal.say(f"{found.frames} frames; labels of {len(found.suspects)} do not fit the others':")
        terminal.table(("frame", "score", "forces off, meV/Å", "energy off, meV", "looks like"), found.table())
    else:
        terminal.say(str(found))
    if found.suspects:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the `mlff` command."""
    terminal.run(app)
