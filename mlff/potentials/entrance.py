"""Where NumPy goes in: geometries checked, the model arranged for their atoms, its compiled functions asked."""

from __future__ import annotations

import functools

import numpy as np

from mlff.batching import chunk_size, map_chunks
from mlff.data.batches import Batch
from mlff.data.cells import stated, states_no_period
from mlff.data.neighbors import wants_list
from mlff.kernels.surroundings import Surroundings
from mlff.operators import Operator
from mlff.potentials.arguments import coordinates, one_geometry, require_atoms
from mlff.potentials.compiled import Prepared, on_device
from mlff.potentials.environmental import Environmental, Summed
from mlff.potentials.potential import Potential
from mlff.precision import doubled
from mlff.units import formula

ARRANGED = 256  # compositions whose preparations are kept
_ISOLATED = Surroundings(np.zeros((3, 3)))


class Entrance:
    """The way into a potential.

    Attributes:
        model: the potential.
        numbers: atomic numbers it was made for, shape (n,); None for one of several compositions.
        periodic: whether the frames of its fit were, so that it is asked about no geometry without a cell.
    """

    def __init__(self, model: Potential, numbers: np.ndarray | None, periodic: bool):
        self.model, self.numbers, self.periodic = model, numbers, periodic

    @functools.cached_property
    def transferable(self) -> bool:
        """Whether it takes any composition of the elements that it knows."""
        return self.model.transferable

    @functools.cached_property
    def _prepared(self) -> dict[bytes, Prepared]:
        return {}

    @functools.cached_property
    def _on_device(self) -> Potential:
        """The one copy of the model's arrays that all compositions share."""
        return on_device(self.model)

    def prepare(self, numbers: np.ndarray) -> Prepared:
        """The model for one composition: as it is for that of the fit, in slots of a few sizes for any other."""
        key = numbers.tobytes()
        if key not in self._prepared:
            if len(self._prepared) >= ARRANGED:  # files may hold hundreds of thousands of compositions
                del self._prepared[next(iter(self._prepared))]
            fitted = self.numbers is not None and np.array_equal(np.sort(self.numbers), np.sort(numbers))
            self._prepared[key] = Prepared.of(self._on_device, numbers, room=not fitted)
        return self._prepared[key]

    @functools.cached_property
    def _fitted(self) -> Prepared | None:
        """For the atoms that it was made for."""
        return None if self.numbers is None else self.prepare(np.asarray(self.numbers, dtype=np.int32))

    @functools.cached_property
    def spacings(self):
        """How far the training frames lie from each other; None without any."""
        return self.model.spacings()

    @functools.cached_property
    def _sees_atoms_alone(self) -> bool:
        """Whether neither a cell nor neighbours enter the energy."""
        return not self.model.takes_cell and self.model.reach == 0.0

    @functools.cached_property
    def environmental(self) -> Environmental:
        """The model as a sum over environments."""
        return Environmental(self._on_device, self.spacings)

    def summed(self, positions, cell, pbc, numbers) -> Summed | None:
        """Energies and first derivatives of frames that have lists of neighbours, as sums over environments; None for other
        frames, and models that are no such sums."""
        if not self.model.sees_alone:
            return None
        prepared, positions, cells, periodic = self.located(positions, cell, pbc, numbers)
        if not wants_list(prepared.atoms, periodic.any(axis=0)):
            return None
        summed = self.environmental.summed((self.batch(positions, cells, periodic, numbers),))
        if not all(np.isfinite(array).all() for array in summed):
            self.refuse(positions)
        return summed

    def batch(self, positions, cells, periodic, numbers) -> Batch:
        """Positions that were checked, of one geometry or several, as frames."""
        frames = positions[None] if positions.ndim == 2 else positions
        atomic = np.asarray(self.numbers if numbers is None else numbers, dtype=np.int32)
        return Batch(frames, atomic, cells, periodic, {}, np.arange(len(frames)))

    def located(
        self, positions, cell, pbc, numbers
    ) -> tuple[Prepared, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Prepared model, and positions, cells and periodic directions, checked, of one geometry or of each of a batch."""
        positions = coordinates(positions)
        prepared = self._fitted if numbers is None else self.prepare(self.known(numbers))
        if prepared is None:
            raise ValueError("numbers: this force field is for several compositions; give the atomic numbers")
        atoms = prepared.atoms
        if positions.shape[-2:] != (atoms, 3) or positions.ndim not in (2, 3):
            of_what = formula(np.asarray(self.numbers if numbers is None else numbers))
            raise ValueError(
                f"positions: expected shape ({atoms}, 3) or (m, {atoms}, 3) for {of_what}, received {positions.shape}"
            )
        cells = periodic = None
        if not (self._sees_atoms_alone and states_no_period(cell, pbc)):
            cells, periodic = stated(cell, pbc, 1 if positions.ndim == 2 else len(positions))
            if periodic.any() and not self.model.takes_cell:
                raise ValueError(
                    f"pbc: periodic, but {self.model.blind} takes no cell; set pbc=False for an isolated molecule"
                )
        if not self._sees_atoms_alone:
            if cell is None and self.periodic:
                raise ValueError("cell: the force field is of periodic frames and needs one; give shape (3, 3), Å")
            self.require_finite(positions)
        elif positions.ndim == 3:
            self.require_finite(positions)
        return prepared, positions, cells, periodic

    def checked(self, positions, cell, pbc, numbers) -> tuple[Prepared, np.ndarray, Surroundings]:
        """Prepared model, and positions and surroundings of its slots, of one geometry or of each of a batch."""
        prepared, positions, cells, periodic = self.located(positions, cell, pbc, numbers)
        single = positions.ndim == 2
        if self._sees_atoms_alone:
            return prepared, positions, _ISOLATED if single else Surroundings(np.zeros((len(positions), 3, 3)))
        around = prepared.surroundings(self.batch(positions, cells, periodic, numbers))
        return prepared, prepared.fill(positions), around.frame(0) if single else around

    def applied(
        self, operator: Operator, prepared: Prepared, positions, around: Surroundings, arguments: tuple
    ) -> np.ndarray:
        """The compiled operator at positions of atoms, not of slots: what an operator makes of them has their shape."""
        shown = None if prepared.layout is None else prepared.layout.shown
        with doubled():
            where = (prepared.leaves, prepared.numbers, coordinates(positions), *around)
            found = np.array(prepared.functions.applied(*where, arguments, shown, function=operator.function))
        self.require_answer(found)
        return found

    def strainable(self, what: str, positions, cell, pbc, numbers) -> tuple[Prepared, np.ndarray, Surroundings]:
        """Prepared model, positions and surroundings of one geometry whose cell can be deformed."""
        self.require_cell(what)
        one_geometry(f"the {what}", positions)
        prepared, positions, around = self.checked(positions, cell, pbc, numbers)
        require_strainable(what, around.cell, around.cell.any(axis=1))
        return prepared, positions, around

    def require_cell(self, what: str) -> None:
        """Refuse what is defined of periodic cells alone, where the model takes none."""
        if not self.model.takes_cell:
            raise ValueError(f"{what}: {self.model.blind} takes no cell, so there is no {what}")

    def gradients_along(
        self, prepared: Prepared, positions: np.ndarray, around: Surroundings, sets: np.ndarray, memory: int
    ):
        """(slice of the sets, derivatives of the gradient along their directions), chunk by chunk."""
        # every forward pass doubles what the function computes
        size = chunk_size(prepared.bytes_per_gradient(positions, around) << max(0, sets.shape[1] - 1), memory)
        function = functools.partial(
            prepared.functions.gradient_along, prepared.leaves, prepared.numbers, positions, *around
        )
        for piece, gradients in map_chunks(function, (prepared.fill(sets),), size):
            self.require_answer(gradients)
            yield piece, prepared.of_atoms(gradients)

    def known(self, numbers) -> np.ndarray:
        """Atomic numbers other than the force field's own, where it can take them."""
        numbers = np.asarray(numbers, dtype=np.int32)
        require_atoms(self, numbers, "numbers")
        return numbers

    def refuse(self, positions: np.ndarray) -> None:
        """Say why an answer is not finite.

        Raises:
            ValueError: always.
        """
        self.require_finite(positions)
        raise ValueError(
            self.model.failure or "positions: energy or forces are not finite there; two atoms may coincide"
        )

    def require_answer(self, found: np.ndarray) -> None:
        """Refuse derivatives that a term could not give."""
        if self.model.failure and not np.isfinite(found).all():
            raise ValueError(self.model.failure)

    def require_finite(self, positions: np.ndarray) -> None:
        """Refuse positions that are not all numbers."""
        if not np.isfinite(positions).all():
            raise ValueError("positions: not all finite; a previous step of the simulation may have diverged")


def require_strainable(what: str, cell: np.ndarray, periodic: np.ndarray) -> None:
    """Refuse what a strain is asked of where it changes no energy: no direction is periodic."""
    if not periodic.any() or not cell.any():
        raise ValueError(
            f"pbc: no direction is periodic, so the cell does not enter the energy and there is no {what}; "
            "set pbc=True for a crystal, or ask for forces alone"
        )
