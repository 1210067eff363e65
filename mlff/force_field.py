"""From one energy function to forces, stress and Hessians, for every kind of model."""

from __future__ import annotations

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
from mlff.kernels import GlobalKernel
from mlff.radial import require_order
from mlff.units import formula

Positions = Float[np.ndarray | jax.Array, "*batch n 3"]
_HESSIAN_MEMORY = 256 * 2**20
_NO_CELL = np.zeros((3, 3))
_POLLING = 1e-3  # s


def _packed(model: Expansion, numbers, positions, cell):
    """Energy and forces in one array, so that one transfer brings both."""
    energy, gradient = jax.value_and_grad(model.energy)(positions, numbers, cell)
    return jnp.concatenate([energy[None], -gradient.ravel()])


def _hessian(model: Expansion, numbers, positions, cell, rows_at_once: int):
    def gradient(flat):
        return jax.grad(lambda x: model.energy(x.reshape(positions.shape), numbers, cell))(flat)

    _, product = jax.linearize(gradient, positions.ravel())
    rows = jax.lax.map(product, jnp.eye(positions.size), batch_size=rows_at_once)
    return 0.5 * (rows + rows.T)


def _stress(model: Expansion, numbers, positions, cell):
    def strained(strain):
        deformation = jnp.eye(3) + strain
        return model.energy(positions @ deformation, numbers, cell @ deformation)

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
            lambda model, numbers, x, cells: jax.vmap(lambda y, c: _packed(model, numbers, y, c))(x, cells)
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
        model: the energy function; `model.energy(positions, numbers, cell)` is the pure JAX function
            for those who compose it under their own 64-bit setting.
        numbers: atomic numbers it was made for, shape (n,).
        kernel: the kernel it was fitted with, hyperparameters filled in.
        label_order: highest order of derivative among its labels.
        record: how it came to be: units, labels, noise, training indices, data hash, errors, versions.
    """

    model: Expansion
    numbers: np.ndarray
    kernel: GlobalKernel
    label_order: int = struct.field(pytree_node=False)
    record: dict[str, Any] = struct.field(pytree_node=False, default_factory=dict)

    def __len__(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    def __repr__(self) -> str:
        return (
            f"ForceField({formula(self.numbers)}, {self.kernel.descriptor.name}, {self.kernel.radial.label}, "
            f"{len(self.model.points)} points)"
        )

    def energy(self, positions: Positions, cell=None) -> float | np.ndarray:
        """Potential energy, eV: a float for positions of shape (n, 3), an array (m,) for (m, n, 3)."""
        return self.energy_and_forces(positions, cell)[0]

    def forces(self, positions: Positions, cell=None) -> np.ndarray:
        """Forces −∂E/∂x, eV/Å, in the shape of the positions."""
        return self.energy_and_forces(positions, cell)[1]

    def energy_and_forces(
        self, positions: Positions, cell=None, memory: int = DEFAULT_MEMORY
    ) -> tuple[float | np.ndarray, np.ndarray]:
        """Energy and forces by one reverse pass.

        Arguments:
            positions: shape (n, 3), or (m, n, 3) for a batch, Å.
            cell: cell vectors as rows, shape (3, 3) or (m, 3, 3), Å, for descriptors that take one.
            memory: bytes of intermediate arrays that a batch may take; it is worked off in chunks.
        Returns:
            energy, eV, a float or shape (m,); forces, eV/Å, shape (n, 3) or (m, n, 3).
        Raises:
            ValueError: another number of atoms, no such shape, positions or results that are not finite.
        """
        positions, cell = self._checked(positions, cell)
        functions, leaves, numbers = self._device
        if positions.ndim == 2:
            with jax.enable_x64(True):
                packed = _arrived(functions.single(leaves, numbers, positions, cell))
            if not np.isfinite(packed).all():
                self._refuse(positions)
            return float(packed[0]), packed[1:].reshape(positions.shape).copy()
        self._require_finite(positions)
        cells = np.broadcast_to(cell, (len(positions), 3, 3))
        size = chunk_size(self.model.bytes_per_geometry, memory)
        packed = np.empty((len(positions), 1 + 3 * len(self)))
        for piece, result in map_chunks(functools.partial(functions.batch, leaves, numbers), (positions, cells), size):
            packed[piece] = result
        if not np.isfinite(packed).all():
            self._refuse(positions)
        return packed[:, 0].copy(), packed[:, 1:].reshape(positions.shape)

    def hessian(self, positions: Positions, cell=None, memory: int = _HESSIAN_MEMORY):
        """Second derivatives ∂²E/∂x², eV/Å², shape (3n, 3n), row = 3·atom + xyz; forward over reverse.

        Raises:
            ValueError: the kernel is not smooth enough for labels of this order (design: m + n ≤ order).
        """
        require_order(self.kernel.radial, self.label_order, 2, "the Hessian")
        positions, cell = self._one_geometry("the Hessian", positions, cell)
        rows = min(positions.size, chunk_size(self.model.bytes_per_geometry, memory))
        functions, leaves, numbers = self._device
        with jax.enable_x64(True):
            return np.array(functions.hessian(leaves, numbers, positions, cell, rows_at_once=rows))

    def stress(self, positions: Float[np.ndarray | jax.Array, "n 3"], cell) -> np.ndarray:
        """Stress ∂E/∂ε/V, eV/Å³, shape (3, 3), tension positive; positions and cell deform by 1 + ε.

        Raises:
            ValueError: the descriptor takes no cell, so that no stress is defined.
        """
        if not self._takes_cell:
            raise ValueError(f"stress: descriptor {self.kernel.descriptor.name} takes no cell, so there is no stress")
        positions, cell = self._one_geometry("the stress", positions, cell)
        if abs(np.linalg.det(cell)) == 0.0:
            raise ValueError("cell: its volume is zero; give three cell vectors as rows, Å")
        functions, leaves, numbers = self._device
        with jax.enable_x64(True):
            return np.array(functions.stress(leaves, numbers, positions, cell))

    def save(self, path) -> None:
        """Write the model file, whole or not at all; `mlff.load` reads it."""
        from mlff import archive

        archive.save(self, path)

    # -- where NumPy goes in ---------------------------------------------------------------------------------------

    @functools.cached_property
    def _device(self) -> tuple:
        """Compiled functions, the model's arrays on the device, atomic numbers."""
        with jax.enable_x64(True):
            leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, self.model))
            return _compiled(structure), leaves, jnp.asarray(self.numbers, dtype=jnp.int32)

    @functools.cached_property
    def _takes_cell(self) -> bool:
        return "cell" in self.kernel.descriptor.uses

    def _checked(self, positions, cell) -> tuple[np.ndarray, np.ndarray]:
        positions = np.asarray(positions, dtype=np.float64)
        if positions.shape[-2:] != (len(self.numbers), 3) or positions.ndim not in (2, 3):
            raise ValueError(
                f"positions: expected shape ({len(self)}, 3) or (m, {len(self)}, 3) for {formula(self.numbers)}, "
                f"received {positions.shape}"
            )
        if cell is not None:
            return positions, np.asarray(cell, dtype=np.float64)
        if self._takes_cell:
            raise ValueError(f"cell: descriptor {self.kernel.descriptor.name} needs one; give shape (3, 3), Å")
        return positions, _NO_CELL

    def _one_geometry(self, what: str, positions, cell) -> tuple[np.ndarray, np.ndarray]:
        positions, cell = self._checked(positions, cell)
        if positions.ndim != 2:
            raise ValueError(f"positions: {what} takes one geometry, shape ({len(self)}, 3), not a batch")
        self._require_finite(positions)
        return positions, cell

    def _refuse(self, positions: np.ndarray) -> None:
        self._require_finite(positions)
        raise ValueError("positions: energy or forces are not finite there; two atoms may coincide")

    def __getstate__(self) -> dict:
        """Without compiled functions, which another process makes anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_device"}

    def _require_finite(self, positions: np.ndarray) -> None:
        if not np.isfinite(positions).all():
            raise ValueError("positions: not all finite; a previous step of the simulation may have diverged")
