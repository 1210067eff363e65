"""Features, Jacobians and tangents at permuted images, against the definition."""

import functools

import jax
import numpy as np
import pytest

import mlff
from descriptors import acsf, inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.kernels.jets import bends, column_bytes, image_tangents, jets
from mlff.kernels.surroundings import surroundings

KERNEL = mlff.GlobalKernel(
    inverse_distances, mlff.RBF(lengthscale=2.0), mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
)


def few_features(positions):
    return inverse_distances(positions)[:2] ** 2


@pytest.mark.parametrize("descriptor", [inverse_distances, few_features])
def test_jets_by_both_modes(water, descriptor):
    """Two features of nine coordinates go backward, three of three forward is never worse; both are the Jacobian."""
    x = water[:5].uniform_positions()
    kernel = mlff.GlobalKernel(descriptor, mlff.RBF(lengthscale=2.0))
    ((piece, ((features,), (jacobians,))),) = list(jets(kernel, LabelledFrames.of(water[:5]).batches[0]))
    assert piece == slice(0, 5)
    step = 1e-5
    for i in range(5):
        with jax.enable_x64(True):
            np.testing.assert_allclose(features[i, 0], descriptor(x[i]) / 2, rtol=1e-13)
            for c in range(9):
                shift = np.zeros(9)
                shift[c] = step
                numeric = (descriptor(x[i] + shift.reshape(3, 3)) - descriptor(x[i] - shift.reshape(3, 3))) / (4 * step)
                np.testing.assert_allclose(jacobians[i, 0][:, c], numeric, atol=1e-8)


def test_tangents_are_of_the_frame_not_of_its_image(water, rng):
    x, directions = water[:3].uniform_positions(), rng.standard_normal((3, 2, 9))
    points, tangents = image_tangents(KERNEL, LabelledFrames.of(water[:3]).batches[0], directions)
    assert points.shape == (3, 2, 3)
    assert tangents.shape == (3, 2, 2, 3)
    step = 1e-6
    for i in range(3):
        for k, p in enumerate(KERNEL.permutations):
            for r in range(2):
                d = step * directions[i, r].reshape(3, 3)
                with jax.enable_x64(True):
                    numeric = (inverse_distances((x[i] + d)[p]) - inverse_distances((x[i] - d)[p])) / (4 * step)
                np.testing.assert_allclose(tangents[i, k, r], numeric, atol=1e-8)


def nearest(positions, cell, *, cutoff=3.0):
    """A descriptor of nearest images: smooth up to its cutoff, no neighbour list."""
    from descriptors.geometry import pair_distances, smooth_cutoff

    r = pair_distances(positions, cell)
    return smooth_cutoff(r, cutoff) / r


def crystal(repeat, pbc=True):
    import ase.build

    from mlff.data.system import System

    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.6, cubic=True) * repeat
    atoms.rattle(0.05, seed=1)
    atoms.pbc = pbc
    frame = mlff.Frame(System.from_ase(atoms), {"energy": 1.0})
    return LabelledFrames.of(mlff.Dataset([frame])).batches[0]


def test_cells_too_small_for_nearest_images_are_refused():
    kernel = mlff.GlobalKernel(nearest, mlff.RBF(lengthscale=1.0))
    with pytest.raises(ValueError, match=r"cell of frame 0 is too small for descriptor .*height is 5\.60 Å.*6\.00 Å"):
        surroundings(kernel.descriptors, crystal(1))
    with pytest.raises(
        ValueError, match=r"frame 0 has pbc=\[True, True, False\]: use a descriptor that takes neighbors"
    ):
        surroundings(kernel.descriptors, crystal(2, [True, True, False]))
    cells, neighbors = surroundings(kernel.descriptors, crystal(2))
    assert neighbors is None
    np.testing.assert_allclose(cells[0], 11.2 * np.eye(3))


def test_a_molecule_in_a_box_has_no_cell():
    """A cell that no direction is periodic in is not there for descriptors."""
    cells, neighbors = surroundings(
        mlff.GlobalKernel(nearest, mlff.RBF(lengthscale=1.0)).descriptors, crystal(1, False)
    )
    assert neighbors is None
    assert not cells.any()


def test_nearest_images_and_the_list_agree():
    """Environments by nearest image, where it suffices, hold what the neighbour list holds."""
    import functools

    from descriptors import fchl19

    descriptor = functools.partial(fchl19, radial2=4, radial3=3, cutoff=4.0)
    kernel = mlff.LocalKernel(descriptor, mlff.RBF(lengthscale=1.0)).completed([11, 17])
    batch = crystal(2)
    (cell,), neighbors = surroundings(kernel.descriptors, batch)
    first = jax.tree.map(lambda leaf: leaf[0], neighbors)
    with jax.enable_x64(True):
        described = jax.jit(lambda x, *near: kernel.descriptor(x, batch.numbers, cell, *near))
        by_list, by_image = described(batch.positions[0], first), described(batch.positions[0])
    np.testing.assert_allclose(by_list, by_image, atol=1e-12)


def test_jacobians_in_columns_are_the_same(water, monkeypatch):
    """Where the arrays inside of a descriptor are too large for all columns at once, they are computed some at a time."""
    batch = LabelledFrames.of(water[:3]).batches[0]
    kernel = mlff.LocalKernel(functools.partial(acsf, cutoff=5.0), mlff.RBF(lengthscale=1.0)).completed([8, 1, 1])
    whole = [jacobians[0] for _, (_, jacobians) in jets(kernel, batch)]
    monkeypatch.setattr(
        "mlff.kernels.jets._COLUMNS_MEMORY", 2 * column_bytes((kernel.bare(),), *first_of(kernel, batch))
    )
    pieces = [(piece, jacobians[0]) for piece, (_, jacobians) in jets(kernel, batch)]
    assert [piece.stop - piece.start for piece, _ in pieces] == [1, 1, 1]
    np.testing.assert_allclose(
        np.concatenate([part for _, part in pieces]), np.concatenate(whole), rtol=1e-12, atol=1e-14
    )


def first_of(kernel, batch):
    return batch.numbers, batch.positions[0], surroundings(kernel.descriptors, batch).frame(0)


def test_second_derivatives_along_a_basis(water, rng):
    batch = LabelledFrames.of(water[:2]).batches[0]
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0)).completed([8, 1, 1])
    basis = np.linalg.qr(rng.standard_normal((9, 3)))[0].T

    def features(q):
        return inverse_distances((batch.positions[1].ravel() + q).reshape(3, 3)) / 2.0

    with jax.enable_x64(True):
        second = np.asarray(jax.jit(jax.hessian(features))(np.zeros(9)))
    full = np.einsum("dxy,ix,jy->dij", second, basis, basis)
    first, last = np.triu_indices(3)
    np.testing.assert_allclose(bends(kernel, batch, 1, basis)[0], full[:, first, last], rtol=1e-10, atol=1e-12)
    turned = bends(kernel, batch, 1, basis, np.array([0, 2, 1]))[0]
    np.testing.assert_allclose(turned, full[[1, 0, 2]][:, first, last], rtol=1e-10, atol=1e-12)
