"""The lowest vibrations of large molecules, from Hessian-vector products alone."""

from __future__ import annotations

import dataclasses

import numpy as np
from ase import Atoms
from jaxtyping import Float
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from mlff.arguments import checked_seed
from mlff.dynamics.calculator import located
from mlff.dynamics.motion import motions
from mlff.properties.vibrations import wavenumbers

TOLERANCE = (
    1e-8  # of residuals, relative to the largest eigenvalue; eigenvalues are good to its square over their distance
)
COMPLETE = 400  # coordinates up to which the Lanczos vectors may span the whole space, which is then soonest done
RESTARTED = 100  # vectors of larger systems
SAME = 1e-8  # of the largest eigenvalue, a difference that is none


@dataclasses.dataclass(frozen=True)
class Modes:
    """Some normal modes.

    frequencies: 1/cm, ascending, imaginary ones negative, shape (k,).
    modes: displacements of the atoms, orthonormal when weighted by the masses (Σ m d·d′ = δ, u Å²), shape (k, n, 3).
    products: how many Hessian-vector products they took.
    """

    frequencies: Float[np.ndarray, " k"]
    modes: Float[np.ndarray, "k n 3"]
    products: int


def lowest_modes(atoms: Atoms, k: int, seed: int = 0) -> Modes:
    """The k lowest normal modes by Lanczos iterations on the mass-weighted Hessian, which is never built.

        M^(−½) H M^(−½) w = λ w,  on the space without rigid motions: R is moved from 0 to the top of the spectrum

    Rigid motions are those of `frequencies`; where constraints fix atoms, those that they leave free. One Lanczos vector
    meets one of several equal eigenvalues only by rounding; so what was lowest is deflated and the lowest of the rest looked
    for, until that is none of the k lowest.

    What this saves is memory, not time: the lowest eigenvalues lie close together, and of 100 atoms twice, of 300 three to
    seven times the 3n products that make a Hessian are taken.

    Arguments:
        atoms: relaxed, with `mlff.Calculator`.
        k: how many, at most as many as there are vibrations.
        seed: of the vector that the iterations start from.
    Raises:
        ValueError: no calculator of ours, k out of range, or iterations that do not converge.
    """
    force_field, geometry = located(atoms, "lowest_modes")
    free = motions(atoms)
    size, rigid = free.allowed.shape[1], free.rigid @ free.allowed
    _require_count(k, size - max(1, len(rigid)))
    roots = np.sqrt(np.repeat(atoms.get_masses(), 3))
    products = 0

    def curvature(weighted: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        vector = (free.allowed @ weighted / roots).reshape(-1, 3)
        return free.allowed.T @ (force_field.hessian_vector_product(vectors=vector, **geometry).ravel() / roots)

    rng = np.random.default_rng(checked_seed(seed))
    values, vectors = _lowest(curvature, k, rigid, _largest(curvature, size, rng), rng)
    displacements = (free.allowed @ vectors.T).T / roots
    return Modes(wavenumbers(values), displacements.reshape(k, -1, 3), products)


def _require_count(k: int, limit: int) -> None:
    if not 1 <= k <= limit:
        raise ValueError(f"k={k} must be from 1 to {limit}, the number of vibrations that can be lowest")


def _largest(curvature, size: int, rng: np.random.Generator) -> float:
    """A bound of the spectrum's magnitude: the largest eigenvalue that a few iterations see, with a margin."""
    return 1.5 * abs(_eigsh(curvature, size, 1, "LM", 1e-1, rng.standard_normal(size))[0][0])


def _lowest(
    curvature, k: int, rigid: np.ndarray, scale: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The k lowest eigenvalues and vectors (as rows), every copy of equal ones. Rigid motions, and after them the vectors that are there
    already, are moved to the top of the spectrum, so that the iterations do not see them."""
    size = rigid.shape[1]

    def lowest(count: int, away: np.ndarray):
        def shifted(w):
            outside = away.T @ (away @ w)
            product = curvature(w - outside)
            # by 1, so that ARPACK's tolerance, relative to each eigenvalue, is one for all
            return w + (product - away.T @ (away @ product)) / scale + 2.0 * outside

        values, vectors = _eigsh(shifted, size, count, "SA", TOLERANCE, rng.standard_normal(size))
        order = np.argsort(values)
        return scale * (values[order] - 1.0), vectors.T[order]

    values, vectors = lowest(k, rigid)
    while k + len(rigid) < size:
        value, vector = lowest(1, np.concatenate([rigid, vectors]))
        if value[0] > values[-1] - SAME * scale:
            break
        order = np.argsort(np.append(values, value))[:k]
        values, vectors = np.append(values, value)[order], np.concatenate([vectors, vector])[order]
    return values, vectors


def _eigsh(product, size: int, count: int, which: str, tolerance: float, start: np.ndarray):
    operator = LinearOperator((size, size), matvec=lambda w: product(w.ravel()), dtype=np.float64)
    spanning = size if size <= COMPLETE else min(size, max(4 * count, RESTARTED))
    basis = spanning if which == "SA" else min(size, 10)
    try:
        return eigsh(operator, count, which=which, tol=tolerance, v0=start, ncv=basis)
    except ArpackNoConvergence as error:
        raise ValueError(
            f"k: Lanczos iterations for {count} modes of {size} did not converge; ask for more modes"
        ) from error
