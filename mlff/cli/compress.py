"""`mlff compress`: an exact model on fewer points."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mlff.cli import terminal
from mlff.cli.options import AsJSON, Data, Key, Labels, Model, Trust, Units, parse_keys, parse_labels, parse_trust


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
    from mlff.data.dataset import Dataset
    from mlff.files import reserved
    from mlff.potentials import model_files as archive
    from mlff.quality.description import described
    from mlff.quality.report import compressed_text
    from mlff.regression.sparse.compression import compressed

    target = out or pathlib.Path(f"{model.stem}-{points}.mlff")
    if out is None and target.exists():
        raise ValueError(f"{target}: exists; name the model file with --out, the same to replace it")
    with reserved({"--out": target}, [model, data], {"--out": archive.MARK}), terminal.progress() as progress:
        progress("load", 0.0)
        force_field = archive.load(model, parse_trust(trust))
        progress("read", 0.0)
        read = Dataset.read(data, units=units, labels=parse_labels(labels), keys=parse_keys(key))
        smaller = compressed(force_field, read, points, progress)
        archive.save(smaller, target)
    if as_json:
        return terminal.print_json(described(smaller))
    terminal.say(f"compressed from {force_field.model.size} to {compressed_text(smaller.record)}")
    terminal.say("test: none; mlff test makes one")
    terminal.say(f"wrote {target}")
