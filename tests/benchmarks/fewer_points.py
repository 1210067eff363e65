"""Exact local models of molecules, with features in principal components, on fewer points, and sparse: error against cost.

    python tests/benchmarks/fewer_points.py --data DIR [--molecules ethanol malonaldehyde] [--descriptors fchl19 soap]
        [--points 500 1000 2000] [--inducing 1000 4000] [--dropped 1e-6]

DIR holds `rmd17_<molecule>_train_01.npz` and `…_test_01.npz`: 1000 frames each. A JSON line for every model: test MAE of energies
(meV) and forces (meV/Å), seconds of the fit (of compressed models, of what came after the exact fit), microseconds a geometry
with forces, one by one and of a batch of 1000, and the peak memory of the process so far (MB).
"""

import argparse
import json
import pathlib
import time

import numpy as np

import descriptors
import mlff
from mlff.quality.report import peak_memory_mb

LABELS = ("energy", "forces")
SCALES = {"fchl19": 2.0, "soap": None}  # length scales; None: searched


def read(folder: pathlib.Path, molecule: str, part: str) -> mlff.Dataset:
    return mlff.Dataset.read(folder / f"rmd17_{molecule}_{part}_01.npz", units="kcal/mol")


def microseconds(force_field: mlff.ForceField, test: mlff.Dataset) -> dict:
    """Medians, of 200 geometries one by one and of three batches of all."""
    positions = np.array([frame.positions for frame in test])
    force_field.energy_and_forces(positions[0])
    force_field.energy_and_forces(positions)
    single, batch = [], []
    for x in positions[:200]:
        started = time.perf_counter()
        force_field.energy_and_forces(x)
        single.append(time.perf_counter() - started)
    for _ in range(3):
        started = time.perf_counter()
        force_field.energy_and_forces(positions)
        batch.append((time.perf_counter() - started) / len(positions))
    return {"one_us": 1e6 * float(np.median(single)), "batch_us": 1e6 * float(np.median(batch))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--molecules", nargs="+", default=["ethanol", "malonaldehyde"])
    parser.add_argument("--descriptors", nargs="+", default=list(SCALES), choices=list(SCALES))
    parser.add_argument("--points", nargs="*", type=int, default=[500, 1000, 2000])
    parser.add_argument("--inducing", nargs="*", type=int, default=[])
    parser.add_argument("--dropped", type=float, default=1e-6)
    arguments = parser.parse_args()
    for molecule in arguments.molecules:
        train, test = (read(arguments.data, molecule, part) for part in ("train", "test"))
        for name in arguments.descriptors:

            def tell(model: str, started: float, force_field: mlff.ForceField, molecule=molecule, name=name, test=test):
                seconds, found = time.perf_counter() - started, mlff.evaluate(force_field, test)
                errors = {"energy_mev": 1e3 * found.energy_mae, "forces_mev_a": 1e3 * found.forces_mae}
                line = {"molecule": molecule, "descriptor": name, "model": model, "seconds": seconds, **errors}
                print(json.dumps({**line, **microseconds(force_field, test), "peak_mb": peak_memory_mb()}), flush=True)

            radial = mlff.RBF(lengthscale=SCALES[name])
            started = time.perf_counter()
            kernel = mlff.reduced(mlff.LocalKernel(getattr(descriptors, name), radial), train, arguments.dropped)
            exact = mlff.fit(kernel, train, LABELS)
            tell(f"exact, {kernel.components.bases.shape[2]} components", started, exact)
            for points in arguments.points:
                started = time.perf_counter()
                tell(f"compressed to {points}", started, mlff.compressed(exact, train, points))
            for inducing in arguments.inducing:
                started = time.perf_counter()
                tell(
                    f"sparse, {inducing} values",
                    started,
                    mlff.fit(exact.kernel.replace(amplitude=None), train, LABELS, inducing=inducing),
                )


if __name__ == "__main__":
    main()
