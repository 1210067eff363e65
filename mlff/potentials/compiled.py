"""A model on the device, with the compiled functions of its energy."""

from __future__ import annotations

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from mlff.batching import chunk_size, working_bytes
from mlff.potentials import coverage, derivatives
from mlff.potentials.expansion import Expansion
from mlff.precision import doubled

_POLLING = 1e-3  # s


class Compiled:
    """The compiled functions of all models of one structure (descriptor, radial function; sizes by their shapes).

    They take the model as a flat list of arrays: taking a pytree apart anew would cost as much as an evaluation.
    """

    def __init__(self, structure):
        def flat(function, **options):
            def call(leaves, *args, **static):
                return function(jax.tree.unflatten(structure, leaves), *args, **static)

            return jax.jit(call, **options)

        self.single = flat(derivatives.packed)
        self.batch = flat(
            lambda model, numbers, x, around: jax.vmap(lambda y, a: derivatives.packed(model, numbers, y, *a))(
                x, around
            )
        )
        self.hessian = flat(derivatives.hessian, static_argnames="rows_at_once")
        self.gradient_along = flat(derivatives.gradient_along)
        self.strain_slope = flat(derivatives.strain_slope)
        self.strain_derivatives = flat(derivatives.strain_derivatives)
        self.training_distance = flat(coverage.training_distance)
        self.applied = flat(derivatives.applied, static_argnames="function")


_compiled = functools.lru_cache(maxsize=64)(Compiled)


@dataclasses.dataclass
class Prepared:
    """A model on the device, for one composition."""

    functions: Compiled
    model: Expansion
    leaves: list
    numbers: jax.Array
    atoms: int
    _bytes: dict[int, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, model: Expansion, numbers: np.ndarray) -> Prepared:
        with doubled():
            model = jax.tree.map(jnp.asarray, model)
            leaves, structure = jax.tree.flatten(model)
            on_device = jnp.asarray(numbers, dtype=jnp.int32)
        return cls(_compiled(structure), model, leaves, on_device, len(numbers))

    def batch_size(self, positions, around: tuple, memory: int) -> int:
        """Geometries a chunk: few enough for the distances to all points to stay in cache, and for everything that the
        descriptors hold to stay within `memory`."""
        cached = chunk_size(self.model.bytes_per_geometry)
        return min(cached, chunk_size(self.bytes_per_gradient(positions, around), memory))

    def bytes_per_gradient(self, positions, around: tuple) -> int:
        """Size of the intermediate arrays of the gradient of one geometry, descriptor and expansion, and so of its
        derivative along one direction: what chunks are sized by. Only the shapes of the arguments matter."""
        width = 0 if around[1] is None else around[1].indices.shape[-1]
        if width not in self._bytes:
            with doubled():
                gradient = jax.grad(lambda x, cell, neighbors: self.model.energy(x, self.numbers, cell, neighbors))
                self._bytes[width] = working_bytes(gradient, positions, *around)
        return self._bytes[width]


def arrived(result: jax.Array) -> np.ndarray:
    """The result as NumPy array. A thread put to sleep takes as long to wake as a small model takes to evaluate,
    so look a while before sleeping."""
    limit = time.perf_counter() + _POLLING
    while not result.is_ready() and time.perf_counter() < limit:
        pass
    return np.asarray(result)
