"""What a force field is for: energy conservation over 20 ps, and harmonic frequencies against GFN2-xTB's own.

    python tests/benchmarks/physics.py             # needs tblite: pip install "mlff[datasets]"

1000 training frames of datasets/ethanol.extxyz; ASE's VelocityVerlet at 500 K, 0.5 fs; frequencies at each method's
own relaxed geometry, GFN2-xTB's Hessian by central differences of its gradients.
"""

import argparse
import pathlib
import sys
import time

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

import mlff
from descriptors import inverse_distances
from mlff.dynamics import md

DATASETS = pathlib.Path(__file__).parent.parent.parent / "datasets"
sys.path.insert(0, str(DATASETS))


class WithHessian:
    """GFN2-xTB with the Hessian that `mlff.frequencies` asks a calculator for."""

    def __init__(self, hessian):
        self.hessian = hessian

    def get_hessian(self, atoms):
        return self.hessian


def relaxed(atoms: Atoms, calculator) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=1000)
    return atoms


def main() -> None:
    import generate

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--picoseconds", type=float, default=20.0)
    arguments = parser.parse_args()
    data = mlff.Dataset.read(DATASETS / "ethanol.extxyz")
    train, test = data.split(arguments.frames, len(data) - arguments.frames, seed=0)
    started = time.perf_counter()
    force_field = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52(), mlff.find_permutations(train)), train)
    print(f"fit of {len(train)} frames in {time.perf_counter() - started:.0f} s; {mlff.evaluate(force_field, test)}")

    atoms = relaxed(Atoms(force_field.numbers, force_field.record["geometry"]), mlff.Calculator(force_field))
    ours = mlff.frequencies(atoms)
    reference = relaxed(atoms, generate.reference(accuracy=0.001))
    reference.calc = WithHessian(generate.hessian(reference, generate.reference(accuracy=0.001)))
    theirs = mlff.frequencies(reference)
    print("\n| mode | GFN2-xTB (1/cm) | force field | difference |\n| --- | --- | --- | --- |")
    for i, (a, b) in enumerate(zip(theirs, ours, strict=True), 1):
        print(f"| {i} | {a:.1f} | {b:.1f} | {b - a:+.1f} |")
    print(
        f"\nmean absolute deviation {np.abs(ours - theirs).mean():.2f} 1/cm, largest {np.abs(ours - theirs).max():.1f}"
    )

    # from the minimum half of the kinetic energy becomes potential energy
    md.thermalise(atoms, 500.0, np.random.default_rng(0))
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(1000.0 / md.internal_temperature(atoms)))
    steps = int(arguments.picoseconds * 2000)
    started = time.perf_counter()
    run = md.run(atoms, steps, timestep=0.5, interval=20)
    seconds = time.perf_counter() - started
    print(
        f"\nNVE {arguments.picoseconds:g} ps at {run.temperatures.mean():.0f} K: drift {run.drift:+.5f} meV/atom/ps, "
        f"fluctuation {1e3 * run.total.std() / len(atoms):.3f} meV/atom, {1e3 * seconds / steps:.3f} ms a step"
    )


if __name__ == "__main__":
    main()
