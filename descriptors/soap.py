"""SOAP: the power spectrum of the smeared density of atoms around each atom, one density for every element."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from descriptors.geometry import CUTOFFS, Array, Environments, Neighbors, environments, lengths, one_hot

REFERENCE = 5.0  # radius of the basis whose functions are written down here, Å; others are stretched


def soap(
    positions: Float[Array, "n 3"],
    numbers: Integer[Array, " n"],
    cell: Float[Array, "3 3"] | None = None,
    neighbors: Neighbors | None = None,
    *,
    elements: tuple[int, ...],
    cutoff: float | Array = 5.0,
    n_max: int = 6,
    l_max: int = 4,
    sigma: float | Array = 0.5,
    basis_radius: float | Array | None = None,
    cutoff_function: str = "smooth",
    normalised: bool = False,
) -> Float[Array, "n d"]:
    """SOAP power spectrum of every atom i.

        ρ_z(x) = Σ_{j of element z} f(r_ij) exp(−|x − x_ij|²/2σ²),  the atom i itself among the j, with f = 1
        c_znlm = ∫ ρ_z(x) g_nl(|x|) Y_lm(x) d³x
        p_zn,z′n′,l = π √(8/(2l + 1)) Σ_m c_znlm c_z′n′lm

    with real spherical harmonics and orthonormal radial functions g_nl, the symmetric orthonormalisation of
    r^l exp(−α_nl r²). Those of 5 Å fall to 10⁻³ at 1 … 5 Å in even steps; those of another radius are stretched in
    proportion. All integrals are closed expressions, polynomials times Gaussians: smooth for every arrangement of atoms.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
        cell: cell vectors as rows, Å.
        neighbors: neighbour list; without one every atom sees all others.
        elements: atomic numbers that have densities, ascending.
        cutoff: Å.
        n_max: number of radial functions.
        l_max: highest angular momentum.
        sigma: width of the density of an atom, Å.
        basis_radius: how far the radial functions reach, Å; `cutoff` where not given.
        cutoff_function: f, "smooth" or "cosine".
        normalised: whether each power spectrum is divided by its norm, as kernels of scalar products want it.
    Returns:
        shape (n, z n_max (z n_max + 1)/2 · (l_max + 1)) for z elements, Å³ (numbers, if normalised): for each pair of elements
        z ≤ z′ and each l the matrix over n, n′ row by row, its upper triangle where z = z′. Entries that stand for two equal
        ones carry a factor √2, so that inner products of features are those of whole power spectra.
    Source: Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), doi 10.1103/PhysRevB.87.184115; radial functions of
        Himanen et al., Comput. Phys. Commun. 247, 106949 (2020), doi 10.1016/j.cpc.2019.106949.
    """
    unit = (cutoff if basis_radius is None else basis_radius) / REFERENCE
    exponents, mixing = _radial_basis(n_max, l_max)
    exponents, mixing = jnp.asarray(exponents, positions.dtype), jnp.asarray(mixing, positions.dtype)
    eta = 0.5 / (jnp.asarray(sigma, positions.dtype) / unit) ** 2
    degrees = jnp.arange(l_max + 1, dtype=positions.dtype)[:, None]
    overlap = (jnp.pi / (exponents + eta)) ** 1.5 * (eta / (exponents + eta)) ** degrees
    mixing, exponents = mixing * overlap[:, None, :], exponents * eta / (exponents + eta)
    width = len(elements) * n_max
    centers = one_hot(numbers, elements, positions.dtype)
    index, factors = _independent_entries(len(elements), n_max, l_max)
    factors = jnp.asarray(factors, positions.dtype) * unit**3

    def atom(environment: Environments, center: Float[Array, " z"]) -> Float[Array, " d"]:
        vectors = (environment.vectors / unit).T
        squares = jnp.sum(vectors**2, axis=0)
        channels = one_hot(environment.numbers, elements, positions.dtype).T
        channels = channels * CUTOFFS[cutoff_function](lengths(environment.vectors), cutoff)
        spectra = []
        # neighbours are the last axis of both factors, summed over before radial functions are mixed: 3 times faster gradients
        for degree, harmonics in enumerate(solid_harmonics(vectors, squares, l_max)):
            densities = channels[:, None] * jnp.exp(-squares * exponents[degree][:, None])
            smeared = jnp.einsum("zak,mk->zam", densities, harmonics)
            coefficients = jnp.einsum("na,zam->znm", mixing[degree], smeared)
            if degree == 0:
                at_center = center[:, None] * jnp.sum(mixing[0], axis=-1) / math.sqrt(4.0 * math.pi)
                coefficients = coefficients + at_center[..., None]
            coefficients = coefficients.reshape(width, 2 * degree + 1)
            spectra.append(coefficients @ coefficients.T)
        spectrum = jnp.stack(spectra).ravel()[index] * factors
        # the atom itself is in the density, so that no spectrum vanishes
        return spectrum / jnp.sqrt(jnp.sum(spectrum**2)) if normalised else spectrum

    return jax.vmap(atom)(environments(positions, numbers, cell, neighbors, cutoff), centers)


def solid_harmonics(vectors: Float[Array, "3 k"], squares: Float[Array, " k"], l_max: int) -> list[Float[Array, "m k"]]:
    """Real solid harmonics r^l Y_lm, polynomials in the coordinates: for every l ≤ l_max an array (2l + 1, k), m = −l … l.

        (l − m) Q_lm = (2l − 1) z Q_l−1,m − (l + m − 1) r² Q_l−2,m,   Q_mm = (2m − 1)!!
        r^l Y_lm = √((2l + 1)/4π · (l − m)!/(l + m)!) Q_lm · {√2 Re, √2 Im} (x + iy)^m,   without √2 for m = 0

    Arguments:
        vectors: shape (3, k).
        squares: r², shape (k,).
        l_max: highest degree.
    """
    x, y, z = vectors
    real, imaginary = [jnp.ones_like(x)], [jnp.zeros_like(x)]
    for _ in range(l_max):
        real, imaginary = (
            [*real, x * real[-1] - y * imaginary[-1]],
            [*imaginary, x * imaginary[-1] + y * real[-1]],
        )
    legendre: dict[tuple[int, int], Array] = {}
    for m in range(l_max + 1):
        legendre[m, m] = jnp.full_like(x, math.prod(range(1, 2 * m, 2)))
        for l in range(m + 1, l_max + 1):
            lower = (l + m - 1) * squares * legendre[l - 2, m] if l > m + 1 else 0.0
            legendre[l, m] = ((2 * l - 1) * z * legendre[l - 1, m] - lower) / (l - m)
    degrees = []
    for l in range(l_max + 1):
        columns = []
        for m in range(-l, l + 1):
            norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - abs(m)) / math.factorial(l + abs(m)))
            part = (imaginary if m < 0 else real)[abs(m)]
            columns.append((norm if m == 0 else math.sqrt(2.0) * norm) * legendre[l, abs(m)] * part)
        degrees.append(jnp.stack(columns))
    return degrees


def _radial_basis(n_max: int, l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponents α, shape (l, n), and coefficients S^−½, shape (l, n, n), of the radial functions that reach `REFERENCE`.

    The overlap S_ab = ½ Γ(l + 3/2) (α_a + α_b)^−(l + 3/2) is factorised with unit diagonal, and its inverse root taken by
    singular values: an eigenvalue decomposition of S would lose twice the digits.

    Raises:
        ValueError: so many functions that they depend on each other linearly in double precision.
    """
    reach = np.linspace(1.0, REFERENCE, n_max) if n_max > 1 else np.array([REFERENCE])
    exponents, mixing = [], []
    for degree in range(l_max + 1):
        alpha = (math.log(1e3) + degree * np.log(reach)) / reach**2
        overlap = 0.5 * math.gamma(degree + 1.5) * (alpha[:, None] + alpha) ** (-degree - 1.5)
        norms = np.sqrt(np.diag(overlap))
        normed = overlap / norms[:, None] / norms
        if np.linalg.cond(normed) > 1e12:
            raise ValueError(f"n_max={n_max}: so many radial functions are linearly dependent; take 11 at most")
        left, singular, _ = np.linalg.svd(norms[:, None] * np.linalg.cholesky(normed))
        exponents.append(alpha)
        mixing.append((left / singular) @ left.T)
    return np.array(exponents), np.array(mixing)


def _independent_entries(elements: int, n_max: int, l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Which entries of the symmetric matrices p_l, flattened (l, z n, z′ n′), are features, and their factors."""
    width = elements * n_max
    index, factors = [], []
    for first in range(elements):
        for second in range(first, elements):
            n, other = np.triu_indices(n_max) if first == second else np.indices((n_max, n_max)).reshape(2, -1)
            row, column = first * n_max + n, second * n_max + other
            for degree in range(l_max + 1):
                index.append((degree * width + row) * width + column)
                factors.append(math.pi * math.sqrt(8 / (2 * degree + 1)) * np.where(row == column, 1.0, math.sqrt(2.0)))
    return np.concatenate(index), np.concatenate(factors)
