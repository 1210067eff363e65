"""Malonaldehyde's proton transfer on force fields beside GFN2-xTB itself: barrier, transition state, imaginary frequency.

    pip install "mlff[datasets,sella]"
    python tests/benchmarks/malonaldehyde.py                                 # some minutes on two cores
    python tests/benchmarks/malonaldehyde.py --frames 1000 --recipes sgdml-rbf

Fitted to frames of datasets/malonaldehyde.extxyz (500 K, no frame added along the path). Each surface has its own minimum,
band, and transition state; GFN2-xTB with SCF accuracy 0.01, its Hessians by central differences of 54 gradients.
"""

import argparse
import pathlib
import sys
import time

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.units import kJ, mol

import mlff
from mlff.regression.recipes import recipe

DATASETS = pathlib.Path(__file__).parent.parent.parent / "datasets"
sys.path.insert(0, str(DATASETS))
EXCHANGE = [1, 0, 4, 3, 2, 5, 8, 7, 6]  # the mirror image of the molecule, its proton at the other oxygen
OXYGENS, PROTON = (0, 1), 5
KJ_MOL = kJ / mol
MINIMUM, SADDLE = 1e-4, 1e-4  # eV/Å; the gradients of GFN2-xTB with that accuracy have little more


class WithHessian:
    """GFN2-xTB with the Hessian that `mlff` asks a calculator for."""

    def __init__(self):
        import generate

        self.gradients, self.differences = generate.reference(accuracy=0.01), generate.hessian

    def get_potential_energy(self, atoms):
        return self.gradients.get_potential_energy(atoms)

    def get_forces(self, atoms):
        return self.gradients.get_forces(atoms)

    def get_hessian(self, atoms):
        return self.differences(atoms, self.gradients)


def reaction(start: Atoms, calculator) -> dict:
    """Minimum, band and transition state on one surface."""
    minimum = start.copy()
    minimum.calc = calculator
    mlff.relax(minimum, fmax=MINIMUM)
    other = minimum[EXCHANGE]
    other.calc = calculator
    path = mlff.band(minimum, other, images=7, fmax=0.05)
    guess = path.highest
    guess.calc = calculator
    saddle = mlff.transition_state(guess, fmax=SADDLE)
    return {
        "minimum": minimum,
        "path": path,
        "saddle": saddle,
        "barrier": saddle.energy - minimum.get_potential_energy(),
    }


def difference(atoms: Atoms, other: Atoms) -> float:
    """Root mean square of the distances between atoms after alignment, Å."""
    turned = atoms.copy()
    minimize_rotation_and_translation(other, turned)
    return float(np.sqrt(np.mean(np.sum((turned.positions - other.positions) ** 2, axis=1))))


def bonds(atoms: Atoms) -> str:
    return " / ".join(f"{atoms.get_distance(oxygen, PROTON):.4f}" for oxygen in OXYGENS)


def row(name: str, result: dict, reference: dict) -> str:
    barriers = [each["barrier"] / KJ_MOL for each in (result, reference)]
    saddles = [each["saddle"] for each in (result, reference)]
    vibrations = [mlff.frequencies(each["minimum"]) for each in (result, reference)]
    return (
        f"| {name} | {barriers[0]:.2f} | {barriers[0] - barriers[1]:+.2f} "
        f"| {difference(saddles[0].atoms, saddles[1].atoms):.4f} | {difference(result['minimum'], reference['minimum']):.4f} "
        f"| {bonds(saddles[0].atoms)} | {-saddles[0].frequency:.1f}i | {saddles[1].frequency - saddles[0].frequency:+.1f} "
        f"| {np.mean(np.abs(vibrations[0] - vibrations[1])):.1f}, {np.max(np.abs(vibrations[0] - vibrations[1])):.1f} |"
    )


def calls(name: str, guesses: dict[str, Atoms], calculator) -> None:
    """What the search for the transition state takes from each guess, with exact Hessians and without."""
    for where, guess in guesses.items():
        for label, every in (("every step", 1), ("none", 0)):
            atoms = guess.copy()
            atoms.calc = calculator
            started = time.perf_counter()
            try:
                found = mlff.transition_state(atoms, fmax=SADDLE, hessian_every=every)
            except ValueError:
                print(f"| {name} | {where} | {label} | does not converge | | | | |")
                continue
            print(
                f"| {name} | {where} | {label} | {found.steps} | {found.evaluations} | {found.hessians - 1} "
                f"| {found.frequency:.1f} | {time.perf_counter() - started:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="*", default=[100, 200, 500])
    parser.add_argument("--recipes", nargs="*", default=["sgdml-rbf"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = mlff.Dataset.read(DATASETS / "malonaldehyde.extxyz")
    start = data[0].to_ase()
    xtb = WithHessian()
    reference = reaction(start, xtb)
    print(
        "Å, kJ/mol, 1/cm; differences from GFN2-xTB\n\n"
        "| surface | barrier | difference | rms of the saddle | rms of the minimum | O-H at the saddle | imaginary | difference "
        "| frequencies of the minimum, mean and largest deviation |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    print(row("GFN2-xTB", reference, reference), flush=True)
    for name in arguments.recipes:
        for frames in arguments.frames:
            train, test = data.split(frames, min(len(data) - frames, 300) or 1, seed=arguments.seed)
            kernel, labels = recipe(name, train)
            started = time.perf_counter()
            force_field = mlff.fit(kernel, train, labels)
            seconds = time.perf_counter() - started
            mae = mlff.evaluate(force_field, test).forces_mae
            result = reaction(start, mlff.Calculator(force_field))
            title = f"{name}, {frames} frames ({1e3 * mae:.1f} meV/Å, {seconds:.0f} s)"
            print(row(title, result, reference), flush=True)
    print(
        "\nGFN2-xTB's frequencies at the minimum:",
        ", ".join(f"{f:.0f}" for f in mlff.frequencies(reference["minimum"])),
    )
    transfer = [np.abs(np.diff([np.linalg.norm(f.positions[PROTON] - f.positions[o]) for o in OXYGENS])) for f in data]
    hot = data[int(np.argmin(transfer))].to_ase()
    print(
        "\nthe search from the top of the band, and from the frame at 500 K whose proton is nearest the middle\n\n"
        "| surface | from | exact Hessians | steps | energies with forces | Hessians | frequency | seconds |"
        "\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    calls("GFN2-xTB", {"band": reference["path"].highest, "hot frame": hot}, xtb)
    calls(f"{arguments.frames[-1]} frames", {"band": result["path"].highest, "hot frame": hot}, result["minimum"].calc)


if __name__ == "__main__":
    main()
