"""What goes to a terminal: the bar, and JSON that JSON's readers read."""

import json
import os
import pty
import subprocess
import sys

from mlff.cli.terminal import print_json, say_line


def test_json_has_no_nan(capsys):
    print_json({"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": float("-inf"), "e": "é"}})
    assert capsys.readouterr().out == '{"a": null, "b": [1.5, null], "c": {"d": null, "e": "é"}}\n'


def test_progress_on_a_terminal_only(tmp_path, datasets):
    """Under a pseudo-terminal the bar appears on standard error; in a pipe there are lines (tests of the command line)."""
    leader, follower = pty.openpty()
    words = [
        "fit",
        str(datasets / "water.extxyz"),
        "--recipe",
        "sgdml",
        "--frames",
        "0:60",
        "--out",
        "t.mlff",
        "--json",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlff", *words],
        cwd=tmp_path, stderr=follower, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    assert process.wait() == 0
    assert "length scale" in seen.decode()
    assert json.loads(process.stdout.read())["n_train"] == 60
    process.stdout.close()
    os.close(leader)


def test_what_others_wrote_is_one_line(capsys):
    say_line("data of a\npermutations: order 1\x1b[2K\r\u2028b, Å² ∂")
    assert capsys.readouterr().out == "data of a permutations: order 1 [2K  b, Å² ∂\n"
