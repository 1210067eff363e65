"""ACSF: Behler's atom-centred symmetry functions, sums over an atom's neighbours and over its pairs of neighbours."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer

from descriptors.geometry import (
    CUTOFFS,
    Array,
    Environments,
    Neighbors,
    environments,
    lengths,
    one_hot,
    pair_channels,
    triangles,
)

Rows = tuple[tuple[float, ...], ...]

RADIAL = tuple((4.0, 0.8 + 0.5 * step) for step in range(10))
ANGULAR = tuple((eta, zeta, sign) for eta in (0.01, 0.1) for zeta in (1.0, 2.0, 4.0) for sign in (-1.0, 1.0))


def acsf(
    positions: Float[Array, "n 3"],
    numbers: Integer[Array, " n"],
    cell: Float[Array, "3 3"] | None = None,
    neighbors: Neighbors | None = None,
    *,
    elements: tuple[int, ...],
    g2: Rows | Float[Array, "_ 2"] = RADIAL,
    g4: Rows | Float[Array, "_ 3"] = ANGULAR,
    g5: Rows | Float[Array, "_ 3"] = (),
    cutoff: float | Array = 6.0,
    cutoff_function: str = "smooth",
) -> Float[Array, "n d"]:
    """Symmetry functions of every atom i, over its neighbours j and its pairs of neighbours j < k, each pair once.

        G² = Σ_j  exp(−η (r_ij − r_s)²) f(r_ij)
        G⁴ = Σ_jk 2^(1−ζ) (1 + λ cos θ)^ζ exp(−η (r_ij² + r_ik² + r_jk²)) f(r_ij) f(r_ik) f(r_jk)
        G⁵ = Σ_jk 2^(1−ζ) (1 + λ cos θ)^ζ exp(−η (r_ij² + r_ik²)) f(r_ij) f(r_ik),    θ between r_ij and r_ik

    Where three atoms lie on a line, (1 + λ cos θ)^ζ is as smooth as the bending angle to the power of 2ζ: with whole ζ
    always, otherwise with as many continuous derivatives as are less than 2ζ.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
        cell: cell vectors as rows, Å.
        neighbors: neighbour list; without one every atom sees all others.
        elements: atomic numbers that have channels, ascending.
        g2: rows (η, r_s), 1/Å² and Å.
        g4, g5: rows (η, ζ, λ), η in 1/Å², −1 ≤ λ ≤ 1; an empty tuple for none.
        cutoff: how far an atom sees, Å.
        cutoff_function: f, "smooth" or, as published, "cosine".
    Returns:
        shape (n, z·p₂ + z(z + 1)/2·(p₄ + p₅)) for z elements: G² by the element of j, then G⁴, then G⁵, each by the
        pair of elements (p ≤ q, row by row).
    Source: Behler, J. Chem. Phys. 134, 074106 (2011), doi 10.1063/1.3553717.
    """
    fade = CUTOFFS[cutoff_function]
    radial, wide, narrow = (
        jnp.asarray(rows, dtype=positions.dtype).reshape(-1, columns) for rows, columns in ((g2, 2), (g4, 3), (g5, 3))
    )

    def atom(environment: Environments) -> Float[Array, " d"]:
        vectors, channels = environment.vectors, one_hot(environment.numbers, elements, positions.dtype)
        r = lengths(vectors)
        within = fade(r, cutoff)
        two = jnp.exp(-radial[:, 0] * (r[:, None] - radial[:, 1]) ** 2) * within[:, None]

        j, k, opposite, *_ = triangles(environment, r)
        directions = vectors / r[:, None]
        halves = jnp.stack([jnp.sum((directions[j] + s * directions[k]) ** 2, axis=-1) for s in (1.0, -1.0)]) / 4.0
        sides, faded = r[j] ** 2 + r[k] ** 2, within[j] * within[k]
        four = _angular(halves, sides + opposite, wide) * (faded * fade(jnp.sqrt(opposite), cutoff))[:, None]
        five = _angular(halves, sides, narrow) * faded[:, None]
        pairs = pair_channels(channels)
        return jnp.concatenate([(a.T @ b).ravel() for a, b in ((channels, two), (pairs, four), (pairs, five))])

    return jax.vmap(atom)(environments(positions, numbers, cell, neighbors, cutoff))


def _angular(
    halves: Float[Array, "2 pairs"], squares: Float[Array, " pairs"], rows: Float[Array, "p 3"]
) -> Float[Array, "pairs p"]:
    """2 (½ + ½λ cos θ)^ζ exp(−η s) from ½ ± ½ cos θ, which as squares of vectors are exact near zero and never negative."""
    eta, zeta, sign = rows.T
    base = 0.5 * ((1.0 + sign) * halves[0, :, None] + (1.0 - sign) * halves[1, :, None])
    return 2.0 * _power(base, jnp.broadcast_to(zeta, base.shape)) * jnp.exp(-eta * squares[:, None])


@jax.custom_jvp
def _power(base: Float[Array, "*shape"], exponent: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """base^exponent for base ≥ 0, where negative powers of zero are zero; ∂ base^e/∂base = e base^(e−1).

    The base is a square x² of something that changes sign. Where its power is n times differentiable in x, every term of
    the n-th derivative with a negative power of zero also has enough factors ∂base/∂x = 2x to vanish.
    """
    least = float(jnp.finfo(base.dtype).tiny) ** 0.25
    positive = base > jnp.where(exponent < 0.0, least, 0.0)
    return jnp.where(positive, jnp.where(positive, base, 1.0) ** exponent, (exponent == 0.0).astype(base.dtype))


def _power_rule(primals, tangents):
    (base, exponent), (rise, change) = primals, tangents
    value = _power(base, exponent)
    tangent = jnp.zeros_like(value)
    if not isinstance(rise, jax.custom_derivatives.SymbolicZero):
        tangent += exponent * _power(base, exponent - 1.0) * rise
    if not isinstance(change, jax.custom_derivatives.SymbolicZero):
        tangent += value * jnp.log(jnp.where(base > 0.0, base, 1.0)) * change
    return value, tangent


_power.defjvp(_power_rule, symbolic_zeros=True)
