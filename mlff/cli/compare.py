"""`mlff compare`: which model to take for some frames."""

from __future__ import annotations

import json
import logging
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from typing import Annotated

import typer

from mlff.cli import terminal
from mlff.cli.options import AsJSON, Data, Key, Labels, Recipe, Units, parse_keys, parse_labels

logger = logging.getLogger(__name__)

SHARE = 0.8  # of the frames that are trained on at most, where no others are there to test on
TIMING = 0.03  # of the time, which is kept for a geometry by what was fitted last


def compare(
    data: Data,
    train: Annotated[int | None, typer.Option(help="Training frames at most; four fifths of them without it.")] = None,
    test: Annotated[pathlib.Path | None, typer.Option(help="Frames to test on; else those that are left.")] = None,
    recipe: Annotated[
        list[Recipe] | None, typer.Option(help="Compare this one; repeat for several. Else all that fit the data.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Seconds that it may take.")] = 300.0,
    seed: Annotated[int, typer.Option(help="Of the frames that are drawn.")] = 0,
    units: Units = None,
    labels: Labels = None,
    key: Key = None,
    plot: Annotated[pathlib.Path | None, typer.Option(help="Write errors against costs to this PNG file.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Fit the published models to some of the frames, the better ones to more, and say which to take.

    \b
    mlff compare ethanol.extxyz
    mlff compare train.npz --units kcal/mol --test test.npz --budget 600 --plot front.png
    mlff compare water.extxyz --recipe fchl19-gpr --recipe soap-gpr --train 40
    """
    from mlff.data.dataset import Dataset
    from mlff.files import PNG, reserved, write_whole
    from mlff.quality.comparison import candidates, compared, front_figure, sizes
    from mlff.quality.report import png

    if not 0 < budget < float("inf"):
        raise ValueError(f"--budget {budget:g}: must be a positive number of seconds")
    inputs = [path for path in (data, test) if path is not None]
    with reserved({"--plot": plot}, inputs, {"--plot": PNG}), terminal.progress() as progress:
        started = time.monotonic()
        progress("read", 0.0)
        frames = Dataset.read(data, units=units, labels=parse_labels(labels), keys=parse_keys(key))
        most = _most(frames, train, test)
        progress("read", 1.0)
        models = candidates(frames, [each.value for each in recipe or ()])
        reading = [*_option("--units", units), *_option("--labels", labels)]
        reading += [word for pair in key or () for word in ("--key", pair)]
        fit = _Fit(data, frames, test, reading, seed, started, budget, progress)
        left = (1.0 - TIMING) * budget - (time.monotonic() - started)
        outcome = compared(models, sizes(most, frames, models), fit.run, left)
        best = outcome.best
        if plot is not None:
            write_whole(plot, png(front_figure(outcome)))
    command = " ".join(["mlff fit", *(shlex.quote(word) for word in fit.words(best.candidate, best.frames))])
    for text in fit.warnings:
        logger.warning("%s", text)
    if as_json:
        return terminal.print_json(_described(outcome, command))
    _say(outcome, command)
    if plot is not None:
        terminal.say(f"wrote {plot}")


def _most(frames, train: int | None, test: pathlib.Path | None) -> int:
    """How many frames are trained on in the last round."""
    count = len(frames)
    most = count if test is not None else int(SHARE * count)
    if count < 5:
        raise ValueError(f"{frames.source}: {count} frames are too few to compare models on; give at least 5")
    if train is None:
        return most
    limit = count if test is not None else count - 1
    if not 2 <= train <= limit:
        raise ValueError(
            f"--train {train}: must be at least 2 and at most {limit}, of {count} frames in {frames.source}"
        )
    return train


class _Fit:
    """`mlff fit` as a process of its own, which can be stopped, and whose memory is its own."""

    def __init__(self, data, frames, test, reading: list[str], seed: int, started: float, budget: float, progress):
        self.data, self.frames, self.test, self.reading, self.seed = data, frames, test, reading, seed
        self.started, self.budget, self.progress = started, budget, progress
        self.warnings: list[str] = []

    def words(self, candidate, frames: int) -> list[str]:
        """The arguments of the command."""
        drawn = [] if self.test is not None and frames == len(self.frames) else ["--train", str(frames)]
        if self.seed and (drawn or candidate.tuned):
            drawn += ["--seed", str(self.seed)]
        tested = [] if self.test is None else ["--test", str(self.test)]
        return [str(self.data), *self.reading, *tested, *drawn, *candidate.options]

    def run(self, candidate, frames: int, limit: float):
        """Fit, and time what was fitted; stopped when the time is over."""
        stage = f"{candidate}, {frames} frames"
        self.progress(stage, min(0.99, (time.monotonic() - self.started) / self.budget))
        outcome = self._fitted(stage, candidate, frames, limit)
        self.progress(stage, 1.0)
        return outcome

    def _fitted(self, stage: str, candidate, frames: int, limit: float):
        from mlff.potentials.model_files import load
        from mlff.quality.comparison import Outcome, geometry_seconds

        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "model.mlff"
            command = [sys.executable, "-P", "-m", "mlff", "fit", *self.words(candidate, frames)]
            command += ["--out", str(model), "--json"]
            try:
                ended = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            except subprocess.TimeoutExpired:
                failure = f"stopped after {limit:.0f} s, which was its part of the time"
                return Outcome(candidate, frames, limit, failure=failure, late=True)
            seconds = time.monotonic() - begun
            said = _last_object(ended.stdout)
            if ended.returncode != 0 or said.get("forces_mae") is None:
                return Outcome(candidate, frames, seconds, failure=said.get("error") or _reason(ended))
            geometry = geometry_seconds(load(model), self.frames[0])
        mark = "warning: "
        said_of_it = [line.removeprefix(mark) for line in ended.stderr.splitlines() if line.startswith(mark)]
        self.warnings += [f"{stage}: {line}" for line in said_of_it]
        errors = said["energy_mae_per_atom"], said["forces_mae"]
        return Outcome(candidate, frames, seconds, *errors, said["peak_memory_mb"], geometry, tested=said["n_test"])


def _option(name: str, value: str | None) -> list[str]:
    return [name, value] if value else []


def _last_object(text: str) -> dict:
    lines = text.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}


def _reason(ended: subprocess.CompletedProcess) -> str:
    """What is to be said of a process that ended without a word on standard output."""
    if ended.returncode < 0:
        return f"killed by signal {-ended.returncode}; out of memory, where it was not you"
    if ended.returncode == 0:
        return "the frames have no forces to be tested on"
    lines = [line for line in ended.stderr.strip().splitlines() if line]
    return lines[-1] if lines else f"ended with status {ended.returncode}"


def _described(outcome, command: str) -> dict:
    """The same as JSON: eV an atom, eV/Å, seconds, MB."""
    rows = [
        {
            "model": str(each.candidate), "frames": each.frames, "energy_mae_per_atom": each.energy, "forces_mae": each.forces,
            "seconds": each.seconds, "peak_memory_mb": each.memory, "geometry_seconds": each.geometry,
            "on_front": each.failure is None and outcome.on_front(each), "failure": each.failure,
        }
        for each in outcome.outcomes
    ]  # fmt: skip
    return {
        "models": rows,
        "best": str(outcome.best.candidate),
        "frames": outcome.best.frames,
        "tested": outcome.best.tested,
        "command": command,
    }


def _say(outcome, command: str) -> None:
    from mlff.potentials.errors import short

    header, *rows = outcome.rows
    terminal.table(header, rows)
    if any(each.late for each in outcome.outcomes):
        terminal.say("not everything was fitted in this time; with a larger --budget it would be")
    best = outcome.best
    terminal.say("front: with as many frames none is better in error, training time and time of a geometry at once")
    terminal.say(
        f"best: {best.candidate} with {best.frames} frames, forces {short(1e3 * best.forces)} meV/Å on {best.tested} others:"
    )
    terminal.say_line(command)
