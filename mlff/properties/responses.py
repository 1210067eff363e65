"""How a relaxed geometry answers to a force, to a strain of its cell and to its model: implicit derivatives, never unrolled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Float

from mlff.data.batches import Batch
from mlff.dynamics.calculator import Calculator
from mlff.kernels.surroundings import Surroundings
from mlff.potentials.derivatives import strained
from mlff.potentials.potential import Potential
from mlff.precision import double_precision
from mlff.properties.relaxation import internal_directions

RELAXED = 1e-5  # eV/Å; larger forces are no relaxed geometry's
FLAT = 1e-6  # of the largest curvature: smaller ones are free motions


@dataclasses.dataclass(frozen=True)
class Response:
    """Derivatives of a relaxed geometry x*(θ), made by `response`: one diagonalisation, then one solve for a direction.

    Differentiating ∂E/∂x(x*(θ), θ) = 0 along dθ gives linear equations, solved in directions other than rigid motions:

        H dx* = −∂²E/∂x∂θ dθ,    H = ∂²E/∂x²

    All results are displacements of the atoms, Å per unit of the parameter, shape (n, 3), without rigid motion.

    Attributes:
        atoms: the relaxed atoms with their calculator, a copy.
        modes: orthonormal eigenvectors of the Hessian in those directions, shape (3n, m).
        curvatures: its eigenvalues, eV/Å², shape (m,).
        surroundings: cell and neighbour list that the descriptors are given.

    Source: Blondel et al., Advances in Neural Information Processing Systems 35 (2022), arXiv 2105.15183.
    """

    atoms: Atoms
    modes: np.ndarray
    curvatures: np.ndarray
    surroundings: Surroundings

    def to_force(self, force: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """dx*/dt under applied forces t f, where ∂E/∂x = t f: H dx*/dt = f.

        Of a free molecule the part of f that would accelerate or turn it is left out.

        Arguments:
            force: f, eV/Å, shape (n, 3).
        """
        return self._solve(self._of_shape(force, self.atoms.positions.shape, "force"))

    @double_precision
    def to_strain(self, strain: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "n 3"]:
        """dx*/dt in the cell (1 + t ε), fractional coordinates free: x ε + u with H u = −∂²E/∂x∂ε : ε.

        The first term is the affine motion of atoms that only follow the cell, the second their relaxation within it;
        its mean over the atoms is zero.

        Arguments:
            strain: ε, shape (3, 3); cell vectors and positions are rows, x → x (1 + ε).
        Raises:
            ValueError: atoms without a cell; fixed atoms, which do not follow it.
        """
        strain = self._of_shape(strain, (3, 3), "strain")
        if not self.atoms.pbc.any():
            raise ValueError("atoms: not periodic, so there is no cell to strain; to_force and to_model take molecules")
        if self.atoms.constraints:
            raise ValueError("atoms: fixed atoms do not follow a strain of the cell; remove the constraints")
        mixed = _strained(self._model, self._numbers, self.atoms.positions, *self.surroundings, strain)
        return self.atoms.positions @ strain + self._solve(-np.asarray(mixed))

    @double_precision
    def to_model(self, path: Callable[[Float[jax.Array, ""]], Potential]) -> Float[np.ndarray, "n 3"]:
        """dx*/dt as the model moves along a path, model(t), through the present one at t = 0.

            response.to_model(lambda t: model.replace(parts=…))     with model = force_field.model

        Anything that the energy depends on can be moved: weights, length scales, parameters of descriptors.

        Arguments:
            path: takes a number t, a JAX array in 64 bits, returns the model there; differentiable.
        Raises:
            ValueError: the atoms are not relaxed in path(0).
        """

        def leaves(t):
            return jax.tree.leaves(path(t).arranged(self.atoms.numbers))

        structure = jax.tree.structure(path(jnp.zeros(())).arranged(self.atoms.numbers))
        values, tangents = jax.jvp(leaves, (0.0,), (1.0,))
        model = jax.tree.unflatten(structure, values)
        tangents = [tangent for tangent in tangents if tangent.dtype != jax.dtypes.float0]
        gradient, mixed = _moved(model, tangents, self._numbers, self.atoms.positions, *self.surroundings)
        _require_relaxed(-np.asarray(gradient), self.modes, "path(0): not the model that the atoms are relaxed in")
        return self._solve(-np.asarray(mixed))

    @property
    def _model(self) -> Potential:
        return self.atoms.calc.force_field.model.arranged(self.atoms.numbers)

    @property
    def _numbers(self) -> np.ndarray:
        return np.asarray(self.atoms.numbers, dtype=np.int32)

    def _of_shape(self, value, shape: tuple[int, ...], name: str) -> np.ndarray:
        value = np.asarray(value, dtype=np.float64)
        if value.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, received {value.shape}")
        return value

    def _solve(self, right: np.ndarray) -> np.ndarray:
        return (self.modes @ (self.modes.T @ right.ravel() / self.curvatures)).reshape(-1, 3)


def response(atoms: Atoms) -> Response:
    """The derivatives of a relaxed geometry: its Hessian, computed and diagonalised once.

    Arguments:
        atoms: at a minimum (see `relax`), with an `mlff.Calculator`. Later changes of the atoms do not reach it.
    Raises:
        ValueError: another calculator; not relaxed; not a minimum.
    """
    if not isinstance(atoms.calc, Calculator):
        raise ValueError("atoms.calc: no force field; attach mlff.Calculator(force_field)")
    frozen = atoms.copy()
    frozen.calc = atoms.calc
    directions = internal_directions(frozen)
    _require_relaxed(frozen.get_forces(apply_constraint=False), directions, "atoms: not relaxed")
    curvatures, modes = np.linalg.eigh(directions.T @ frozen.calc.get_hessian(frozen) @ directions)
    if not curvatures[0] > FLAT * curvatures[-1]:
        raise ValueError(
            f"atoms: not a minimum in all directions, the lowest curvature is {curvatures[0]:.1e} eV/Å²; relax them, and fix "
            "none or enough atoms to hold the others"
        )
    batch = Batch(
        frozen.positions[None], np.asarray(frozen.numbers, dtype=np.int32), frozen.cell.array[None], frozen.pbc[None],
        {}, np.arange(1),
    )  # fmt: skip
    frozen_surroundings = frozen.calc.force_field.model.surroundings(batch).frame(0)
    return Response(frozen, directions @ modes, curvatures, frozen_surroundings)


@jax.jit
def _strained(model: Potential, numbers, positions, cell, neighbors, strain):
    """∂²E/∂x∂ε : ε, with positions and cell deformed by 1 + ε."""

    def gradient(t):
        return jax.grad(strained, argnums=2)(model, numbers, positions, cell, neighbors, t * strain)

    return jax.jvp(gradient, (0.0,), (1.0,))[1]


@jax.jit
def _moved(model: Potential, tangents: list, numbers, positions, cell, neighbors):
    """∂E/∂x and its derivative as the real-valued leaves of the model move along their tangents."""
    leaves, structure = jax.tree.flatten(model)
    real = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def gradient(moving):
        held = dict(zip(real, moving, strict=True))
        other = jax.tree.unflatten(structure, [held.get(i, leaf) for i, leaf in enumerate(leaves)])
        return jax.grad(other.energy)(positions, numbers, cell, neighbors)

    return jax.jvp(gradient, ([leaves[i] for i in real],), (tangents,))


def _require_relaxed(forces: np.ndarray, directions: np.ndarray, what: str) -> None:
    inner = (directions @ (directions.T @ forces.ravel())).reshape(-1, 3)
    largest = np.linalg.norm(inner, axis=1).max()
    if not largest < RELAXED:
        raise ValueError(f"{what}, the largest force is {largest:.1e} eV/Å; relax them first: mlff.relax(atoms)")
