"""Energies, forces and strain derivatives as sums over environments: blocks of a few sizes, whatever the frames.

Where an atom's energy is a function of its own neighbours alone, E = Σ_e ε_e(v_e1, v_e2, …) with v_ek = x_j − x_e + S_ek·cell,

    ∂E/∂x_a = Σ_(e,k) ∂ε_e/∂v_ek ([j_ek = a] − [e = a]),      ∂E/∂ε = Σ_(e,k) v_ek ⊗ ∂ε_e/∂v_ek

One reverse pass through a block of environments gives all ∂ε/∂v; sums over pairs are made on the host. Time and memory are linear
in the atoms, with no more than a block of intermediate arrays, and frames of any size and composition share compiled functions.
Neighbours are looked for anew each time: that costs a fifteenth of the forces (measured, SOAP of silicon and molybdenum), a list
that is kept while atoms move within a skin of 0.5 Å has a third more pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.compiling import known_options
from mlff.data.batches import Batch, LabelledFrames
from mlff.kernels.environments import Surrounded, grouped
from mlff.potentials.layout import room_for
from mlff.potentials.potential import Potential
from mlff.precision import doubled
from mlff.threads import map_threads, processors

BLOCK = 128  # environments: measured, larger ones leave the cache
SIZES = (4, 8, 16, 32, 48, 64, 96, BLOCK)  # of blocks; a few of them, so that every processor has one
ATOMS = 1 << 16  # of all frames whose neighbours are held at once


class Summed(NamedTuple):
    """Energies of frames, eV, (m,); ∂E/∂x of all their atoms, frame after frame, eV/Å, (e, 3); ∂E/∂ε of symmetric strains, eV,
    (m, 3, 3)."""

    energies: Float[np.ndarray, " m"]
    gradients: Float[np.ndarray, "e 3"]
    strains: Float[np.ndarray, "m 3 3"]


class Environmental:
    """A potential that `sees_alone`, evaluated environment by environment.

    Arguments:
        potential: on the device.
        spacings: of its training points, for distances from these.
    """

    def __init__(self, potential: Potential, spacings):
        self.reach = potential.reach
        leaves, structure = jax.tree.flatten(potential)
        self._leaves, self._functions, self._spacings = leaves, _functions(structure), spacings

    def summed(self, batches: Sequence[Batch]) -> Summed:
        """Energies and first derivatives of frames, batch after batch."""
        pieces = [self._summed(group) for group in grouped(LabelledFrames(tuple(batches)), ATOMS)]
        return Summed(*(np.concatenate(column) for column in zip(*pieces, strict=True)))

    def _summed(self, batches: Sequence[Batch]) -> Summed:
        surrounded = Surrounded.of(batches, self.reach)
        vectors, present = surrounded.seen.vectors, surrounded.others >= 0
        slopes, energies = np.zeros_like(vectors), np.empty(len(surrounded))
        blocks = list(_blocks(surrounded))
        for (index, _, _), (values, along) in zip(blocks, map_threads(self._differentiated, blocks), strict=True):
            energies[index] = values[: len(index)]
            slopes[index, : along.shape[1]] = along[: len(index)]
        gradients = -np.sum(slopes, axis=1)
        ends = surrounded.others[present]
        for axis in range(3):
            gradients[:, axis] += np.bincount(ends, slopes[..., axis][present], minlength=len(surrounded))
        starts = np.cumsum(surrounded.sizes) - surrounded.sizes
        strains = np.add.reduceat(np.einsum("eka,ekb->eab", vectors, slopes), starts)
        symmetric = 0.5 * (strains + strains.transpose(0, 2, 1))
        return Summed(np.add.reduceat(energies, starts), gradients, symmetric)

    def _differentiated(self, block) -> tuple[np.ndarray, np.ndarray]:
        """Energies of the environments of a block, and their derivatives by the vectors to the neighbours."""
        _, element, arguments = block
        with doubled():
            values, along = self._functions.slopes(self._leaves, *arguments, element=element)
        return np.asarray(values), np.asarray(along)

    def training_distance(self, batch: Batch) -> float:
        """How far the first frame of a batch lies from the training frames: `coverage`."""
        farthest = 0.0
        for index, element, block in _blocks(Surrounded.of((batch.take([0]),), self.reach)):
            with doubled():
                distances = self._functions.nearest(self._leaves, self._spacings, *block, element=element)
            farthest = max(farthest, float(np.asarray(distances)[: len(index)].max()))
        return farthest


class _Functions:
    """The compiled functions of all potentials of one structure."""

    def __init__(self, structure):
        @functools.partial(jax.jit, static_argnames="element", compiler_options=known_options())
        def slopes(leaves, centers, seen, *, element):
            potential = jax.tree.unflatten(structure, leaves)

            def total(vectors):
                energies = potential.environment_energies(element, centers, seen._replace(vectors=vectors))
                return jnp.sum(energies), energies

            gradient, energies = jax.grad(total, has_aux=True)(seen.vectors)
            return energies, gradient

        @functools.partial(jax.jit, static_argnames="element", compiler_options=known_options())
        def nearest(leaves, spacings, centers, seen, *, element):
            potential = jax.tree.unflatten(structure, leaves)
            return potential.environment_distances(spacings, element, centers, seen)

        self.slopes, self.nearest = slopes, nearest


_functions = functools.lru_cache(maxsize=64)(_Functions)


def _blocks(surrounded: Surrounded):
    """(which environments, their element, what the compiled functions are given) in blocks of one element."""
    for element in np.unique(surrounded.centers):
        here = np.flatnonzero(surrounded.centers == element)
        size = min(BLOCK, room_for(-(-len(here) // processors()), SIZES))
        for index, centers, seen in surrounded.blocks(size, here):
            yield index, int(element), (centers, seen)
