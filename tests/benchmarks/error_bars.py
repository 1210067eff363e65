"""Error bars of what follows from a force field: to first order, by samples of the posterior, and by fits to frames drawn again.

    pip install "mlff[datasets]"
    python tests/benchmarks/error_bars.py [--molecules malonaldehyde ethanol] [--train 100] [--samples 200] [--fits 50]
        [--recipe sgdml-rbf]

Frames are those of `datasets/`. For the relaxed molecule, frequencies, zero-point energy and, from the minimum to a frame of the
dynamics, an energy difference: the standard deviations by `mlff.frequency_error_bars` and its like; those of the relaxed
geometries of so many `force_field.sample(seed)`; and those of fits to as many frames drawn with replacement (each frame once), with
the same hyperparameters. A JSON line a molecule: of all numbers of a kind the median ratio of the second and the third to the first, its
quartiles, how many of the truth's own numbers (GFN2-xTB, relaxed) lie within one and two of the first, and seconds.

Of N samples a standard deviation is known to 1/√(2N): of 200, 19 of 20 ratios lie within 10 % of what they are.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
from ase import Atoms
from ase.optimize import BFGS

import mlff
from mlff.dynamics.motion import motions
from mlff.properties.vibrations import wavenumbers
from mlff.units import INVERSE_CM

DATASETS = pathlib.Path(__file__).parents[2] / "datasets"
FMAX = 1e-4  # eV/Å


def relaxed(calculator, start: Atoms) -> Atoms:
    atoms = start.copy()
    atoms.calc = calculator
    if not BFGS(atoms, logfile=None).run(fmax=FMAX, steps=500):
        raise RuntimeError("the molecule did not relax")
    return atoms


def numbers_of(atoms: Atoms, other: np.ndarray, hessian: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What is looked at, of one surface: frequencies (1/cm), zero-point energy (eV), an energy difference (eV)."""
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    internal = motions(atoms).internal / root
    hessian = atoms.calc.get_hessian(atoms) if hessian is None else hessian
    frequencies = wavenumbers(np.linalg.eigvalsh(internal @ hessian @ internal.T))
    away = atoms.copy()
    away.positions, away.calc = other, atoms.calc
    return {
        "frequencies": frequencies,
        "zero-point energy": np.array([0.5 * INVERSE_CM * frequencies[frequencies > 0].sum()]),
        "difference": np.array([away.get_potential_energy() - atoms.get_potential_energy()]),
    }


def truth(start: Atoms, other: np.ndarray) -> dict[str, np.ndarray]:
    """The same of GFN2-xTB itself."""
    sys.path.insert(0, str(DATASETS))
    import generate

    atoms = relaxed(generate.reference(accuracy=0.01), start)
    return numbers_of(atoms, other, generate.hessian(atoms, atoms.calc))


def first_order(atoms: Atoms, other: np.ndarray) -> dict[str, np.ndarray]:
    """Standard deviations to first order."""
    away = atoms.copy()
    away.positions, away.calc = other, atoms.calc
    return {
        "frequencies": mlff.frequency_error_bars(atoms).std,
        "zero-point energy": mlff.zero_point_energy(atoms).std,
        "difference": mlff.energy_differences([atoms, away]).std,
    }


def spread(found: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.std([each[name] for each in found], axis=0, ddof=1) for name in found[0]}


def compared(molecule: str, given: argparse.Namespace) -> dict:
    data = mlff.Dataset.read(DATASETS / f"{molecule}.extxyz")
    order = np.random.default_rng(given.seed).permutation(len(data))
    train, other = data[np.sort(order[: given.train])], data[int(order[given.train])].positions
    kernel, labels = mlff.recipe(given.recipe, train)
    started = time.perf_counter()
    model = mlff.fit(kernel, train, labels, posterior=True)
    fitted = time.perf_counter()
    lowest = min(train, key=lambda frame: frame.labels["energy"])
    atoms = relaxed(mlff.Calculator(model), Atoms(lowest.numbers, lowest.positions))
    stds = first_order(atoms, other)
    linear = time.perf_counter()
    surfaces = (model.sample(seed) for seed in range(given.samples))
    sampled = spread([numbers_of(relaxed(mlff.Calculator(each), atoms), other) for each in surfaces])
    drawn = time.perf_counter()
    rng, again = np.random.default_rng(given.seed + 1), []
    for _ in range(given.fits):
        chosen = np.unique(rng.integers(len(train), size=len(train)))
        fit = mlff.fit(model.kernel, train[chosen], labels, noise=model.record["noise"])
        again.append(numbers_of(relaxed(mlff.Calculator(fit), atoms), other))
    refitted, end = spread(again), time.perf_counter()
    own, real = numbers_of(atoms, other), truth(atoms, other)
    result = {"molecule": molecule, "train": given.train, "recipe": given.recipe}
    for name, std in stds.items():
        off = np.abs(own[name] - real[name]) / std
        result[name] = {
            "std": float(np.median(std)),
            "samples_over_first": np.round(np.quantile(sampled[name] / std, [0.25, 0.5, 0.75]), 3).tolist(),
            "fits_over_first": np.round(np.quantile(refitted[name] / std, [0.25, 0.5, 0.75]), 3).tolist(),
            "truth_within": [int(np.sum(off < 1)), int(np.sum(off < 2)), len(std)],
        }
    seconds = {"fit": fitted - started, "first": linear - fitted, "samples": drawn - linear, "fits": end - drawn}
    return {**result, "seconds": {name: round(each, 1) for name, each in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", nargs="+", default=["malonaldehyde", "ethanol"])
    parser.add_argument("--train", type=int, default=100)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--fits", type=int, default=50)
    parser.add_argument("--recipe", default="sgdml-rbf")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for molecule in given.molecules:
        print(json.dumps(compared(molecule, given)), flush=True)


if __name__ == "__main__":
    main()
