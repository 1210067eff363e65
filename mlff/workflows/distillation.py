"""Baselines distilled: a cheap method in the place of a dear one, and a model of it in the place of the method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlff.arguments import checked_seed
from mlff.data.dataset import Dataset, require_dataset
from mlff.dynamics.sampling import labelled, sampled
from mlff.kernels.reduction import reduced
from mlff.potentials.errors import compare
from mlff.potentials.force_field import ForceField
from mlff.potentials.reference import Reference
from mlff.regression.fitting import fit
from mlff.regression.recipes import RECIPES, recipe
from mlff.regression.sparse.compression import compressed

MOLECULES, CRYSTALS = "fchl19-gpr", "soap-gap"  # recipes: the most accurate with hundreds of frames
COMPARED = 100  # frames on which the model is held against the method

Progress = Callable[[str, float], None]


def distilled(
    method,
    data: Dataset,
    frames: int = 500,
    temperature: float = 500.0,
    points: int = 3000,
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
) -> ForceField:
    """A force field of a cheap method around some frames, to which a correction to a dear one is fitted.

        baseline = mlff.distilled("gfn2", train)
        force_field = mlff.fit(mlff.tune(kernel, train, baseline=baseline), train)

    Frames of Langevin dynamics with the method (`sampled`), a model of environments fitted to their energies and forces, exact and then
    `compressed`; of crystals a sparse one. Dynamics with the sum runs kernel models alone, with exact Hessians, and needs no
    program beside them. How far it is from the method is measured on up to 100 of the frames of `data`, of which it has seen none:
    where that is most of the error of the sum, more frames are what helps.

    Arguments:
        method: a name ("gfn2"), a `Reference` with its charge, or one of ASE's calculators.
        data: frames whose surroundings are sampled, with or without labels.
        frames: how many are labelled by the method, about 21 evaluations each.
        temperature: K, of the dynamics: no lower than that of what the force field is for.
        points: environments that the model is left with.
        seed: of the dynamics, and of what is drawn in the fit.
        progress: called with the name of a stage and the share of it that is done.
    Returns:
        the force field; its record tells, under "distilled", method, frames and errors (eV, eV/Å).
    Raises:
        ValueError: no such method, frames of another charge, an atom that flies away, or labels that are not finite.
    """
    require_dataset(data)
    seed = checked_seed(seed)
    reference = method if isinstance(method, Reference) else Reference(method)
    for frame in data:
        reference.require_frame(frame, data.source)
    calculator = reference.calculator()
    cheap = sampled(calculator, data, frames, temperature, seed=seed, progress=progress)
    name = CRYSTALS if any(frame.system.pbc.any() for frame in cheap) else MOLECULES
    kernel, labels = recipe(name, cheap, seed=seed, progress=progress)
    inducing = RECIPES[name].inducing
    if inducing is None:
        kernel = reduced(kernel, cheap, seed=seed)  # half the time in fit and dynamics, for 1 % of the errors
    model = fit(kernel, cheap, labels, seed=seed, progress=progress, inducing=inducing)
    if inducing is None and points < sum(len(frame.numbers) for frame in cheap):
        model = compressed(model, cheap, points, progress)
    errors = compare(model, _by(calculator, data)).summary()
    said = {
        "method": reference.label, "frames": len(cheap),
        **{name: errors[name] for name in ("energy_mae", "forces_mae")}, "compared": errors["n_test"],
    }  # fmt: skip
    return model.replace(record={**model.record, "distilled": said})


def _by(calculator, data: Dataset) -> Dataset:
    """Some of the frames with the labels of a calculator."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), COMPARED)).astype(int))
    found = []
    for i in chosen:
        atoms = data[int(i)].system.to_ase()
        atoms.calc = calculator
        found.append(labelled(atoms, atoms.positions))
    return Dataset(found, data.source, data.indices[chosen])
