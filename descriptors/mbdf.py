"""MBDF: functionals of the distributions of distances and angles around an atom; few features, however many elements."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer
from numpy.polynomial import chebyshev, legendre

from descriptors.geometry import CUTOFFS, Array, Environments, Neighbors, environments, lengths, triangles

TERMS = 64  # of the Chebyshev expansions
NODES, QUADRATURE = legendre.leggauss(TERMS)
FROM_NODES = np.linalg.inv(chebyshev.chebvander(NODES, TERMS - 1))
SLOPES = np.pad(
    chebyshev.chebder(np.eye(TERMS)), [(0, 1), (0, 0)]
)  # from the coefficients of a function to its derivative's


def mbdf(
    positions: Float[Array, "n 3"],
    numbers: Integer[Array, " n"],
    cell: Float[Array, "3 3"] | None = None,
    neighbors: Neighbors | None = None,
    *,
    decays: tuple[float, ...] | Float[Array, " e"] = (1.5, 5.0),
    powers: tuple[float, ...] | Float[Array, " p"] = (3.0, 5.0),
    harmonics: int = 4,
    order: int = 4,
    radial_exponent: float | Array = 2.0,
    angular_exponent: float | Array = 2.0,
    triangle_power: float | Array = 2.0,
    cutoff: float | Array = 6.0,
    cutoff_function: str = "smooth",
) -> Float[Array, "n d"]:
    """Many-body distribution functionals of every atom i: integrals over derivatives of Gaussian distributions.

        ρ(r) = Σ_j √(Z_i Z_j) f(r_ij) exp(−a (r − r_ij)²),             F_mw = 1/N_mw ∫ g_w(r) ∂^m ρ/∂r^m dr
        ρ_l(c) = Σ_jk ∛(Z_i Z_j Z_k) f(r_ij) f(r_ik) f(r_jk) (r_ij r_ik r_jk)^−ν A_l exp(−b (c − cos θ_i)²),
                                                                       F_ml = 1/N_ml ∫ T_l(c) ∂^m ρ_l/∂c^m dc

    with r from 0 to the cutoff and c from −1 to 1; m = 0 … order; weights g_w = exp(−αr) and (1 + r/Å)^−p; Chebyshev
    polynomials T_l(cos θ) = cos lθ, l = 1 … harmonics; A_1 = cos θ_j cos θ_k (which makes l = 1 the product of cosines of
    the Axilrod–Teller potential), A_l = 1 otherwise; every pair of neighbours once. N is the root mean square, over the
    interval, of what one distance (angle) contributes with the prefactor left out, so that all features are of one scale.

    In the published form the Gaussians are functions of θ = arccos(…). Its derivative is infinite where three atoms lie on a
    line, and there forces jump; therefore the angular distribution is here one of cos θ, with the same weights. The values
    of the angular features differ from the published ones for that; so do all values by the norm, the published one being
    the largest instead of the mean. (The published convolutions are ours times (−1)^m.)

    The functionals are linear in ρ: each is a fixed function of a distance or a cosine, used as its Chebyshev expansion.
    That is exact to 1e-13 by default, to 1e-10 as long as a·cutoff² and 4b are below 200.
    Elements enter by the prefactors alone, so that the number of features does not depend on them.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
        cell: cell vectors as rows, Å.
        neighbors: neighbour list; without one every atom sees all others.
        decays: α, 1/Å.
        powers: p.
        harmonics: number of angular weights, at least 1.
        order: highest derivative of the distributions.
        radial_exponent: a, 1/Å².
        angular_exponent: b.
        triangle_power: ν.
        cutoff: how far an atom sees, Å.
        cutoff_function: f, "smooth" or "cosine".
    Returns:
        shape (n, (order + 1)(e + p + harmonics)): for every m the radial functionals, exponentials before powers; then
        for every m the angular ones.
    Sources: Khan, Heinen, von Lilienfeld, J. Chem. Phys. 159, 034106 (2023), doi 10.1063/5.0152215;
        Khan, von Lilienfeld, arXiv 2409.20471 (the weights and their convolution with Gaussians).
    """
    dtype = positions.dtype
    charges = jnp.asarray(numbers).astype(dtype)
    fade = CUTOFFS[cutoff_function]
    half = jnp.asarray(0.5 * cutoff, dtype=dtype)
    radial = _functionals(_radial_weights(half, decays, powers), radial_exponent, half, order)
    harmonic = jnp.asarray(chebyshev.chebvander(NODES, harmonics)[:, 1:], dtype=dtype)
    angular = _functionals(harmonic, angular_exponent, jnp.ones((), dtype=dtype), order)

    def atom(environment: Environments, charge: Float[Array, ""]) -> Float[Array, " d"]:
        r = lengths(environment.vectors)
        charges_seen = environment.numbers.astype(dtype)
        within = fade(r, cutoff)
        distances = jnp.minimum(r / half, 2.0) - 1.0  # beyond the cutoff the polynomials overflow
        two = jnp.tensordot(jnp.sqrt(charge * charges_seen) * within, _series(distances, radial), 1)

        j, k, opposite, squares, cosine, far_cosines = triangles(environment, r)
        faded = within[j] * within[k] * fade(jnp.sqrt(opposite), cutoff)
        decay = squares ** (-0.5 * triangle_power)
        prefactor = (charge * charges_seen[j] * charges_seen[k]) ** (1.0 / 3.0) * faded * decay
        each = jnp.stack([prefactor * far_cosines] + (harmonics - 1) * [prefactor], axis=-1)
        three = jnp.einsum("pl,pml->ml", each, _series(cosine, angular))
        return jnp.concatenate([two.ravel(), three.ravel()])

    return jax.vmap(atom)(environments(positions, numbers, cell, neighbors, cutoff), charges)


def _radial_weights(half: Float[Array, ""], decays, powers) -> Float[Array, "q w"]:
    """g_w at the nodes of the interval from 0 to the cutoff."""
    r = half * (1.0 + jnp.asarray(NODES, dtype=half.dtype))[:, None]
    exponentials = jnp.exp(-jnp.asarray(decays, dtype=half.dtype) * r)
    return jnp.concatenate([exponentials, (1.0 + r) ** -jnp.asarray(powers, dtype=half.dtype)], axis=1)


def _functionals(
    weights: Float[Array, "q w"], exponent: float | Array, half: Float[Array, ""], order: int
) -> Float[Array, "t m w"]:
    """Chebyshev coefficients of h_mw(x) = 1/N_mw ∫ g_w(y) ∂^m/∂y^m exp(−a (y − x)²) dy on an interval of length 2·half.

    The derivatives follow from D_{m+1} = −2a ((y − x) D_m + m D_{m−1}).
    """
    quadrature, from_nodes = (jnp.asarray(array, dtype=half.dtype) for array in (QUADRATURE, FROM_NODES))
    offset = half * jnp.asarray(NODES - NODES[:, None], dtype=half.dtype)
    derivatives = [jnp.exp(-exponent * offset**2)]
    for m in range(order):
        before = m * derivatives[m - 1] if m else 0.0
        derivatives.append(-2.0 * exponent * (offset * derivatives[m] + before))
    values = jnp.einsum("mxy,yw->xmw", jnp.stack(derivatives), quadrature[:, None] * weights)
    norm = jnp.sqrt(0.5 * jnp.tensordot(quadrature, values**2, 1))
    return jnp.tensordot(from_nodes, values / norm, 1)


def _series(x: Float[Array, " k"], coefficients: Float[Array, "t m w"]) -> Float[Array, "k m w"]:
    """Chebyshev series at numbers from −1 to 1."""

    def step(pair, _):  # T_{t+1} = 2x T_t − T_{t−1}
        return (pair[1], 2.0 * x * pair[1] - pair[0]), pair[0]

    table = jax.lax.scan(step, (jnp.ones_like(x), x), length=TERMS, unroll=16)[1]
    return _sum(x, jax.lax.stop_gradient(table), coefficients)


@jax.custom_jvp
def _sum(
    x: Float[Array, " k"], table: Float[Array, "t k"], coefficients: Float[Array, "t m w"]
) -> Float[Array, "k m w"]:
    """Σ_t c_t T_t(x), whose derivative is another such sum over the same polynomials: AD has not to go through them."""
    return jnp.tensordot(table.T, coefficients, 1)


def _sum_rule(primals, tangents):
    (x, table, coefficients), (step, _, change) = primals, tangents
    value = _sum(x, table, coefficients)
    tangent = jnp.zeros_like(value)
    if not isinstance(step, jax.custom_derivatives.SymbolicZero):
        slopes = jnp.tensordot(jnp.asarray(SLOPES, dtype=x.dtype), coefficients, 1)
        tangent += _sum(x, table, slopes) * step[:, None, None]
    if not isinstance(change, jax.custom_derivatives.SymbolicZero):
        tangent += _sum(x, table, change)
    return value, tangent


_sum.defjvp(_sum_rule, symbolic_zeros=True)
