"""Derivatives of one energy function, to any order: what a force field compiles.

A model is anything with `energy(positions, numbers, cell, neighbors)`; every function here takes one geometry of it. One
reverse pass gives the gradient, and every further order one pass forward along a direction:

    D^m ∇E [d_1, …, d_m] = ∂^m/∂t_1…∂t_m ∇E(x + Σ_i t_i d_i) at t = 0
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from mlff.precision import Array

# symmetric strains of the Voigt components xx yy zz yz xz xy; shears by the engineering strain, 2 ε_yz
_UNIT = np.eye(3)
STRAINS = np.array(
    [
        (np.outer(_UNIT[i], _UNIT[j]) + np.outer(_UNIT[j], _UNIT[i])) / 2
        for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    ]
)


def packed(model, numbers, positions: Float[Array, "n 3"], cell, neighbors) -> Float[Array, " packed"]:
    """Energy and forces in one array, so that one transfer brings both."""
    energy, gradient = jax.value_and_grad(model.energy)(positions, numbers, cell, neighbors)
    return jnp.concatenate([energy[None], -gradient.ravel()])


def hessian(
    model,
    numbers,
    positions: Float[Array, "n 3"],
    cell,
    neighbors,
    moving: Integer[Array, " m"] | None = None,
    *,
    rows_at_once: int,
) -> Float[Array, "rows rows"]:
    """∂²E/∂x² of all atoms, or the block of the moving ones: only their columns are computed, some at a time."""

    def gradient(flat):
        return jax.grad(lambda x: model.energy(x.reshape(positions.shape), numbers, cell, neighbors))(flat)

    _, product = jax.linearize(gradient, positions.ravel())
    atoms = jnp.arange(positions.shape[0]) if moving is None else moving
    wanted = (3 * atoms[:, None] + jnp.arange(3, dtype=atoms.dtype)).ravel()

    def row(index):
        return product(jax.nn.one_hot(index, positions.size, dtype=positions.dtype))[wanted]

    chunks = -(-len(wanted) // rows_at_once)
    size = -(-len(wanted) // chunks)
    filled = jnp.resize(wanted, chunks * size)  # chunks of one size compile once
    rows = jax.lax.map(row, filled, batch_size=size)[: len(wanted)]
    return 0.5 * (rows + rows.T)


def gradient_along(
    model, numbers, positions: Float[Array, "n 3"], cell, neighbors, directions: Float[Array, "c m n 3"]
) -> Float[Array, "c n 3"]:
    """D^m ∇E along m directions, for each of c sets of them; with m = 1 the products of the Hessian with c vectors."""

    def derivative(along):
        function = jax.grad(lambda x: model.energy(x, numbers, cell, neighbors))
        for direction in along:
            function = _along(function, direction)
        return function(positions)

    return jax.vmap(derivative)(directions)


def _along(function, direction):
    return lambda x: jax.jvp(function, (x,), (direction,))[1]


def strained(model, numbers, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"], neighbors, strain):
    """E(x (1 + ε), cell (1 + ε)): positions and cell deform, the neighbours stay."""
    deformation = jnp.eye(3) + strain
    return model.energy(positions @ deformation, numbers, cell @ deformation, neighbors)


def applied(model, numbers, positions: Float[Array, "n 3"], cell, neighbors, arguments: tuple, shown=None, *, function):
    """L E: what the function of a label operator makes of the energy, of the positions and of a strain if it takes one.

    Arguments:
        shown: which atoms the slots of the model show, where they are not the atoms in order; positions are those of atoms.
    """

    def energy(x, strain=None):
        slots = x if shown is None else x[shown]
        if strain is None:
            return model.energy(slots, numbers, cell, neighbors)
        return strained(model, numbers, slots, cell, neighbors, strain)

    return function(energy, positions, *arguments)


def strain_derivatives(
    model, numbers, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"], neighbors
) -> tuple[Float[Array, "6 6"], Float[Array, "6 n 3"]]:
    """∂²E/∂η∂η and ∂²E/∂η∂x, where E = E(x(1 + ε), cell(1 + ε)) with the symmetric strain ε of Voigt components η."""

    def energy(x, voigt):
        return strained(model, numbers, x, cell, neighbors, jnp.tensordot(voigt, STRAINS, axes=1))

    def gradients(voigt):
        return jax.grad(energy, argnums=(0, 1))(positions, voigt)

    unstrained = jnp.zeros(6)
    mixed, pure = jax.vmap(lambda direction: _along(gradients, direction)(unstrained))(jnp.eye(6))
    return pure, mixed


def unordered_choices(count: int, size: int) -> Integer[np.ndarray, "c size"]:
    """All i ≤ j ≤ … of `size` numbers below `count`, row by row."""
    return np.array(list(itertools.combinations_with_replacement(range(count), size)), dtype=int)


def symmetric_tensor(chosen: Integer[np.ndarray, "c size"], values: Float[np.ndarray, "c k"]) -> np.ndarray:
    """The symmetric tensor T of order size + 1, shape (k,)*order: T[i, j, …, l] = values[(i, j, …), l] for i ≤ j ≤ … ≤ l."""
    count = values.shape[1]
    last = np.broadcast_to(np.arange(count), values.shape)
    ascending = last >= chosen[:, -1:]
    which = np.nonzero(ascending)[0]
    places = np.column_stack([chosen[which], last[ascending]]).T
    tensor = np.empty((count,) * len(places))
    for order in itertools.permutations(range(len(places))):
        tensor[tuple(places[list(order)])] = values[ascending]
    return tensor
