"""Frames of a cheap reference around those of a dear one: what a baseline is fitted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from mlff.arguments import checked_seed, whole_number
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.methods import calculated, require_calculator, said
from mlff.data.system import System
from mlff.dynamics.md import run, thermalise
from mlff.threads import few_threads

WALKERS = 10  # runs from different frames, where there are so many
LEFT_OUT = 5  # frames at the beginning of a run, which know what it started from
FRICTION = 0.02  # 1/fs


def sampled(
    calculator,
    data: Dataset | Atoms | Sequence[Atoms],
    frames=500,
    temperature: float = 500.0,
    interval: int = 20,
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> Dataset:
    """Frames of Langevin dynamics with a calculator, from geometries of the data on, with its energies and forces.

        cheap = mlff.sampled(TBLite(method="GFN2-xTB", verbosity=0), train, frames=1000)
        kernel, labels = mlff.recipe("fchl19-gpr", cheap)
        baseline = mlff.fit(kernel, cheap, labels)

    `distilled` does all of this.

    Up to ten runs of 0.5 fs a step, one of every composition at least, each from another frame with velocities drawn anew; the first five
    frames of each are left out. A calculator is called about (`frames` + 5 a run)·`interval` times. Charge and spin are the calculator's:
    state them there, unless it reads them off the atoms, which keep what they were read with.

    Arguments:
        calculator: any of ASE.
        data: frames to start from, or geometries of ASE, one or several.
        frames: how many are wanted.
        temperature: K, of velocities and thermostat: no lower than that of what the force field is for.
        interval: steps between frames.
        seed: of the frames that are started from, velocities and thermostats.
        progress: called with the name of a stage and the share of it that is done.
    Returns:
        frames with "energy" (eV) and "forces" (eV/Å), of periodic cells with "stress" (eV/Å³) too, where the calculator has it.
    Raises:
        ValueError: no calculator, no frames, a temperature that is none, an atom that flies away, or labels that are not finite.
    """
    require_calculator(calculator)
    frames, interval = whole_number("frames", frames), whole_number("interval", interval)
    rng = np.random.default_rng(checked_seed(seed))
    starts = [data] if isinstance(data, Atoms) or not np.iterable(data) else list(data)
    if not starts or not all(isinstance(start, (Frame, Atoms)) for start in starts):
        raise ValueError("data: expected frames to start from, a Dataset, or geometries of ASE, at least one")
    order, compositions = _each_composition_first(rng.permutation(len(starts)), starts)
    if frames < compositions:
        raise ValueError(f"frames={frames}: there are {compositions} compositions; ask for one of each at least")
    count = min(max(WALKERS, compositions), len(starts), frames)
    found: list[Frame] = []
    for k, place in enumerate(order[:count]):
        wanted, start = frames // count + (k < frames % count), starts[place]
        atoms = start.copy() if isinstance(start, Atoms) else bare(start)
        atoms.calc = calculator
        thermalise(atoms, temperature, rng)
        noise = int(rng.integers(2**31))  # of no other run, nor of one of the next seed

        def told(_stage: str, share: float, k: int = k) -> None:
            progress("dynamics", (k + share) / count)

        thermostat = {"temperature": temperature, "friction": FRICTION}
        steps = (wanted + LEFT_OUT) * interval
        _try(atoms)
        with few_threads(len(atoms)):
            walked = run(atoms, steps, **thermostat, interval=interval, seed=noise, progress=told)
        found += [labelled(atoms, positions) for positions in walked.positions[-wanted:]]
    progress("dynamics", 1.0)
    return Dataset(found, f"dynamics with {type(calculator).__name__}", units="eV, Å (ASE's)")


def _each_composition_first(order: np.ndarray, starts: Sequence[Atoms | Frame]) -> tuple[list[int], int]:
    """The same order, but that the first of every composition comes before the others; and how many compositions there are."""
    kinds = [tuple(sorted(start.numbers)) for start in starts]
    first = {kinds[place]: int(place) for place in order[::-1]}
    ahead = [int(place) for place in order if first[kinds[place]] == place]
    left = [int(place) for place in order if first[kinds[place]] != place]
    return ahead + left, len(ahead)


def bare(frame: Frame) -> Atoms:
    """A frame with all that it was read with, but for its labels."""
    return dataclasses.replace(frame, labels={}).to_ase()


def _try(atoms: Atoms) -> None:
    """Ask a calculator once: what it needs is loaded then, and its threads can be counted.

    Raises:
        ValueError: whatever it raises, in a sentence.
    """
    try:
        atoms.get_forces()
    except Exception as error:  # of anybody's program
        raise ValueError(f"calculator: {type(atoms.calc).__name__} fails, {said(error)}") from error


def labelled(atoms: Atoms, positions: np.ndarray) -> Frame:
    """A frame with the calculator's labels of a geometry."""
    atoms.set_positions(positions, apply_constraint=False)
    labels = calculated(atoms)
    if broken := [name for name, value in labels.items() if not np.isfinite(value).all()]:
        raise ValueError(
            f"calculator: {broken[0]} of a geometry is not finite; lower the temperature, or look at the calculator"
        )
    found = atoms.copy()
    found.set_momenta(None)
    return Frame(System.from_ase(found), labels, found)
