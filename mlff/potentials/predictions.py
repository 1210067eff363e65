"""What a force field says of labels: energies and forces in batches, labels of any other operator frame by frame."""

from __future__ import annotations

import numpy as np

from mlff.batching import BATCH_MEMORY
from mlff.data.batches import Batch, LabelledFrames, arguments_of
from mlff.data.cells import volume
from mlff.data.hessian_checks import require_unprojected
from mlff.operators import ENERGY, FORCES, HESSIAN, OPERATORS, Operator, order_of
from mlff.potentials.force_field import ForceField

NOT_GIVEN = "the force field was fitted with an operator of its own for it; give that one in labels="
Predictions = dict[int, np.ndarray]  # by the index of the frame


def first_order(
    force_field: ForceField, frames: LabelledFrames, memory: int = BATCH_MEMORY
) -> tuple[Predictions, Predictions, Predictions]:
    """Energy (eV), forces (n, 3) (eV/Å) and, where they come with these, stress (eV/Å³) of every frame.

    Arguments:
        memory: bytes of intermediate arrays, as of `ForceField.energy_and_forces`.
    """
    energies, forces, stresses = {}, {}, {}
    if (summed := force_field.summed(frames)) is not None:
        pairs = [
            (int(i), len(batch.numbers), cell)
            for batch in frames.batches
            for i, cell in zip(batch.index, batch.cells, strict=True)
        ]
        atoms = np.split(summed.gradients, np.cumsum([size for _, size, _ in pairs])[:-1])
        for (i, _, cell), energy, gradient, strain in zip(pairs, summed.energies, atoms, summed.strains, strict=True):
            energies[i], forces[i] = np.asarray(energy), -gradient
            if contained := volume(cell):
                stresses[i] = strain / contained
        return energies, forces, stresses
    for batch in frames.batches:  # frames of equal atoms go together
        found = force_field.energy_and_forces(
            batch.positions, batch.cells, batch.pbc, numbers_of(force_field, batch), memory
        )
        for i, energy, force in zip(batch.index, *found, strict=True):
            energies[int(i)], forces[int(i)] = np.asarray(energy), force
    return energies, forces, stresses


def predictions(force_field: ForceField, frames: LabelledFrames, operator: Operator) -> Predictions:
    """L E of every frame, flattened as its label is.

    Raises:
        ValueError: the operator returns another number of labels than a frame has.
    """
    found = {}
    for batch in frames.batches:
        arguments = arguments_of(batch, operator)
        for k, i in enumerate(batch.index):
            geometry = batch.positions[k], batch.cells[k], batch.pbc[k], numbers_of(force_field, batch)
            values = force_field.apply(operator, *geometry, tuple(argument[k] for argument in arguments))
            if values.size != batch.labels[operator.name][k].size:
                raise ValueError(
                    f"operator {operator.name} returns {values.size} numbers for frame {i}, its label has "
                    f"{batch.labels[operator.name][k].size}"
                )
            found[int(i)] = values
    return found


def require_comparable(force_field: ForceField, frames: LabelledFrames, operator: Operator) -> None:
    """Refuse labels of which the force field says nothing, or nothing that can be compared.

    Raises:
        ValueError: with the reason: no constant of the energy, no cell, an operator of the fit that is not known, a
            derivative that the kernel does not have, Hessians that were projected.
    """
    record = force_field.record
    if operator is ENERGY and not record.get("energy_constant", True):
        raise ValueError("the force field was fitted without energies, so it knows them up to a constant only")
    if operator is OPERATORS.get(operator.name) and operator.name in record.get("own_operators", ()):
        raise ValueError(NOT_GIVEN)
    if operator.strain:
        if not force_field.takes_cell:
            raise ValueError("its descriptor takes no cell")
        for batch in frames.batches:
            if flat := [int(i) for i, cell in zip(batch.index, batch.cells, strict=True) if not np.linalg.det(cell)]:
                raise ValueError(f"frame {flat[0]} has no cell")
    if operator in (ENERGY, FORCES):
        return
    for batch in frames.batches:
        order = order_of(operator, batch.positions, arguments_of(batch, operator), highest=None)
        force_field.require_derivative(order, f"the {operator.name} of the model")
    if operator is HESSIAN:
        require_unprojected(frames)


def numbers_of(force_field: ForceField, batch: Batch) -> np.ndarray | None:
    """Atomic numbers of a batch as methods of the force field take them."""
    return batch.numbers if force_field.transferable else None
