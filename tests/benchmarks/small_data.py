"""Few frames of a molecule: single recipes, their sum, its hyperparameters tuned, and as a correction to a distilled baseline.

    pip install "mlff[datasets]"
    python tests/benchmarks/small_data.py --data DIR [--molecules ethanol …] [--frames 25 50 100 200] [--cheap 500]
        [--ways sgdml-rbf fchl19-gpr soap-gpr sum tuned distilled direct] [--objective folds] [--arguments soap.sigma soap.cutoff]

DIR holds `rmd17_<molecule>_train_01.npz` and `…_test_01.npz`. A JSON line for every model: test MAE of energies (meV) and forces
(meV/Å) on all test frames, the latter also over MACE's with 50 frames (Batatia et al., arXiv 2206.07697), seconds of labelling, tuning
and fitting, microseconds a geometry with forces in a batch of 1000. "sum" is the recipe sgdml+soap+fchl19 with equal shares, "tuned" the
same by `mlff.tune`, "distilled" a tuned correction to FCHL19 fitted to frames of dynamics with GFN2-xTB (`mlff.sampled`), "direct" one to
GFN2-xTB itself; what is tuned is tuned by --objective, with --arguments of descriptors.
"""

import argparse
import json
import pathlib
import time

import numpy as np

import mlff

MACE = {"benzene": 2.7, "ethanol": 32.6, "malonaldehyde": 43.3, "toluene": 12.1, "uracil": 25.9}  # meV/Å, 50 frames
LABELS = ("energy", "forces")
WAYS = ("sgdml-rbf", "fchl19-gpr", "soap-gpr", "sum", "tuned", "distilled", "direct")
SUM = "sgdml+soap+fchl19"


def read(folder: pathlib.Path, molecule: str, part: str) -> mlff.Dataset:
    return mlff.Dataset.read(folder / f"rmd17_{molecule}_{part}_01.npz", units="kcal/mol")


def baseline_of(train: mlff.Dataset, frames: int) -> tuple[mlff.ForceField, dict]:
    """FCHL19 fitted to GFN2-xTB, with its own error and what it took."""
    from tblite.ase import TBLite

    started = time.perf_counter()
    cheap = mlff.sampled(TBLite(method="GFN2-xTB", verbosity=0), train, frames + 100)
    labelled = time.perf_counter()
    fitted, left = cheap.split(frames, 100, seed=0)
    kernel, labels = mlff.recipe("fchl19-gpr", fitted)
    baseline = mlff.fit(kernel, fitted, labels)
    return baseline, {
        "label_s": labelled - started,
        "baseline_fit_s": time.perf_counter() - labelled,
        "baseline_mev_a": 1e3 * mlff.evaluate(baseline, left).forces_mae,
    }


def model_of(way: str, train: mlff.Dataset, baseline, objective: str, arguments) -> tuple[mlff.ForceField, dict]:
    started = time.perf_counter()
    if way not in ("tuned", "distilled", "direct"):
        kernel, _ = mlff.recipe(SUM if way == "sum" else way, train)
        return mlff.fit(kernel, train, LABELS), {"fit_s": time.perf_counter() - started}
    kernel, _ = mlff.recipe(SUM, train)
    below = {"tuned": None, "distilled": baseline, "direct": "gfn2"}[way]
    tuned = mlff.tune(kernel, train, LABELS, baseline=below, objective=objective, arguments=arguments)
    found = time.perf_counter()
    force_field = mlff.fit(tuned, train)
    return force_field, {
        "tune_s": found - started, "fit_s": time.perf_counter() - found, "shares": np.round(tuned.summary["shares"], 4).tolist(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--molecules", nargs="+", default=list(MACE), choices=list(MACE))
    parser.add_argument("--frames", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--cheap", type=int, default=500)
    parser.add_argument("--objective", default="left-out", choices=("left-out", "folds", "evidence"))
    parser.add_argument("--arguments", nargs="+", default=[])
    given = parser.parse_args()
    for molecule in given.molecules:
        train, test = (read(given.data, molecule, part) for part in ("train", "test"))
        baseline, spent = baseline_of(train[:50], given.cheap) if "distilled" in given.ways else (None, {})
        for count in given.frames:
            for way in given.ways:
                force_field, seconds = model_of(way, train[:count], baseline, given.objective, given.arguments)
                errors = mlff.evaluate(force_field, test)
                positions = np.array([frame.positions for frame in test])
                started = time.perf_counter()
                force_field.energy_and_forces(positions)
                print(json.dumps({
                    "molecule": molecule, "frames": count, "way": way, "energy_mev": 1e3 * errors.energy_mae,
                    "forces_mev_a": 1e3 * errors.forces_mae, "over_mace": 1e3 * errors.forces_mae / MACE[molecule],
                    "batch_us": 1e6 * (time.perf_counter() - started) / len(test), **seconds,
                    **(spent if way == "distilled" else {}),
                }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
