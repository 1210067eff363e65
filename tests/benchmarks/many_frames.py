"""From a hundred frames to ten thousand: sparse models of ethanol, errors, seconds and memory against frames.

    python tests/benchmarks/many_frames.py FOLDER [--frames 100 300 1000 3000 10000] [--points 1000 3000] [--memory 8GB]
        [--dropped 1e-6] [--json FILE] [--picture FILE.png]

FOLDER takes `train_0.extxyz`, `train_1.extxyz` and `test.extxyz`: GFN2-xTB dynamics at 500 K as `datasets/generate.py` makes them, one
frame every 20 fs, of three seeds; what is there already is taken, what is not is made in two processes, a quarter of an hour. FCHL19
in principal components, energies and forces as labels, the noise found by validation; frames are drawn by seed 0, fewer are a
beginning of more. Every fit runs in a process of its own, so that its peak memory is its own, and prints a JSON line: frames, points
asked for and found, seconds, peak memory (MB), test MAE of energies (meV) and forces (meV/Å), microseconds a geometry of a batch.
"""

import argparse
import json
import multiprocessing
import pathlib
import subprocess
import sys
import time

import numpy as np

SETS = {"train_0": (11, 5000), "train_1": (12, 5000), "test": (13, 500)}  # seeds and frames
SPACING = 40  # steps of 0.5 fs
LENGTHSCALE = 2.0


def made(path: pathlib.Path) -> None:
    """One set of frames, where it is not there."""
    if path.exists():
        return
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "datasets"))
    import generate

    seed, frames = SETS[path.stem]
    recipe = generate.Recipe(path.stem, "Ethanol", generate.molecule("CH3CH2OH"), frames, SPACING, seed=seed)
    generate.write_whole(path, generate.label(generate.sample(recipe), recipe))


def fitted(folder: pathlib.Path, frames: int, points: int, memory: str, dropped: float) -> dict:
    """One fit, and its errors."""
    import descriptors
    import mlff
    from mlff.quality.report import peak_memory_mb

    pool = [frame for name in ("train_0", "train_1") for frame in mlff.Dataset.read(folder / f"{name}.extxyz")]
    chosen = np.random.default_rng(0).permutation(len(pool))[:frames]
    train = mlff.Dataset([pool[i] for i in chosen], "train")
    test = mlff.Dataset.read(folder / "test.extxyz")
    started = time.perf_counter()
    kernel = mlff.LocalKernel(descriptors.fchl19, mlff.RBF(lengthscale=LENGTHSCALE))
    kernel = mlff.reduced(kernel, train[: min(frames, 1000)], dropped)
    force_field = mlff.fit(kernel, train, ("energy", "forces"), inducing=points, memory=memory)
    seconds, memory_mb = time.perf_counter() - started, peak_memory_mb()
    errors = mlff.evaluate(force_field, test)
    positions = np.array([frame.positions for frame in test])
    force_field.energy_and_forces(positions)
    batches = []
    for _ in range(3):
        started = time.perf_counter()
        force_field.energy_and_forces(positions)
        batches.append((time.perf_counter() - started) / len(positions))
    return {
        "frames": len(train), "points": points, "functionals": force_field.record["inducing"]["functionals"],
        "seconds": seconds, "peak_mb": memory_mb, "energy_mev": 1e3 * errors.energy_mae,
        "forces_mev_a": 1e3 * errors.forces_mae, "batch_us": 1e6 * float(np.median(batches)),
    }  # fmt: skip


def picture(results: list[dict], path: pathlib.Path) -> None:
    """Errors, seconds and memory against frames."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    wanted = (("forces_mev_a", "force MAE (meV/Å)"), ("seconds", "fit (s)"), ("peak_mb", "peak memory (MB)"))
    for axes, (name, label) in zip(figure.subplots(1, 3), wanted, strict=True):
        for points in sorted({row["points"] for row in results}):
            rows = [row for row in results if row["points"] == points]
            axes.plot([r["frames"] for r in rows], [r[name] for r in rows], "o-", label=f"at most {points} points")
        axes.set(xscale="log", yscale="log", xlabel="training frames", ylabel=label)
        axes.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
        for write in (axes.xaxis.set_major_formatter, axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            write(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--frames", nargs="+", type=int, default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--points", nargs="+", type=int, default=[1000, 3000])
    parser.add_argument("--memory", default="8GB")
    parser.add_argument("--dropped", type=float, default=1e-6)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path)
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(fitted(given.folder, *given.one, given.memory, given.dropped)))
        return
    given.folder.mkdir(exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(made, [given.folder / f"{name}.extxyz" for name in SETS], chunksize=1)
    results = []
    again = [__file__, str(given.folder), "--memory", given.memory, "--dropped", str(given.dropped), "--one"]
    for points in given.points:
        for frames in given.frames:
            command = [sys.executable, *again, str(frames), str(points)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(results[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    if given.picture:
        picture(results, given.picture)


if __name__ == "__main__":
    main()
