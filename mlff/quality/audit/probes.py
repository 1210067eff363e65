"""Probe: a descriptor on many geometries at once, with its derivatives along straight lines by nested forward mode."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, subjaxprs
from jax.stages import Compiled
from jaxtyping import Bool, Float, Integer

from descriptors.geometry import Neighbors
from mlff.batching import chunk_size, map_chunks
from mlff.compiling import jit, known_options
from mlff.data.cells import periodic_vectors
from mlff.data.neighbors import neighbor_lists, wants_list
from mlff.data.system import System
from mlff.kernels.descriptor import Descriptor

ORDINALS = ("value", "first derivative", "second derivative", "third derivative")
ORDERS = len(ORDINALS)
MEMORY = 2**28  # bytes that a batch of geometries may take
LARGEST_CHUNK = 64
FLOOR = 1e-3  # a feature's size is taken as at least this share of the largest one's


@dataclasses.dataclass(frozen=True)
class Geometries:
    """Geometries of one number of atoms.

    positions: (m, n, 3), Å. numbers: (m, n). cells: (m, 3, 3), Å, zeros where there is none. pbc: (m, 3).
    """

    positions: Float[np.ndarray, "m n 3"]
    numbers: Integer[np.ndarray, "m n"]
    cells: Float[np.ndarray, "m 3 3"]
    pbc: Bool[np.ndarray, "m 3"]

    @classmethod
    def of(cls, systems: Sequence[System]) -> Geometries:
        pbc = np.array([system.pbc for system in systems], dtype=bool)
        cells = np.array([system.cell for system in systems], dtype=np.float64)
        return cls(
            np.array([system.positions for system in systems], dtype=np.float64),
            np.array([system.numbers for system in systems], dtype=np.int32),
            periodic_vectors(cells, pbc),
            pbc,
        )

    def __len__(self) -> int:
        return len(self.positions)

    def system(self, index: int) -> System:
        return System(self.positions[index], self.numbers[index], self.cells[index], self.pbc[index])

    def take(self, index) -> Geometries:
        """The geometries of an index array, in its order and as often as it names them."""
        return Geometries(self.positions[index], self.numbers[index], self.cells[index], self.pbc[index])

    def at(self, positions: Float[np.ndarray, "m n 3"]) -> Geometries:
        """The same atoms at other positions."""
        return dataclasses.replace(self, positions=positions)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A descriptor and the frames, all of one number of atoms, on which it is examined.

    Attributes:
        descriptor: of shape (D,), or (n, D) for atomic environments; its features are always given as (r, D) here, with
            r = 1 or r = n.
        frames: the geometries.
        labels: what each of them is called.
        seed: of all directions and displacements.
    """

    descriptor: Descriptor
    frames: Geometries
    labels: tuple[str, ...]
    seed: int = 0

    # -- what is known of the frames -------------------------------------------------------------------------------

    @property
    def atoms(self) -> int:
        return self.frames.positions.shape[1]

    @property
    def periodic(self) -> bool:
        return bool(self.frames.pbc.any())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the descriptor's value; () where it gives anything but one array."""
        return self.traced.out_avals[0].shape if len(self.traced.out_avals) == 1 else ()

    @property
    def local(self) -> bool:
        return len(self.shape) == 2

    @functools.cached_property
    def general(self) -> Geometries:
        """The frames displaced by 0.05 Å a coordinate, so that no symmetry is left."""
        rng = np.random.default_rng(self.seed)
        return self.frames.at(self.frames.positions + 0.05 * rng.standard_normal(self.frames.positions.shape))

    def directions(self, count: int, seed: int) -> Float[np.ndarray, "m n 3"]:
        """Random directions of unit length in the space of all coordinates."""
        v = np.random.default_rng([self.seed, seed]).standard_normal((count, self.atoms, 3))
        return v / np.linalg.norm(v, axis=(1, 2), keepdims=True)

    @functools.cached_property
    def sample(self) -> Float[np.ndarray, "4 m r d"]:
        """Derivatives on the frames, then on the displaced ones, along random directions."""
        both = [self.derivatives(g, self.directions(len(g), 1)) for g in (self.frames, self.general)]
        return np.concatenate(both, axis=1)

    @functools.cached_property
    def scales(self) -> Float[np.ndarray, "4 1 1 d"]:
        """Usual size of each feature and its derivatives, 1/Å^k, to which deviations are compared."""
        size = np.abs(self.sample).max(axis=(1, 2), keepdims=True)
        size = np.maximum(size, FLOOR * size.max(axis=-1, keepdims=True))
        return np.where(size > 0, size, 1.0)

    @functools.cached_property
    def jacobians(self) -> Float[np.ndarray, "m r d n 3"]:
        """∂φ/∂x on the displaced frames, 1/Å."""
        rows = [self.first(self.general.take([i])) for i in range(len(self.general))]
        derivatives = np.stack([np.asarray(self.jacobian(self.descriptor, *row)) for row in rows])
        return np.moveaxis(derivatives, 1, -1).reshape(len(derivatives), -1, self.shape[-1], self.atoms, 3)

    # -- evaluation ------------------------------------------------------------------------------------------------

    def derivatives(
        self, geometries: Geometries, directions: Float[np.ndarray, "m n 3"]
    ) -> Float[np.ndarray, "4 m r d"]:
        """d^k/dt^k φ(x + t v) at t = 0 for k = 0 … 3, 1/Å^k."""
        total = len(geometries)
        padded = np.minimum(
            np.arange(-(-total // self.chunk) * self.chunk), total - 1
        )  # full chunks: one compiled shape
        arrays = (directions[padded], *self._arrays(geometries.take(padded)))
        pieces = [piece for _, piece in map_chunks(functools.partial(self.line, self.descriptor), arrays, self.chunk)]
        return np.moveaxis(np.concatenate(pieces)[:total], 0, 1).reshape(ORDERS, total, -1, self.shape[-1])

    @functools.cached_property
    def line(self):
        """Compiled, batched: (descriptor, directions, positions, numbers, cells, neighbours) -> (m, 4, …)."""

        def single(descriptor, direction, positions, *rest):
            def value(t):
                return self._value(descriptor, positions + t * direction, *rest)

            (((d0, d1), _), (_, (d2, d3))) = _raised(_raised(_raised(value)))(jnp.zeros((), positions.dtype))
            return jnp.stack([d0, d1, d2, d3])

        return jit(jax.vmap(single, in_axes=(None, 0, 0, 0, 0, 0)))

    @functools.cached_property
    def value(self) -> Compiled:
        """The features of one geometry."""
        return self._compiled(self._value)

    @functools.cached_property
    def jacobian(self) -> Compiled:
        """The Jacobian of one geometry: 3n forward passes, shape (3n, …)."""

        def columns(descriptor, positions, *rest):
            def column(v):
                return jax.jvp(lambda x: self._value(descriptor, x, *rest), (positions,), (v,))[1]

            return self._over_coordinates(column, positions)

        return self._compiled(columns)

    @functools.cached_property
    def hessian(self) -> Compiled:
        """The Hessian of one geometry: the gradient in reverse mode and the second derivatives of the sum of all features."""

        def rows(descriptor, positions, *rest):
            gradient = jax.grad(lambda x: jnp.sum(self._value(descriptor, x, *rest)))
            columns = self._over_coordinates(lambda v: jax.jvp(gradient, (positions,), (v,))[1], positions)
            return gradient(positions), columns

        return self._compiled(rows)

    @functools.cached_property
    def traced(self):
        """The descriptor as JAX sees it, a closed jaxpr; hyperparameters are among its inputs."""
        return jax.make_jaxpr(self._value)(self.descriptor, *self.first(self.frames))

    @functools.cached_property
    def chunk(self) -> int:
        """Geometries in a batch: the largest array of the value decides, held for four orders, twice."""
        sizes = [math.prod(v.aval.shape) for part in jaxprs(self.traced.jaxpr) for e in part.eqns for v in e.outvars]
        return min(LARGEST_CHUNK, chunk_size(8 * ORDERS * 2 * max(sizes, default=1), MEMORY))

    def first(self, geometries: Geometries) -> tuple:
        """Positions, numbers, cell and neighbours of the first of them, as the compiled functions of one geometry take them."""
        return jax.tree.map(lambda leaf: leaf[0], self._arrays(geometries.take([0])))

    def _compiled(self, function) -> Compiled:
        return (
            jax.jit(function, compiler_options=known_options())
            .lower(self.descriptor, *self.first(self.frames))
            .compile()
        )

    def _over_coordinates(self, function, positions):
        basis = jnp.eye(positions.size, dtype=positions.dtype).reshape(-1, *positions.shape)
        return jax.lax.map(function, basis, batch_size=min(self.chunk, positions.size))

    @staticmethod
    def _value(descriptor, positions, numbers, cell, neighbors):
        return descriptor(positions, numbers, cell, neighbors)

    def _arrays(self, geometries: Geometries) -> tuple:
        g = geometries
        listed = "neighbors" in self.descriptor.uses and wants_list(self.atoms, self.frames.pbc.any(axis=0))
        return g.positions, g.numbers, g.cells, self._lists(g, self._width) if listed else None

    def _lists(self, g: Geometries, width: int) -> Neighbors:
        return neighbor_lists(g.positions, g.cells, g.pbc, self.descriptor.cutoff, width)

    @functools.cached_property
    def _width(self) -> int:
        return max(self._lists(g, 0).indices.shape[-1] for g in (self.frames, self.general))


def jaxprs(jaxpr: Jaxpr) -> Iterator[Jaxpr]:
    """A jaxpr and all those within it."""
    yield jaxpr
    for inner in subjaxprs(jaxpr):
        yield from jaxprs(inner)


def _raised(function):
    """The value and the derivative of a function of one number."""

    def pair(t):
        return jax.jvp(function, (t,), (jnp.ones_like(t),))

    return pair
