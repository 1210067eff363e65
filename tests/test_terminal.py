"""The progress bar: on a terminal, and only there."""

import json
import os
import pty
import subprocess
import sys


def test_progress_on_a_terminal_only(tmp_path, datasets):
    """Under a pseudo-terminal the bar appears on standard error; in a pipe there is none (seen above)."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlff", "fit", str(datasets / "water.extxyz"), "--frames", "0:60", "--out", "t.mlff", "--json"],
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
