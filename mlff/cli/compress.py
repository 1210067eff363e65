"""`mlff compress`: an exact model on fewer points."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mlff.cli import terminal
from mlff.cli.options import AsJSON, Data, Key, Labels, Model, Trust, Units
from mlff.cli.remaking import remade


def compress(
    model: Model,
    data: Data,
    points: Annotated[
        int, typer.Option(help="How many environments it is to have in all, one of each element at least.")
    ] = 2000,
    out: Annotated[pathlib.Path | None, typer.Option(help="Model file to write; MODEL-POINTS.mlff without it.")] = None,
    units: Units = None,
    labels: Labels = None,
    key: Key = None,
    trust: Trust = None,
    as_json: AsJSON = False,
) -> None:
    """An exact model of atomic environments on fewer of them: as good within what it says, and several times as fast.

    \b
    mlff compress ethanol.mlff ethanol.extxyz --points 1000
    mlff compress ethanol.mlff ethanol.npz --units kcal/mol --points 2000 --out quick.mlff --json
    """
    from mlff.quality.description import described
    from mlff.quality.report import compressed_text
    from mlff.regression.sparse.compression import compressed

    def make(force_field, frames, progress):
        return compressed(force_field, frames, points, progress)

    force_field, smaller, target = remade(model, data, out, str(points), units, labels, key, trust, make)
    if as_json:
        return terminal.print_json(described(smaller))
    terminal.say(f"compressed from {force_field.model.size} to {compressed_text(smaller.record)}")
    terminal.say("test: none; mlff test makes one")
    terminal.say(f"wrote {target}")
