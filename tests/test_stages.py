"""Stages where there is no terminal: a line at the start and the end, and one every 30 s even while a stage is silent."""

import re
import threading
import time

from mlff.cli import stages


def test_a_line_at_the_start_and_at_the_end():
    written = []
    with stages.lines(written.append) as update:
        update("read", 0.0)
        update("read", 1.0)
        update("solve", 0.0)
        update("solve", 0.5)
        update("read", 1.0)  # long over
        update("test", 0.0)  # which ends the stage before
    assert [re.sub(r"[\d.]+ s", "0 s", line) for line in written] == [
        "read …", "read: 0 s", "solve …", "solve: 0 s", "test …", "test: 0 s",
    ]  # fmt: skip


def test_silent_stages_are_heard_of(monkeypatch):
    """The stage computes without a word; the thread that speaks for it ends with the work."""
    monkeypatch.setattr(stages, "EVERY", 0.02)
    written, before = [], threading.active_count()
    with stages.lines(written.append) as update:
        update("solve", 0.25)
        time.sleep(0.2)
        update("solve", 1.0)
        time.sleep(0.2)
    assert threading.active_count() == before
    assert written.count("solve: 0 s, 25 %") > 2
    assert written.count("… 0 s") > 2  # between stages
    assert written[0] == "solve …"
    count = len(written)
    time.sleep(0.1)
    assert len(written) == count


def test_an_error_ends_the_thread_and_no_stage(monkeypatch):
    monkeypatch.setattr(stages, "EVERY", 0.02)
    written, before = [], threading.active_count()
    try:
        with stages.lines(written.append) as update:
            update("solve", 0.0)
            raise ValueError("no")
    except ValueError:
        pass
    assert threading.active_count() == before
    assert written == ["solve …"]
