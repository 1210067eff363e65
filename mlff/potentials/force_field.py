"""From one energy function to forces, stress, Hessians and force constants, for every kind of model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Integer

from mlff.batching import BATCH_MEMORY, HESSIAN_MEMORY, chunk_size, map_chunks
from mlff.data.batches import Batch
from mlff.data.cells import stated, states_no_period, volume
from mlff.kernels.composed import Kernel
from mlff.kernels.radial import require_order
from mlff.kernels.surroundings import surroundings
from mlff.operators import Operator
from mlff.potentials.arguments import chosen_atoms, coordinates, displacements, one_geometry, require_atoms
from mlff.potentials.compiled import Prepared, arrived
from mlff.potentials.coverage import spacings
from mlff.potentials.derivatives import symmetric_tensor, unordered_choices
from mlff.potentials.expansion import Expansion
from mlff.precision import doubled
from mlff.units import formula

Positions = Float[np.ndarray | jax.Array, "*batch n 3"]
Vectors = Float[np.ndarray | jax.Array, "*k n 3"]
_NO_CELL = np.zeros((3, 3))


class ForceField(struct.PyTreeNode):
    """A fitted force field: energies in eV, forces in eV/Å, Hessians in eV/Å², always NumPy float64.

    Attributes:
        model: the energy function; `model.arranged(numbers).energy(positions, numbers, cell, neighbors)` is the pure JAX
            function for those who compose it under their own 64-bit setting.
        numbers: atomic numbers it was made for, shape (n,); None for one that was trained on several compositions.
        kernel: the kernel it was fitted with, hyperparameters filled in.
        label_order: highest order of derivative among its labels.
        record: how it came to be: units, labels, noise, training indices, data hash, errors, versions.
    """

    model: Expansion
    numbers: np.ndarray | None
    kernel: Kernel
    label_order: int = struct.field(pytree_node=False)
    record: dict[str, Any] = struct.field(pytree_node=False, default_factory=dict)

    def __repr__(self) -> str:
        made_for = "any composition" if self.numbers is None else formula(self.numbers)
        return f"ForceField({made_for}, {self.kernel.label}, {self.model.size} points)"

    @functools.cached_property
    def takes_cell(self) -> bool:
        """Whether it can be asked about periodic cells: every descriptor takes one."""
        return all("cell" in leaf.descriptor.uses for leaf in self.kernel.leaves)

    @property
    def transferable(self) -> bool:
        """Whether it takes any composition of the elements that it knows."""
        return self.kernel.transferable

    @property
    def closest(self) -> dict[str, float]:
        """The smallest distance between two atoms of each pair of elements in the training frames, Å; keys such as "C-H"."""
        return self.record.get("closest") or {}

    def energy(self, positions: Positions, cell=None, pbc=None, numbers=None) -> float | np.ndarray:
        """Potential energy, eV: a float for positions of shape (n, 3), an array (m,) for (m, n, 3)."""
        return self.energy_and_forces(positions, cell, pbc, numbers)[0]

    def forces(self, positions: Positions, cell=None, pbc=None, numbers=None) -> np.ndarray:
        """Forces −∂E/∂x, eV/Å, in the shape of the positions."""
        return self.energy_and_forces(positions, cell, pbc, numbers)[1]

    def energy_and_forces(
        self, positions: Positions, cell=None, pbc=None, numbers=None, memory: int = BATCH_MEMORY
    ) -> tuple[float | np.ndarray, np.ndarray]:
        """Energy and forces by one reverse pass.

        Arguments:
            positions: shape (n, 3), or (m, n, 3) for a batch, Å.
            cell: cell vectors as rows, shape (3, 3) or (m, 3, 3), Å, for descriptors that take one.
            pbc: which directions are periodic, shape (3,) or (m, 3); without it those that have a cell vector.
            numbers: atomic numbers, shape (n,), where they are not the ones that the force field was made for
                (local kernels: any composition of the elements that it knows).
            memory: bytes of intermediate arrays that a batch may take; it is worked off in chunks.
        Returns:
            energy, eV, a float or shape (m,); forces, eV/Å, shape (n, 3) or (m, n, 3).
        Raises:
            ValueError: other atoms, no such shape, positions or results that are not finite.
        """
        prepared, positions, around = self._checked(positions, cell, pbc, numbers)
        if positions.ndim == 2:
            with doubled():
                packed = arrived(prepared.functions.single(prepared.leaves, prepared.numbers, positions, *around))
            if not np.isfinite(packed).all():
                self._refuse(positions)
            return float(packed[0]), packed[1:].reshape(positions.shape).copy()
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (positions, around))
        size = prepared.batch_size(*one, memory)
        function = functools.partial(prepared.functions.batch, prepared.leaves, prepared.numbers)
        packed = np.empty((len(positions), 1 + 3 * prepared.atoms))
        for piece, result in map_chunks(function, (positions, around), size):
            packed[piece] = result
        if not np.isfinite(packed).all():
            self._refuse(positions)
        return packed[:, 0].copy(), packed[:, 1:].reshape(positions.shape)

    def hessian(
        self,
        positions: Positions,
        cell=None,
        pbc=None,
        numbers=None,
        memory: int = HESSIAN_MEMORY,
        moving: Integer[np.ndarray, " m"] | Sequence[int] | None = None,
    ) -> np.ndarray:
        """Second derivatives ∂²E/∂x², eV/Å², shape (3n, 3n), row = 3·atom + xyz; forward over reverse.

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            memory: bytes of intermediate arrays to stay within, as far as one column at a time can.
            moving: indices of m atoms; the result is then their block in this order, shape (3m, 3m), and only the columns
                of these atoms are computed.
        Raises:
            ValueError: the kernel is not smooth enough for labels of this order (design: m + n ≤ order), or no such atoms.
        """
        self.require_derivative(2, "the Hessian")
        one_geometry("the Hessian", positions)
        prepared, positions, around = self._checked(positions, cell, pbc, numbers)
        atoms = None if moving is None else chosen_atoms(moving, prepared.atoms)
        rows = chunk_size(prepared.bytes_per_gradient(positions, around), memory)
        rows = min(rows, positions.size if atoms is None else 3 * len(atoms))
        with doubled():
            arguments = (prepared.leaves, prepared.numbers, positions, *around, atoms)
            return np.array(prepared.functions.hessian(*arguments, rows_at_once=rows))

    def hessian_vector_product(
        self,
        positions: Positions,
        vectors: Vectors,
        cell=None,
        pbc=None,
        numbers=None,
        memory: int = HESSIAN_MEMORY,
    ) -> np.ndarray:
        """Products H·v of the Hessian with vectors, without the Hessian: the gradient differentiated along v.

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            vectors: shape (n, 3), or (k, n, 3) for several.
        Returns:
            eV/Å² times the unit of the vectors, in their shape.
        Raises:
            ValueError: the kernel is not smooth enough for a Hessian, or no such shapes.
        """
        self.require_derivative(2, "the Hessian")
        one_geometry("the Hessian", positions)
        prepared, positions, around = self._checked(positions, cell, pbc, numbers)
        directions = displacements("vectors", vectors, positions.shape, (2, 3))
        sets = directions.reshape(-1, 1, *positions.shape)
        products = np.empty((len(sets), *positions.shape))
        for piece, gradients in self._gradients_along(prepared, positions, around, sets, memory):
            products[piece] = gradients
        return products.reshape(directions.shape)

    def directional_derivatives(
        self,
        positions: Positions,
        directions: Float[np.ndarray | jax.Array, "c order n 3"],
        cell=None,
        pbc=None,
        numbers=None,
        memory: int = HESSIAN_MEMORY,
    ) -> np.ndarray:
        """Mixed derivatives of the energy along straight lines, one for each of c sets of directions.

            D^m E [d_1, …, d_m] = ∂^m E(x + Σ_i t_i d_i)/∂t_1…∂t_m at t = 0

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            directions: shape (c, order, n, 3).
        Returns:
            shape (c,), eV when the t_i are numbers and the directions in Å.
        Raises:
            ValueError: the kernel does not have derivatives of this order, or no such shapes.
        """
        one_geometry("a derivative along directions", positions)
        directions = displacements("directions", directions, np.shape(positions), (4,))
        self.require_derivative(directions.shape[1], f"the derivative of order {directions.shape[1]}")
        prepared, positions, around = self._checked(positions, cell, pbc, numbers)
        last, sets = directions[:, -1], directions[:, :-1]
        derivatives = np.empty(len(sets))
        for piece, gradients in self._gradients_along(prepared, positions, around, sets, memory):
            derivatives[piece] = np.einsum("cna,cna->c", gradients, last[piece])
        return derivatives

    def force_constants(
        self,
        positions: Positions,
        directions: Float[np.ndarray | jax.Array, "k n 3"],
        order: int,
        cell=None,
        pbc=None,
        numbers=None,
        memory: int = HESSIAN_MEMORY,
    ) -> np.ndarray:
        """Force constants along directions, such as normal modes: quadratic, cubic or quartic.

            Φ_ij… = D^order E [d_i, d_j, …]

        Of every unordered choice of order − 1 directions the derivative of the gradient is taken once.

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            directions: shape (k, n, 3).
            order: 2, 3 or 4.
        Returns:
            symmetric tensor of shape (k,)*order; eV when the directions are in Å.
        Raises:
            ValueError: another order, one that the kernel does not have (the message names kernels that do), or no such
                shapes.
        """
        if order not in (2, 3, 4):
            raise ValueError(f"order={order} must be 2, 3 or 4; directional_derivatives takes any")
        one_geometry("force constants", positions)
        self.require_derivative(order, f"a force constant of order {order}")
        directions = displacements("directions", directions, np.shape(positions), (3,))
        prepared, positions, around = self._checked(positions, cell, pbc, numbers)
        chosen = unordered_choices(len(directions), order - 1)
        contracted = np.empty((len(chosen), len(directions)))
        for piece, gradients in self._gradients_along(prepared, positions, around, directions[chosen], memory):
            contracted[piece] = np.tensordot(gradients, directions, axes=((1, 2), (1, 2)))
        return symmetric_tensor(chosen, contracted)

    def stress(self, positions: Float[np.ndarray | jax.Array, "n 3"], cell, pbc=None, numbers=None) -> np.ndarray:
        """Stress ∂E/∂ε/V, eV/Å³, shape (3, 3), tension positive; positions and cell deform by 1 + ε.

        V is the volume of the cell as it is given. Of slabs and wires it holds the vacuum, so that V times the stress does
        not depend on the vectors of directions that are not periodic; nor does the energy.

        Raises:
            ValueError: no stress is defined: the descriptor takes no cell, no direction is periodic, or the volume is zero.
        """
        prepared, *geometry = self._strainable("stress", positions, cell, pbc, numbers)
        if not (size := volume(np.asarray(cell, dtype=np.float64))):
            raise ValueError(
                f"cell: its volume is zero, so there is no stress; give three cell vectors as rows, Å, received {np.asarray(cell).tolist()}"
            )
        with doubled():
            return np.array(prepared.functions.strain_slope(prepared.leaves, prepared.numbers, *geometry)) / size

    def apply(
        self,
        operator: Operator,
        positions: Float[np.ndarray | jax.Array, "n 3"],
        cell=None,
        pbc=None,
        numbers=None,
        arguments: tuple = (),
    ) -> np.ndarray:
        """A label operator of the energy, L E, in the shape that its function gives: what the model says of such a label.

        Arguments:
            operator: one of `mlff.operators`, or a user's own.
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            arguments: what the operator takes beside the energy and the positions.
        Raises:
            ValueError: it takes a strain, and there is no cell to deform.
        """
        if operator.strain:
            prepared, *geometry = self._strainable(operator.name, positions, cell, pbc, numbers)
        else:
            one_geometry(operator.name, positions)
            prepared, positions, around = self._checked(positions, cell, pbc, numbers)
            geometry = [positions, *around]
        with doubled():
            leaves = prepared.leaves, prepared.numbers
            return np.array(prepared.functions.applied(*leaves, *geometry, arguments, function=operator.function))

    def strain_derivatives(
        self, positions: Float[np.ndarray | jax.Array, "n 3"], cell, pbc=None, numbers=None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Second derivatives of the energy with respect to strain, and to strain and positions.

        The symmetric strain ε deforms positions and cell by 1 + ε; its components η are in Voigt order xx yy zz yz xz xy,
        with engineering shears 2 ε_yz, 2 ε_xz, 2 ε_xy. Displacements of atoms deform with the cell.

        Returns:
            ∂²E/∂η∂η, eV, shape (6, 6); ∂²E/∂η∂x, eV/Å, shape (6, n, 3).
        Raises:
            ValueError: the descriptor takes no cell, no direction is periodic, or the kernel is not smooth enough.
        """
        self.require_derivative(2, "the second derivative by strain")
        prepared, *geometry = self._strainable("strain", positions, cell, pbc, numbers)
        with doubled():
            pure, mixed = prepared.functions.strain_derivatives(prepared.leaves, prepared.numbers, *geometry)
            return np.array(pure), np.array(mixed)

    def training_distance(
        self, positions: Float[np.ndarray | jax.Array, "n 3"], cell=None, pbc=None, numbers=None
    ) -> float:
        """How far a geometry lies from the training frames, in units of how far these lie from each other.

        About 0.5 to 1.3 for frames like those; the force field guesses where it is larger (see `mlff.potentials.coverage`).

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
        Raises:
            ValueError: as `energy_and_forces`.
        """
        one_geometry("the distance from the training frames", positions)
        prepared, positions, around = self._checked(positions, cell, pbc, numbers)
        with doubled():
            arguments = (prepared.leaves, self._spacings, prepared.numbers, positions, *around)
            return float(prepared.functions.training_distance(*arguments))

    def require_derivative(self, order: int, what: str) -> None:
        """Refuse a derivative of the energy that does not exist everywhere.

        Raises:
            ValueError: naming `what`, and kernels that have it.
        """
        for radial in self.kernel.radials:
            require_order(radial, self.label_order, order, what)

    def save(self, path) -> None:
        """Write the model file, whole or not at all; `mlff.load` reads it."""
        from mlff.potentials import model_files as archive

        archive.save(self, path)

    def export(self, path, numbers=None) -> None:
        """Write energy, forces and Hessian of molecules as one file that runs without the descriptor's source.

        `mlff.load_export(path, trusted=True)` reads it, for as long as JAX promises to (six months): a compiled program is code.
        The model file that `save` writes is the one to keep.

        Arguments:
            path: of the file, written whole or not at all.
            numbers: atomic numbers to export for, shape (n,), where it was trained on several compositions.
        Raises:
            ValueError: periodic, or no atomic numbers are known, or ones that it cannot take.
        """
        from mlff.potentials import exported as export

        prepared = self._own if numbers is None else self._prepare(self._known(numbers))
        export.save(self, prepared, path)

    # -- where NumPy goes in ---------------------------------------------------------------------------------------

    @functools.cached_property
    def _prepared(self) -> dict[bytes, Prepared]:
        return {}

    def _prepare(self, numbers: np.ndarray) -> Prepared:
        """Compiled functions and the model's arrays on the device, for one composition."""
        key = numbers.tobytes()
        if key not in self._prepared:
            self._prepared[key] = Prepared.of(self.model.arranged(numbers), numbers)
        return self._prepared[key]

    @functools.cached_property
    def _own(self) -> Prepared | None:
        return None if self.numbers is None else self._prepare(np.asarray(self.numbers, dtype=np.int32))

    @functools.cached_property
    def _spacings(self) -> tuple[np.ndarray, ...]:
        return spacings(self.model)

    @functools.cached_property
    def _sees_nothing_around(self) -> bool:
        """Whether no descriptor takes a cell or neighbours."""
        return all(descriptor.uses <= {"numbers"} for descriptor in self.kernel.descriptors)

    @property
    def _blind(self) -> str:
        """The name of the first descriptor that takes no cell."""
        return next(leaf.descriptor.name for leaf in self.kernel.leaves if "cell" not in leaf.descriptor.uses)

    def _checked(self, positions, cell, pbc, numbers) -> tuple[Prepared, np.ndarray, tuple]:
        """Prepared model, positions, and (cell, neighbours) of one geometry or of each of a batch."""
        positions = coordinates(positions)
        prepared = self._own if numbers is None else self._prepare(self._known(numbers))
        if prepared is None:
            raise ValueError("numbers: this force field was trained on several compositions; give the atomic numbers")
        atoms = prepared.atoms
        if positions.shape[-2:] != (atoms, 3) or positions.ndim not in (2, 3):
            raise ValueError(
                f"positions: expected shape ({atoms}, 3) or (m, {atoms}, 3) for {formula(np.asarray(prepared.numbers))}, "
                f"received {positions.shape}"
            )
        single = positions.ndim == 2
        frames = positions[None] if single else positions
        if not (self._sees_nothing_around and states_no_period(cell, pbc)):
            cells, periodic = stated(cell, pbc, len(frames))
            if periodic.any() and not self.takes_cell:
                raise ValueError(
                    f"pbc: periodic, but descriptor {self._blind} takes no cell; set pbc=False for an isolated molecule"
                )
        if self._sees_nothing_around:
            if not single:
                self._require_finite(positions)
            return prepared, positions, (_NO_CELL if single else np.zeros((len(positions), 3, 3)), None)
        if cell is None and self.record.get("periodic"):
            raise ValueError("cell: the force field is of periodic frames and needs one; give shape (3, 3), Å")
        self._require_finite(positions)
        batch = Batch(frames, np.asarray(prepared.numbers), cells, periodic, {}, np.arange(len(frames)))
        around = surroundings(self.kernel.descriptors, batch)
        return prepared, positions, jax.tree.map(lambda leaf: leaf[0], around) if single else around

    def _strainable(self, what: str, positions, cell, pbc, numbers) -> tuple:
        """Prepared model, positions, cell and neighbours of one geometry whose cell can be deformed."""
        if not self.takes_cell:
            raise ValueError(f"{what}: descriptor {self._blind} takes no cell, so there is no {what}")
        one_geometry(f"the {what}", positions)
        prepared, positions, (counted, neighbors) = self._checked(positions, cell, pbc, numbers)
        if not counted.any():
            raise ValueError(
                f"pbc: no direction is periodic, so the cell does not enter the energy and there is no {what}; "
                "set pbc=True for a crystal, or ask for forces alone"
            )
        return prepared, positions, counted, neighbors

    def _gradients_along(self, prepared: Prepared, positions: np.ndarray, around: tuple, sets: np.ndarray, memory: int):
        """(slice of the sets, derivatives of the gradient along their directions), chunk by chunk."""
        # every forward pass doubles what the function computes
        size = chunk_size(prepared.bytes_per_gradient(positions, around) << max(0, sets.shape[1] - 1), memory)
        function = functools.partial(
            prepared.functions.gradient_along, prepared.leaves, prepared.numbers, positions, *around
        )
        yield from map_chunks(function, (sets,), size)

    def _known(self, numbers) -> np.ndarray:
        """Atomic numbers other than the force field's own, where it can take them."""
        numbers = np.asarray(numbers, dtype=np.int32)
        require_atoms(self, numbers, "numbers")
        return numbers

    def _refuse(self, positions: np.ndarray) -> None:
        self._require_finite(positions)
        raise ValueError("positions: energy or forces are not finite there; two atoms may coincide")

    def __getstate__(self) -> dict:
        """Without compiled functions, which another process makes anew."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_prepared", "_own")}

    def _require_finite(self, positions: np.ndarray) -> None:
        if not np.isfinite(positions).all():
            raise ValueError("positions: not all finite; a previous step of the simulation may have diverged")
