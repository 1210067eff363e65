"""Output files: whole or not at all, kept for one process, never an input."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import mlff
from mlff.files import made_folder, reserved, write_whole
from mlff.potentials.model_files import MARK
from mlff.quality.reliability import ErrorBars, Reliability
from mlff.quality.report import FILES, write_report


def test_killed_while_writing_leaves_the_old_file(tmp_path):
    """kill −9 between writing and renaming: the name still refers to the old content."""
    (tmp_path / "m.mlff").write_bytes(b"old")
    script = (
        "import os, signal, mlff.files as a\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "a.write_whole('m.mlff', b'new' * 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "m.mlff").read_bytes() == b"old"


def test_failed_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(tmp_path / "m.mlff", b"new")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_of_the_file_itself(tmp_path, monkeypatch):
    """Not of its temporary neighbour."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_whole(tmp_path / "m.mlff", b"new")
    assert raised.value.filename == str(tmp_path / "m.mlff")
    assert not list(tmp_path.iterdir())


def test_an_output_never_replaces_an_input(tmp_path):
    """By whatever name it goes: another spelling, a link."""
    data = tmp_path / "d.extxyz"
    data.write_text("frames")
    (tmp_path / "link").symlink_to(data)
    for same in (data, tmp_path / ".." / tmp_path.name / "d.extxyz", tmp_path / "link"):
        with (
            pytest.raises(ValueError, match=r"--out .*would replace a file that is in use"),
            reserved({"--out": same}, [data]),
        ):
            pass
    assert data.read_text() == "frames"


def test_two_outputs_are_two_files(tmp_path):
    outputs = {"--out": tmp_path / "a", "--plot": tmp_path / "a"}
    with pytest.raises(ValueError, match=r"--plot .*\(--out writes it\)"), reserved(outputs):
        pass
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_shows_before_the_work(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "folder", "is a folder"),
        (tmp_path / "none" / "m.mlff", "there is no folder"),
        (pathlib.Path("/proc/m.mlff"), "cannot be written"),
    ):
        with pytest.raises(ValueError, match=message), reserved({"--out": path, "--plot": None}):
            pass


def test_several_outputs_of_one_option(tmp_path):
    pages = [tmp_path / "a", tmp_path / "b"]
    with (
        pytest.raises(ValueError, match=r"--report .*b: would replace a file that is in use \(--out writes it\)"),
        reserved({"--out": tmp_path / "b", "--report": pages}),
    ):
        pass
    with reserved({"--report": pages}):
        assert {path.name for path in tmp_path.iterdir()} == {".a.lock", ".b.lock"}


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with made_folder("--report", tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with made_folder("--report", tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "page").write_text("")
    assert (tmp_path / "a" / "b" / "page").exists()
    with (
        pytest.raises(ValueError, match=r"--report .*page: this folder cannot be made"),
        made_folder("--report", tmp_path / "a" / "b" / "page"),
    ):
        pass
    with made_folder("--report", None):
        pass


def test_another_process_is_refused_until_the_first_ends_however_it_does(tmp_path):
    script = (
        "import pathlib, sys, time\n"
        "from mlff.files import reserved\n"
        "with reserved({'--out': pathlib.Path('run.traj')}):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with (
        pytest.raises(ValueError, match=r"--out .*another process is writing it"),
        reserved({"--out": tmp_path / "run.traj"}),
    ):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    with reserved({"--out": tmp_path / "run.traj"}):
        assert [path.name for path in tmp_path.iterdir()] == [".run.traj.lock"]
    assert not list(tmp_path.iterdir())


def test_a_file_that_an_earlier_run_did_not_write_is_not_replaced(tmp_path, water_model):
    water_model.save(tmp_path / "m.mlff")
    (tmp_path / "empty").touch()
    (tmp_path / "report.md").write_text("# My notes\n")
    (tmp_path / "other.safetensors").write_bytes(b'\x40\0\0\0\0\0\0\0{"__metadata__":{"format":"pt"}}')
    marks = {"--out": MARK, **FILES}
    for path in (tmp_path / "m.mlff", tmp_path / "empty", tmp_path / "new"):
        with reserved({"--out": path}, (), marks):
            pass
    for option, name in (("--out", "other.safetensors"), ("--report", "report.md"), ("--out", "report.md")):
        with (
            pytest.raises(
                ValueError, match=rf"{option} .*{name}: is there and was not written by mlff; .* another file"
            ),
            reserved({option: [tmp_path / name]}, (), marks),
        ):
            pass
    assert (tmp_path / "report.md").read_text() == "# My notes\n"
    assert len(list(tmp_path.iterdir())) == 4  # no lock, no part


def test_devices_and_pipes_are_no_outputs(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (pathlib.Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(ValueError, match=r"--out .*would become a file"), reserved({"--out": path}):
            pass
        with pytest.raises(ValueError, match=r"is no regular file"):
            write_whole(path, b"")
    assert (tmp_path / "pipe").is_fifo()


def test_reports_and_pictures_are_known_again(tmp_path, water_model, water):
    bars = Reliability({"forces": ErrorBars([np.arange(1.0, 10.0)], [np.arange(2.0, 11.0)])})
    written = write_report(tmp_path, water_model, mlff.evaluate(water_model, water[60:64]), [], bars)
    assert {path.name for path in written} == set(FILES)
    with reserved({"--report": written}, (), FILES):
        pass
