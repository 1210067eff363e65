"""Descriptors that several tests share, quick to compile: of environments, and one whose images are computed anew."""

import jax.numpy as jnp

from descriptors import inverse_distances
from descriptors.geometry import environments, lengths, smooth_cutoff


def moments(positions, numbers, cell=None, neighbors=None, *, cutoff=4.2):
    """Norms of the moments of the neighbours' directions, to the third, at four distances: quick to compile."""
    around = environments(positions, numbers, cell, neighbors, cutoff)
    r = lengths(around.vectors)
    u = around.vectors / r[..., None]
    w = jnp.exp(-4.0 * (r[..., None] - jnp.array([1.6, 2.1, 2.6, 3.1])) ** 2) * smooth_cutoff(r, cutoff)[..., None]
    cosines = jnp.einsum("nja,nka->njk", u, u)
    return jnp.concatenate(
        [jnp.sum(w, axis=1)] + [jnp.einsum("njc,nkc,njk->nc", w, w, cosines**power) for power in (1, 2, 3)], axis=1
    )


def mirrored(positions):
    """Inverse distances mirrored at a plane of no symmetry: lengths stay, yet no exchange of atoms rearranges the features."""
    distances = inverse_distances(positions)
    normal = jnp.arange(1.0, len(distances) + 1.0, dtype=distances.dtype)
    return distances - 2.0 * normal * (normal @ distances) / (normal @ normal)
