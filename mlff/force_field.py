"""From one energy function to forces, stress and Hessians, for every kind of model."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from mlff.batching import DEFAULT_MEMORY, chunk_size, map_chunks
from mlff.expansion import Expansion
from mlff.kernels import GlobalKernel
from mlff.precision import double_precision
from mlff.radial import require_order
from mlff.units import formula

Positions = Float[np.ndarray | jax.Array, "*batch n 3"]
_HESSIAN_MEMORY = 256 * 2**20


@jax.jit
def _energy_and_forces(model: Expansion, numbers, positions, cell):
    energy, gradient = jax.value_and_grad(model.energy)(positions, numbers, cell)
    return energy, -gradient


@jax.jit
def _energies(model: Expansion, numbers, positions, cells):
    return jax.vmap(model.energy, in_axes=(0, None, 0))(positions, numbers, cells)


@jax.jit
def _batch(model: Expansion, numbers, positions, cells):
    return jax.vmap(lambda x, cell: _energy_and_forces(model, numbers, x, cell))(positions, cells)


@functools.partial(jax.jit, static_argnames="rows_at_once")
def _hessian(model: Expansion, numbers, positions, cell, rows_at_once: int):
    def gradient(flat):
        return jax.grad(lambda x: model.energy(x.reshape(positions.shape), numbers, cell))(flat)

    _, product = jax.linearize(gradient, positions.ravel())
    rows = jax.lax.map(product, jnp.eye(positions.size), batch_size=rows_at_once)
    return 0.5 * (rows + rows.T)


@jax.jit
def _stress(model: Expansion, numbers, positions, cell):
    def strained(strain):
        deformation = jnp.eye(3) + strain
        return model.energy(positions @ deformation, numbers, cell @ deformation)

    return jax.grad(strained)(jnp.zeros((3, 3))) / jnp.abs(jnp.linalg.det(cell))


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
        positions, cells, single = self._checked(positions, cell)
        energies = self._chunked(_energies, positions, cells, DEFAULT_MEMORY)
        return float(energies[0]) if single else energies

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
            ValueError: another number of atoms, no such shape, positions that are not finite.
        """
        positions, cells, single = self._checked(positions, cell)
        if single:
            energy, forces = self._one(positions[0], cells[0])
            return float(energy), np.array(forces)
        return self._chunked(_batch, positions, cells, memory)

    def hessian(self, positions: Positions, cell=None, memory: int = _HESSIAN_MEMORY):
        """Second derivatives ∂²E/∂x², eV/Å², shape (3n, 3n), row = 3·atom + xyz; forward over reverse.

        Raises:
            ValueError: the kernel is not smooth enough for labels of this order (design: m + n ≤ order).
        """
        require_order(self.kernel.radial, self.label_order, 2, "the Hessian")
        positions, cells, single = self._checked(positions, cell)
        if not single:
            raise ValueError(f"positions: the Hessian takes one geometry, shape ({len(self)}, 3), not a batch")
        rows = min(positions.size, chunk_size(self.model.bytes_per_geometry, memory))
        return self._run(_hessian, positions[0], cells[0], rows_at_once=rows)

    def stress(self, positions: Float[np.ndarray | jax.Array, "n 3"], cell) -> np.ndarray:
        """Stress ∂E/∂ε/V, eV/Å³, shape (3, 3), tension positive; positions and cell deform by 1 + ε.

        Raises:
            ValueError: the descriptor takes no cell, so that no stress is defined.
        """
        if "cell" not in self.kernel.descriptor.uses:
            raise ValueError(f"stress: descriptor {self.kernel.descriptor.name} takes no cell, so there is no stress")
        positions, cells, _ = self._checked(positions, cell)
        if abs(np.linalg.det(cells[0])) == 0.0:
            raise ValueError("cell: its volume is zero; give three cell vectors as rows, Å")
        return self._run(_stress, positions[0], cells[0])

    def save(self, path) -> None:
        """Write the model file, whole or not at all; `mlff.load` reads it."""
        from mlff import archive

        archive.save(self, path)

    # -- one place where NumPy goes in and comes out ---------------------------------------------------------------

    def _checked(self, positions, cell) -> tuple[np.ndarray, np.ndarray, bool]:
        positions = np.asarray(positions, dtype=np.float64)
        if positions.ndim not in (2, 3) or positions.shape[-2:] != (len(self), 3):
            raise ValueError(
                f"positions: expected shape ({len(self)}, 3) or (m, {len(self)}, 3) for {formula(self.numbers)}, "
                f"received {positions.shape}"
            )
        if not np.isfinite(positions).all():
            raise ValueError("positions: not all finite; a previous step of the simulation may have diverged")
        single = positions.ndim == 2
        batch = positions[None] if single else positions
        if cell is None:
            if "cell" in self.kernel.descriptor.uses:
                raise ValueError(f"cell: descriptor {self.kernel.descriptor.name} needs one; give shape (3, 3), Å")
            cell = np.zeros((3, 3))
        return batch, np.broadcast_to(np.asarray(cell, dtype=np.float64), (len(batch), 3, 3)), single

    @functools.cached_property
    def _compiled(self) -> tuple:
        return self.model.on_device(), self.numbers.astype(np.int32)

    @double_precision
    def _one(self, positions, cell):
        return _energy_and_forces(*self._compiled, positions, cell)

    @double_precision
    def _run(self, function, positions, cell, **static) -> np.ndarray:
        return np.array(function(*self._compiled, positions, cell, **static))

    def _chunked(self, function, positions, cells, memory):
        size = chunk_size(self.model.bytes_per_geometry, memory)
        pieces = [
            result for _, result in map_chunks(functools.partial(function, *self._compiled), (positions, cells), size)
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
