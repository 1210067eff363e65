"""`mlff learn`: a force field from a calculator and one geometry."""

from __future__ import annotations

import functools
import pathlib
from typing import Annotated

import typer

from mlff.cli import terminal
from mlff.cli.options import AsJSON, Recipe, search_here

ACCURACY = 0.01  # of the usual thresholds of self-consistent methods: what labels are that a force field learns


def learn(
    start: Annotated[
        pathlib.Path,
        typer.Argument(help="Geometries that walkers start from, with cell and constraints: any file that ASE reads."),
    ],
    out: Annotated[
        pathlib.Path, typer.Option(help="Folder for labels, state, model and a picture; one that was begun goes on.")
    ],
    method: Annotated[
        str,
        typer.Option(
            help="What is asked for labels: gfn2, gfn1, gfnff, emt, or package.module:function, which makes an ASE calculator each time."
        ),
    ] = "gfn2",
    charge: Annotated[int, typer.Option(help="Of the method.")] = 0,
    multiplicity: Annotated[
        int | None, typer.Option(help="2S + 1, of the method; else 1, or 2 of an odd number of electrons.")
    ] = None,
    calls: Annotated[int, typer.Option(help="Labels in all.")] = 60,
    temperature: Annotated[float, typer.Option(help="Of the dynamics, K.")] = 500.0,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of a force component where a label is asked for, eV/Å; else one that follows."
        ),
    ] = None,
    walkers: Annotated[int, typer.Option(help="Runs that take turns.")] = 4,
    recipe: Annotated[Recipe | None, typer.Option(help="The model; else that of molecules or crystals.")] = None,
    timestep: Annotated[float, typer.Option(help="fs")] = 0.5,
    friction: Annotated[float, typer.Option(help="Of the thermostat, 1/fs.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Of first geometries, velocities and thermostats.")] = 0,
    as_json: AsJSON = False,
) -> None:
    """Learn a force field on the fly: dynamics that asks a method for a label where the model does not know.

    \b
    mlff learn ethanol.xyz --method gfn2 --temperature 500 --calls 60 --out ethanol
    mlff learn slab.traj --method mine:calculator --threshold 0.1 --out slab
    """
    from mlff.data.readers import read_geometries
    from mlff.files import write_whole
    from mlff.quality.report import png
    from mlff.workflows.learning import learn as run
    from mlff.workflows.learning_figure import learning_figure
    from mlff.workflows.ledger import FRAMES, MODEL, PICTURE

    with terminal.progress() as progress:
        progress("read", 0.0)
        geometries = read_geometries(start)
        calculator = _calculator(method, charge, multiplicity, geometries[0])
        for geometry in geometries if charge else ():
            geometry.info["charge"] = charge  # which the model is then of
        progress("read", 1.0)
        name = None if recipe is None else recipe.value
        found = run(
            calculator,
            geometries,
            out,
            calls,
            temperature,
            threshold,
            walkers,
            name,
            timestep,
            friction,
            seed=seed,
            progress=progress,
        )
        if told := any(call.std is not None for call in found.calls):
            write_whole(out / PICTURE, png(learning_figure(found.calls)))
    last = [call for call in found.calls if call.std is not None][-10:]
    if as_json:
        return terminal.print_json(
            {
                "calls": len(found.calls), "out": str(out), "training": found.force_field.record["training"],
                "last": [{"std": call.std, "error": call.error, "threshold": call.threshold} for call in last],
            }
        )  # fmt: skip
    terminal.say(f"{len(found.calls)} labels of {method}, {found.force_field.model.label}")
    if last:
        errors, stds = (1e3 * sum(getattr(call, name) for call in last) / len(last) for name in ("error", "std"))
        terminal.say(
            f"forces where it did not know, before the last {len(last)} labels: off by {errors:.0f} meV/Å, σ {stds:.0f}"
        )
    terminal.say(f"wrote {FRAMES}, {MODEL}{f' and {PICTURE}' if told else ''} into {out}")


def _calculator(method: str, charge: int, multiplicity: int | None, atoms):
    """What is asked for labels: a calculator, or what makes one."""
    from mlff.data.methods import METHODS, lowest_multiplicity, named_calculator, require_electrons
    from mlff.kernels.descriptor import import_function

    if method not in METHODS:
        if ":" not in method:
            raise ValueError(f"--method {method}: choose from {', '.join(METHODS)}, or write package.module:function")
        if charge or multiplicity is not None:
            raise ValueError("--charge, --multiplicity: are of gfn2 and gfn1; let the function of --method state them")
        search_here()
        return import_function("method", method)
    if multiplicity is None:
        multiplicity = lowest_multiplicity(atoms.numbers, charge) if METHODS[method].charged else 1
    require_electrons(method, atoms.numbers, charge, multiplicity)
    return functools.partial(named_calculator, method, charge, multiplicity, ACCURACY)
