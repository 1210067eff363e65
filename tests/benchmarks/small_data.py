"""Few frames of a molecule: single recipes, their sum, its hyperparameters tuned, and as a correction to a distilled baseline.

    pip install "mlff[datasets]"
    python tests/benchmarks/small_data.py --data DIR [--molecules ethanol …] [--frames 25 50 100 200] [--cheap 500]
        [--ways sgdml-rbf fchl19-gpr soap-gpr sum tuned distilled direct] [--objective folds] [--arguments soap.sigma soap.cutoff]
        [--reduced 1e-6] [--memory 16GB] [--baseline gfn2] [--recipe sgdml+soap]

DIR holds `rmd17_<molecule>_train_01.npz` and `…_test_01.npz`. A JSON line for every model: test MAE of energies (meV) and forces
(meV/Å) on all test frames, the latter also over MACE's with 50 or 1000 frames (Batatia et al., arXiv 2206.07697), seconds of
distilling, tuning and fitting, microseconds a geometry with forces in a batch of 1000, peak memory of the process so far. "sum" is the
recipe distances+soap+fchl19 with equal shares, "tuned" the same by `mlff.tune`, "distilled" a tuned correction to GFN2-xTB distilled from
as many frames as --cheap says (`mlff.distilled`), "direct" one to GFN2-xTB itself, "whole" the latter with GFN2-xTB distilled as one
model from as many (by --recipe); what is tuned is tuned by --objective, with
--arguments of descriptors. With --reduced, local terms are taken in principal components that leave out such a share of the variance; with
--baseline, recipes that are not tuned are corrections too.
"""

import argparse
import json
import pathlib
import time

import numpy as np

import mlff
from mlff.quality.report import peak_memory_mb

MACE = {  # meV/Å, by molecule and frames
    "benzene": {50: 2.7, 1000: 0.3}, "ethanol": {50: 32.6, 1000: 2.1}, "malonaldehyde": {50: 43.3, 1000: 4.1},
    "toluene": {50: 12.1, 1000: 1.5}, "uracil": {50: 25.9, 1000: 2.1},
}  # fmt: skip
LABELS = ("energy", "forces")
WAYS = ("sgdml-rbf", "fchl19-gpr", "soap-gpr", "sum", "tuned", "distilled", "direct", "whole")
TUNED = ("tuned", "distilled", "direct", "whole")
SUM = "distances+soap+fchl19"


def read(folder: pathlib.Path, molecule: str, part: str) -> mlff.Dataset:
    return mlff.Dataset.read(folder / f"rmd17_{molecule}_{part}_01.npz", units="kcal/mol")


def baseline_of(train: mlff.Dataset, frames: int) -> tuple[mlff.ForceField, dict]:
    """A model of GFN2-xTB, with its own error and what it took."""
    started = time.perf_counter()
    baseline = mlff.distilled("gfn2", train, frames)
    return baseline, {
        "baseline_s": time.perf_counter() - started, "baseline_mev_a": 1e3 * baseline.record["distilled"]["forces_mae"],
    }  # fmt: skip


def model_of(way: str, train: mlff.Dataset, baseline, given: argparse.Namespace) -> tuple[mlff.ForceField, dict]:
    started = time.perf_counter()
    kernel, _ = mlff.recipe(SUM if way in ("sum", *TUNED) else way, train)
    if given.reduced and way != "sgdml-rbf":
        kernel = mlff.reduced(kernel, train, given.reduced)
    if way not in TUNED:
        force_field = mlff.fit(kernel, train, LABELS, memory=given.memory, baseline=given.baseline)
        return force_field, {"fit_s": time.perf_counter() - started}
    below = {"tuned": None, "distilled": baseline, "direct": "gfn2", "whole": "gfn2"}[way]
    tuned = mlff.tune(kernel, train, LABELS, baseline=below, objective=given.objective, arguments=given.arguments)
    found = time.perf_counter()
    force_field = mlff.fit(tuned, train, memory=given.memory)
    spent = {
        "tune_s": found - started, "fit_s": time.perf_counter() - found, "shares": np.round(tuned.summary["shares"], 4).tolist(),
    }  # fmt: skip
    if way != "whole":
        return force_field, spent
    fitted = time.perf_counter()
    force_field = mlff.distilled(force_field, train, given.cheap, recipe=given.recipe)
    said = force_field.record["distilled"]
    return force_field, {
        **spent, "distil_s": time.perf_counter() - fitted, "by": said["recipe"], "from_direct_mev_a": 1e3 * said["forces_mae"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--molecules", nargs="+", default=list(MACE), choices=list(MACE))
    parser.add_argument("--frames", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=(*WAYS, "sgdml+soap"))
    parser.add_argument("--cheap", type=int, default=500)
    parser.add_argument("--objective", default="left-out", choices=("left-out", "folds", "evidence"))
    parser.add_argument("--arguments", nargs="+", default=[])
    parser.add_argument("--reduced", type=float, help="share of the variance of local features that is left out")
    parser.add_argument("--recipe", help="of what is distilled as a whole, in place of the best")
    parser.add_argument("--memory", help="of a fit, such as 16GB")
    parser.add_argument("--baseline", help="of recipes that are not tuned, such as gfn2")
    given = parser.parse_args()
    for molecule in given.molecules:
        train, test = (read(given.data, molecule, part) for part in ("train", "test"))
        baseline, spent = baseline_of(train[:50], given.cheap) if "distilled" in given.ways else (None, {})
        for count in given.frames:
            for way in given.ways:
                force_field, seconds = model_of(way, train[:count], baseline, given)
                errors = mlff.evaluate(force_field, test)
                positions = np.array([frame.positions for frame in test])
                started = time.perf_counter()
                force_field.energy_and_forces(positions)
                each = 1e6 * (time.perf_counter() - started) / len(test)
                error, others = 1e3 * errors.forces_mae, MACE[molecule].get(count)
                print(json.dumps({
                    "molecule": molecule, "frames": count, "way": way, "energy_mev": 1e3 * errors.energy_mae,
                    "forces_mev_a": error, **({} if others is None else {"over_mace": error / others}), "batch_us": each,
                    **seconds, "peak_mb": peak_memory_mb(), **(spent if way == "distilled" else {}),
                }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
