"""Fits against frames and atoms: seconds, peak memory and the share of the machine's matrix products, by every method.

    python tests/benchmarks/scaling.py [--data DIR] [--frames 100 200 500 1000] [--molecules ethanol 1-hexanol]
        [--methods exact iterative sparse] [--inducing 2000] [--memory 16GB] [--picture scaling.png]

Frames are those of `datasets/ethanol.extxyz` and, of other molecules, GFN2-xTB dynamics at 500 K, made once and kept in the
temporary folder; with DIR also the molecules of rMD17. Every fit runs in a process of its own, so that its peak memory is its own.
A JSON line for each: what was planned and what happened, errors on frames left out, n³/3 over the speed of matrix products for the
exact fit's share, and geometries a second with forces; at the end the exponents of seconds and memory against the number of rows.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
TEST = 200  # frames
PREDICTED = 1000  # geometries, whose forces are timed
LENGTHSCALE = 1.2  # of the data's own scale: the search is another matter


def frames_of(molecule: str, data: pathlib.Path | None):
    """All frames of a molecule."""
    import mlff

    if molecule == "ethanol" and data is None:
        return mlff.Dataset.read(HERE.parents[1] / "datasets" / "ethanol.extxyz")
    if data is not None and (data / f"rmd17_{molecule}_train_01.npz").exists():
        return mlff.Dataset.read(data / f"rmd17_{molecule}_train_01.npz", units="kcal/mol")
    path = pathlib.Path(tempfile.gettempdir()) / f"mlff_scaling_{molecule}.extxyz"
    if not path.exists():
        _dynamics(molecule, path)
    return mlff.Dataset.read(path)


def _dynamics(molecule: str, path: pathlib.Path, count: int = 1300, apart: int = 16) -> None:
    """Frames of Langevin dynamics with GFN2-xTB."""
    import ase.io
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import thermalize_momenta
    from ase.optimize import BFGS
    from contraction import molecules
    from tblite.ase import TBLite

    atoms = molecules()[molecule][0]
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=0.02)
    rng = np.random.default_rng(0)
    thermalize_momenta(atoms, temperature_K=1000, rng=rng)
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=500, friction=0.02 / units.fs, rng=rng)
    dynamics.run(400)
    kept = []
    for _ in range(count):
        dynamics.run(apart)
        frame = atoms.copy()
        frame.info["REF_energy"], frame.arrays["REF_forces"] = atoms.get_potential_energy(), atoms.get_forces()
        kept.append(frame)
    ase.io.write(path, kept)


def one(molecule: str, frames: int, method: str, arguments) -> dict:
    """One fit, in this process."""
    import mlff
    from mlff.quality.report import peak_memory_mb
    from mlff.regression.planning.pilot import gemm_speed
    from mlff.regression.validation import START, data_scale

    data = frames_of(molecule, arguments.data)
    train, test = data.split(frames, min(TEST, len(data) - frames), seed=0)
    kernel, labels = mlff.recipe("sgdml-rbf", train)
    scale = LENGTHSCALE * START * data_scale(kernel.leaves[0], mlff.data.batches.LabelledFrames.of(train))
    kernel = kernel.replace(radial=kernel.radial.replace(lengthscale=scale))
    stated = {"inducing": arguments.inducing} if method == "sparse" else {"method": method}
    planned = mlff.plan(kernel, train, labels, memory=arguments.memory, **stated)
    speed, stages = gemm_speed(), {}

    def progress(stage: str, fraction: float) -> None:
        begun = stages.setdefault(stage, [time.perf_counter(), 0.0])
        begun[1] = time.perf_counter() - begun[0]

    started = time.perf_counter()
    force_field = mlff.fit(kernel, train, labels, memory=arguments.memory, progress=progress, **stated)
    seconds, peak = time.perf_counter() - started, peak_memory_mb()
    found = mlff.evaluate(force_field, test)
    positions = np.stack([frame.positions for frame in data][:PREDICTED])
    force_field.energy_and_forces(positions)
    started = time.perf_counter()
    force_field.energy_and_forces(positions)
    rows = force_field.record["rows"]
    return {
        "molecule": molecule, "atoms": len(train[0].numbers), "frames": frames, "rows": rows, "method": method,
        "seconds": seconds, "peak_mb": peak, "stages": {name: taken for name, (_, taken) in stages.items()},
        "planned_seconds": planned.seconds, "planned_mb": planned.memory / 1e6, "rank": planned.rank,
        "gemm_gflops": speed / 1e9, "of_cubic": seconds / (rows**3 / 3 / speed) if method == "exact" else None,
        "iterations": force_field.record.get("iterations"), "forces_mev_a": 1e3 * found.forces_mae,
        "geometries_a_second": len(positions) / (time.perf_counter() - started),
    }  # fmt: skip


def exponents(found: list[dict]) -> list[dict]:
    """Of seconds and memory against rows, by molecule and method."""
    results = []
    for molecule, method in sorted({(each["molecule"], each["method"]) for each in found}):
        of_method = [each for each in found if (each["molecule"], each["method"]) == (molecule, method)]
        if len(of_method) > 2:
            rows = np.log([each["rows"] for each in of_method])
            fitted = {
                name: np.polyfit(rows, np.log([e[name] for e in of_method]), 1)[0] for name in ("seconds", "peak_mb")
            }
            results.append({"molecule": molecule, "method": method, "exponents": fitted})
    return results


def draw(found: list[dict], path: pathlib.Path) -> None:
    """Seconds and memory against rows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, name, title in zip(axes, ("seconds", "peak_mb"), ("seconds of the fit", "peak memory, MB"), strict=True):
        for molecule in sorted({each["molecule"] for each in found}):
            for method, marker in (("exact", "o-"), ("iterative", "s--"), ("sparse", "^:")):
                of = sorted((e["rows"], e[name]) for e in found if (e["molecule"], e["method"]) == (molecule, method))
                if of:
                    axis.loglog(*zip(*of, strict=True), marker, ms=4, label=f"{molecule}, {method}")
        axis.set_xlabel("rows of the linear system")
        axis.set_title(title, fontsize=10)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--frames", nargs="+", type=int, default=[100, 200, 500, 1000])
    parser.add_argument("--molecules", nargs="+", default=["ethanol", "1-hexanol"])
    parser.add_argument("--methods", nargs="+", default=["exact", "iterative", "sparse"])
    parser.add_argument("--inducing", type=int, default=2000)
    parser.add_argument("--memory", default=None)
    parser.add_argument("--picture", type=pathlib.Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        molecule, frames, method = arguments.one
        print(json.dumps(one(molecule, int(frames), method, arguments)))
        return
    found = []
    for molecule in arguments.molecules:
        frames_of(molecule, arguments.data)  # made once, not in a process that is timed
        for frames in arguments.frames:
            for method in arguments.methods:
                done = subprocess.run(
                    [sys.executable, __file__, *sys.argv[1:], "--one", molecule, str(frames), method],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                if done.returncode:
                    told = done.stderr.strip().splitlines()[-1:]
                    print(
                        json.dumps({"molecule": molecule, "frames": frames, "method": method, "error": told}),
                        flush=True,
                    )
                    continue
                found.append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(json.dumps(found[-1]), flush=True)
    for each in exponents(found):
        print(json.dumps(each))
    if arguments.picture:
        draw(found, arguments.picture)


if __name__ == "__main__":
    main()
