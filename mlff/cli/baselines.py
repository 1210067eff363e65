"""What `mlff fit --baseline` names: a method, distilled or as it is, or a model file."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

FRAMES = 500  # of a method, that a first model is fitted to
SHARE = 1 / 3  # of the errors of forces, from which on those of the baseline are worth a remark

Baseline = Annotated[
    str | None,
    typer.Option(
        help="What a correction is fitted to: gfn2, gfn1, gfnff, emt, d3-pbe (d4-, -pbe0, -b3lyp, -r2scan), or a file.",
        metavar="NAME",
    ),
]
BaselineFrames = Annotated[
    int | None,
    typer.Option(
        help=f"Frames of that method that a first model is fitted to, {FRAMES} without it; 0: call the method itself, in dynamics too."
    ),
]
Charge = Annotated[int | None, typer.Option(help="Of the baseline's method; else what the frames state, or 0.")]
Multiplicity = Annotated[
    int | None, typer.Option(help="2S + 1, of the baseline's method; else 1, or 2 of an odd number of electrons.")
]


def chosen_baseline(
    name: str | None, frames: int | None, charge: int | None, multiplicity: int | None, data, seed: int, progress
):
    """The force field that is named; None where none is.

    Raises:
        ValueError: no such method or file, or options that say nothing about it.
    """
    about = {"--baseline-frames": frames, "--charge": charge, "--multiplicity": multiplicity}
    if name is None:
        for option, value in about.items():
            if value is not None:
                raise ValueError(f"{option} {value}: there is no --baseline that it is about; leave it out")
        return None
    from mlff.data.methods import METHODS, lowest_multiplicity
    from mlff.potentials.force_field import ForceField
    from mlff.potentials.model_files import load
    from mlff.potentials.reference import Reference
    from mlff.workflows.distillation import distilled

    if name not in METHODS:
        if not pathlib.Path(name).is_file():
            raise ValueError(f"--baseline {name}: no such method ({', '.join(METHODS)}), and no such model file")
        for option, value in about.items():
            if value is not None:
                raise ValueError(
                    f"{option} {value}: --baseline {name} is a model file, which has its own; leave it out"
                )
        return load(name)
    if frames is not None and frames < 0:
        raise ValueError(f"--baseline-frames {frames}: must be a number of frames, or 0 for the method itself")
    if charge is None and METHODS[name].charged:
        charge = round(next((frame.stated_charge for frame in data if frame.stated_charge is not None), 0))
    if multiplicity is None and METHODS[name].charged:
        multiplicity = lowest_multiplicity(data[0].numbers, charge)
    reference = Reference(name, 0 if charge is None else charge, 1 if multiplicity is None else multiplicity)
    if frames == 0:
        return ForceField.of(reference)
    return distilled(reference, data, FRAMES if frames is None else frames, seed=seed, progress=progress)


def baseline_text(baseline, evaluation) -> str:
    """What a baseline is, for people, and whether it is what limits the sum."""
    if "distilled" not in baseline.record:
        return baseline.model.label
    from mlff.quality.report import distilled_text

    text = f"distilled from {distilled_text(baseline.record)}"
    if evaluation is not None and baseline.record["distilled"]["forces_mae"] > SHARE * evaluation.forces_mae:
        return f"{text}: a good part of the errors on test frames, so more --baseline-frames would help"
    return text
