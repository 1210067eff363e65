"""The command `mlff fit`: reference frames in, a force field and a report out."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mlff.cli import terminal
from mlff.cli.baselines import Baseline, BaselineFrames, Charge, Multiplicity, baseline_text, chosen_baseline
from mlff.cli.fit_input import chosen_recipe, model_of, read, require_comparable, require_drawn, require_exact
from mlff.cli.machines import Coordinator, Devices, Process, Processes, joined
from mlff.cli.options import (
    AsJSON,
    Data,
    Key,
    Method,
    Objective,
    Radial,
    Reach,
    Recipe,
    Selection,
    Units,
    parse_factors,
    parse_keys,
    parse_labels,
    parse_noise,
    parse_settings,
)  # fmt: skip


def fit(
    data: Data,
    frames: Annotated[str, typer.Option(help="Training frames in ASE's index syntax, 0:200 or ::10.")] = ":",
    train: Annotated[int | None, typer.Option(help="Train on this many frames, drawn with --seed.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of what is drawn: --train, the frames that the search holds out; 0 without it.")
    ] = None,
    test: Annotated[pathlib.Path | None, typer.Option(help="Frames to test on; else those --train leaves.")] = None,
    units: Units = None,
    key: Key = None,
    recipe: Annotated[
        Recipe | None,
        typer.Option(help="A model by name; else soap-gap for crystals, and one by their number for molecules."),
    ] = None,
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
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Of the descriptor: cutoff=5.0, n_max=8; repeat for several.")
    ] = None,
    inducing: Annotated[
        int | None, typer.Option(help="Environments that span a sparse model; else the recipe's, or an exact model.")
    ] = None,
    selection: Annotated[
        Selection | None,
        typer.Option(help="How these are chosen: farthest points (without it), or cur, drawn by leverage with --seed."),
    ] = None,
    tune: Annotated[
        bool | None,
        typer.Option(
            "--tune/--no-tune",
            help="Find amplitudes, length scales and noise by the errors of frames left out; without it where the model is a sum that "
            "was not named.",
        ),
    ] = None,
    objective: Annotated[
        Objective | None,
        typer.Option(
            help="What --tune minimises: errors of single frames left out (without it), of fifths of the frames, or -log p of the labels."
        ),
    ] = None,
    tune_argument: Annotated[
        list[str] | None,
        typer.Option(
            help="Arguments of descriptors that --tune finds too: soap.sigma, cutoff, or 'fchl19.*'; repeat for several."
        ),
    ] = None,
    baseline: Baseline = None,
    baseline_frames: BaselineFrames = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    lengthscale: Annotated[float | None, typer.Option(help="Without it the recipe's, or found by validation.")] = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the labels: 0.001, or forces=0.001 (eV/Å) and energy=0.001 (eV); else next to none, or what validation finds."
        ),
    ] = None,
    group_noise: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a group of frames (config_type): a factor of all noise, Surface=2.0, or the noise of one kind of label, "
            "Surface:energy=0.002."
        ),
    ] = None,
    reach: Annotated[
        Reach | None,
        typer.Option(help="Permutations: those the dynamics reaches (without it), all of the bond graph, none."),
    ] = None,
    error_bars: Annotated[
        bool,
        typer.Option(
            "--error-bars", help="Keep what the fit does not know: standard deviations, calibrated on frames left out."
        ),
    ] = False,
    method: Annotated[
        Method | None,
        typer.Option(
            help="exact, or iterative (large sets: the same model, no error bars); else the faster that fits --memory."
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="That this program may take, 8GB; 80 % of what is free without it.")
    ] = None,
    devices: Devices = None,
    coordinator: Coordinator = None,
    process: Process = None,
    processes: Processes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how the fit would go, in what memory and time, and write nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a fit that was killed; else begin it.")] = False,
    out: Annotated[pathlib.Path | None, typer.Option(help="Model file to write; DATA with .mlff without it.")] = None,
    report: Annotated[pathlib.Path | None, typer.Option(help="Folder for report.md, report.json and pictures.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Fit a force field to reference frames and say how good it is.

    \b
    mlff fit datasets/ethanol.extxyz --train 200 --report report
    mlff fit datasets/ethanol.extxyz --train 200 --recipe fchl19-gpr
    mlff fit datasets/ethanol.extxyz --train 50 --recipe distances+soap+fchl19 --tune
    mlff fit datasets/ethanol.extxyz --train 50 --recipe soap-gpr --tune --objective folds --tune-argument soap.sigma
    mlff fit ethanol.npz --units kcal/mol --train 50 --baseline gfn2 --tune
    mlff fit datasets/ethanol.extxyz --train 200 --error-bars
    mlff fit silicon.extxyz --set cutoff=5.0 --inducing 2000
    mlff fit large.npz --units kcal/mol --memory 4GB --dry-run
    mlff fit large.npz --units kcal/mol --memory 4GB --resume
    mlff fit large.npz --units kcal/mol --devices all
    mlff fit large.npz --units kcal/mol --coordinator node0:4321 --process 1 --processes 4
    mlff fit train.npz --units kcal/mol --frames 0:200 --test test.npz --descriptor mine:descriptor
    """
    from mlff.files import made_folder, reserved
    from mlff.potentials import model_files as archive
    from mlff.potentials.errors import require_disjoint
    from mlff.potentials.record import fingerprints_of
    from mlff.quality.report import FILES, fit_summary, write_report
    from mlff.regression.checkpoint import Checkpoint
    from mlff.regression.fitting import fit as fit_model
    from mlff.regression.fitting import plan as plan_fit
    from mlff.regression.recipes import RECIPES
    from mlff.regression.sparse.fit import require_inducing
    from mlff.regression.tuning.tune import plan_tuning
    from mlff.regression.tuning.tune import tune as tune_model

    wanted, keys, levels = parse_labels(labels), parse_keys(key), parse_noise(noise)
    settings, factors = parse_settings(setting), parse_factors(group_noise)
    if recipe is not None and descriptor is not None:
        raise ValueError(f"--recipe {recipe} and --descriptor {descriptor}: two models are named; give one of them")
    if coordinator is not None and (inducing is not None or error_bars):  # before others are waited for
        option = "--error-bars" if error_bars else f"--inducing {inducing}"
        raise ValueError(f"{option}: is a matter of one host; leave --coordinator or {option} out")
    devices, which = joined(devices, coordinator, process, processes)
    target = None if dry_run else out or _default_target(data)
    outputs = {"--out": target, "--report": [] if report is None else [report / name for name in FILES]}
    if which > 0:  # the first process writes
        outputs, report = {}, None
    inputs = [path for path in (data, test) if path is not None]
    marks = {"--out": archive.MARK, **FILES}
    with made_folder("--report", report), reserved(outputs, inputs, marks), terminal.progress() as progress:
        kept = None if dry_run else _checkpoint_folder(target, which, resume)
        progress("read", 0.0)
        everything, held = read(data, test, frames, train, seed or 0, {"units": units, "keys": keys}, wanted)
        progress("read", 1.0)
        if inducing is not None:  # before the work
            require_inducing(inducing, len(everything))
        progress("model", 0.0)
        stated = any(option is not None for option in (kernel, lengthscale, levels, inducing)) or bool(settings)
        recipe, reason, tune = chosen_recipe(everything, recipe, descriptor, tune, stated)
        model, chosen = model_of(
            everything, recipe, descriptor, kernel, lengthscale, reach, settings, seed or 0, progress
        )
        progress("model", 1.0)
        points = RECIPES[recipe.value].inducing if inducing is None and recipe is not None else inducing
        draws = train is not None or points is not None or tune or baseline is not None
        require_drawn(seed, draws, model, recipe)
        require_exact(tune, points)
        _require_tuned(tune, objective, tune_argument)
        if held is not None:
            require_comparable(model, everything, held)
        fitted_to = wanted or chosen
        below = chosen_baseline(baseline, baseline_frames, charge, multiplicity, everything, seed or 0, progress)
        if held is not None and below is not None:
            require_disjoint(fingerprints_of(below.record), held)
        stated = {
            "labels": fitted_to, "seed": seed or 0, "inducing": points, "group_noise": factors, "baseline": below,
            "posterior": error_bars, "method": method, "memory": memory, "devices": devices, "selection": selection and selection.value,
        }  # fmt: skip
        searching = {
            "labels": fitted_to, "seed": seed or 0, "group_noise": factors, "baseline": below, "memory": memory,
            "objective": (objective or Objective.left_out).value, "arguments": tuple(tune_argument or ()),
        }  # fmt: skip
        if dry_run:
            progress("plan", 0.0)
            search = plan_tuning(model, everything, noise=levels, progress=progress, **searching) if tune else None
            planned = plan_fit(model, everything, noise=levels, **stated)
            if search is not None:
                planned = planned.without("length scale")  # which it finds
            progress("plan", 1.0)
            return _say_plan(planned, search, as_json) if which == 0 else None
        # until the model is written: where the disk has no room for it, what was reached stays
        tuning = kept.with_name(f"{kept.name}-tuning")
        with Checkpoint(kept).until_done() as checkpoint, Checkpoint(tuning).until_done() as searched:
            if tune:
                model = tune_model(model, everything, noise=levels, progress=progress, checkpoint=searched, **searching)
                levels = None
            fitted = fit_model(model, everything, noise=levels, progress=progress, checkpoint=checkpoint, **stated)
            if which > 0:
                return None
            # of the posterior what the file holds; the factor is as large as the matrix
            fitted = fitted.replace(posterior=fitted.committee)
            archive.save(fitted, target)  # at once: what follows may fail
        evaluation = bars = None
        if held is not None:
            progress("test", 0.0)
            fitted, evaluation, bars = _tested(fitted, held)
            archive.save(fitted, target)
            progress("test", 1.0)
        written = [target]
        if report is not None:
            progress("self-check", 0.0)
            checks = _checks(fitted, everything)
            try:
                written += write_report(report, fitted, evaluation, checks, bars)
            except OSError as error:
                rest = f"{error.strerror}; the model is written, {target}, and mlff test {target} tests it anew"
                raise OSError(error.errno, rest, error.filename) from error
            progress("self-check", 1.0)
    summary = {"recipe": descriptor or recipe.value, **fit_summary(fitted, evaluation)}
    if below is not None:
        summary["baseline"] = {"potential": below.model.label, **below.record.get("distilled", {})}
    if bars is not None:
        summary["error_bars"] = bars.summary()
    if as_json:
        return terminal.print_json(summary)
    if reason is not None:
        terminal.say(
            f"recipe {recipe}{', tuned' if tune else ''}: for {reason}; --recipe names another, mlff compare tries them"
        )
    _say(everything, fitted, summary, evaluation, below)
    for path in written:
        terminal.say(f"wrote {path}")


def _checkpoint_folder(target: pathlib.Path, process: int, resume: bool) -> pathlib.Path:
    """The folder beside the model in which a fit is kept, one for each of several processes; that of an unfinished one is not gone
    on with unasked."""
    folder = target.with_name(f"{target.name}.checkpoint" + (f"-{process}" if process else ""))
    for unfinished in (folder, folder.with_name(f"{folder.name}-tuning")):
        if unfinished.exists() and not resume:
            raise ValueError(
                f"{unfinished}: keeps a fit that was not finished; go on with it by --resume, or remove the folder"
            )
    return folder


def _say_plan(planned, search, as_json: bool) -> None:
    """What a fit would do, and the search for hyperparameters before it."""
    if as_json:
        return terminal.print_json(planned.summary() | ({} if search is None else {"tuning": search.summary()}))
    if search is not None:
        terminal.say(str(search))
    terminal.say(str(planned))


def _default_target(data: pathlib.Path) -> pathlib.Path:
    """DATA.mlff in the present folder; a file of that name, which the user did not name, is not replaced."""
    target = pathlib.Path(data.with_suffix(".mlff").name)
    if target.exists():
        raise ValueError(f"{target}: exists; name the model file with --out, the same to replace it")
    return target


def _require_tuned(tune: bool, objective: Objective | None, arguments: list[str] | None) -> None:
    """Refuse to say how to tune what is not tuned."""
    for option, value in (("--objective", objective), ("--tune-argument", arguments)):
        if value and not tune:
            raise ValueError(f"{option}: nothing is tuned here; add --tune, or leave {option} out")


def _tested(force_field, held):
    """The force field with its errors on held-out frames in its record, these, and its error bars there; None without a posterior."""
    from mlff.potentials.errors import evaluate

    evaluation, bars = evaluate(force_field, held), None
    if force_field.posterior is not None:
        from mlff.quality.reliability import reliability

        bars = reliability(force_field, held)
    test = {"source": held.source, **evaluation.summary(), **({} if bars is None else {"error_bars": bars.summary()})}
    return force_field.replace(record={**force_field.record, "test": test}), evaluation, bars


def _checks(force_field, data):
    from mlff.quality.self_check import self_check

    return self_check(force_field, data[0].system)


def _say(data, force_field, summary: dict, evaluation, below) -> None:
    from mlff.potentials.errors import group_texts
    from mlff.quality.report import (
        error_bars_text,
        iterations_text,
        last_fitted,
        noise_text,
        scale_text,
        sparse_text,
        tuned_text,
    )

    force_field = last_fitted(force_field)
    size, tried = summary["permutations"], len(summary["lengthscales_tried"])
    terminal.say(f"{data}; units {data.units}")
    terminal.say(
        f"{len(data)} training frames, {size} permutation{'s' * (size != 1)}, "
        f"length scale {scale_text(force_field.kernel)}" + (f" ({tried} tried)" if tried else "")
    )
    if "inducing" in force_field.record:
        terminal.say(f"spanned by {sparse_text(force_field.record)}; noise {noise_text(force_field.record)}")
    if "iterations" in force_field.record:
        terminal.say(f"conjugate gradients: {iterations_text(force_field.record)}")
    if "tuned" in force_field.record:
        terminal.say(f"tuned: {tuned_text(force_field.record)}")
    memory = summary["peak_memory_mb"]
    terminal.say(
        f"fit in {summary['fit_seconds']:.1f} s" + ("" if memory is None else f", peak memory {memory:.0f} MB")
    )
    terminal.say(f"test on {evaluation}" if evaluation else "no test frames; give --test or --train N")
    for line in group_texts(evaluation.summary()) if evaluation else ():
        terminal.say_line(f"  {line}")
    if "error_bars" in force_field.record:
        terminal.say_line(error_bars_text(force_field.record))
    if "error_bars" in summary:
        from mlff.quality.reliability import reliability_texts

        for line in reliability_texts(summary["error_bars"]):
            terminal.say_line(f"  {line}")
    if below is not None:
        terminal.say_line(f"baseline: {baseline_text(below, evaluation)}")
