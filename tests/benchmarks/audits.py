"""The audit of every shipped descriptor on every shipped data set and on periodic silicon.

    python tests/benchmarks/audits.py [--descriptors fchl19 soap …] [--datasets ethanol silicon …]

Prints a table of verdicts with seconds, and what failed; exit status 1 when something did.
"""

import argparse
import functools
import pathlib
import sys
import time

import ase.build
import numpy as np

import mlff
from descriptors import (
    acsf,
    coulomb_matrix,
    coulomb_spectrum,
    exponential_distances,
    fchl19,
    inverse_distances,
    logarithmic_distances,
    mbdf,
    periodic_distances,
    powered_distances,
    schnet_features,
    soap,
    sorted_coulomb_matrix,
)  # fmt: skip
from descriptors.schnet import schnet_parameters

MOLECULAR = {
    "inverse_distances": inverse_distances, "logarithmic_distances": logarithmic_distances,
    "powered_distances": functools.partial(powered_distances, power=-0.5),
    "exponential_distances": exponential_distances, "coulomb_matrix": coulomb_matrix,
    "coulomb_spectrum": coulomb_spectrum, "sorted_coulomb_matrix": sorted_coulomb_matrix,
}  # fmt: skip
PERIODIC = {
    "periodic_distances": functools.partial(periodic_distances, cutoff=6.0), "acsf": acsf, "fchl19": fchl19, "soap": soap, "mbdf": mbdf,
    "schnet_features": functools.partial(schnet_features, parameters=schnet_parameters(0)),
}  # fmt: skip
CRYSTAL_CUTOFF = 4.0  # Å, in the crystal: two shells, and cells far smaller than twice of it
DATASETS = pathlib.Path(__file__).parent.parent.parent / "datasets"


def silicon() -> mlff.Dataset:
    """Cubic cells of eight atoms, far smaller than the cutoffs, rattled by 0.1 Å."""
    frames = []
    for seed in range(4):
        atoms = ase.build.bulk("Si", cubic=True)
        atoms.positions += 0.1 * np.random.default_rng(seed).standard_normal((8, 3))
        frames.append(mlff.Frame(mlff.System.from_ase(atoms), {}))
    return mlff.Dataset(frames, "silicon")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--descriptors", nargs="*", default=[*MOLECULAR, *PERIODIC])
    parser.add_argument(
        "--datasets", nargs="*", default=[path.stem for path in sorted(DATASETS.glob("*.extxyz"))] + ["silicon"]
    )
    options = parser.parse_args()
    failed = False
    for source in options.datasets:
        data = silicon() if source == "silicon" else mlff.Dataset.read(DATASETS / f"{source}.extxyz")
        for name in options.descriptors:
            if source == "silicon" and name in MOLECULAR:
                continue  # takes no cell
            started = time.perf_counter()
            descriptor = {**MOLECULAR, **PERIODIC}[name]
            if source == "silicon":
                descriptor = functools.partial(descriptor, cutoff=CRYSTAL_CUTOFF)
            audit = mlff.audit(descriptor, data, count=2)
            failed |= not audit.passed
            print(
                f"{source} | {name} | {'passed' if audit.passed else 'FAILED'} | {time.perf_counter() - started:.1f} s",
                flush=True,
            )
            for finding in audit.findings:
                if not finding.passed:
                    print("   ", " | ".join(finding.row()))
    sys.exit(failed)


if __name__ == "__main__":
    main()
