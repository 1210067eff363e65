"""Make the data sets of this folder: GFN2-xTB molecular dynamics, seeded, one extxyz file a set.

    pip install "mlff[datasets]"
    python datasets/generate.py                  # every set, about 20 minutes on one core
    python datasets/generate.py water benzene    # only these
    python datasets/generate.py --cards          # rewrite README.md from the files that are there

GFN2-xTB: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi 10.1021/acs.jctc.8b01176.
"""

import argparse
import dataclasses
import os
import pathlib

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS
from rich.progress import track
from tblite.ase import TBLite

HERE = pathlib.Path(__file__).parent
TIMESTEP = 0.5  # fs
FRICTION = 0.02  # 1/fs
EQUILIBRATION = 10_000  # steps
DECIMALS = 8  # of the positions in the files; labels belong to the rounded positions
HESSIAN_STEP = 0.005  # Å


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One data set: `frames` snapshots, `spacing` steps apart, of Langevin dynamics at `temperature` (K)."""

    name: str
    title: str
    start: Atoms
    frames: int
    spacing: int
    seed: int
    temperature: float = 500.0
    hessians: bool = False


def malonaldehyde() -> Atoms:
    """The enol form of malonaldehyde with its internal hydrogen bond, roughly; relaxed before use."""
    return Atoms(
        "O2C3H4",
        [
            (-1.27, 0.80, 0), (1.25, 0.85, 0), (-1.20, -0.45, 0), (0, -1.16, 0), (1.20, -0.45, 0),
            (-0.45, 1.30, 0), (-2.13, -1.03, 0), (0, -2.24, 0), (2.13, -1.03, 0),
        ],
    )  # fmt: skip


RECIPES = [
    Recipe("ethanol", "Ethanol, C2H6O", molecule("CH3CH2OH"), 2000, 200, seed=1),
    Recipe("ethanol_300K", "Ethanol, C2H6O, at 300 K", molecule("CH3CH2OH"), 1000, 400, seed=6, temperature=300.0),
    Recipe("malonaldehyde", "Malonaldehyde, the enol, C3H4O2", malonaldehyde(), 1000, 200, seed=2),
    Recipe("benzene", "Benzene, C6H6", molecule("C6H6"), 1000, 100, seed=3),
    Recipe("water", "Water, H2O", molecule("H2O"), 500, 100, seed=4),
    Recipe("ethanol_hessians", "Ethanol, C2H6O, with Hessians", molecule("CH3CH2OH"), 60, 400, seed=5, hessians=True),
]


def reference(accuracy: float) -> TBLite:
    return TBLite(method="GFN2-xTB", accuracy=accuracy, verbosity=0)


def sample(recipe: Recipe) -> list[Atoms]:
    """Snapshots of the dynamics: geometries only, centred, rounded to what the file will hold."""
    rng = np.random.default_rng(recipe.seed)
    atoms = recipe.start.copy()
    atoms.calc = reference(accuracy=1.0)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    thermalize_momenta(atoms, recipe.temperature, rng=rng)
    dynamics = Langevin(
        atoms,
        TIMESTEP * units.fs,
        temperature_K=recipe.temperature,
        friction=FRICTION / units.fs,
        fixcm=False,  # exact sampling; the frames are centred below
        rng=rng,
    )
    dynamics.run(EQUILIBRATION)
    frames = []
    for _ in track(range(recipe.frames), f"{recipe.name}: dynamics"):
        dynamics.run(recipe.spacing)
        positions = atoms.positions - atoms.get_center_of_mass()
        frames.append(Atoms(atoms.numbers, positions.round(DECIMALS)))
    return frames


def hessian(atoms: Atoms, calculator: TBLite) -> np.ndarray:
    """Central differences of analytic gradients, symmetrised, shape (3N, 3N), eV/Å²."""
    displaced = atoms.copy()
    displaced.calc = calculator
    rows = []
    for index in range(3 * len(atoms)):
        forces = []
        for sign in (1, -1):
            displaced.positions = atoms.positions
            displaced.positions.flat[index] += sign * HESSIAN_STEP
            forces.append(displaced.get_forces().ravel())
        rows.append((forces[1] - forces[0]) / (2 * HESSIAN_STEP))
    rows = np.array(rows)
    return 0.5 * (rows + rows.T)


def label(frames: list[Atoms], recipe: Recipe) -> list[Atoms]:
    """Attach reference energy and forces (and Hessian) under the keys that `mlff.Dataset.read` prefers."""
    calculator = reference(accuracy=0.01)
    for atoms in track(frames, f"{recipe.name}: labels"):
        probe = atoms.copy()
        probe.calc = calculator
        atoms.info["REF_energy"] = float(probe.get_potential_energy())
        atoms.arrays["REF_forces"] = probe.get_forces()
        atoms.info["units"] = "eV/Ang"
        if recipe.hessians:
            atoms.info["REF_hessian"] = hessian(atoms, calculator).round(DECIMALS)
    return frames


def write_whole(path: pathlib.Path, frames: list[Atoms]) -> None:
    partial = path.with_suffix(".partial")
    write(partial, frames, format="extxyz", columns=["symbols", "positions", "REF_forces"])
    os.replace(partial, path)


def card(recipe: Recipe) -> str:
    """The data card of one set, its statistics taken from the file."""
    path = HERE / f"{recipe.name}.extxyz"
    frames = read(path, ":")
    energies = np.array([atoms.info["REF_energy"] for atoms in frames])
    forces = np.array([atoms.arrays["REF_forces"] for atoms in frames])
    shifted = energies - energies.mean()
    correlation = (shifted[1:] * shifted[:-1]).mean() / (shifted**2).mean()
    rows = [
        ("frames, atoms", f"{len(frames)}, {len(frames[0])} ({frames[0].symbols})"),
        ("labels", "`REF_energy`, `REF_forces`" + (", `REF_hessian`" if recipe.hessians else "")),
        ("units", "Å, eV, eV/Å" + (", eV/Å²" if recipe.hessians else "")),
        ("method", "GFN2-xTB (tblite), labels with SCF accuracy 0.01, dynamics with 1.0"),
        (
            "dynamics",
            f"Langevin, {recipe.temperature:.0f} K, {TIMESTEP} fs, friction {FRICTION} 1/fs, seed {recipe.seed}, "
            f"{EQUILIBRATION * TIMESTEP / 1000:.0f} ps before the first frame, one frame every "
            f"{recipe.spacing * TIMESTEP:.0f} fs",
        ),
        (
            "energy",
            f"mean {energies.mean():.4f} eV, standard deviation {energies.std():.4f}, range {np.ptp(energies):.4f}",
        ),
        ("force components", f"standard deviation {forces.std():.4f} eV/Å, largest {np.abs(forces).max():.2f}"),
        ("correlation of the energies of consecutive frames", f"{correlation:.3f}"),
        ("size", f"{path.stat().st_size / 1e6:.2f} MB"),
    ]
    if recipe.hessians:
        rows.insert(4, ("Hessians", f"central differences of analytic gradients, step {HESSIAN_STEP} Å, symmetrised"))
    if recipe.name == "malonaldehyde":
        positions = np.array([atoms.positions for atoms in frames])
        delta = np.linalg.norm(positions[:, 5] - positions[:, 0], axis=1) - np.linalg.norm(
            positions[:, 5] - positions[:, 1], axis=1
        )
        rows.append(
            (
                "proton transfer",
                f"{np.mean(delta > 0):.0%} of the frames have the proton at the second oxygen; "
                f"it changes sides {np.sum(np.diff(np.sign(delta)) != 0)} times between frames",
            )
        )
    return f"## `{path.name}`: {recipe.title}\n\n| | |\n| --- | --- |\n" + "\n".join(f"| {k} | {v} |" for k, v in rows)


def write_cards() -> None:
    present = [recipe for recipe in RECIPES if (HERE / f"{recipe.name}.extxyz").exists()]
    text = (
        "# Data sets\n\nSmall reference sets for the examples and the tests, made by `python datasets/generate.py` "
        "(this page too, with `--cards`).\nPositions are centred; frames are in the order of the dynamics. "
        "Licence: MIT, as the project.\n\n" + "\n\n".join(map(card, present)) + "\n"
    )
    (HERE / "README.md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [recipe.name for recipe in RECIPES]
    parser.add_argument("sets", nargs="*", help=f"which sets ({', '.join(names)}); all without")
    parser.add_argument("--cards", action="store_true", help="only rewrite README.md")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.sets) - set(names))
    if unknown:
        parser.error(f"no set {', '.join(unknown)}; there are {', '.join(names)}")
    if not arguments.cards:
        for recipe in RECIPES:
            if recipe.name in (arguments.sets or names):
                write_whole(HERE / f"{recipe.name}.extxyz", label(sample(recipe), recipe))
    write_cards()


if __name__ == "__main__":
    main()
