"""The exact solver: the whole matrix of a linear system as tiles, factorised by Cholesky."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from mlff.batching import machine_memory
from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.linalg.tiles import NotPositiveDefinite, SymmetricTiles
from mlff.regression.system.kernel_blocks import TILE_ROWS
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.system.observations import describe

Progress = Callable[[str, float], None]


class IndefiniteMatrix(ValueError):
    """The kernel matrix is not positive definite to rounding; its message says what to do."""


@dataclasses.dataclass(frozen=True)
class Factor:
    """L of C = L Lᵀ.

    Attributes:
        tiles: the lower tiles of L.
    """

    tiles: SymmetricTiles

    def solve(self, right: Float[np.ndarray, "rows k"]) -> Float[np.ndarray, "rows k"]:
        """C⁻¹ times the columns of a matrix."""
        return self.tiles.solve_factorised(right)

    def whitened(self, right: Float[np.ndarray, "rows k"]) -> Float[np.ndarray, "rows k"]:
        """L⁻¹ times the columns of a matrix: functionals in coordinates in which C is the identity."""
        return self.tiles.whitened(right)

    def scaled(self, variance: float) -> Factor:
        """Of C times a number."""
        return Factor(self.tiles.scaled(np.sqrt(variance)))

    def extended(
        self, system: LinearSystem, across: Float[np.ndarray, "n m"], corner: Float[np.ndarray, "m m"]
    ) -> Factor:
        """With the last m rows of a system, whose other rows this is the factor of.

        Arguments:
            across: C between the other rows and these; corner: of these.
        Raises:
            IndefiniteMatrix: it is not positive definite; the message says what to do.
        """
        try:
            return Factor(self.tiles.bordered(across, corner, TILE_ROWS))
        except NotPositiveDefinite as error:
            raise indefinite(system, error.row) from error


def factorise(
    system: LinearSystem,
    progress: Progress = lambda stage, fraction: None,
    checkpoint: Checkpoint = NOWHERE,
) -> Factor:
    """The Cholesky factor of a linear system, column after column: assembled, and made one of the factor.

    n rows take 4n² bytes, and n³/3 multiply-adds; beside the matrix there are blocks of the size of a tile.

    Arguments:
        progress: called with a stage's name and how much of it is done.
        checkpoint: keeps the columns that are done.
    Raises:
        IndefiniteMatrix: it is not positive definite; the message says what to do.
        ValueError: the matrix is larger than the machine's memory.
    """
    require_memory(system.shape[0])
    matrix = SymmetricTiles(system.offsets)
    progress("factorise", 0.0)
    for j in range(len(matrix.tiles)):
        if (kept := checkpoint.read(f"factor_{j}")) is not None:
            for i, tile in kept.items():
                matrix.tiles[int(i)][j] = tile
        else:
            for i, block in system.column(j):
                matrix.tiles[i][j] = block
            try:
                matrix.factorise_column(j)
            except NotPositiveDefinite as error:
                raise indefinite(system, error.row) from error
            checkpoint.keep(f"factor_{j}", {str(i): matrix.tiles[i][j] for i in range(j, len(matrix.tiles))})
        progress("factorise", matrix.share_done(j))
    return Factor(matrix)


def matrix_bytes(rows: int) -> int:
    """Of the lower tiles of a matrix."""
    return 4 * rows * (rows + TILE_ROWS)


def require_memory(rows: int) -> None:
    """Refuse a matrix that cannot fit, before any work is done."""
    needed, present = matrix_bytes(rows), machine_memory()
    if needed > present:
        raise ValueError(
            f"{rows} linear equations need {needed / 2**30:.1f} GiB, this machine has {present / 2**30:.1f}; "
            "train on fewer frames"
        )


def indefinite(system: LinearSystem, row: int) -> IndefiniteMatrix:
    """The error of a matrix whose factorisation broke down at a row, with the frame and what to do."""
    scales = ", ".join(f"{np.min(radial.lengthscale):.4g}" for radial in system.kernel.radials)
    return IndefiniteMatrix(
        f"the kernel matrix is not positive definite at training frame {system.frame_of(row)} of "
        f"{len(system.features.observations)}: its labels follow from the earlier frames' to rounding; raise noise (now "
        f"{describe(system.levels)}), shorten the length scale (now {scales}), or remove near-duplicate frames"
    )
