"""What derivatives cost, in evaluations of the forces, and the memory that the Hessian of 100 atoms takes.

    python tests/benchmarks/derivatives.py [--frames 500] [--repeats 30]

Of ethanol (a fit to datasets/ethanol.extxyz) and of 1-hexanol (21 atoms, random weights), with six permutations: the full
Hessian through `Calculator.get_hessian` against 6N single evaluations of the forces, which central differences take; one
Hessian-vector product against one evaluation; medians. The peak is that of a process that does nothing but the Hessian of
100 atoms with symmetry functions (the model of tests/test_derivatives.py).
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

import mlff
from descriptors import inverse_distances

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]


def median(action, repeats: int) -> float:
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ethanol(frames: int) -> tuple[mlff.ForceField, np.ndarray]:
    data = mlff.Dataset.read(ROOT / "datasets" / "ethanol.extxyz")
    train, test = data.split(frames, 10, seed=0)
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0), mlff.find_permutations(train))
    return mlff.fit(kernel, train), test[0].positions


def hexanol(frames: int) -> tuple[mlff.ForceField, np.ndarray]:
    import contraction

    rng = np.random.default_rng(0)
    atoms, generators = contraction.molecules()["1-hexanol"]
    positions = atoms.positions + 0.05 * rng.standard_normal((frames + 1, len(atoms), 3))
    kernel = contraction.recipes(atoms, generators)["sgdml"]
    return contraction.model_of(kernel, atoms, positions[1:], rng)[0], positions[0]


def row(name: str, force_field: mlff.ForceField, positions: np.ndarray, repeats: int) -> str:
    from ase import Atoms

    atoms = Atoms(force_field.numbers, positions)
    calculator = mlff.Calculator(force_field)
    vector = np.random.default_rng(1).standard_normal(positions.shape)

    def hessian():
        calculator.reset()
        calculator.get_hessian(atoms)

    force = median(lambda: force_field.forces(positions), 20 * repeats)
    full = median(hessian, repeats)
    product = median(lambda: force_field.hessian_vector_product(positions, vector), 20 * repeats)
    columns = [
        f"{name}, N = {len(atoms)}, {force_field.model.size} points", f"{1e3 * force:.3f} ms", f"{1e3 * full:.2f} ms",
        f"{full / (6 * len(atoms) * force):.3f}", f"{1e3 * product:.3f} ms", f"{product / force:.2f}",
    ]  # fmt: skip
    return " | ".join(columns)


def peak() -> str:
    import test_derivatives

    done = subprocess.run(
        [sys.executable, "-c", test_derivatives.SYNTHETIC], capture_output=True, text=True, check=True, cwd=ROOT
    )
    megabytes, deviation = map(float, done.stdout.split())
    return f"{megabytes:.0f} MiB, largest relative deviation of H·d from force differences {deviation:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    print("molecule | forces | Hessian | over 6N forces | product H·v | over forces")
    for name, make in (("ethanol", ethanol), ("1-hexanol", hexanol)):
        print(row(name, *make(options.frames), options.repeats), flush=True)
    print(f"peak memory of the Hessian of 100 atoms: {peak()}")


if __name__ == "__main__":
    main()
