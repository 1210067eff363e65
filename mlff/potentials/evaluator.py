"""Energies, forces, stresses and error bars of frames of any compositions, in double or single precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlff.batching import BATCH_MEMORY
from mlff.data.batches import Batch, LabelledFrames
from mlff.data.cells import volume
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.potentials.force_field import ForceField
from mlff.potentials.predictions import first_order, numbers_of
from mlff.precision import singled

Found = dict[str, Any]  # what is predicted of a frame, by name


class Evaluator:
    """What a force field says of frames: energy (eV), forces (n, 3) (eV/Å), and where a cell can be strained stress (3, 3) (eV/Å³).

    Arguments:
        force_field: what predicts.
        memory: bytes of intermediate arrays, as of `ForceField.energy_and_forces`.
        std: whether standard deviations are wanted too, `energy_std` (where energies are known) and `forces_std`.
    Raises:
        ValueError: standard deviations of a force field without error bars.
    """

    def __init__(self, force_field: ForceField, memory: int = BATCH_MEMORY, std: bool = False):
        if std and force_field.posterior is None:
            raise ValueError("std: the model has no error bars; fit it with posterior=True (mlff fit --error-bars)")
        self.force_field, self._memory, self._std = force_field, memory, std

    def __call__(self, frames: Sequence[Frame]) -> list[Found]:
        """What is predicted of every frame; frames of one composition are worked off together.

        Raises:
            ValueError: as `ForceField.energy_and_forces`.
        """
        found: list[Found] = [{} for _ in frames]
        for batch in LabelledFrames.of(Dataset([Frame(frame.system, {}) for frame in frames])).batches:
            for i, of_frame in zip(batch.index, self._of_batch(batch), strict=True):
                found[i] = of_frame
        return found

    def _of_batch(self, batch: Batch) -> list[Found]:
        energies, forces, stresses = first_order(self.force_field, LabelledFrames((batch,)), self._memory)
        found = []
        for k, i in enumerate(batch.index):
            here: Found = {"energy": float(energies[i]), "forces": forces[i]}
            if not (np.isfinite(here["energy"]) and np.isfinite(here["forces"]).all()):
                raise ValueError("energy or forces are not finite there; two atoms may coincide")
            where = batch.positions[k], batch.cells[k], batch.pbc[k], numbers_of(self.force_field, batch)
            if batch.pbc[k].any() and volume(batch.cells[k]):
                here["stress"] = stresses[i] if i in stresses else self.force_field.stress(*where)
            if self._std:
                energy_std, here["forces_std"] = self.force_field.energy_and_forces_std(*where)
                here |= {"energy_std": energy_std} if np.isfinite(energy_std) else {}
            found.append(here)
        return found


class SingleEvaluator:
    """As `Evaluator`, in single precision; constants of atoms, which are large, are added in double.

    Raises:
        ValueError: a force field that is of double precision alone.
    """

    def __init__(self, force_field: ForceField, memory: int = BATCH_MEMORY, std: bool = False):
        if not force_field.model.narrows:
            raise ValueError(f"precision: {force_field.model.label} has a precision of its own; leave float32 out")
        self._model = force_field.model
        # a copy, as arrays of the other may be on the device in double precision
        self._evaluate = Evaluator(force_field.replace(model=force_field.model.without_atoms()), memory, std)

    def __call__(self, frames: Sequence[Frame]) -> list[Found]:
        """What is predicted of every frame, as float64 arrays."""
        with singled():
            found = self._evaluate(frames)
        return [
            {**here, "energy": here["energy"] + self._model.energy_of_atoms(frame.numbers)}
            for frame, here in zip(frames, found, strict=True)
        ]
