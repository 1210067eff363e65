"""Talking to a terminal: text and JSON out, stages while it works, and a user's error as one line with exit status 2."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Sequence

import typer

from mlff.cli import stages, wording


def say(text: str) -> None:
    """Write one line on standard output."""
    typer.echo(text)


def say_line(text: str) -> None:
    """Write what others wrote, on one line: characters that are not printed, line breaks too, become spaces."""
    say("".join(character if character.isprintable() else " " for character in text))


def print_json(content: dict) -> None:
    """Write one JSON object on one line of standard output; numbers that are not finite are null, which JSON knows."""
    typer.echo(json.dumps(_finite(content), ensure_ascii=False, allow_nan=False))


def _finite(content):
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows under a header on standard output, as wide as the terminal; the last column is wrapped."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(*header, box=None, padding=(0, 2, 0, 0), show_edge=False)
    for row in rows:
        shown.add_row(*row)
    width = None if sys.stdout.isatty() else 140
    Console(width=width, highlight=False, markup=False).print(shown)


def progress():
    """Show stages on standard error: a bar on a terminal, else lines."""
    return stages.bar() if sys.stderr.isatty() else stages.lines(lambda text: typer.echo(text, err=True))


def run(app: typer.Typer) -> None:
    """Run a command line: a user's error is one line on standard error and exit status 2, with --json an object too."""
    arguments = sys.argv[1:]
    root = typer.main.get_command(app)
    command = root.commands.get(arguments[0]) if arguments else None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(command))
    logging.getLogger("mlff").addHandler(handler)
    try:
        if option := wording.repeated(command, arguments):
            raise ValueError(f"{option}: is given more than once; give it once")
        status = root.main(args=arguments, standalone_mode=False)
    except Exception as error:
        _end(error, command, "--json" in arguments)
    finally:
        logging.getLogger("mlff").removeHandler(handler)
    sys.exit(status if isinstance(status, int) else 0)


class _Formatter(logging.Formatter):
    """Warnings in the words of a command."""

    def __init__(self, command):
        super().__init__("%(message)s")
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        return f"warning: {_one_line(wording.as_typed(super().format(record), self._command))}"


def _end(error: Exception, command, as_json: bool) -> None:
    """End the process as an error asks for; what is no user's error is raised on."""
    usage = getattr(error, "format_message", None)  # of the option parser's own errors
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(usage())
        sys.exit(2)
    text = _no_device()
    if text is None and usage is not None:
        text = f"{_one_line(usage())}; mlff --help tells more"
    elif text is None and isinstance(error, (ValueError, OSError)):
        text = _one_line(wording.as_typed(_said(error), command))
    if text is None:
        raise error
    if as_json:
        print_json({"error": text})
    typer.echo(f"error: {text}", err=True)
    sys.exit(2)


def _said(error: Exception) -> str:
    """What an error says, of a file that could not be read or written first its name."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return str(error)


def _no_device() -> str | None:
    """A sentence where JAX was told to compute on something that is not there, which it says in many ways."""
    wanted = os.environ.get("JAX_PLATFORMS")
    if not wanted or "jax" not in sys.modules:
        return None
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = f" ({_one_line(error).split(' (set JAX_PLATFORMS')[0]})" if str(error) else ""
        return f"JAX_PLATFORMS={wanted}: JAX finds no such device{reason}; unset JAX_PLATFORMS, or set it to cpu"
    return None


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())
