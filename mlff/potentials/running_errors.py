"""Errors of predictions that are met one frame at a time, of which only sums are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.operators import ENERGY, FORCES, STRESS
from mlff.potentials.errors import LabelErrors
from mlff.potentials.force_field import ForceField
from mlff.potentials.predictions import require_comparable

COMPARED = (ENERGY, FORCES, STRESS)
PER_ATOM = "energy per atom"


@dataclasses.dataclass
class _Sums:
    """Of the absolute values of errors and of their squares, over `count` numbers."""

    unit: str
    absolute: float = 0.0
    squares: float = 0.0
    count: int = 0

    def add(self, errors: np.ndarray) -> None:
        known = errors[~np.isnan(errors)]
        self.absolute += float(np.sum(np.abs(known)))
        self.squares += float(np.sum(known**2))
        self.count += known.size

    def errors(self) -> LabelErrors:
        return LabelErrors(self.absolute / self.count, (self.squares / self.count) ** 0.5, self.unit, self.count)


class RunningErrors:
    """Mean absolute and root mean square errors of energies, energies an atom, forces and stresses.

    Attributes:
        not_compared: labels of which the force field says nothing that can be compared, with the reason.
    """

    def __init__(self, force_field: ForceField):
        self._sums = {operator.name: _Sums(operator.unit) for operator in COMPARED} | {PER_ATOM: _Sums("eV/atom")}
        self._reasons: dict[str, str] = {}
        self.not_compared: dict[str, str] = {}
        for operator in COMPARED:
            try:
                require_comparable(force_field, LabelledFrames(()), operator)
            except ValueError as error:
                self._reasons[operator.name] = str(error)

    def add(self, labels: Mapping, found: Mapping) -> None:
        """Take one frame: its labels and what is predicted of it, by name."""
        for name in (operator.name for operator in COMPARED):
            if name not in labels or name not in found:
                continue
            if name in self._reasons:
                self.not_compared[name] = self._reasons[name]
                continue
            errors = np.atleast_1d(np.asarray(found[name]) - np.asarray(labels[name]))
            self._sums[name].add(errors)
            if name == ENERGY.name:
                self._sums[PER_ATOM].add(errors / len(found[FORCES.name]))

    def distrust(self, doubts: Mapping[str, str]) -> None:
        """Leave out labels that cannot be trusted, with the reasons."""
        self.not_compared |= {name: reason for name, reason in doubts.items() if name in self._sums}

    def errors(self) -> dict[str, LabelErrors]:
        """By the name of the label, of those that were met."""
        left_out = set(self.not_compared) | ({PER_ATOM} if ENERGY.name in self.not_compared else set())
        return {name: sums.errors() for name, sums in self._sums.items() if sums.count and name not in left_out}
