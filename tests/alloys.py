"""Alloys by effective-medium theory: frames of three metals, one of them rare, that several tests fit."""

import ase.build
import numpy as np
from ase.calculators.emt import EMT

import mlff


def alloy_frames(
    count: int, seed: int = 0, rattle: float = 0.15, rare: bool = True, strain: float = 0.02
) -> list[mlff.Frame]:
    """Strained and shaken cells of eight atoms of copper and gold, in every third of which one is silver; with stresses."""
    rng, frames = np.random.default_rng(seed), []
    for i in range(count):
        atoms = ase.build.bulk("Cu", a=3.8, cubic=True) * (1, 1, 2)
        atoms.numbers[rng.permutation(8)[:3]] = 79
        if rare and i % 3 == 0:
            atoms.numbers[rng.integers(8)] = 47
        eps = strain * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (eps + eps.T) / 2), scale_atoms=True)
        atoms.rattle(rattle, rng=rng)
        frames.append(labelled(atoms))
    return frames


def labelled(atoms) -> mlff.Frame:
    """Atoms with what the theory says of them."""
    atoms.calc = EMT()
    system = mlff.System(atoms.positions, atoms.numbers, atoms.cell.array, np.ones(3, bool))
    labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    return mlff.Frame(system, {**labels, "stress": atoms.get_stress(voigt=False)})
