"""An eye on a simulation: it ends, or says so, where the force field does not know the forces."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from ase.io import write

from mlff.arguments import require_positive

logger = logging.getLogger(__name__)


@runtime_checkable
class Sentinel(Protocol):
    """What looks at a run at every record, and may end it."""

    def ends(self, atoms: Atoms, step: int) -> bool:
        """Whether the run ends at this step."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Looks at the error bars of the forces at every record.

    Attributes:
        limit: the largest standard deviation of a force component that is allowed, eV/Å.
        stops: whether the run ends there, or a warning is logged, once.
        path: where the geometry is written that the force field does not know (extended xyz); None for nowhere.
    """

    limit: float
    stops: bool = True
    path: pathlib.Path | None = None
    _seen: list[int] = dataclasses.field(default_factory=list, repr=False)

    def __post_init__(self):
        require_positive("limit", self.limit, ", eV/Å")

    def ends(self, atoms: Atoms, step: int) -> bool:
        """Whether the run ends at this step.

        Raises:
            ValueError: the force field has no posterior.
        """
        stds = require_error_bars(atoms)
        atom, largest = int(np.argmax(stds.max(axis=1))), float(stds.max())
        if largest <= self.limit or self._seen:
            return False
        self._seen.append(step)
        if self.path is not None:
            write(self.path, _bare(atoms, step, largest), format="extxyz")
        ending = "the run ends here" if self.stops else "the run goes on"
        logger.warning(
            "step %d: the force on atom %d is known to %.3g eV/Å, the limit is %.3g; %s",
            step,
            atom,
            largest,
            self.limit,
            ending,
        )
        return self.stops


def require_error_bars(atoms: Atoms) -> np.ndarray:
    """Standard deviations of the forces, eV/Å, (n, 3).

    Raises:
        ValueError: the force field has no posterior.
    """
    if "forces_std" not in atoms.calc.implemented_properties:
        raise ValueError("error bars: this force field has none; fit it with posterior=True (mlff fit --error-bars)")
    return np.asarray(atoms.calc.get_property("forces_std", atoms))


def _bare(atoms: Atoms, step: int, largest: float) -> Atoms:
    """The geometry alone, without what the force field says of it, which nobody should train on."""
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, momenta=atoms.get_momenta())
    frame.info.update(step=step, forces_std=largest)
    return frame
