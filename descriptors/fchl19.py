"""FCHL19: what an atom sees as histograms of distances and of triangles, one for every element and pair of elements."""

import jax
import jax.numpy as jnp
import numpy as np
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


def fchl19(
    positions: Float[Array, "n 3"],
    numbers: Integer[Array, " n"],
    cell: Float[Array, "3 3"] | None = None,
    neighbors: Neighbors | None = None,
    *,
    elements: tuple[int, ...],
    cutoff: float | Array = 8.0,
    three_body_cutoff: float | Array | None = None,
    radial2: int = 24,
    radial3: int = 20,
    eta2: float | Array = 0.32,
    eta3: float | Array = 2.7,
    zeta: float | Array = np.pi,
    two_body_decay: float | Array = 1.8,
    three_body_decay: float | Array = 0.57,
    three_body_weight: float | Array = 13.4,
    linear_blend: float | Array = 0.25,
    cutoff_function: str = "smooth",
) -> Float[Array, "n d"]:
    """FCHL19 representation of every atom i: sums over its neighbours j, and over its pairs of neighbours j, k.

        pairs      f(r_ij) r_ij^−N₂ · LogNormal(R; μ_ij, σ_ij)      σ² = ln(1 + η₂/r_ij²),  μ = ln r_ij − σ²/2
        triangles  f(r_ij) f(r_ik) w √(η₃/π) (1 + 3 cos θ_i cos θ_j cos θ_k) (r_ij r_ik r_jk)^−N₃
                   · exp(−η₃ (½(r_ij + r_ik) − R)²) · 2 exp(−ζ²/2) {cos θ_i, sin θ_i}

    with R on even grids up to the cutoffs. The published sin θ = √(1 − cos²θ) has a kink where three atoms lie on a line
    (CO₂, acetylene, the para positions of benzene), and there forces jump. Where sin θ < `linear_blend`, that is for angles
    less than 14.5° from 0° or 180° by default, its Taylor polynomial of third degree in sin²θ takes over: three continuous
    derivatives everywhere, and published values for all other triangles.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
        cell: cell vectors as rows, Å.
        neighbors: neighbour list; without one every atom sees all others.
        elements: atomic numbers that have channels, ascending.
        cutoff: of the pairs, Å.
        three_body_cutoff: of the two sides r_ij and r_ik, Å; at most `cutoff`, and equal to it where not given.
        radial2, radial3: numbers of grid points R of the pairs and of the triangles.
        eta2: width of the log-normals, Å².
        eta3: width of the Gaussians, Å⁻².
        zeta: width in angle; scales both angular terms.
        two_body_decay, three_body_decay: exponents N₂, N₃.
        three_body_weight: w.
        linear_blend: sine below which it is rounded; small values approach the published function.
        cutoff_function: f, "smooth" or, as published, "cosine".
    Returns:
        shape (n, z·radial2 + z(z + 1)·radial3) for z elements: first the element of j and R, then the pair of elements
        (p ≤ q, row by row), R, and cosine before sine.
    Raises:
        ValueError: `three_body_cutoff` exceeds `cutoff`.
    Source: Christensen, Bratholm, Faber, von Lilienfeld, J. Chem. Phys. 152, 044107 (2020), doi 10.1063/1.5126701.
    """
    inner = cutoff if three_body_cutoff is None else three_body_cutoff
    if isinstance(cutoff, float) and isinstance(inner, float) and inner > cutoff:
        raise ValueError(f"three_body_cutoff={inner} must not exceed cutoff={cutoff} Å; raise cutoff or lower it")
    inner = inner if inner is cutoff else jnp.minimum(inner, cutoff)  # traced values cannot be refused
    fade = CUTOFFS[cutoff_function]

    def atom(environment: Environments) -> Float[Array, " d"]:
        channels = one_hot(environment.numbers, elements, positions.dtype)
        r = lengths(environment.vectors)
        two = _log_normals(r, _grid(radial2, cutoff, r), eta2) * (fade(r, cutoff) / r**two_body_decay)[:, None]

        j, k, _, squares, cosine, far_cosines = triangles(environment, r)
        prefactor = 2.0 * jnp.exp(-(zeta**2) / 2.0) * three_body_weight * jnp.sqrt(eta3 / jnp.pi)
        decay = squares ** (-0.5 * three_body_decay)
        weights = prefactor * (1.0 + 3.0 * cosine * far_cosines) * decay * (fade(r, inner)[j] * fade(r, inner)[k])
        radial = jnp.exp(-eta3 * (0.5 * (r[j] + r[k])[:, None] - _grid(radial3, inner, r)) ** 2)
        angular = jnp.stack([weights * cosine, weights * _sine(cosine, linear_blend)], axis=-1)
        pairs = pair_channels(channels)[..., None] * angular[:, None, :]
        three = jnp.einsum("tr,tpa->pra", radial, pairs)
        return jnp.concatenate([(channels.T @ two).ravel(), three.ravel()])

    return jax.vmap(atom)(environments(positions, numbers, cell, neighbors, cutoff))


def _grid(points: int, end: float | Array, r: Array) -> Float[Array, " points"]:
    """end/points, 2 end/points, …, end, in the precision of the distances r."""
    return jnp.arange(1, points + 1, dtype=r.dtype) * (end / points)


def _log_normals(r: Float[Array, " k"], grid: Float[Array, " m"], eta: float | Array) -> Float[Array, "k m"]:
    """Log-normal densities on the grid, of mean r and variance η."""
    variance = jnp.log1p(eta / r**2)
    offset = jnp.log(grid) - (jnp.log(r) - 0.5 * variance)[:, None]
    norm = jnp.sqrt(2.0 * jnp.pi * variance)[:, None] * grid
    return jnp.exp(-(offset**2) / (2.0 * variance[:, None])) / norm


def _sine(cosine: Float[Array, " pairs"], blend: float | Array) -> Float[Array, " pairs"]:
    """√s of s = 1 − cos²θ; below s = blend² its third-order Taylor polynomial about that point."""
    s = 1.0 - cosine**2
    t = s / blend**2 - 1.0
    polynomial = blend * (1.0 + t * (0.5 + t * (-0.125 + 0.0625 * t)))
    return jnp.where(t > 0.0, jnp.sqrt(jnp.where(t > 0.0, s, 1.0)), polynomial)
