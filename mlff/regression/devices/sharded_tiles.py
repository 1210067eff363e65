"""Symmetric positive definite matrices as lower tiles on several devices, factorised column after column.

Row k of tiles is on device k mod P, in its slot k div P, so that all have about as much to do until the end. A slot s has room for
(s + 1) P tiles, of which the row uses k + 1: P devices hold n² 4 (1 + P/nb) bytes in all. A column of L takes the row of L left of
its diagonal tile, which its owner sends to all (n² 8 bytes in all columns), and a tile's factor, which each computes:

    A_ik ← A_ik − Σ_{j<k} L_ij L_kjᵀ,    L_kk L_kkᵀ = A_kk,    L_ik = A_ik L_kk⁻ᵀ
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float
from scipy.linalg.lapack import dpotrf

from mlff.regression.devices.mesh import AXIS, COPIED, SPLIT, Devices, fetched
from mlff.regression.linalg.tiles import NotPositiveDefinite
from mlff.threads import one_blas_thread


@dataclasses.dataclass(frozen=True)
class Places:
    """Where tiles are.

    Attributes:
        devices: P, that share them.
        count: of tiles in a row of the whole matrix.
        width: rows of a tile.
    """

    devices: int
    count: int
    width: int

    @property
    def slots(self) -> int:
        """Of a device."""
        return -(-self.count // self.devices)

    @property
    def tiles(self) -> int:
        """Of a device."""
        return self.first(self.slots)

    def first(self, slot):
        """The place of the first tile of a slot."""
        return self.devices * slot * (slot + 1) // 2

    def owner(self, row):
        """The device of a row of tiles, and its slot there."""
        return row % self.devices, row // self.devices

    @property
    def nbytes(self) -> int:
        """Of a device."""
        return 8 * self.tiles * self.width**2


def sent(value, owner):
    """What one device has, on all."""
    mine = lax.axis_index(AXIS) == owner
    return jax.tree.map(lambda leaf: lax.psum(jnp.where(mine, leaf, jnp.zeros_like(leaf)), AXIS), value)


class ShardedTiles:
    """The matrix, and then its factor.

    Attributes:
        devices: that share it.
        places: of the tiles there.
        tiles: of every device, shape (devices, tiles, width, width).
    """

    def __init__(self, devices: Devices, count: int, width: int):
        self.devices, self.places = devices, Places(devices.count, count, width)
        shape = (devices.count, self.places.tiles, width, width)
        self.tiles = devices.shared(lambda: jnp.zeros((1, *shape[1:])), (), SPLIT)()

    def factorise_column(self, k: int, needed: Float[np.ndarray, " width"]) -> None:
        """Replace a column of tiles of A by that of L, when the columns before are those of L.

        Arguments:
            needed: the smallest L_ii² that is no rounding.
        Raises:
            NotPositiveDefinite: it is not, or singular to rounding; the tiles are then spoilt.
        """
        with one_blas_thread():  # whose threads would be in each other's way, those of devices are many
            self.tiles, tile, pivots = _factorise(self.devices, self.places)(self.tiles, np.int32(k))
            lost = ~(fetched(pivots) ** 2 >= needed)
        if lost.any():
            _, broken = dpotrf(fetched(tile)) if np.isnan(fetched(pivots)).any() else (None, 0)
            raise NotPositiveDefinite(k * self.places.width + (broken - 1 if broken > 0 else int(np.argmax(lost))))

    def column(self, k: int) -> dict[str, np.ndarray]:
        """What this process has of a column of tiles, by the places of its devices."""
        column = _take(self.devices, self.places)(self.tiles, np.int32(k))
        return {str(shard.index[0].start or 0): np.asarray(shard.data[0]) for shard in column.addressable_shards}

    def set_column(self, k: int, column: dict[str, np.ndarray]) -> None:
        """Put back what `column` gave."""
        places, shape = self.places, (self.devices.count, self.places.slots, self.places.width, self.places.width)
        kept = self.devices.pieces(shape, column)
        self.tiles = _put(self.devices, places)(self.tiles, np.int32(k), kept)

    def solve_factorised(self, right: Float[np.ndarray, "tiles width v"]) -> Float[np.ndarray, "tiles width v"]:
        """Solve L Lᵀ x = right."""
        with one_blas_thread():
            return fetched(_solve(self.devices, self.places)(self.tiles, self.devices.copied(right)))


@functools.cache
def _factorise(devices: Devices, places: Places) -> Callable:
    column = functools.partial(_factorised, places)
    return devices.shared(column, (SPLIT, COPIED), (SPLIT, COPIED, COPIED), donated=(0,))


@functools.cache
def _take(devices: Devices, places: Places) -> Callable:
    def column(tiles, k):
        return tiles[0][places.first(jnp.arange(places.slots, dtype=jnp.int32)) + k][None]

    return devices.shared(column, (SPLIT, COPIED), SPLIT)


@functools.cache
def _put(devices: Devices, places: Places) -> Callable:
    return filled_column(devices, places, lambda k, kept: lambda slot, row: kept[0, slot], (SPLIT,))


@functools.cache
def _solve(devices: Devices, places: Places) -> Callable:
    return devices.shared(functools.partial(_solved, places), (SPLIT, COPIED), COPIED)


def filled_column(devices: Devices, places: Places, column: Callable, inputs) -> Callable:
    """A function that fills a column of tiles: (tiles, k, *arguments) → tiles.

    Arguments:
        column: of k and the arguments, of which each device has its own: tile (row, k) as a function of the slot and the row.
        inputs: how the arguments are divided, as `Devices.shared` takes it.
    """

    def fill(tiles, k, *arguments):
        mine, block = lax.axis_index(AXIS), column(k, *arguments)

        return _each_below(places, k, mine, lambda slot, row, tile: block(slot, row), tiles[0])[None]

    return devices.shared(fill, (SPLIT, COPIED, *inputs), SPLIT, donated=(0,))


def _at(tiles, place):
    return lax.dynamic_index_in_dim(tiles, place, keepdims=False)


def _each_below(places: Places, k, mine, change: Callable, tiles):
    """Tiles with those of column k, on the diagonal and below it, changed: by a function of slot, row of tiles and tile."""

    def put(slot, tiles):
        row, place = slot * places.devices + mine, places.first(slot) + k
        tile = _at(tiles, place)
        there = (row >= k) & (row < places.count)
        tile = lax.cond(there, lambda: change(slot, row, tile), lambda: tile)
        return lax.dynamic_update_index_in_dim(tiles, tile, place, 0)

    return lax.fori_loop(places.owner(k)[1], np.int32(places.slots), put, tiles)


def _if_owner(owner, compute: Callable, otherwise):
    """What one device computes; the others spare the work."""
    return lax.cond(lax.axis_index(AXIS) == owner, compute, lambda: otherwise)


def _factorised(places: Places, tiles, k):
    """A column of L on one device; its tile L_kk, or where there is none what it should have been the factor of; the diagonal of L_kk,
    NaN where there is none."""
    tiles, mine = tiles[0], lax.axis_index(AXIS)
    owner, slot = places.owner(k)
    before = jnp.arange(places.count, dtype=jnp.int32)
    left = tiles[jnp.minimum(places.first(slot) + before, places.tiles - 1)]  # L_k:, of its owner
    left = sent(jnp.where((before < k)[:, None, None], left, 0.0), owner)

    def updated(slot, row, tile):
        first = places.first(slot)
        return lax.fori_loop(np.int32(0), k, lambda j, tile: tile - _at(tiles, first + j) @ left[j].T, tile)

    tiles = _each_below(places, k, mine, updated, tiles)
    diagonal = _at(tiles, places.first(slot) + k)
    factor = _if_owner(owner, lambda: jnp.linalg.cholesky(diagonal, symmetrize_input=False), diagonal)
    definite = jnp.isfinite(jnp.diagonal(factor)).all()
    factor, definite = sent((jnp.where(definite, factor, diagonal), definite.astype(jnp.int32)), owner)

    def below(slot, row, tile):
        return lax.cond(row == k, lambda: factor, lambda: solve_triangular(factor, tile.T, lower=True).T)

    tiles = _each_below(places, k, mine, below, tiles)
    return tiles[None], factor, jnp.where(definite > 0, jnp.diagonal(factor), jnp.nan)


def _solved(places: Places, tiles, right):
    """L⁻ᵀ L⁻¹ right, on all devices."""
    tiles, mine = tiles[0], lax.axis_index(AXIS)

    def forward(k, x):
        owner, slot = places.owner(k)
        first = places.first(slot)

        def solved():
            part = lax.fori_loop(np.int32(0), k, lambda j, part: part - _at(tiles, first + j) @ x[j], x[k])
            return solve_triangular(_at(tiles, first + k), part, lower=True)

        return x.at[k].set(sent(_if_owner(owner, solved, x[k]), owner))

    def backward(step, x):
        k = places.count - 1 - step
        owner, slot = places.owner(k)

        def add(s, total):
            row = s * places.devices + mine
            told = _at(tiles, places.first(s) + k).T @ x[jnp.minimum(row, places.count - 1)]
            return total + jnp.where((row > k) & (row < places.count), told, 0.0)

        total = lax.psum(lax.fori_loop(slot, np.int32(places.slots), add, jnp.zeros_like(x[0])), AXIS)

        def solved():
            return solve_triangular(_at(tiles, places.first(slot) + k), x[k] - total, lower=True, trans=1)

        return x.at[k].set(sent(_if_owner(owner, solved, x[k]), owner))

    none, all_ = np.int32(0), np.int32(places.count)
    return lax.fori_loop(none, all_, backward, lax.fori_loop(none, all_, forward, right))
