"""Seconds from a fresh process to help, and to the first forces of a loaded model.

python tests/benchmarks/cold_start.py MODEL.mlff
"""

import statistics
import subprocess
import sys
import time

FIRST_FORCES = """
import sys
import mlff
force_field = mlff.load(sys.argv[1])
force_field.forces(force_field.record["geometry"])
"""


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    cases = {
        "mlff --help": [sys.executable, "-m", "mlff", "--help"],
        "first forces": [sys.executable, "-c", FIRST_FORCES, sys.argv[1]],
    }
    for name, command in cases.items():
        times = [seconds(command) for _ in range(5)]
        print(f"{name}: first {times[0]:.2f} s, median {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
