"""What a baseline leaves of the labels of frames: L(y − u₀), to which a correction is fitted."""

from __future__ import annotations

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.methods import METHODS
from mlff.operators import ENERGY, FORCES, OPERATORS, STRESS, Operator
from mlff.potentials.arguments import require_atoms, require_charge
from mlff.potentials.force_field import ForceField
from mlff.potentials.potential import Potential
from mlff.potentials.predictions import first_order, predictions, require_comparable
from mlff.potentials.reference import Reference, references
from mlff.units import formula


def baseline_of(given) -> ForceField | None:
    """A baseline as users give it: a force field, a potential, a method by its name, or one of ASE's calculators; None for none."""
    if given is None or isinstance(given, ForceField):
        return given
    if isinstance(known := getattr(given, "force_field", None), ForceField):  # a `Calculator`
        return known
    if isinstance(given, Potential):
        return ForceField.of(given)
    if given in METHODS if isinstance(given, str) else hasattr(given, "get_potential_energy"):
        return ForceField.of(Reference(given))
    raise ValueError(
        f"baseline={given!r:.80}: expected a force field (mlff.load(path) of a file), a method by its name ({', '.join(METHODS)}), a "
        "potential, or one of ASE's calculators"
    )


def same_baseline(one: ForceField | None, other: ForceField | None) -> bool:
    """Whether two baselines are one, or the same method."""
    if one is None or other is None or one is other:
        return one is other
    return isinstance(one.model, Reference) and isinstance(other.model, Reference) and one.model == other.model


def remaining(data: Dataset, baseline: ForceField, operators: tuple[Operator, ...] = (ENERGY, FORCES)) -> Dataset:
    """The frames with their labels less what a baseline says of them.

    Energies are always among them: their constants belong to the correction, so atoms by themselves have no energy in the result.

    Arguments:
        data: frames that the baseline can take.
        operators: which labels are wanted; others are left out.
    Raises:
        ValueError: other atoms than the baseline's, another charge, or labels that it cannot give.
    """
    for frame in data:
        require_atoms(baseline, frame.numbers, data.source)
        for method in references(baseline.model):
            method.require_frame(frame, data.source)
        require_charge(baseline, frame.numbers, frame.stated_charge, f"{data.source}: {formula(frame.numbers)} has")
    wanted = {operator.name: operator for operator in (*operators, ENERGY)}
    frames = LabelledFrames.of(data)
    energies, forces, stresses = first_order(baseline, frames)
    found = {}
    for name, operator in wanted.items():
        having = frames.having(name)
        if not having.batches:
            continue
        if operator is not ENERGY:  # a baseline that knows it up to a constant is as good as any
            require_comparable(baseline, having, operator)
        known = {ENERGY: energies, FORCES: forces, STRESS: stresses}.get(operator)
        found[name] = known or predictions(baseline, having, operator)
    return Dataset([_less(frame, i, found) for i, frame in enumerate(data)], data.source, data.indices, data.units)


def _less(frame: Frame, i: int, found: dict) -> Frame:
    """A frame without what was found of its labels; arguments of operators stay."""
    labels = {name: value for name, value in frame.labels.items() if name in found or name not in OPERATORS}
    for name in found:
        if np.size(frame.labels.get(name, ())):
            difference = np.asarray(frame.labels[name]) - np.reshape(found[name][i], np.shape(frame.labels[name]))
            labels[name] = float(difference) if np.ndim(frame.labels[name]) == 0 else difference
    return Frame(frame.system, labels, frame.atoms)
