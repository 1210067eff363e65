"""Permutation groups of published sets, time to find them, and what the wider group of the bond graph is worth.

python tests/benchmarks/permutations.py DIR     # with rmd17/ and acac/ in it
"""

import argparse
import pathlib
import time

import mlff
from descriptors import inverse_distances
from mlff.data.permutations import cycles

EXPECTED = {"ethanol": 6, "malonaldehyde": 4, "benzene": 12, "toluene": 12, "uracil": 1, "acetylacetone": 36}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    acetylacetone = mlff.Dataset.read(folder / "acac" / "train_300K.xyz")
    sets = {
        name: mlff.Dataset.read(folder / "rmd17" / f"rmd17_{name}_train_01.npz", units="kcal/mol")
        for name in EXPECTED
        if name != "acetylacetone"
    }
    sets["acetylacetone"] = acetylacetone
    print("| molecule | frames | order | expected | closed | seconds | largest residual (Å) | generators |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, data in sets.items():
        started = time.perf_counter()
        group = mlff.find_permutations(data)
        seconds = time.perf_counter() - started
        elements = {tuple(p) for p in group}
        closed = all(tuple(p[q]) in elements for p in group for q in group)
        generators = " ".join(cycles(p) for p in group.generators) or "–"
        largest = group.certificate()["largest_residual"]
        print(
            f"| {name} | {len(data)} | {len(group)} | {EXPECTED[name]} | {closed} | {seconds:.2f} | {largest:.3f} | {generators} |"
        )
    test = mlff.Dataset.read(folder / "acac" / "test_MD_300K.xyz")
    print("\nacetylacetone, 650 test frames at 300 K\n")
    print("| frames | reach | order | energy MAE (meV) | force MAE (meV/Å) | fit (s) | geometries/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    positions = test.uniform_positions()
    for count in (50, 200, 500):
        for reach in ("dynamics", "graph"):
            train = acetylacetone[:: 500 // count]
            group = mlff.find_permutations(acetylacetone, reach=reach)
            started = time.perf_counter()
            force_field = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=14.0), group), train)
            seconds = time.perf_counter() - started
            errors = mlff.evaluate(force_field, test)
            started = time.perf_counter()
            force_field.energy_and_forces(positions)
            rate = len(test) / (time.perf_counter() - started)
            print(f"| {count} | {reach} | {len(group)} | {1e3 * errors.energy_mae:.2f} | {1e3 * errors.forces_mae:.2f} "
                  f"| {seconds:.1f} | {rate:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
