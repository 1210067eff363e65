"""A force field as a short text, by which a run knows the one that it was begun with."""

import hashlib

import jax
import numpy as np

from mlff.potentials.force_field import ForceField


def digest_of(force_field: ForceField) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of all numbers that its energy and its kernel have."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(force_field):
        digest.update(np.asarray(leaf, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]
