"""Symmetric positive definite matrices as lower tiles, factorised in place.

Half the memory of a full matrix and nothing beside it. The left-looking factorisation spends its time in
matrix products of whole tiles, which run at the machine's full rate; large LAPACK factorisations do not, and
some threaded builds of them fail beyond 20 000 rows.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.linalg.blas import dgemm, dtrsm
from scipy.linalg.lapack import dpotrf

from mlff.threads import one_blas_thread

# A pivot that is left with 2 ε √n of its diagonal entry is rounding. Measured: predicted energies depend on the order of the
# training frames, by a tenth of their error and less above that, by several times their error at a tenth of it.
LOST = 2 * np.finfo(float).eps
_PIECES = 4  # of a tile on the diagonal, of which those above it are spared: 6 of 16
_SMALL = 1024  # rows, up to which one thread takes milliseconds, and several, beside other processes, up to a second


class NotPositiveDefinite(ValueError):
    """Raised by `SymmetricTiles.cholesky`; `row` is where the factorisation broke down."""

    def __init__(self, row: int):
        super().__init__(f"the matrix is not positive definite at row {row}")
        self.row = row


class SymmetricTiles:
    """A symmetric matrix of n rows, cut at `offsets` into square tiles of which the lower ones are stored.

    Attributes:
        offsets: first row of each tile, and n; shape (tiles + 1,).
        tiles: `tiles[i][j]`, j ≤ i, C-contiguous, shape (rows of i, rows of j).
    """

    def __init__(self, offsets: np.ndarray):
        self.offsets = np.asarray(offsets)
        self.tiles: list[list[np.ndarray | None]] = [[None] * (i + 1) for i in range(len(offsets) - 1)]

    @property
    def size(self) -> int:
        return int(self.offsets[-1])

    @property
    def nbytes(self) -> int:
        return sum(tile.nbytes for row in self.tiles for tile in row if tile is not None)

    def diagonal(self) -> Float[np.ndarray, " n"]:
        return np.concatenate([np.diagonal(row[-1]) for row in self.tiles])

    def add_to_diagonal(self, values: Float[np.ndarray, " n"]) -> None:
        for row, part in zip(self.tiles, np.split(values, self.offsets[1:-1]), strict=True):
            row[-1].flat[:: len(part) + 1] += part

    def product(self, vectors: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """The matrix times vectors."""
        parts = np.split(vectors, self.offsets[1:-1])
        results = [np.zeros_like(part) for part in parts]
        for i, row in enumerate(self.tiles):
            for j, tile in enumerate(row):
                results[i] += tile @ parts[j]
                if i != j:
                    results[j] += tile.T @ parts[i]
        return np.concatenate(results)

    def cholesky(
        self,
        progress: Callable[[float], None] = lambda fraction: None,
        needed: Float[np.ndarray, " n"] | None = None,
    ) -> None:
        """Replace the matrix A by its factor L, A = L Lᵀ; n³/3 multiply-adds.

        Arguments:
            needed: the smallest L_ii² that is no rounding; left out, 2 ε √n A_ii.
        Raises:
            NotPositiveDefinite: it is not, or singular to rounding; the tiles are then spoilt.
        """
        needed = LOST * np.sqrt(self.size) * self.diagonal() if needed is None else needed
        for j in range(len(self.tiles)):
            self.factorise_column(j, needed[self.offsets[j] : self.offsets[j + 1]])
            progress(self.share_done(j))

    def share_done(self, j: int) -> float:
        """How much of the work of `cholesky` lies in the columns of tiles up to one."""
        count = len(self.tiles)
        return (j + 1) ** 2 * (3 * count - 2 * j - 2) / count**3

    def factorise_column(self, j: int, needed: Float[np.ndarray, " rows"] | None = None) -> None:
        """Replace a column of tiles of A by that of L, when the columns before are those of L.

        Arguments:
            needed: the smallest L_ii² that is no rounding, of its rows; left out, 2 ε √n A_ii.
        Raises:
            NotPositiveDefinite: as `cholesky`.
        """
        if needed is None:
            needed = LOST * np.sqrt(self.size) * np.diagonal(self.tiles[j][j])
        # A C-contiguous tile is, transposed, the Fortran array that BLAS works on in place:
        # every product below is written for the transposes.
        count = len(self.tiles)
        for k in range(j):
            _less_square(self.tiles[j][j], self.tiles[j][k])
        for i in range(j + 1, count):
            for k in range(j):
                dgemm(
                    -1.0, self.tiles[j][k].T, self.tiles[i][k].T, 1.0, self.tiles[i][j].T,
                    trans_a=True, overwrite_c=True,
                )  # fmt: skip
        with one_blas_thread() if self.size <= _SMALL else contextlib.nullcontext():
            _, info = dpotrf(self.tiles[j][j].T, lower=False, clean=True, overwrite_a=True)
        if info > 0:
            raise NotPositiveDefinite(int(self.offsets[j]) + info - 1)
        lost = np.diagonal(self.tiles[j][j]) ** 2 < needed
        if lost.any():
            raise NotPositiveDefinite(int(self.offsets[j] + np.argmax(lost)))
        for i in range(j + 1, count):
            dtrsm(1.0, self.tiles[j][j].T, self.tiles[i][j].T, lower=False, trans_a=True, overwrite_b=True)

    def scaled(self, factor: float) -> SymmetricTiles:
        """A copy, times a number; of 1 the matrix itself."""
        if factor == 1.0:
            return self
        result = SymmetricTiles(self.offsets)
        result.tiles = [[factor * tile for tile in row] for row in self.tiles]
        return result

    def bordered(self, across: Float[np.ndarray, "n m"], corner: Float[np.ndarray, "m m"], most: int) -> SymmetricTiles:
        """After `cholesky`, the factor of the matrix with m rows and columns more, which shares the tiles of this one; n² m/2
        multiply-adds.

            [A  B]       [L          ]
            [Bᵀ D],      [(L⁻¹B)ᵀ  L′],   L′ L′ᵀ = D − Bᵀ A⁻¹ B

        Arguments:
            across: B; corner: D.
            most: rows of a new tile.
        Raises:
            NotPositiveDefinite: it is not; this factor stays as it is.
        """
        whitened = self.whitened(across)
        needed = LOST * np.sqrt(self.size + len(corner)) * np.diagonal(corner)
        # of an array with itself NumPy calls `dsyrk`, which crashes when threaded
        remaining = corner - whitened.T @ whitened.copy()
        cuts = np.append(np.arange(0, len(corner), most), len(corner))
        added = SymmetricTiles(cuts)
        for i, rows in enumerate(map(slice, cuts[:-1], cuts[1:])):
            added.tiles[i] = [remaining[rows, c].copy() for c in map(slice, cuts[: i + 1], cuts[1 : i + 2])]
        try:
            added.cholesky(needed=needed)
        except NotPositiveDefinite as error:
            raise NotPositiveDefinite(self.size + error.row) from error
        result = SymmetricTiles(np.append(self.offsets, self.size + cuts[1:]))
        result.tiles = [*self.tiles]
        parts = np.split(whitened, self.offsets[1:-1])
        for i, rows in enumerate(map(slice, cuts[:-1], cuts[1:])):
            result.tiles.append([*(np.ascontiguousarray(part[:, rows].T) for part in parts), *added.tiles[i]])
        return result

    def solve_factorised(self, right: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Solve L Lᵀ x = right after `cholesky`."""
        parts = self._forward(right)
        count = len(parts)
        for i in reversed(range(count)):
            for k in range(i + 1, count):
                parts[i] -= self.tiles[k][i].T @ parts[k]
            parts[i] = dtrsm(1.0, self.tiles[i][i].T, parts[i], lower=False)
        return np.concatenate(parts)

    def whitened(self, right: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """Solve L x = right after `cholesky`."""
        return np.concatenate(self._forward(right))

    def _forward(self, right: np.ndarray) -> list[np.ndarray]:
        """L⁻¹ right, tile by tile."""
        parts = [part.copy() for part in np.split(right, self.offsets[1:-1])]
        for i, row in enumerate(self.tiles):
            for k in range(i):
                parts[i] -= row[k] @ parts[k]
            parts[i] = dtrsm(1.0, row[i].T, parts[i], lower=False, trans_a=True)
        return parts


def _less_square(tile: Float[np.ndarray, "r r"], left: Float[np.ndarray, "r c"]) -> None:
    """Subtract left leftᵀ from a tile, on its diagonal and below, in place."""
    cuts = np.linspace(0, len(tile), _PIECES + 1).astype(int)
    for start, stop in itertools.pairwise(cuts):
        tile[start:stop, :stop] -= left[start:stop] @ left[:stop].T
