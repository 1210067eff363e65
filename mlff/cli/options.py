"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

import ast
import pathlib
import sys
from enum import StrEnum
from typing import Annotated

import typer


class Method(StrEnum):
    """How a linear system is solved."""

    exact = "exact"
    iterative = "iterative"


class Selection(StrEnum):
    """How environments that span a sparse model are chosen."""

    farthest = "farthest"
    cur = "cur"


class Objective(StrEnum):
    """What tuning minimises."""

    left_out = "left-out"
    folds = "folds"
    evidence = "evidence"


class Radial(StrEnum):
    """Radial functions by the names of the command line."""

    matern32 = "matern32"
    matern52 = "matern52"
    matern72 = "matern72"
    rbf = "rbf"
    rational_quadratic = "rational-quadratic"
    polynomial = "polynomial"


class Recipe(StrEnum):
    """The published models; `mlff.regression.recipes` builds them."""

    gdml = "gdml"
    sgdml = "sgdml"
    sgdml_rbf = "sgdml-rbf"
    fchl19_gpr = "fchl19-gpr"
    global_fchl19 = "global-fchl19"
    sfchl19 = "sfchl19"
    schnet_kernel = "schnet-kernel"
    soap_gpr = "soap-gpr"
    sgdml_soap = "sgdml+soap"
    distances_soap_fchl19 = "distances+soap+fchl19"
    soap_gap = "soap-gap"


class Reach(StrEnum):
    """Which permutations of identical atoms count."""

    dynamics = "dynamics"
    graph = "graph"
    none = "none"


Units = Annotated[
    str | None, typer.Option(help="What the file holds: kcal/mol, hartree/bohr, eV … (energy, or energy/length).")
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Key = Annotated[list[str] | None, typer.Option(help="A label under another name, label=key; repeat for several.")]
Labels = Annotated[
    str | None, typer.Option(help="Names with commas, energy,forces,stress,hessian; frames may lack some of them.")
]
Data = Annotated[pathlib.Path, typer.Argument(help="Reference frames: anything ASE reads, or npz.")]
Model = Annotated[pathlib.Path, typer.Argument(help="A model file that mlff fit wrote.")]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        help="Your module or package with the model's descriptor, which is imported and so run; repeat for several."
    ),
]


def parse_labels(text: str | None) -> tuple[str, ...] | None:
    """--labels forces, --labels energy,forces,hessian; "both" is energy,forces."""
    if text is None:
        return None
    names = tuple(name.strip() for name in ("energy,forces" if text == "both" else text).split(","))
    if not all(names):
        raise ValueError(f"--labels {text}: write names with commas between them, for example energy,forces,hessian")
    return names


def _pairs(option: str, pairs: list[str] | None, form: str, example: str, what: str = "") -> dict[str, str]:
    """name=text, repeated, as texts by their names.

    Arguments:
        form: what a pair looks like, "label=key".
        what: that is given by a pair, before its name in a message.
    """
    texts: dict[str, str] = {}
    for pair in pairs or ():
        name, separator, text = pair.partition("=")
        if not separator or not name or not text:
            raise ValueError(f"{option} {pair}: write {form}, for example {option} {example}")
        if name in texts:
            raise ValueError(f"{option} {pair}: {what}{name} is given already, {texts[name]}; give one")
        texts[name] = text
    return texts


def parse_keys(pairs: list[str] | None) -> dict[str, str]:
    """--key energy=energy_ref, repeated."""
    return _pairs("--key", pairs, "label=key", "energy=energy_ref", "the key of ")


def parse_noise(given: list[str] | None) -> float | dict[str, float] | None:
    """--noise 0.001, or --noise forces=0.001 --noise energy=0.01."""
    if not given:
        return None
    levels = {}
    try:
        if len(given) == 1 and "=" not in given[0]:
            return float(given[0])
        pairs = [(label, float(value)) for label, _, value in (pair.partition("=") for pair in given)]
    except ValueError as error:
        raise ValueError(f"--noise {' '.join(given)}: write 0.001, or forces=0.001 and energy=0.001") from error
    for label, value in pairs:
        if label in levels:
            raise ValueError(
                f"--noise {label}={value:g}: the noise of {label} is given already, {levels[label]:g}; give one"
            )
        levels[label] = value
    return levels


def parse_factors(pairs: list[str] | None) -> dict[str, float] | None:
    """--group-noise Surface=2.0, --group-noise Surface:energy=0.002, repeated."""
    form, example = "group=factor or group:label=noise", "Surface=2.0"
    texts = _pairs("--group-noise", pairs, form, example)
    try:
        return {group: float(text) for group, text in texts.items()} or None
    except ValueError as error:
        raise ValueError(
            f"--group-noise {' '.join(pairs or ())}: write {form}, for example --group-noise {example}"
        ) from error


def parse_settings(pairs: list[str] | None) -> dict[str, object]:
    """--set cutoff=5.0 --set n_max=8: what is no number, truth value or tuple of them is a word."""
    return {name: _value(text) for name, text in _pairs("--set", pairs, "name=value", "cutoff=5.0").items()}


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def parse_trust(names: list[str] | None) -> tuple[str, ...]:
    """--trust mypackage, repeated: modules that the user typed, which may lie in the current folder."""
    if names:
        search_here()
    return tuple(names or ())


def search_here() -> None:
    """Look for a module that the user typed in the current folder too, after all other places.

    Not before them: what lies there must not take the place of what is installed.
    """
    if "" not in sys.path:
        sys.path.append("")
