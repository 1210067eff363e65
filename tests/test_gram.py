"""Kernel blocks and the whole linear system against nested differentiation of the kernel's definition."""

import dataclasses
import functools

import jax
import numpy as np
import properties
import pytest

import mlff
from descriptors import exponential_distances, inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.data.system import System
from mlff.regression.system import kernel_blocks
from mlff.regression.system.features import compute_features
from mlff.regression.system.gram import radial_derivatives
from mlff.regression.system.linear_system import LinearSystem

RADIALS = [
    mlff.RBF(lengthscale=3.0), mlff.Matern32(lengthscale=3.0), mlff.Matern52(lengthscale=3.0),
    mlff.Matern72(lengthscale=3.0), mlff.RationalQuadratic(lengthscale=3.0, alpha=1.5),
]  # fmt: skip
WATER = np.array([[0.0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])
SWAP = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
LINEAR = np.array([[0.0, 0, 0], [0, 0, 1.16], [0, 0, -1.2]])


def frames_of(geometries, numbers=(8, 1, 1)) -> LabelledFrames:
    geometries = np.array(geometries)
    labels = {"energy": np.arange(len(geometries), dtype=float), "forces": np.cos(geometries)}
    return LabelledFrames.uniform(geometries, np.array(numbers), labels)


def system_matrix(kernel, frames, names, rearranged=True):
    kernel = kernel.completed(np.concatenate(frames.compositions))
    noise = dict.fromkeys(names, 1.0)
    features = compute_features(kernel, frames, noise)
    if not rearranged:
        terms = [dataclasses.replace(term, rearranged=None) for term in features.terms]
        features = dataclasses.replace(features, terms=terms)
    system = LinearSystem.of(kernel, features, noise)
    full = np.zeros(system.shape)
    for i, j, of_terms in system.blocks.lower():
        a, b = slice(*system.offsets[i : i + 2]), slice(*system.offsets[j : j + 2])
        tile = sum(share * of_term for share, of_term in zip(system.shares, of_terms, strict=True))
        full[a, b], full[b, a] = tile, tile.T
    return full, [frame.rows for frame in features.observations]


def dense_matrix(kernel, frames, rows):
    (batch,) = frames.batches
    shape, cell = batch.positions[0].shape, batch.cells[0]

    def k(x, y):
        one, two = (System(z.reshape(shape), batch.numbers, cell, np.zeros(3, bool)) for z in (x, y))
        return kernel.evaluate(one, two)

    flat = batch.positions.reshape(len(batch), -1)
    with jax.enable_x64(True):
        value, gx, gy, mixed = (jax.jit(f) for f in (k, jax.grad(k), jax.grad(k, 1), jax.jacfwd(jax.grad(k), 1)))
        blocks = [
            [
                float(value(x, y)) * np.outer(p.values, q.values)
                + np.outer(p.values, q.directions @ gy(x, y))
                + np.outer(p.directions @ gx(x, y), q.values)
                + p.directions @ np.asarray(mixed(x, y)) @ q.directions.T
                for y, q in zip(flat, rows, strict=True)
            ]
            for x, p in zip(flat, rows, strict=True)
        ]
    return np.block(blocks)


@pytest.mark.parametrize("names", [("forces",), ("energy",), ("energy", "forces")])
@pytest.mark.parametrize("radial", RADIALS, ids=lambda r: type(r).__name__)
def test_matrix_matches_dense(radial, names, rng):
    group = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
    kernel = mlff.GlobalKernel(inverse_distances, radial, group)
    frames = frames_of([WATER, WATER + 0.1 * rng.standard_normal((3, 3)), WATER + 0.1 * rng.standard_normal((3, 3))])
    matrix, rows = system_matrix(kernel, frames, names)
    dense = dense_matrix(kernel, frames, rows)
    properties.assert_matches_dense(matrix, dense)
    computed_anew, _ = system_matrix(kernel, frames, names, rearranged=False)
    properties.assert_matches_dense(computed_anew, dense)


def test_ragged_ranks_linear_and_bent(rng, monkeypatch):
    """A linear frame among bent ones: fewer internal directions, so fewer rows; tiles of one frame each."""
    monkeypatch.setattr(kernel_blocks, "TILE_ROWS", 4)
    kernel = mlff.GlobalKernel(functools.partial(exponential_distances, decay=1.3), mlff.Matern52(lengthscale=0.7))
    frames = frames_of([WATER, LINEAR, WATER + 0.1 * rng.standard_normal((3, 3))])
    matrix, rows = system_matrix(kernel, frames, ("energy", "forces"))
    assert [len(row.labels) for row in rows] == [4, 3, 4]
    properties.assert_matches_dense(matrix, dense_matrix(kernel, frames, rows))


def test_ragged_ranks_within_one_tile(rng):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=1.0))
    frames = frames_of([LINEAR, WATER, WATER + 0.05 * rng.standard_normal((3, 3))])
    matrix, rows = system_matrix(kernel, frames, ("forces",))
    assert matrix.shape == (8, 8)
    properties.assert_matches_dense(matrix, dense_matrix(kernel, frames, rows))


def test_nearly_coincident_frames_lose_nothing(rng):
    """Two frames 1e-9 Å apart and Matérn-3/2, the least smooth: s comes from explicit differences."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern32(lengthscale=1.0))
    frames = frames_of([WATER, WATER + 1e-9 * rng.standard_normal((3, 3))])
    matrix, rows = system_matrix(kernel, frames, ("forces",))
    properties.assert_matches_dense(matrix, dense_matrix(kernel, frames, rows))


def test_radial_derivatives_of_any_size(rng):
    radial = mlff.Matern52(lengthscale=1.0)
    s = rng.uniform(0, 4, (70_001, 1))
    f, (f1,), ((f2,),) = radial_derivatives(radial, s[None])
    r = np.sqrt(5 * s)
    np.testing.assert_allclose(f, (1 + r + r * r / 3) * np.exp(-r), rtol=1e-13)
    np.testing.assert_allclose(f1, -5 / 6 * (1 + r) * np.exp(-r), rtol=1e-13)
    np.testing.assert_allclose(f2, 25 / 12 * np.exp(-r), rtol=1e-13)
