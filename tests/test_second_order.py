"""Kernel blocks and models of labels of second order against nested differentiation of the kernel's definition."""

import functools

import jax
import numpy as np
import properties
import pytest
from test_carried import KERNELS, Weighted
from test_gram import SWAP, WATER, system_matrix

import mlff
from descriptors import coulomb_spectrum
from mlff.carried import carry
from mlff.labelled import LabelledFrames
from mlff.system import System

SPECTRUM = mlff.GlobalKernel(coulomb_spectrum, mlff.RBF(lengthscale=3.0), SWAP, amplitude=1.0)
SYSTEMS = {**KERNELS, "images computed anew": SPECTRUM}
LABELS = {
    "hessian": ("hessian",),
    "all": ("energy", "forces", "hessian"),
    "products": ("forces", "hessian_products", "curvatures"),
}


def labelled(geometries, numbers=(8, 1, 1), seed=0) -> LabelledFrames:
    """Frames of one molecule with every kind of label, of no meaning."""
    rng = np.random.default_rng(seed)
    x = np.array(geometries)
    m, n, _ = x.shape
    hessians = rng.standard_normal((m, 3 * n, 3 * n))
    labels = {
        "energy": rng.standard_normal(m), "forces": rng.standard_normal(x.shape),
        "hessian": hessians + hessians.transpose(0, 2, 1),
        "hessian_products": rng.standard_normal((m, 2, n, 3)), "hessian_product_vectors": rng.standard_normal((m, 2, n, 3)),
        "curvatures": rng.standard_normal((m, 3)), "curvature_vectors": rng.standard_normal((m, 3, 2, n, 3)),
    }  # fmt: skip
    return LabelledFrames.uniform(x, np.array(numbers), labels)


def coefficients(label) -> np.ndarray:
    """Every row as one vector of weights of (u, ∇u, ∇∇u)."""
    matrices = label.basis.T @ label.rows.matrices @ label.basis if len(label.basis) else None
    count, size = label.rows.directions.shape
    flat = np.zeros((count, size**2)) if matrices is None else matrices.reshape(count, -1)
    return np.concatenate([label.rows.values[:, None], label.rows.directions, flat], axis=1)


def taylor(function):
    """(u, ∇u, ∇∇u) of a function of one vector, one after the other."""

    def all_of_it(x):
        return jax.numpy.concatenate([function(x)[None], jax.jacfwd(function)(x), jax.hessian(function)(x).ravel()])

    return all_of_it


def dense(kernel, frames, labels) -> np.ndarray:
    (batch,) = frames.batches
    shape, cell = batch.positions[0].shape, batch.cells[0]

    def k(x, y):
        one, two = (System(z.reshape(shape), batch.numbers, cell, np.zeros(3, bool)) for z in (x, y))
        return kernel.evaluate(one, two)

    def both(x, y):
        def of_first(z):
            return k(z, y)

        return taylor(of_first)(x)

    flat = batch.positions.reshape(len(batch), -1)
    with jax.enable_x64(True):

        def every(x, y):
            inner = functools.partial(both, x)
            first, second = jax.jacfwd(inner), jax.jacfwd(jax.jacfwd(inner))
            value = inner(y)[:, None]
            return jax.numpy.concatenate([value, first(y), second(y).reshape(len(value), -1)], axis=1)

        every = jax.jit(every)
        own = [(x, coefficients(label)) for x, label in zip(flat, labels, strict=True)]
        return np.block([[p @ np.asarray(every(x, y)) @ q.T for y, q in own] for x, p in own])


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_matrix_matches_nested_differentiation(name, kind, rng):
    kernel = SYSTEMS[name].completed([8, 1, 1])
    frames = labelled([WATER, WATER + 0.1 * rng.standard_normal((3, 3))])
    matrix, _ = system_matrix(kernel, frames, LABELS[kind])
    labels = carry(kernel, frames, dict.fromkeys(LABELS[kind], 1.0), lambda *_: None).labels
    properties.assert_matches_dense(matrix, dense(Weighted(kernel), frames, labels), 1e-10)
