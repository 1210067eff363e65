"""Error bars of what follows from a force field: frequencies, zero-point energies, relaxed geometries, barriers.

To first order a property g of the energy u changes with it by a linear operator, ∂g/∂u δu, whose variance the posterior gives. A relaxed
geometry moves with the energy, H δx* = −∇δu(x*), and takes with it what is asked of it. Of an eigenvalue λ = d·H d of the mass-weighted
Hessian (d the mode over √m)

    δλ = d·∇∇δu d + D³E[d, d, δx*]

What is not linear shows in samples: `force_field.sample(seed)` is another force field, whose relaxed geometry has other frequencies.

Source: Blondel et al., Advances in Neural Information Processing Systems 35 (2022), arXiv 2105.15183 (implicit derivatives).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from jaxtyping import Float

from mlff.dynamics.calculator import located
from mlff.dynamics.motion import motions
from mlff.operators import FORCES, Operator
from mlff.potentials.derivatives import STRAINS
from mlff.potentials.force_field import ForceField
from mlff.properties.elasticity import elastic_constants
from mlff.properties.relaxation import internal_directions
from mlff.properties.responses import FLAT
from mlff.properties.vibrations import require_relaxed, wavenumbers
from mlff.units import INVERSE_CM


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Numbers with their error bars.

    Attributes:
        value: the numbers, shape (k,).
        covariance: of them, shape (k, k), in their unit squared.
    """

    value: Float[np.ndarray, " k"]
    covariance: Float[np.ndarray, "k k"]

    @property
    def std(self) -> Float[np.ndarray, " k"]:
        """Standard deviations."""
        return np.sqrt(np.maximum(np.diagonal(self.covariance), 0.0))

    def along(self, weights: Float[np.ndarray, "j k"]) -> Estimate:
        """Linear combinations of the numbers."""
        return Estimate(weights @ self.value, weights @ self.covariance @ weights.T)

    def __str__(self) -> str:
        return ", ".join(f"{value:.6g} ± {std:.2g}" for value, std in zip(self.value, self.std, strict=True))


def _curvatures_and_slopes(u, x, directions, slopes):
    """d·∇∇u d − c·∇u for every pair of directions d and c."""
    gradient = jax.grad(u)(x)

    def one(d, c):
        return jnp.sum(d * jax.jvp(jax.grad(u), (x,), (d,))[1]) - jnp.sum(c * gradient)

    return jax.vmap(one)(directions, slopes)


EIGENVALUES = Operator("eigenvalues", _curvatures_and_slopes, "eV/Å²/u", ("directions", "slopes"))


def frequency_error_bars(atoms: Atoms) -> Estimate:
    """Harmonic frequencies of a relaxed molecule or cell with their error bars, 1/cm, ascending; imaginary ones negative.

        found = mlff.frequency_error_bars(atoms);  print(found.value, found.std)

    The geometry's own uncertainty is in them. Of degenerate modes the error bars are those of the modes as they come.

    Arguments:
        atoms: relaxed, with a calculator of a force field that has a posterior.
    Raises:
        ValueError: not relaxed, constraints, no posterior, or a kernel without third derivatives.
    """
    force_field, where, modes, curvatures = stationary_modes(atoms, "frequency_error_bars")
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    internal = motions(atoms).internal / root
    values, vectors = np.linalg.eigh(internal @ force_field.hessian(**where) @ internal.T)
    directions = (vectors.T @ internal).reshape(len(values), *atoms.positions.shape)
    count, basis = len(values), modes.T.reshape(-1, *atoms.positions.shape)
    sets = np.stack(
        [
            np.repeat(directions, len(basis), axis=0),
            np.repeat(directions, len(basis), axis=0),
            np.tile(basis, (count, 1, 1)),
        ],
        axis=1,
    )
    cubic = force_field.directional_derivatives(directions=sets, **where).reshape(count, len(basis))
    slopes = (cubic / curvatures) @ modes.T
    covariance = force_field.covariance(EIGENVALUES, arguments=(directions, slopes.reshape(directions.shape)), **where)
    found = wavenumbers(values)
    scales = np.diag(found / (2.0 * np.where(values == 0.0, np.inf, values)))
    return Estimate(found, scales @ covariance @ scales)


def zero_point_energy(atoms: Atoms) -> Estimate:
    """½ Σ ħω of a relaxed molecule or cell with its error bar, eV, shape (1,); imaginary frequencies left out.

    Arguments, errors: as `frequency_error_bars`.
    """
    found = frequency_error_bars(atoms)
    return found.along(0.5 * INVERSE_CM * (found.value > 0.0)[None].astype(float))


def geometry_error_bars(atoms: Atoms) -> Float[np.ndarray, "n 3"]:
    """How far the atoms of a relaxed geometry may lie from where the truth has them, Å, shape (n, 3): without rigid motion.

        cov(x*) = H⁺ cov(∇E) H⁺

    Arguments, errors: as `frequency_error_bars`.
    """
    force_field, where, modes, curvatures = stationary_modes(atoms, "geometry_error_bars")
    inverse = (modes / curvatures) @ modes.T
    covariance = inverse @ force_field.covariance(FORCES, **where) @ inverse
    return np.sqrt(np.maximum(np.diagonal(covariance), 0.0)).reshape(atoms.positions.shape)


def energy_differences(atoms: list[Atoms]) -> Estimate:
    """Energies of geometries over that of the first, with error bars, eV: barriers, reaction and conformational energies.

        barrier = mlff.energy_differences([minimum, saddle])

    Of stationary points that is to first order the error bar of the difference of the true stationary points' energies.

    Arguments:
        atoms: two geometries or more of the same atoms and cell, with a calculator of a force field that has a posterior.
    Raises:
        ValueError: fewer, other atoms, or no posterior.
    """
    if (
        isinstance(atoms, Atoms)
        or len(atoms) < 2
        or any(not np.array_equal(one.numbers, atoms[0].numbers) for one in atoms)
    ):
        raise ValueError("atoms: expected two geometries or more of the same atoms in the same order")
    force_field, where = located(atoms[0], "energy_differences")
    if any(located(one, "energy_differences")[0] is not force_field for one in atoms[1:]):
        raise ValueError("atoms: expected calculators of one force field, these have different ones")
    periodic = {name: where[name] for name in ("cell", "pbc", "numbers")}
    positions = np.stack([one.positions for one in atoms])
    energies = Estimate(
        force_field.energy(positions, **periodic), force_field.covariance("energy", positions, **periodic)
    )
    return energies.along(np.eye(len(atoms))[1:] - np.eye(len(atoms))[0])


def elastic_constants_error_bars(atoms: Atoms) -> Estimate:
    """Elastic constants of a relaxed crystal with their error bars, eV/Å³, shape (36,): the rows of `elastic_constants(atoms)`.

    In a strained cell the atoms go where the present model has them, x*(η); a small change of the energy changes the least energy of
    the cell by its value there, and so the constants by

        V δC_IJ = ∂²/∂η_I∂η_J δu(x*(η), η) = D²δu[I, J] − H⁺D³E[I, J, ·]·∇δu

    with the directions I, J of strain and relaxation together. Cell and volume are the present ones.

    Arguments, errors: as `elastic_constants`, and no posterior.
    """
    values = elastic_constants(atoms)
    force_field, where, modes, curvatures = stationary_modes(atoms, "elastic_constants_error_bars")
    _, mixed = force_field.strain_derivatives(**where)
    shape = atoms.positions.shape
    moves = -(mixed.reshape(6, -1) @ modes / curvatures @ modes.T).reshape(6, *shape)
    strains, moves = np.asarray(STRAINS)[PAIRS], moves[PAIRS]
    slopes = np.zeros((len(PAIRS), *shape))
    if len(curvatures):  # of one atom a cell nothing moves
        cubic = force_field.apply(_CUBIC, **where, arguments=(strains, moves, modes.T.reshape(-1, *shape)))
        slopes = (cubic / curvatures @ modes.T).reshape(len(PAIRS), *shape)
    covariance = (
        force_field.covariance(_STRAINED, **where, arguments=(strains, moves, slopes)) / atoms.get_volume() ** 2
    )
    whole = np.zeros((6, 6), dtype=int)
    whole[PAIRS[:, 0], PAIRS[:, 1]] = whole[PAIRS[:, 1], PAIRS[:, 0]] = np.arange(len(PAIRS))
    return Estimate(values.ravel(), covariance[np.ix_(whole.ravel(), whole.ravel())])


PAIRS = np.stack(np.triu_indices(6), axis=1)  # of Voigt components


def _strained_curvatures(u, x, strains, moves, slopes):
    """D²u[I, J] − c·∇u of every pair of directions."""
    gradient = jax.grad(u)(x, jnp.zeros((3, 3), x.dtype))
    return jax.vmap(lambda pair, move, c: _second(u, x, pair, move) - jnp.sum(c * gradient))(strains, moves, slopes)


def _cubic_constants(u, x, strains, moves, modes):
    """D³u[I, J, m] of every pair of directions and every mode, shape (21, k)."""

    def one(pair, move):
        return jnp.tensordot(modes, jax.grad(lambda y: _second(u, y, pair, move))(x), axes=2)

    return jax.vmap(one)(strains, moves)


def _second(u, x, strains, moves):
    """The derivative of u along two directions of strain and relaxation."""

    def along(s):
        return u(x + jnp.tensordot(s, moves, axes=1), jnp.tensordot(s, strains, axes=1))

    origin, (first, second) = jnp.zeros(2, x.dtype), jnp.eye(2, dtype=x.dtype)
    return jax.jvp(lambda s: jax.jvp(along, (s,), (first,))[1], (origin,), (second,))[1]


_STRAINED = Operator("elastic_constants", _strained_curvatures, "eV", ("strains", "moves", "slopes"), strain=True)
_CUBIC = Operator("cubic_elastic_constants", _cubic_constants, "eV/Å", ("strains", "moves", "modes"), strain=True)


def stationary_modes(atoms: Atoms, what: str) -> tuple[ForceField, dict, np.ndarray, np.ndarray]:
    """Force field and geometry, and the internal modes of the Hessian with their curvatures, flat ones left out."""
    force_field, where = located(atoms, what)
    if atoms.constraints:
        raise ValueError(f"atoms: {what} takes free atoms, these have constraints")
    require_relaxed(atoms, what)
    basis = internal_directions(atoms)
    values, vectors = np.linalg.eigh(basis.T @ force_field.hessian(**where) @ basis)
    kept = np.abs(values) > FLAT * np.abs(values).max(initial=0.0)
    return force_field, where, (basis @ vectors)[:, kept], values[kept]
