"""Chunks: every remainder, few shapes, sizes from a budget."""

import jax.numpy as jnp
import numpy as np
import pytest

from mlff.batching import chunk_size, map_chunks


@pytest.mark.parametrize("total", [1, 2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize("chunk", [1, 2, 8, 128])
def test_every_remainder(total, chunk):
    x = np.arange(total, dtype=float)
    shapes = set()

    def double(piece):
        shapes.add(piece.shape[0])
        return 2 * jnp.asarray(piece), {"same": piece}

    out = np.full(total, np.nan)
    for piece, (values, other) in map_chunks(double, (x,), chunk):
        out[piece] = values
        np.testing.assert_array_equal(other["same"], x[piece])
        assert values.dtype == np.float64
    np.testing.assert_array_equal(out, 2 * x)
    assert all(size & (size - 1) == 0 for size in shapes)
    assert max(shapes) <= chunk


@pytest.mark.parametrize(
    ("item", "memory", "expected"), [(1, 1, 1), (10, 100, 8), (100, 10, 1), (1, 1024, 1024), (3, 16, 4)]
)
def test_sizes(item, memory, expected):
    assert chunk_size(item, memory) == expected
