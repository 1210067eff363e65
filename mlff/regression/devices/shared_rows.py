"""The rows of a linear system on the devices that share it: which has which, blocks and products there, the factor.

Frames lie in tiles of equally many rows, of which those that a frame does not have are a label apart: they know of nothing but
themselves, C_ii = 1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from mlff.kernels.radial import Radial
from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.devices.blocks import Points, block, product
from mlff.regression.devices.mesh import AXIS, COPIED, SPLIT, Devices, fetched
from mlff.regression.devices.sharded_tiles import Places, ShardedTiles, filled_column, sent
from mlff.regression.exact import Progress, indefinite
from mlff.regression.linalg.tiles import LOST, NotPositiveDefinite
from mlff.regression.system.features import Features
from mlff.regression.system.gram import Side
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.system.terms import Term

TILE_ROWS = 1024  # about; of larger tiles more is padded, of smaller ones products are slower


class Sides(NamedTuple):
    """One channel of a term on the devices, (devices, slots, frames, …): its frames as rows and as columns."""

    rows: Points
    columns: Points


@dataclasses.dataclass(frozen=True)
class SharedRows:
    """The rows of a linear system on devices.

    Attributes:
        devices: that share them.
        features: the frames, of which every process has all.
        frames: of a tile.
        sides: of every channel of every term.
    """

    devices: Devices
    features: Features
    frames: int
    sides: tuple[tuple[Sides, ...], ...]

    @classmethod
    def of(cls, features: Features, devices: Devices) -> SharedRows:
        """Of frames in descriptor space.

        Raises:
            ValueError: they have labels of second order.
        """
        if any(curved.shape[1] for term in features.terms for curved in term.curved):
            raise ValueError(
                "devices: labels of second order (Hessians, curvatures) are fitted on one host alone; leave devices out, or these "
                "labels"
            )
        rows = int(features.row_counts.max())
        shared = cls(devices, features, max(1, TILE_ROWS // rows), ())
        return dataclasses.replace(shared, sides=tuple(shared._sides(term) for term in features.terms))

    @functools.cached_property
    def places(self) -> Places:
        """Of the tiles."""
        count = -(-len(self.features.row_counts) // self.frames)
        return Places(self.devices.count, count, self.frames * int(self.features.row_counts.max()))

    @functools.cached_property
    def _places_of_rows(self) -> np.ndarray:
        """Where the rows of the system are among those of all tiles."""
        counts = self.features.row_counts
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(np.arange(len(counts)) * int(counts.max()), counts) + within

    def _sides(self, term: Term) -> tuple[Sides, ...]:
        observations, sections = self.features.observations, self.features.sections
        everything = slice(0, len(observations))
        rows = [_points(term.row(observations, everything, channel)) for channel in range(term.channel_count)]
        columns = rows
        if term.order > 1:  # images, which are computed batch by batch
            pieces = [_padded(_points(term.columns(observations, section)[0]), rows[0]) for section in sections]
            columns = [Points(*map(np.concatenate, zip(*pieces, strict=True)))]
        spread = [Points(*map(self._spread, side)) for side in rows]
        others = spread if columns is rows else [Points(*map(self._spread, side)) for side in columns]
        return tuple(Sides(row, column) for row, column in zip(spread, others, strict=True))

    def _spread(self, array: np.ndarray) -> jax.Array:
        """An array with a frame's data a row as the devices have it, (devices, slots, frames, …)."""
        places = self.places
        padded = np.zeros((places.devices * places.slots * self.frames, *array.shape[1:]))
        padded[: len(array)] = array
        tiles = padded.reshape(places.slots, places.devices, self.frames, *array.shape[1:])
        return self.devices.spread(np.ascontiguousarray(tiles.swapaxes(0, 1)))

    def tiled(self, vectors: Float[np.ndarray, "rows v"], missing: float = 0.0) -> Float[np.ndarray, "tiles width v"]:
        """Vectors with an entry a row as tiles have them."""
        places = self.places
        padded = np.full((places.count * places.width, vectors.shape[1]), missing)
        padded[self._places_of_rows] = vectors
        return padded.reshape(places.count, places.width, -1)

    def rows_of(self, tiles: Float[np.ndarray, "tiles width v"]) -> Float[np.ndarray, "rows v"]:
        """Vectors as tiles have them, an entry a row of the system."""
        return tiles.reshape(-1, tiles.shape[-1])[self._places_of_rows]

    @property
    def _radials(self) -> list[Radial]:
        return [term.kernel.radial for term in self.features.terms]

    @property
    def _sizes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(term.sizes for term in self.features.terms)

    def product(self, shares: np.ndarray, vectors: Float[np.ndarray, "rows v"]) -> Float[np.ndarray, "rows v"]:
        """The kernel between all labels, the terms times their shares, times vectors."""
        results = [self._product(shares, self.tiled(column[:, None])[..., 0]) for column in vectors.T]
        return np.stack(results, axis=1)

    def _product(self, shares: np.ndarray, tiles: Float[np.ndarray, "tiles width"]) -> Float[np.ndarray, " rows"]:
        frames = tiles.reshape(-1, int(self.features.row_counts.max()))
        found = _multiply(self.devices, self._sizes)(
            self.sides, self.devices.copied(shares), self._radials, self._spread(frames)
        )
        # (devices, slots, width), of which the tiles follow each other by slots
        ordered = fetched(found).swapaxes(0, 1).reshape(-1, self.places.width)
        return self.rows_of(ordered[: self.places.count, :, None])[:, 0]

    def factorised(
        self, system: LinearSystem, progress: Progress = lambda stage, fraction: None, checkpoint: Checkpoint = NOWHERE
    ) -> SharedFactor:
        """The Cholesky factor of the system that has these rows, column after column: assembled, and made one of the factor.

        Raises:
            IndefiniteMatrix: it is not positive definite; the message says what to do.
        """
        places = self.places
        matrix = ShardedTiles(self.devices, places.count, places.width)
        noise = self._spread(self.tiled(system.noise[:, None], 1.0).reshape(places.count * self.frames, -1))
        needed = self.tiled(LOST * np.sqrt(system.shape[0]) * system.diagonal()[:, None], 0.0)[..., 0]
        fill = _fill(self.devices, places, self._sizes)
        shares = self.devices.copied(system.shares)
        progress("factorise", 0.0)
        for k in range(places.count):
            kept = checkpoint.read(f"factor_{k}")
            if self.devices.all_have(kept is not None):
                matrix.set_column(k, kept)
                continue
            matrix.tiles = fill(matrix.tiles, np.int32(k), self.sides, shares, self._radials, noise)
            try:
                matrix.factorise_column(k, needed[k])
            except NotPositiveDefinite as error:
                row = int(np.searchsorted(self._places_of_rows, error.row))
                raise indefinite(system, row) from error
            column = 8 * self.devices.here * places.slots * places.width**2
            checkpoint.keep_later(f"factor_{k}", functools.partial(matrix.column, k), column)
            progress("factorise", ((k + 1) / places.count) ** 2 * (3 - 2 * (k + 1) / places.count))
        return SharedFactor(self, matrix)


@dataclasses.dataclass(frozen=True)
class SharedFactor:
    """L of C = L Lᵀ on devices.

    Attributes:
        rows: that it is of.
        matrix: its tiles.
    """

    rows: SharedRows
    matrix: ShardedTiles

    def solve(self, right: Float[np.ndarray, "rows k"]) -> Float[np.ndarray, "rows k"]:
        """C⁻¹ times the columns of a matrix."""
        return self.rows.rows_of(self.matrix.solve_factorised(self.rows.tiled(right)))


@functools.cache
def _fill(devices: Devices, places: Places, sizes) -> Callable:
    return filled_column(devices, places, functools.partial(_column, places, sizes), (SPLIT, COPIED, COPIED, SPLIT))


@functools.cache
def _multiply(devices: Devices, sizes) -> Callable:
    return devices.shared(functools.partial(_multiplied, sizes), (SPLIT, COPIED, COPIED, SPLIT), COPIED)


def _column(places: Places, sizes, k, sides, shares, radials, noise):
    """Tiles of C in column k, as a function of the slot and the row of tiles, on one device."""
    sides, noise = jax.tree.map(lambda leaf: leaf[0], (sides, noise))
    owner, slot = places.owner(k)
    columns = sent([[Points(*(leaf[slot] for leaf in side.columns)) for side in channels] for channels in sides], owner)

    def tile(slot, row):
        on_diagonal = jnp.where(row == k, noise[slot].reshape(-1), 0.0)
        total = jnp.diag(on_diagonal)
        for share, radial, size, channels, others in zip(shares, radials, sizes, sides, columns, strict=True):
            for side, column in zip(channels, others, strict=True):
                total += share * block(radial, Points(*(leaf[slot] for leaf in side.rows)), column, size)
        return total

    return tile


def _multiplied(sizes, sides, shares, radials, weights):
    """The kernel times a vector on one device, as all have it: (devices, slots, width)."""
    sides, weights = jax.tree.map(lambda leaf: leaf[0], (sides, weights))
    slots, frames, labels = weights.shape
    weights, total = weights.reshape(slots * frames, labels), jnp.zeros((slots * frames, labels))
    for share, radial, size, channels in zip(shares, radials, sizes, sides, strict=True):
        for side in channels:
            rows, columns = (Points(*(leaf.reshape(-1, *leaf.shape[2:]) for leaf in points)) for points in side)
            sums = (
                columns.points,
                jnp.einsum("mer,mr->me", columns.values, weights),
                jnp.einsum("merd,mr->med", columns.tangents, weights),
            )
            everywhere = [lax.all_gather(part.reshape(-1, *part.shape[2:]), AXIS, tiled=True) for part in sums]
            total += share * product(radial, rows, *everywhere, size)
    return lax.all_gather(total.reshape(slots, frames * labels), AXIS)


def _points(side: Side) -> Points:
    return Points(side.points, side.values, side.tangents)


def _padded(side: Points, like: Points) -> Points:
    """With as many labels as others have."""
    more = (0, like.values.shape[2] - side.values.shape[2])
    none = (0, 0)
    return Points(side.points, np.pad(side.values, (none, none, more)), np.pad(side.tangents, (none, none, more, none)))
