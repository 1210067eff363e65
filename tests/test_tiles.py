"""Tiled Cholesky against dense linear algebra, for any cut into tiles."""

import numpy as np
import pytest

from mlff.regression.linalg.tiles import NotPositiveDefinite, SymmetricTiles


def cut(matrix: np.ndarray, offsets) -> SymmetricTiles:
    tiles = SymmetricTiles(np.array(offsets))
    for i in range(len(offsets) - 1):
        for j in range(i + 1):
            tiles.tiles[i][j] = matrix[offsets[i] : offsets[i + 1], offsets[j] : offsets[j + 1]].copy()
    return tiles


@pytest.fixture
def matrix(rng):
    root = rng.standard_normal((37, 50))
    return root @ root.T


@pytest.mark.parametrize("offsets", [[0, 37], [0, 10, 20, 37], [0, 1, 2, 36, 37], [0, 7, 14, 21, 28, 35, 37]])
def test_factor_and_solve(matrix, offsets, rng):
    tiles = cut(matrix, offsets)
    shift = rng.uniform(1, 2, 37)
    tiles.add_to_diagonal(shift)
    np.testing.assert_allclose(tiles.diagonal(), np.diag(matrix) + shift)
    right = rng.standard_normal((37, 3))
    done = []
    tiles.cholesky(done.append)
    expected = np.linalg.cholesky(matrix + np.diag(shift))
    for i, row in enumerate(tiles.tiles):
        for j, tile in enumerate(row):
            part = expected[offsets[i] : offsets[i + 1], offsets[j] : offsets[j + 1]]
            np.testing.assert_allclose(tile, part, atol=1e-11)
    np.testing.assert_allclose(
        tiles.solve_factorised(right), np.linalg.solve(matrix + np.diag(shift), right), rtol=1e-9, atol=1e-11
    )
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1.0)


def test_factorises_in_place_and_stores_half(matrix):
    tiles = cut(matrix, [0, 10, 20, 30, 37])
    before = [tile.ctypes.data for row in tiles.tiles for tile in row]
    tiles.cholesky()
    assert before == [tile.ctypes.data for row in tiles.tiles for tile in row]
    assert tiles.nbytes < 0.7 * matrix.nbytes
    assert tiles.size == 37


@pytest.mark.parametrize("row", [0, 12, 36])
def test_names_the_row_of_a_break_down(matrix, row):
    matrix[row, row] = -1.0
    with pytest.raises(NotPositiveDefinite) as caught:
        cut(matrix, [0, 10, 20, 37]).cholesky()
    assert caught.value.row == row


def test_a_pivot_of_rounding_is_none(rng):
    """A row that follows from the others but for a few units of the last place factorises, and is refused."""
    half = rng.standard_normal((40, 40))
    half[25] = half[3] + half[17]
    matrix = half @ half.T
    for share, singular in ((1e-15, True), (1e-12, False)):
        matrix[25, 25] = (half[25] @ half[25]) * (1.0 + share)
        tiles = cut(matrix, [0, 13, 31, 40])
        if singular:
            with pytest.raises(NotPositiveDefinite) as caught:
                tiles.cholesky()
            assert caught.value.row == 25
        else:
            tiles.cholesky()
