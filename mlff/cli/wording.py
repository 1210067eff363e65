"""Messages of the library in the words of the command line: options as they are typed, in place of Python's arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from typer.core import TyperCommand

ARGUMENTS = {
    "keys": "key",
    "index": "frames",
    "arguments": "tune_argument",
}  # arguments of the library whose options have another name
VALUE = r"'[^']*'|\{[^{}]*\}|[^\s,;:(){}'\"]*[^\s,;:.(){}'\"]|"


def options(command: TyperCommand | None) -> dict[str, str]:
    """The options of a command by the arguments of the library that they set: {"units": "--units", "keys": "--key", …}."""
    by_parameter = {
        parameter.name: parameter.opts[0]
        for parameter in getattr(command, "params", ())
        if parameter.opts[0].startswith("--")
    }
    return by_parameter | {argument: by_parameter[name] for argument, name in ARGUMENTS.items() if name in by_parameter}


def as_typed(message: str, command: TyperCommand | None) -> str:
    """A message with `units='eV'` as `--units 'eV'`, `keys={'energy': …}` as `--key energy=…`, and `noise: …` as `--noise: …`."""
    option_of = options(command)
    if not option_of:
        return message
    names = "|".join(sorted(option_of, key=len, reverse=True))
    # an argument where it is assigned, also inside a call such as Matern52(lengthscale=10.0), or leads the sentence
    message = re.sub(
        rf"\b\w+\(({names})=({VALUE})\)|(?<![\w.-])({names})=({VALUE})",
        lambda match: _option(option_of[match[1] or match[3]], match[2] if match[1] else match[4]),
        message,
    )
    return re.sub(rf"^({names})(?=: | is )", lambda match: option_of[match[1]], message)


def _option(name: str, value: str) -> str:
    if value == "True":  # of an option that takes no value
        return name
    if not value.startswith("{"):
        return f"{name} {value}".rstrip()
    entries = (entry.partition(":") for entry in value.strip("{}").split(","))
    return " ".join(f"{name} {key.strip().strip(chr(39))}={given.strip()}" for key, _, given in entries)


def repeated(command: TyperCommand | None, arguments: Sequence[str]) -> str | None:
    """The first option that is given twice although it takes one value, of which the parser would drop the first."""
    single = (parameter for parameter in getattr(command, "params", ()) if not parameter.multiple)
    for option in (name for parameter in single for name in parameter.opts if name.startswith("--")):
        if sum(word == option or word.startswith(f"{option}=") for word in arguments) > 1:
            return option
    return None
