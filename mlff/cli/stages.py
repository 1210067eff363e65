"""Stages of a command while it works: a bar on a terminal, elsewhere a line when one starts and ends, and every 30 s."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

EVERY = 30.0  # s between lines while a stage goes on

Update = Callable[[str, float], None]


class Lines:
    """Stages as lines of text: `length scale …`, `length scale: 30 s, 35 %`, `length scale: 71.4 s`.

    A stage is over when its share reaches 1, or when another one starts.
    """

    def __init__(self, write: Callable[[str], None]):
        self._write, self._lock = write, threading.Lock()
        self._stage, self._share, self._since = "", 1.0, time.monotonic()

    def update(self, stage: str, fraction: float) -> None:
        """Take what a stage reports: its name, and the share of it that is done."""
        with self._lock:
            running = stage == self._stage and self._share < 1.0
            if fraction >= 1.0:
                return self._end() if running else None
            if not running:
                self._end()
                self._stage, self._since = stage, time.monotonic()
                self._write(f"{stage} …")
            self._share = fraction

    def watch(self, stop: threading.Event) -> None:
        """Write a line every 30 s until the event is set, whether or not the stage says anything."""
        while not stop.wait(EVERY):
            with self._lock:
                seconds = time.monotonic() - self._since
                running = self._share < 1.0
                self._write(
                    f"{self._stage}: {seconds:.0f} s, {100 * self._share:.0f} %" if running else f"… {seconds:.0f} s"
                )

    def end(self) -> None:
        """End the last stage."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._share < 1.0:
            self._write(f"{self._stage}: {time.monotonic() - self._since:.1f} s")
            self._share, self._since = 1.0, time.monotonic()


@contextlib.contextmanager
def lines(write: Callable[[str], None]) -> Iterator[Update]:
    """Stages as lines, which another thread writes where the stage itself is silent."""
    shown, stop = Lines(write), threading.Event()
    watcher = threading.Thread(target=shown.watch, args=(stop,), daemon=True)
    watcher.start()
    try:
        yield shown.update
        shown.end()
    finally:
        stop.set()
        watcher.join()


@contextlib.contextmanager
def bar() -> Iterator[Update]:
    """Stages as bars on standard error, which vanish at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, int] = {}

        def update(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=1.0)
            shown.update(tasks[stage], completed=fraction)

        yield update
