"""The linear system as an operator: blocks, diagonal and products are those of one matrix; other solvers than ours solve it."""

import dataclasses

import jax
import numpy as np
import pytest
from moments import mirrored, moments
from test_features import SWAP
from test_gram import LINEAR, WATER
from test_second_order import KERNELS as SECOND_ORDER
from test_second_order import KINDS, labelled

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.precision import doubled
from mlff.regression.exact import factorise
from mlff.regression.solution import expand, find_weights, solve
from mlff.regression.system import kernel_blocks
from mlff.regression.system.features import compute_features
from mlff.regression.system.inner_products import ScalableBlocks, needed_bytes
from mlff.regression.system.kernel_blocks import KernelBlocks, kernel_between
from mlff.regression.system.linear_system import LinearSystem

KERNELS = {
    "global": mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), SWAP),
    "images computed anew": mlff.GlobalKernel(mirrored, mlff.RBF(lengthscale=3.0), SWAP),
    "sum": mlff.SumKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), SWAP),
            mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5)),
        )
    ),
    "product": mlff.ProductKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), SWAP),
            mlff.GlobalKernel(inverse_distances, mlff.RationalQuadratic(lengthscale=4.0), SWAP),
        )
    ),
}
NOISE = {"energy": 1e-3, "forces": 1e-2}


def system_of(kernel, frames, noise=NOISE) -> LinearSystem:
    kernel = kernel.completed(np.concatenate(frames.compositions))
    return LinearSystem.of(kernel, compute_features(kernel, frames, noise), noise)


def whole(system) -> np.ndarray:
    """The matrix from its blocks, whose lower ones come in one go, too."""
    count = len(system.offsets) - 1
    for i, j, block in system.lower():
        np.testing.assert_allclose(block, system.block(i, j), atol=1e-12 * np.abs(block).max())
    return np.block([[system.block(i, j) for j in range(count)] for i in range(count)])


@pytest.fixture
def frames(water, rng) -> LabelledFrames:
    """Bent and linear molecules with energies and forces, and some with energies alone."""
    straight = [mlff.Frame(f.system.replace(positions=LINEAR + 0.0), f.labels) for f in water[:1]]
    bare = [mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[20:24]]
    return LabelledFrames.of(mlff.Dataset([*water[:9], *straight, *bare]))


@pytest.mark.parametrize("name", KERNELS)
def test_blocks_diagonal_and_product_are_of_one_matrix(name, frames, rng, monkeypatch):
    monkeypatch.setattr(kernel_blocks, "TILE_ROWS", 12)
    system = system_of(KERNELS[name], frames)
    assert len(system.offsets) > 4
    matrix = whole(system)
    assert matrix.shape == system.shape
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-11 * np.abs(matrix).max())
    np.testing.assert_allclose(system.diagonal(), np.diagonal(matrix), rtol=1e-12, atol=1e-13 * matrix.max())
    vectors = rng.standard_normal((len(matrix), 3))
    np.testing.assert_allclose(system.product(vectors), matrix @ vectors, atol=1e-11 * np.abs(matrix).max())
    kernel = kernel_between(system.features, system.features, system.shares)
    np.testing.assert_allclose(kernel + np.diag(system.noise), matrix, atol=1e-12 * np.abs(matrix).max())


@pytest.mark.parametrize("name", ["global", "images computed anew", "local", "product, local"])
def test_products_with_labels_of_second_order(name, rng):
    """Sums of labels with weights are labels themselves: curvatures are contracted as tangents are."""
    frames = labelled([WATER, *(WATER + 0.1 * rng.standard_normal((8, 3, 3)))])
    system = system_of(SECOND_ORDER[name], frames, dict.fromkeys(KINDS, 1e-2))
    matrix = whole(system)
    np.testing.assert_allclose(system.diagonal(), np.diagonal(matrix), rtol=1e-12, atol=1e-13 * matrix.max())
    vectors = rng.standard_normal((len(matrix), 2))
    np.testing.assert_allclose(system.product(vectors), matrix @ vectors, atol=1e-11 * np.abs(matrix).max())


@pytest.mark.parametrize("name", KERNELS)
def test_kept_blocks_are_those_of_the_frames_that_are_taken(name, frames, rng, monkeypatch):
    monkeypatch.setattr(kernel_blocks, "TILE_ROWS", 12)
    system = system_of(KERNELS[name], frames)
    chosen, others = np.array([1, 2, 3, 6, 9, 11, 13]), np.array([0, 4, 12])
    kept = KernelBlocks(system.features).kept()
    computed = LinearSystem.of(system.kernel, system.features.take(chosen), NOISE)
    cut = LinearSystem.of(system.kernel, system.features.take(chosen), NOISE, blocks=kept.take(chosen))
    np.testing.assert_allclose(cut.diagonal(), computed.diagonal(), rtol=1e-11)
    np.testing.assert_allclose(cut.amplitudes, computed.amplitudes, rtol=1e-11)
    matrix = whole(computed)
    np.testing.assert_allclose(whole(cut), matrix, atol=1e-11 * np.abs(matrix).max())
    vectors = rng.standard_normal((len(matrix), 2))
    one, two = (b.product(others, chosen, system.shares, vectors) for b in (kept, KernelBlocks(system.features)))
    np.testing.assert_allclose(one, two, atol=1e-11 * np.abs(two).max())


LOCAL_PRODUCT = mlff.ProductKernel(
    (
        mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5)),
        mlff.LocalKernel(moments, mlff.Matern52(lengthscale=3.0)),
    )
)


@pytest.mark.parametrize("kernel", [KERNELS["images computed anew"], KERNELS["sum"], LOCAL_PRODUCT])
def test_blocks_of_any_length_scale_are_those_computed_there(kernel, frames, monkeypatch):
    """Every leaf of the kernel with a factor of its own."""
    monkeypatch.setattr(kernel_blocks, "TILE_ROWS", 12)
    system = system_of(kernel, frames)
    leaves, factors = system.kernel.leaves, (1.7, 0.6)
    kernel = system.kernel.with_leaves(
        [
            leaf.replace(radial=leaf.radial.replace(lengthscale=a * leaf.radial.lengthscale))
            for a, leaf in zip(factors, leaves, strict=False)
        ]
    )
    scaled = system.features.scaled(kernel)
    fresh = LinearSystem.of(kernel, scaled, NOISE)
    known = LinearSystem.of(kernel, scaled, NOISE, blocks=ScalableBlocks.of(system.blocks).kept(scaled))
    np.testing.assert_allclose(whole(known), whole(fresh), atol=1e-12 * np.abs(whole(fresh)).max())


@pytest.mark.parametrize("kernel", [KERNELS["global"], KERNELS["sum"], LOCAL_PRODUCT])
def test_the_memory_of_inner_products_is_known_before(kernel, frames):
    """But for the diagonal, of which every pair of a frame with itself is whole."""
    _require_known_memory(system_of(kernel, frames))


def test_the_memory_of_inner_products_of_frames_of_other_sizes(water, ethanol):
    """Those of a block are padded to the fullest."""
    mixed = LabelledFrames.of(mlff.Dataset([*water[:8], ethanol[0]]))
    _require_known_memory(system_of(mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5)), mixed))


def _require_known_memory(system):
    blocks = ScalableBlocks.of(system.blocks).products.values()
    kept = sum(
        array.nbytes
        for of_terms in blocks
        for of_term in of_terms
        for channel in of_term or ()
        for array in (channel.tangents, channel.rows, channel.columns, channel.squares)
    )
    assert 0.7 * kept <= needed_bytes(system.features) <= kept


def conjugate_gradient(product, right, tolerance=1e-13, limit=5000):
    """x of C x = b, from products with C alone (Hestenes and Stiefel, 1952)."""
    x, residual = np.zeros_like(right), right.copy()
    direction, size = residual.copy(), residual @ residual
    for _ in range(limit):
        image = product(direction[:, None])[:, 0]
        step = size / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        before, size = size, residual @ residual
        if size <= tolerance**2 * (right @ right):
            return x
        direction = residual + size / before * direction
    raise AssertionError("no convergence")


def test_a_second_solver_on_the_same_system(water):
    """Conjugate gradients on the operator, in place of the Cholesky of the matrix, lead to the same force field."""

    @dataclasses.dataclass
    class Iterative:
        system: LinearSystem

        def solve(self, right):
            return np.stack([conjugate_gradient(self.system.product, column) for column in right.T], axis=1)

    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), SWAP)
    frames = LabelledFrames.of(water[:12])
    system = system_of(kernel, frames, {"energy": 3e-2, "forces": 3e-2})
    direct, iterative = (find_weights(system, solver) for solver in (factorise(system), Iterative(system)))
    np.testing.assert_allclose(iterative.constants, direct.constants, rtol=1e-9)
    np.testing.assert_allclose(iterative.rows, direct.rows, atol=1e-8 * np.abs(direct.rows).max())
    one, two = (mlff.ForceField(expand(system, w), water[0].numbers, kernel) for w in (direct, iterative))
    x = water[30].positions
    np.testing.assert_allclose(two.forces(x), one.forces(x), atol=1e-7)


@pytest.mark.parametrize("name", KERNELS)
def test_features_scale_with_the_length_scale(name, frames):
    """Features of one length scale, scaled, are those of another: the same solution."""
    kernel = KERNELS[name].completed(np.concatenate(frames.compositions))
    longer = kernel.with_leaves(
        [leaf.replace(radial=leaf.radial.replace(lengthscale=leaf.radial.lengthscale * 1.7)) for leaf in kernel.leaves]
    )
    scaled = compute_features(kernel, frames, NOISE).scaled(longer)
    computed = compute_features(longer, frames, NOISE)
    one, two = (LinearSystem.of(longer, features, NOISE) for features in (scaled, computed))
    np.testing.assert_allclose(one.amplitudes, two.amplitudes, rtol=1e-10)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(whole(one)), np.linalg.eigvalsh(whole(two)), atol=1e-10 * np.abs(whole(two)).max()
    )
    numbers, cell = frames.compositions[0], np.zeros((3, 3))
    energies = []
    for system in (one, two):
        model = expand(system, find_weights(system, factorise(system))).arranged(numbers)
        with doubled():
            energies.append(float(jax.jit(model.energy)(WATER, numbers, cell)))
    assert energies[0] == pytest.approx(energies[1], abs=1e-7)


def test_nothing_is_kept_that_was_not_asked_for(water):
    kernel = KERNELS["global"].completed([8, 1, 1])
    assert solve(kernel, LabelledFrames.of(water[:5]), NOISE).posterior is None
