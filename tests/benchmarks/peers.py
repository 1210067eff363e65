"""What the benchmarks share: run this library or a peer in a process of its own, and read its JSON."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys


def run_json(command: list) -> dict:
    """Last line of a command's standard output, as JSON."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def median(rows: list[dict], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def peer_arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=pathlib.Path, required=True, help="the script that trains and times sgdml")
    parser.add_argument("--peer-python", type=pathlib.Path, required=True, help="a Python with sgdml installed")
    return parser
