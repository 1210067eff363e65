"""Learning curves of every recipe on revised MD17, as a table and a picture.

    python tests/benchmarks/rmd17.py --data DIR --out FOLDER [--recipes …] [--molecules …] [--sizes 50 100 200 500 1000]

DIR holds `rmd17_<molecule>_train_01.npz` and `…_test_01.npz`. The first N training frames, all test frames; MAE of energies
(meV) and forces (meV/Å). Where the recipe has no length scale of its own, it is searched on the first 100 training frames
(50 where N = 50) and kept for larger N; permutations and learned features come from the N frames, and with learned
features, whose scale is another every time, the search is part of every fit. Every result is a line of
FOLDER/results.jsonl; those that are there are not computed again, so an interrupted run goes on. Beside them the published
errors of MACE (Batatia et al., NeurIPS 2022, Table 1).
"""

import argparse
import json
import pathlib
import time

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

import mlff
from mlff.files import write_whole
from mlff.quality.report import peak_memory_mb, png
from mlff.regression.recipes import RECIPES, recipe

MOLECULES = ("ethanol", "malonaldehyde", "benzene", "toluene", "uracil")
MACE = {  # energy, forces at 1000 and at 50 frames
    "benzene": ((0.4, 0.3), (0.7, 2.7)), "ethanol": ((0.4, 2.1), (6.7, 32.6)), "malonaldehyde": ((0.8, 4.1), (10.0, 43.3)),
    "toluene": ((0.5, 1.5), (3.1, 12.1)), "uracil": ((0.5, 2.1), (4.4, 25.9)),
}  # fmt: skip
SEARCH = 100
LEARNED = ("schnet-kernel",)
NOISE = {"energy": 1e-4, "forces": 1e-4}  # eV, eV/Å: the labels are precise


def read(folder, molecule: str, part: str, index: str = ":") -> mlff.Dataset:
    return mlff.Dataset.read(folder / f"rmd17_{molecule}_{part}_01.npz", units="kcal/mol", index=index)


def lengthscale(name: str, train: mlff.Dataset, known: dict) -> float:
    """Found on the first 100 frames (or fewer), once for every molecule and recipe."""
    if RECIPES[name].radial.lengthscale is not None:
        return RECIPES[name].radial.lengthscale
    few = train[:SEARCH]
    key = (name, len(few))
    if key not in known:
        kernel, labels = recipe(name, few)
        fitted = mlff.fit(kernel, few, labels, noise(name, labels))
        known[key] = float(fitted.kernel.radials[0].lengthscale)
    return known[key]


def noise(name: str, labels) -> dict:
    return {label: NOISE[label] for label in labels}


def measure(name: str, molecule: str, size: int, data: pathlib.Path, known: dict) -> dict:
    """One fit and its errors."""
    train, test = read(data, molecule, "train", f"0:{size}"), read(data, molecule, "test")
    scale = None if name in LEARNED else lengthscale(name, train, known)
    start = time.perf_counter()
    kernel, labels = recipe(name, train, RECIPES[name].radial.replace(lengthscale=scale))
    fitted = mlff.fit(kernel, train, labels, noise(name, labels))
    seconds = time.perf_counter() - start
    found = mlff.evaluate(fitted, test)
    return {
        "recipe": name, "molecule": molecule, "frames": size, "energy": 1e3 * found.energy_mae,
        "forces": 1e3 * found.forces_mae, "lengthscale": float(fitted.kernel.radials[0].lengthscale),
        "seconds": seconds, "peak_mb": peak_memory_mb(),
    }  # fmt: skip


def table(results: list[dict]) -> str:
    """One row a recipe and molecule, energy / forces in columns of N."""
    sizes = sorted({r["frames"] for r in results})
    lines = ["| molecule | recipe | " + " | ".join(map(str, sizes)) + " |", "| --- | --- |" + " --- |" * len(sizes)]
    for molecule in MOLECULES:
        for name in RECIPES:
            cells = {r["frames"]: r for r in results if (r["molecule"], r["recipe"]) == (molecule, name)}
            if cells:
                texts = [f"{cells[n]['energy']:.2f} / {cells[n]['forces']:.2f}" if n in cells else "" for n in sizes]
                lines.append(f"| {molecule} | {name} | " + " | ".join(texts) + " |")
        whole, few = MACE[molecule]
        texts = {50: f"{few[0]} / {few[1]}", 1000: f"{whole[0]} / {whole[1]}"}
        lines.append(f"| {molecule} | *MACE, published* | " + " | ".join(texts.get(n, "") for n in sizes) + " |")
    return "\n".join(lines) + "\n"


def figure(results: list[dict]) -> Figure:
    """Force errors against the number of frames, a panel a molecule."""
    present = [m for m in MOLECULES if any(r["molecule"] == m for r in results)]
    drawn = Figure(figsize=(3.4 * len(present), 3.9), layout="constrained")
    axes = drawn.subplots(1, len(present), squeeze=False)[0]
    for axis, molecule in zip(axes, present, strict=True):
        for i, name in enumerate(RECIPES):
            curve = sorted(
                (r["frames"], r["forces"]) for r in results if (r["molecule"], r["recipe"]) == (molecule, name)
            )
            if curve:
                axis.loglog(*zip(*curve, strict=True), marker="o", ms=4, lw=1.4, color=f"C{i}", label=name)
        whole, few = MACE[molecule]
        axis.loglog([50, 1000], [few[1], whole[1]], "k*", ms=9, label="MACE, published")
        axis.set_title(molecule)
        axis.set_xlabel("training frames")
        axis.set_xticks([50, 100, 200, 500, 1000], ["50", "100", "200", "500", "1000"])
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.yaxis.set_major_formatter("{x:g}")
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("force MAE (meV/Å)")
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=9, frameon=False)
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--molecules", nargs="*", default=list(MOLECULES))
    parser.add_argument("--sizes", nargs="*", type=int, default=[50, 100, 200, 500, 1000])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "results.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for size in options.sizes:
        for molecule in options.molecules:
            for name in options.recipes:
                if any((r["recipe"], r["molecule"], r["frames"]) == (name, molecule, size) for r in results):
                    continue
                known = {
                    (r["recipe"], min(r["frames"], SEARCH)): r["lengthscale"]
                    for r in results
                    if r["molecule"] == molecule
                }
                results.append(measure(name, molecule, size, options.data, known))
                with log.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
                print(json.dumps(results[-1]), flush=True)
    write_whole(options.out / "learning_curves.md", table(results).encode())
    write_whole(options.out / "learning_curves.png", png(figure(results)))
    print(table(results))


if __name__ == "__main__":
    main()
