"""The Coulomb matrix of a whole molecule: entry by entry, its spectrum, and its rows in the order of their norms.

    M_ii = ½ Z_i^2.4,   M_ij = Z_i Z_j / r_ij

with r in Å (not bohr), as other packages have it; the smooth forms of spectrum and order are described at their functions.

Source: Rupp, Tkatchenko, Müller, von Lilienfeld, Phys. Rev. Lett. 108, 058301 (2012), doi 10.1103/PhysRevLett.108.058301.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float, Integer

from descriptors.geometry import Array, pair_distances


def coulomb_matrix(positions: Float[Array, "n 3"], numbers: Integer[Array, " n"]) -> Float[Array, " d"]:
    """Upper triangle of the Coulomb matrix, row by row. An exchange of like atoms rearranges the features.

    The diagonal does not depend on the positions: it tells molecules apart, and is of no effect among geometries of one.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
    Returns:
        shape (n(n+1)/2,), 1/Å (the diagonal without unit).
    """
    return _upper(_matrix(positions, numbers))


def coulomb_spectrum(
    positions: Float[Array, "n 3"],
    numbers: Integer[Array, " n"],
    *,
    powers: tuple[float, ...] | Float[Array, " p"] = (1.0, 2.0, 3.0),
    scales: tuple[float, ...] | Float[Array, " s"] = (0.5, 30.0),
) -> Float[Array, " d"]:
    """Eigenvalues λ_i of Coulomb matrices as Fourier coefficients of their distribution on circles.

        M_ij = Z_i Z_j / r_ij^p                                      for every power p
        a_k + i b_k = 1/k Σ_i exp(i k φ_i),   φ_i = 2 arctan(λ_i / c),   k = 1 … n,   for every scale c

    Sorted eigenvalues have kinks wherever two of them meet, which they do in every symmetric molecule. These sums do not:
    Σ_i exp(ikφ_i) = tr U^k with U = (c + iM)(c − iM)⁻¹, a rational function of the matrix without poles, so that all
    derivatives exist and no eigenvector enters. They hold all the spectrum: Newton's identities turn the n sums of one
    scale into the polynomial whose roots are exp(iφ_i). Eigenvalues near c are resolved best; of the two scales, one is
    for hydrogen and one for heavier atoms. The factor 1/k lets |∂(a_k + i b_k)/∂φ_i| = 1 for every k.

    One spectrum has n numbers for the 3n − 6 degrees of freedom: it tells molecules apart, but most forces it cannot
    express. Those of three powers of the distance together have enough. `powers=(1.0,)` is the published spectrum alone.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
        powers: p of the distance in each matrix; the diagonal is that of p = 1.
        scales: the eigenvalues c at a quarter of each circle, 1/Å^p.
    Returns:
        shape (2·n·powers·scales,): for every power and scale a_1 … a_n, b_1 … b_n; no unit. Invariant under the exchange of
        like atoms.
    """
    matrices = jnp.stack([_matrix(positions, numbers, power) for power in powers])
    over_scales = jax.vmap(lambda matrix, scale: _power_sums(matrix / scale), in_axes=(None, 0))
    sums = jax.vmap(over_scales, in_axes=(0, None))(matrices, jnp.asarray(scales, dtype=matrices.dtype))
    return jnp.concatenate([sums.real, sums.imag], axis=-1).ravel()


def sorted_coulomb_matrix(
    positions: Float[Array, "n 3"], numbers: Integer[Array, " n"], *, width: float | Array = 3.0
) -> Float[Array, " d"]:
    """Upper triangle of P M Pᵀ, with P the smooth relaxation of the permutation that sorts rows by descending norm.

        P_ij = softmax_j [ ((n + 1 − 2i) s_j − Σ_k |s_j − s_k|_w) / w ],   s_i = √(Σ_j M_ij²),   |x|_w = w ln(2 cosh(x/w))

    Row i of P approaches the unit vector of the i-th largest norm as the width goes to zero; rows whose norms differ by
    much less than the width are averaged. All derivatives exist, at equal norms too; they grow like inverse powers of the
    width. An exchange of like atoms changes nothing, whatever the width. What is averaged is lost: for the forces of one
    molecule, `coulomb_matrix` in a kernel with permutations keeps more.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
        width: w, 1/Å; norms are about 6 for hydrogen and 40 to 100 for carbon, nitrogen and oxygen.
    Returns:
        shape (n(n+1)/2,), row by row, 1/Å.
    Source of the relaxation, there with |x|: Grover, Wang, Zweig, Ermon, ICLR (2019), arXiv 1903.08850.
    """
    matrix = _matrix(positions, numbers)
    atoms = len(matrix)
    norms = jnp.sqrt(jnp.sum(matrix**2, axis=1)) / width
    difference = norms[:, None] - norms
    spread = jnp.sum(jnp.logaddexp(difference, -difference), axis=1)
    ranks = atoms - 1.0 - 2.0 * jnp.arange(atoms, dtype=matrix.dtype)
    weights = jax.nn.softmax(ranks[:, None] * norms - spread, axis=1)
    return _upper(weights @ matrix @ weights.T)


def _matrix(
    positions: Float[Array, "n 3"], numbers: Integer[Array, " n"], power: float | Array = 1.0
) -> Float[Array, "n n"]:
    charges = jnp.asarray(numbers).astype(positions.dtype)
    first, second = np.triu_indices(len(charges), k=1)
    repulsion = charges[first] * charges[second] / pair_distances(positions) ** power
    upper = jnp.zeros((len(charges), len(charges)), dtype=positions.dtype).at[first, second].set(repulsion)
    return upper + upper.T + jnp.diag(0.5 * charges**2.4)


def _upper(matrix: Float[Array, "n n"]) -> Float[Array, " d"]:
    return matrix[np.triu_indices(len(matrix))]


@jax.custom_jvp
def _power_sums(matrix: Float[Array, "n n"]) -> Complex[Array, " n"]:
    """tr U^k / k for k = 1 … n, with U = (1 + iM)(1 − iM)⁻¹.

    Its derivative 2i tr(R U^(k−1) R dM), R = (1 − iM)⁻¹, is a scalar product with dM; AD would carry every dM through
    all powers.
    """
    powers = _powers(_resolvent(matrix))[1:]
    return jnp.trace(powers, axis1=1, axis2=2) / jnp.arange(1, len(matrix) + 1).astype(powers.dtype)


@_power_sums.defjvp
def _power_sums_rule(primals, tangents):
    (matrix,), (change,) = primals, tangents
    resolvent = _resolvent(matrix)
    slopes = 2j * (_powers(resolvent)[:-1] @ (resolvent @ resolvent))  # a symmetric matrix for every k
    return _power_sums(matrix), jnp.tensordot(slopes, change.astype(slopes.dtype), 2)


def _powers(resolvent: Complex[Array, "n n"]) -> Complex[Array, "m n n"]:
    """U^0 … U^n of U = 2R − 1, their number doubled with every product."""
    unit = jnp.eye(len(resolvent), dtype=resolvent.dtype)
    powers = jnp.stack([unit, 2.0 * resolvent - unit])
    while len(powers) <= len(resolvent):
        powers = jnp.concatenate([powers, powers[1:] @ powers[-1]])
    return powers[: len(resolvent) + 1]


@jax.custom_jvp
def _resolvent(matrix: Float[Array, "n n"]) -> Complex[Array, "n n"]:
    """R = (1 − iM)⁻¹, with dR = i R dM R, which needs no further linear systems."""
    return jnp.linalg.inv(jax.lax.complex(jnp.eye(len(matrix), dtype=matrix.dtype), -matrix))


@_resolvent.defjvp
def _resolvent_rule(primals, tangents):
    resolvent = _resolvent(*primals)
    return resolvent, 1j * (resolvent @ tangents[0].astype(resolvent.dtype) @ resolvent)
