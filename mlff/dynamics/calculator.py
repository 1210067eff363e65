"""The force field as an ASE calculator."""

from __future__ import annotations

import itertools
import logging
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from scipy.spatial.distance import pdist

from mlff.data.frames import stated_charge
from mlff.data.neighbors import REACH, closest_pairs
from mlff.potentials.arguments import require_atoms, require_charge
from mlff.potentials.coverage import OUTSIDE
from mlff.potentials.force_field import ForceField
from mlff.potentials.model_files import load
from mlff.units import symbols

logger = logging.getLogger(__name__)

LOOK_AGAIN = 0.1  # Å; when an atom has moved by that much, the distance from the training frames is taken again
SKIN = 0.5  # Å, beyond the distances that are named, within which atoms of cells are looked for
CLOSER = 0.95  # of the closest distance in the training frames: nearer than that is named
ERROR_BARS = frozenset({"energy_std", "energy_uncertainty", "forces_std"})
_GEOMETRY = frozenset({"positions", "numbers", "cell", "pbc"})


class Calculator(ASECalculator):
    """ASE calculator: `atoms.calc = mlff.Calculator(mlff.load("ethanol.mlff"))`.

    Results: `energy` and `free_energy` (eV, Python floats), `forces` (eV/Å, float64), `stress` (eV/Å³, Voigt order
    xx yy zz yz xz xy, tension positive) where the descriptor takes a cell, and `hessian` (eV/Å², shape (3n, 3n))
    after `get_hessian`. Of a force field with a posterior also, where they are asked for, the standard deviations `energy_std` (eV;
    other tools look for it as `energy_uncertainty`) and `forces_std` (eV/Å, shape (n, 3)), from its committee.

    A warning is logged where atoms come closer, or a geometry lies farther from the training frames, than these show. One calculator
    may serve several threads, which take turns.

    Attributes:
        force_field: whose energy it is.
        warned_at: the distance from the training frames from which on a warning is logged; infinite for never.

    Arguments:
        force_field: a `ForceField`, or the path of a model file.
        trusted, descriptors: for a path, as of `mlff.load`.
    Raises:
        ValueError: a model file that cannot be read; on calculation, atoms that differ from the force field's in number,
            kind or order, or state another total charge.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "hessian"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        force_field: ForceField | str | pathlib.Path,
        trusted: Sequence[str] = (),
        descriptors: Mapping[str, Callable] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._turn = threading.RLock()
        named = isinstance(force_field, (str, pathlib.Path))
        self.force_field = load(force_field, trusted, descriptors) if named else force_field
        self._charge: float | None = None
        self._named: set[str] = set()
        self._looked: np.ndarray | None = None
        self.warned_at = OUTSIDE
        self._limits: dict[bytes, np.ndarray] = {}
        self._apart: _Apart | None = None
        if self.force_field.takes_cell:
            self.implemented_properties = [*self.implemented_properties, "stress"]
        if self.force_field.posterior is not None:
            self.implemented_properties = [*self.implemented_properties, *sorted(ERROR_BARS)]

    def check_state(self, atoms, tol=1e-15):
        changes = super().check_state(atoms, tol)
        if stated_charge(atoms) != self._charge:
            changes.append("initial_charges")  # ASE does not look at what else states a charge
        return changes

    def get_property(self, name, atoms=None, allow_calculation=True):
        # from the look at what is known to the answer, `results` are those of one thread's atoms
        with self._turn:
            return super().get_property(name, atoms, allow_calculation)

    def get_potential_energy(self, atoms=None, force_consistent=False):
        with self._turn:
            return super().get_potential_energy(atoms, force_consistent)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_turn"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _turn=threading.RLock())

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        if system_changes:
            self.results = {}
        atoms, model = self.atoms, self.force_field
        self._charge = stated_charge(atoms)
        if not _GEOMETRY.isdisjoint(system_changes) or not self.results:
            self._require(atoms)
            self._warn_of_close_atoms(atoms)
        where = geometry(model, atoms)
        self._warn_of_distant_geometry(atoms, where)
        if "stress" in properties and "energy" in self.results:
            self.results["stress"] = full_3x3_to_voigt_6_stress(model.stress(**where))
        elif "stress" in properties:
            energy, forces, stress = model.energy_forces_and_stress(**where)
            self.results.update(
                energy=energy, free_energy=energy, forces=forces, stress=full_3x3_to_voigt_6_stress(stress)
            )
        if "energy" not in self.results:
            energy, forces = model.energy_and_forces(**where)
            self.results.update(energy=energy, free_energy=energy, forces=forces)
        if "hessian" in properties:
            self.results["hessian"] = model.hessian(**where)
        if not ERROR_BARS.isdisjoint(properties):
            energy, forces = model.energy_and_forces_std(**where)
            self.results.update(energy_std=energy, energy_uncertainty=energy, forces_std=forces)

    def _warn_of_close_atoms(self, atoms) -> None:
        """Log a warning, once for each pair of elements, when two atoms come closer than any in the training frames."""
        closest = self.force_field.closest
        if not closest:
            return
        if not atoms.pbc.any():  # the quick answer, which is all that most steps of a simulation need
            kinds = atoms.numbers.tobytes()
            if kinds not in self._limits:
                self._limits = {kinds: self._closest_allowed(itertools.combinations(symbols(atoms.numbers), 2))}
            if not (pdist(atoms.positions) < self._limits[kinds]).any():
                return
        seen = _Apart.seen(atoms)
        if self._apart is not None and self._apart.still(seen):
            return
        present = symbols(np.unique(atoms.numbers))  # of a cell, an atom's own images are neighbours too
        reach = float(self._closest_allowed(itertools.combinations_with_replacement(present, 2)).max()) + SKIN
        cells, pbc = atoms.cell.array[None], atoms.pbc[None]
        nearest = closest_pairs(atoms.positions[None], atoms.numbers, cells, pbc, reach)
        spare = {
            pair: distance - CLOSER * closest.get(pair, REACH)
            for pair, distance in nearest.items()
            if pair not in self._named
        }
        self._apart = _Apart(*seen, margin=min([*spare.values(), SKIN]))
        for pair, margin in spare.items():
            if margin < 0.0:
                self._named.add(pair)
                shown = f"{closest[pair]:.2f} Å" if pair in closest else f"not within {REACH:.0f} Å"
                logger.warning(
                    "atoms %s are %.2f Å apart, in the training frames the closest are %s: the force field guesses there",
                    pair, nearest[pair], shown,
                )  # fmt: skip

    def _closest_allowed(self, pairs) -> np.ndarray:
        """The distances below which pairs of elements are named, Å."""
        closest = self.force_field.closest
        return np.array([CLOSER * closest.get("-".join(sorted(pair)), REACH) for pair in pairs])

    def _warn_of_distant_geometry(self, atoms, where: dict) -> None:
        """Log a warning when the geometry leaves what the training frames show, and again whenever it is twice as far."""
        geometry = np.concatenate([atoms.positions, atoms.cell.array])
        looked_before = self._looked is not None and self._looked.shape == geometry.shape
        if looked_before and not (np.abs(geometry - self._looked) > LOOK_AGAIN).any():
            return
        self._looked = geometry
        distance = self.force_field.training_distance(**where)
        if distance > self.warned_at:
            self.warned_at = 2.0 * distance
            logger.warning(
                "the geometry lies %.1f times as far from the nearest training frame as those lie from each other: the force "
                "field guesses there", distance,
            )  # fmt: skip

    def get_hessian(self, atoms=None, moving=None) -> np.ndarray:
        """Hessian of the energy, eV/Å², shape (3n, 3n), row = 3·atom + xyz; of the atoms `moving` alone, their block."""
        if moving is None:
            return self.get_property("hessian", atoms)
        force_field, where = self.located(atoms or self.atoms)
        return force_field.hessian(**where, moving=moving)

    def located(self, atoms) -> tuple[ForceField, dict]:
        """The force field, and the geometry of the atoms as keyword arguments of its methods.

        Raises:
            ValueError: atoms that the force field cannot take.
        """
        self._require(atoms)
        return self.force_field, geometry(self.force_field, atoms)

    def _require(self, atoms) -> None:
        require_atoms(self.force_field, atoms.numbers, "atoms")
        require_charge(self.force_field, atoms.numbers, stated_charge(atoms), "atoms: state")
        if atoms.pbc.any() and not self.force_field.takes_cell:
            raise ValueError(
                f"atoms: periodic, but {self.force_field.model.blind} takes no cell; set atoms.pbc = False for an isolated molecule"
            )


class _Apart(NamedTuple):
    """Atoms in a cell of which none was too close to another: by what, cell and periods, where they were, Å, and how much closer two
    of them might have been, Å."""

    kinds: bytes
    positions: np.ndarray
    margin: float

    @staticmethod
    def seen(atoms) -> tuple[bytes, np.ndarray]:
        """What is looked at, of some atoms."""
        return b"".join(
            array.tobytes() for array in (atoms.numbers, atoms.cell.array, atoms.pbc)
        ), atoms.positions.copy()

    def still(self, seen: tuple[bytes, np.ndarray]) -> bool:
        """Whether no two of them can be too close by now: none has moved by half of what there was to spare."""
        kinds, positions = seen
        if kinds != self.kinds:
            return False
        return bool(4.0 * np.max(np.sum((positions - self.positions) ** 2, axis=1)) < max(self.margin, 0.0) ** 2)


def geometry(force_field: ForceField, atoms) -> dict:
    """The geometry of atoms as arguments of a force field's methods."""
    numbers = atoms.numbers if force_field.transferable else None
    return {"positions": atoms.positions, "cell": atoms.cell.array, "pbc": atoms.pbc, "numbers": numbers}


def located(atoms, what: str) -> tuple[ForceField, dict]:
    """Force field and geometry of atoms whose calculator is ours.

    Arguments:
        what: is asked for, for the message.
    Raises:
        ValueError: another calculator, or atoms that the force field cannot take.
    """
    if not isinstance(atoms.calc, Calculator):
        raise ValueError(
            f"atoms.calc: {what} needs mlff.Calculator(force_field), received {type(atoms.calc).__name__}; attach one"
        )
    return atoms.calc.located(atoms)
