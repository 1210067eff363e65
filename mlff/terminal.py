"""Talking to a terminal: text and JSON out, a progress bar, and a user's error as one line with exit status 2."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Sequence

import typer


def say(text: str) -> None:
    """One line on standard output."""
    typer.echo(text)


def print_json(content: dict) -> None:
    """One JSON object on one line of standard output."""
    typer.echo(json.dumps(content, ensure_ascii=False))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under a header on standard output, as wide as the terminal; the last column is wrapped."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(*header, box=None, padding=(0, 2, 0, 0), show_edge=False)
    for row in rows:
        shown.add_row(*row)
    width = None if sys.stdout.isatty() else 140
    Console(width=width, highlight=False, markup=False).print(shown)


@contextlib.contextmanager
def progress():
    """A bar on standard error with one line a stage; nothing when that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, int] = {}

        def update(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=fraction)

        yield update


def run(app: typer.Typer) -> None:
    """Run a command line: a user's error is one line on standard error and exit status 2."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logging.getLogger("mlff").addHandler(handler)
    command = typer.main.get_command(app)
    try:
        status = command.main(standalone_mode=False)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {_one_line(error)}", err=True)
        sys.exit(2)
    except Exception as error:
        message = getattr(error, "format_message", None)  # usage errors of the option parser
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message())
            sys.exit(2)
        typer.echo(f"error: {_one_line(message())}; mlff --help tells more", err=True)
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())
