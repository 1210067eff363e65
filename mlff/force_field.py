"""From one energy function to forces, stress and Hessians, for every kind of model."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from mlff.batching import DEFAULT_MEMORY, chunk_size, map_chunks
from mlff.expansion import Expansion
from mlff.images import surroundings
from mlff.kernels import Kernel
from mlff.labelled import Batch
from mlff.radial import require_order
from mlff.units import formula, symbols

Positions = Float[np.ndarray | jax.Array, "*batch n 3"]
_HESSIAN_MEMORY = 256 * 2**20
_NO_CELL = np.zeros((3, 3))
_POLLING = 1e-3  # s


def _packed(model: Expansion, numbers, positions, cell, neighbors):
    """Energy and forces in one array, so that one transfer brings both."""
    energy, gradient = jax.value_and_grad(model.energy)(positions, numbers, cell, neighbors)
    return jnp.concatenate([energy[None], -gradient.ravel()])


def _hessian(model: Expansion, numbers, positions, cell, neighbors, rows_at_once: int):
    def gradient(flat):
        return jax.grad(lambda x: model.energy(x.reshape(positions.shape), numbers, cell, neighbors))(flat)

    _, product = jax.linearize(gradient, positions.ravel())
    rows = jax.lax.map(product, jnp.eye(positions.size), batch_size=rows_at_once)
    return 0.5 * (rows + rows.T)


def _stress(model: Expansion, numbers, positions, cell, neighbors):
    def strained(strain):
        deformation = jnp.eye(3) + strain
        return model.energy(positions @ deformation, numbers, cell @ deformation, neighbors)

    return jax.grad(strained)(jnp.zeros((3, 3))) / jnp.abs(jnp.linalg.det(cell))


class _Compiled:
    """The compiled functions of all models of one structure (descriptor, radial function; sizes by their shapes).

    They take the model as a flat list of arrays: taking a pytree apart anew would cost as much as an evaluation.
    """

    def __init__(self, structure):
        def flat(function, **options):
            def call(leaves, *args, **static):
                return function(jax.tree.unflatten(structure, leaves), *args, **static)

            return jax.jit(call, **options)

        self.single = flat(_packed)
        self.batch = flat(
            lambda model, numbers, x, around: jax.vmap(lambda y, a: _packed(model, numbers, y, *a))(x, around)
        )
        self.hessian = flat(_hessian, static_argnames="rows_at_once")
        self.stress = flat(_stress)


_compiled = functools.lru_cache(maxsize=64)(_Compiled)


def _arrived(result: jax.Array) -> np.ndarray:
    """The result as NumPy array. A thread put to sleep takes as long to wake as a small model takes to evaluate,
    so look a while before sleeping."""
    limit = time.perf_counter() + _POLLING
    while not result.is_ready() and time.perf_counter() < limit:
        pass
    return np.asarray(result)


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

    def energy(self, positions: Positions, cell=None, pbc=None, numbers=None) -> float | np.ndarray:
        """Potential energy, eV: a float for positions of shape (n, 3), an array (m,) for (m, n, 3)."""
        return self.energy_and_forces(positions, cell, pbc, numbers)[0]

    def forces(self, positions: Positions, cell=None, pbc=None, numbers=None) -> np.ndarray:
        """Forces −∂E/∂x, eV/Å, in the shape of the positions."""
        return self.energy_and_forces(positions, cell, pbc, numbers)[1]

    def energy_and_forces(
        self, positions: Positions, cell=None, pbc=None, numbers=None, memory: int = DEFAULT_MEMORY
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
            with jax.enable_x64(True):
                packed = _arrived(prepared.functions.single(prepared.leaves, prepared.numbers, positions, *around))
            if not np.isfinite(packed).all():
                self._refuse(positions)
            return float(packed[0]), packed[1:].reshape(positions.shape).copy()
        size = chunk_size(prepared.bytes_per_geometry, memory)
        function = functools.partial(prepared.functions.batch, prepared.leaves, prepared.numbers)
        packed = np.empty((len(positions), 1 + 3 * prepared.atoms))
        for piece, result in map_chunks(function, (positions, around), size):
            packed[piece] = result
        if not np.isfinite(packed).all():
            self._refuse(positions)
        return packed[:, 0].copy(), packed[:, 1:].reshape(positions.shape)

    def hessian(self, positions: Positions, cell=None, pbc=None, numbers=None, memory: int = _HESSIAN_MEMORY):
        """Second derivatives ∂²E/∂x², eV/Å², shape (3n, 3n), row = 3·atom + xyz; forward over reverse.

        Raises:
            ValueError: the kernel is not smooth enough for labels of this order (design: m + n ≤ order).
        """
        for radial in self.kernel.radials:
            require_order(radial, self.label_order, 2, "the Hessian")
        _one_geometry("the Hessian", positions)
        prepared, positions, around = self._checked(positions, cell, pbc, numbers)
        rows = min(positions.size, chunk_size(prepared.bytes_per_geometry, memory))
        with jax.enable_x64(True):
            return np.array(
                prepared.functions.hessian(prepared.leaves, prepared.numbers, positions, *around, rows_at_once=rows)
            )

    def stress(self, positions: Float[np.ndarray | jax.Array, "n 3"], cell, pbc=None, numbers=None) -> np.ndarray:
        """Stress ∂E/∂ε/V, eV/Å³, shape (3, 3), tension positive; positions and cell deform by 1 + ε.

        Raises:
            ValueError: the descriptor takes no cell, so that no stress is defined.
        """
        if not self._takes_cell:
            raise ValueError(f"stress: descriptor {self._name} takes no cell, so there is no stress")
        _one_geometry("the stress", positions)
        prepared, positions, (_, neighbors) = self._checked(positions, cell, pbc, numbers)
        cell = np.asarray(cell, dtype=np.float64)
        if abs(np.linalg.det(cell)) == 0.0:
            raise ValueError("cell: its volume is zero; give three cell vectors as rows, Å")
        with jax.enable_x64(True):
            return np.array(prepared.functions.stress(prepared.leaves, prepared.numbers, positions, cell, neighbors))

    def save(self, path) -> None:
        """Write the model file, whole or not at all; `mlff.load` reads it."""
        from mlff import archive

        archive.save(self, path)

    def export(self, path, numbers=None) -> None:
        """Write energy, forces and Hessian of molecules as one file that runs without the descriptor's source.

        `mlff.load_export` reads it, for as long as JAX promises to (six months); the model file that `save` writes is the
        one to keep.

        Arguments:
            path: of the file, written whole or not at all.
            numbers: atomic numbers to export for, shape (n,), where it was trained on several compositions.
        Raises:
            ValueError: periodic, or no atomic numbers are known, or ones that it cannot take.
        """
        from mlff import export

        prepared = self._own if numbers is None else self._prepare(self._known(numbers))
        export.save(self, prepared, path)

    # -- where NumPy goes in ---------------------------------------------------------------------------------------

    @functools.cached_property
    def _prepared(self) -> dict[bytes, _Prepared]:
        return {}

    def _prepare(self, numbers: np.ndarray) -> _Prepared:
        """Compiled functions and the model's arrays on the device, for one composition."""
        key = numbers.tobytes()
        if key not in self._prepared:
            self._prepared[key] = _Prepared.of(self.model.arranged(numbers), numbers)
        return self._prepared[key]

    @functools.cached_property
    def _own(self) -> _Prepared | None:
        return None if self.numbers is None else self._prepare(np.asarray(self.numbers, dtype=np.int32))

    @functools.cached_property
    def _takes_cell(self) -> bool:
        return "cell" in self.kernel.uses

    @property
    def _name(self) -> str:
        return self.kernel.leaves[0].descriptor.name

    def _checked(self, positions, cell, pbc, numbers) -> tuple[_Prepared, np.ndarray, tuple]:
        """Prepared model, positions, and (cell, neighbours) of one geometry or of each of a batch."""
        positions = np.asarray(positions, dtype=np.float64)
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
        if not self._takes_cell:
            if not single:
                self._require_finite(positions)
            return prepared, positions, (_NO_CELL if single else np.zeros((len(positions), 3, 3)), None)
        if cell is None and self.record.get("periodic"):
            raise ValueError("cell: the force field is of periodic frames and needs one; give shape (3, 3), Å")
        self._require_finite(positions)
        frames = positions[None] if single else positions
        cells = np.broadcast_to(_NO_CELL if cell is None else np.asarray(cell, dtype=np.float64), (len(frames), 3, 3))
        periodic = np.any(cells != 0.0, axis=-1) if pbc is None else np.broadcast_to(pbc, (len(frames), 3))
        batch = Batch(frames, np.asarray(prepared.numbers), cells, periodic, {}, np.arange(len(frames)))
        around = surroundings(self.kernel, batch, prepared.width)
        if around[1] is not None:
            prepared.width = around[1].indices.shape[-1]
        return prepared, positions, jax.tree.map(lambda leaf: leaf[0], around) if single else around

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


@dataclasses.dataclass
class _Prepared:
    """A model on the device, for one composition. `width`: of its neighbour lists, which only grows."""

    functions: _Compiled
    leaves: list
    numbers: jax.Array
    atoms: int
    bytes_per_geometry: int
    width: int = 0

    @classmethod
    def of(cls, model: Expansion, numbers: np.ndarray) -> _Prepared:
        with jax.enable_x64(True):
            leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, model))
            on_device = jnp.asarray(numbers, dtype=jnp.int32)
        return cls(_compiled(structure), leaves, on_device, len(numbers), model.bytes_per_geometry)


def require_atoms(force_field: ForceField, numbers: np.ndarray, where: str) -> None:
    """Refuse atoms that a force field cannot take: for local kernels elements that it does not know, else any other
    number, kind or order of atoms.

    Raises:
        ValueError: naming both.
    """
    if not force_field.kernel.transferable:
        require_same_order(force_field.numbers, numbers, where)
        return
    known = next(leaf.elements for leaf in force_field.kernel.leaves)
    if unknown := sorted({int(z) for z in numbers} - set(known)):
        raise ValueError(
            f"{where}: the force field knows {', '.join(symbols(known))}, not {', '.join(symbols(unknown))}; "
            "fit one with frames that hold it"
        )


def require_same_order(expected: np.ndarray, numbers: np.ndarray, where: str) -> None:
    """Refuse atoms that differ from the expected ones in number, kind or order."""
    if not np.array_equal(numbers, expected):
        ours, theirs = "".join(symbols(expected)), "".join(symbols(numbers))
        raise ValueError(
            f"{where}: the force field is for {ours}, in this order of atoms, received {theirs}; "
            "reorder the atoms, or fit a force field for them"
        )


def _one_geometry(what: str, positions) -> None:
    if np.ndim(positions) != 2:
        raise ValueError(f"positions: {what} takes one geometry, shape (n, 3), not a batch")
