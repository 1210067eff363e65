"""`mlff distil`: a correction together with the method below it as one model."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mlff.cli import terminal
from mlff.cli.options import AsJSON, Data, Key, Labels, Model, Recipe, Trust, Units
from mlff.cli.remaking import remade


def distil(
    model: Model,
    data: Data,
    frames: Annotated[int, typer.Option(help="Frames of its own dynamics that the new model is fitted to.")] = 500,
    temperature: Annotated[
        float, typer.Option(help="K, of that dynamics: no lower than that of what follows.")
    ] = 500.0,
    points: Annotated[int, typer.Option(help="Environments that a model of atoms is left with.")] = 2000,
    recipe: Annotated[
        Recipe | None, typer.Option(help="The new model; without it the better one of two, seen by frames left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the dynamics and of what is drawn in the fit.")] = 0,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="Model file to write; MODEL-distilled.mlff without it.")
    ] = None,
    units: Units = None,
    labels: Labels = None,
    key: Key = None,
    trust: Trust = None,
    as_json: AsJSON = False,
) -> None:
    """One kernel model of a force field that calls a program, from dynamics around the frames of DATA.

    A correction to a method, fitted with --baseline-frames 0, is as slow as the method, and has its Hessians by differences; what
    is distilled from both has neither, and is off by what the command says. DATA is read as mlff fit reads
    it; its labels play no part.

    \b
    mlff fit ethanol.xyz --baseline gfn2 --baseline-frames 0 --tune --train 50 --out corrected.mlff
    mlff distil corrected.mlff ethanol.xyz --frames 1000 --out quick.mlff
    """
    from mlff.quality.description import described
    from mlff.quality.report import compressed_text, distilled_text
    from mlff.workflows.distillation import distilled

    def make(force_field, around, progress):
        name = None if recipe is None else recipe.value
        settings = {"temperature": temperature, "points": points, "seed": seed, "recipe": name}
        return distilled(force_field, around, frames, **settings, progress=progress)

    _, quick, target = remade(model, data, out, "distilled", units, labels, key, trust, make)
    if as_json:
        return terminal.print_json(described(quick))
    terminal.say(f"distilled from {distilled_text(quick.record)}")
    if "compressed" in quick.record:
        terminal.say(f"compressed to {compressed_text(quick.record)}")
    terminal.say("test: none on labels of the file; mlff test makes one")
    terminal.say(f"wrote {target}")
