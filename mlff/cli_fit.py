"""The command `mlff fit`: reference frames in, a force field and a report out."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mlff import terminal
from mlff.options import (
    AsJSON,
    Data,
    Key,
    Radial,
    Reach,
    Recipe,
    Units,
    parse_keys,
    parse_labels,
    parse_noise,
    require_writable,
)  # fmt: skip


def fit(
    data: Data,
    frames: Annotated[str, typer.Option(help="Training frames in ASE's index syntax, 0:200 or ::10.")] = ":",
    train: Annotated[int | None, typer.Option(help="Train on this many frames, drawn with --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of --train and of the frames that the search holds out.")] = 0,
    test: Annotated[pathlib.Path | None, typer.Option(help="Frames to test on; else those --train leaves.")] = None,
    units: Units = None,
    key: Key = None,
    recipe: Annotated[Recipe, typer.Option(help="A published model; sgdml is for isolated molecules.")] = Recipe.sgdml,
    descriptor: Annotated[
        str | None, typer.Option(help="Your own descriptor, package.module:function, in place of a recipe.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="What is fitted: forces, energy, both, or names with commas, energy,forces,hessian; else the recipe's."
        ),
    ] = None,
    kernel: Annotated[
        Radial | None, typer.Option(help="Radial function; else the recipe's, with its length scale.")
    ] = None,
    lengthscale: Annotated[float | None, typer.Option(help="Without it the recipe's, or found by validation.")] = None,
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
    mlff fit datasets/ethanol.extxyz --train 200 --recipe fchl19-gpr
    mlff fit train.npz --units kcal/mol --frames 0:200 --test test.npz --descriptor mine:descriptor
    """
    from mlff import archive
    from mlff.dataset import Dataset
    from mlff.fitting import fit as fit_model
    from mlff.metrics import evaluate
    from mlff.report import fit_summary, write_report

    wanted = parse_labels(labels)
    target = out or pathlib.Path(data.with_suffix(".mlff").name)
    require_writable(target)
    with terminal.progress() as progress:
        progress("read", 0.0)
        everything = Dataset.read(data, units=units, labels=wanted, keys=parse_keys(key), index=frames)
        held = None
        if train is not None:
            left = len(everything) - train
            everything, *rest = everything.split(train, *([left] if left > 0 and test is None else []), seed=seed)
            held = rest[0] if rest else None
        if test is not None:
            held = Dataset.read(test, units=units, keys=parse_keys(key))
        progress("read", 1.0)
        model, chosen = _model(everything, recipe, descriptor, kernel, lengthscale, reach, seed, progress)
        chosen = wanted or chosen
        if held is not None:
            _require_comparable(model, everything, held)
        fitted = fit_model(model, everything, chosen, parse_noise(noise), seed, progress)
        archive.save(fitted, target)
        evaluation = None if held is None else evaluate(fitted, held)
        written = [target]
        if report is not None:
            progress("self-check", 0.0)
            written += write_report(report, fitted, evaluation, _checks(fitted, everything))
            progress("self-check", 1.0)
    summary = {"recipe": descriptor or recipe.value, **fit_summary(fitted, evaluation)}
    if as_json:
        return terminal.print_json(summary)
    _say(everything, fitted, summary, evaluation)
    for path in written:
        terminal.say(f"wrote {path}")


def _model(data, name: Recipe, descriptor, kernel: Radial | None, lengthscale, reach: Reach, seed: int, progress):
    """The kernel to fit, and its labels."""
    from mlff.radial import RADIALS
    from mlff.recipes import RECIPES, descriptor_kernel, recipe

    classes = {cls.__name__.lower(): cls for cls in RADIALS.values()}
    cls = classes[(kernel or Radial.matern52).value.replace("-", "")]
    if descriptor is not None:
        return descriptor_kernel(descriptor, data, cls(lengthscale=lengthscale), reach.value)
    radial = RECIPES[name.value].radial if kernel is None else cls()
    if lengthscale is not None:
        radial = radial.replace(lengthscale=lengthscale)
    return recipe(name.value, data, radial, None, reach.value, seed, progress)


def _require_comparable(model, training, held) -> None:
    """Before the work, not after it."""
    from mlff.metrics import require_disjoint
    from mlff.requests import require_same_order

    require_disjoint(training.fingerprints(), held)
    if not model.transferable:
        require_same_order(training.uniform_numbers(), held.uniform_numbers(), held.source)


def _checks(force_field, data):
    from mlff.selfcheck import self_check

    return self_check(force_field, data[0].system)


def _say(data, force_field, summary: dict, evaluation) -> None:
    from mlff.report import scale_text

    size, tried = summary["permutations"], len(summary["lengthscales_tried"])
    terminal.say(f"{data}; units {data.units}")
    terminal.say(
        f"{len(data)} training frames, {size} permutation{'s' * (size != 1)}, "
        f"length scale {scale_text(force_field.kernel)}" + (f" ({tried} tried)" if tried else "")
    )
    terminal.say(f"fit in {summary['fit_seconds']:.1f} s, peak memory {summary['peak_memory_mb']:.0f} MB")
    terminal.say(f"test on {evaluation}" if evaluation else "no test frames; give --test or --train N")
