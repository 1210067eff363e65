"""What an exchange of atoms does to the features of atom-wise and periodic descriptors."""

import ase.build
import jax.numpy as jnp
import numpy as np
import pytest
from moments import moments

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.data.system import System
from mlff.kernels.exchange import check_symmetry, feature_permutations


def with_zeros(positions, numbers):
    """Features of atoms of which some are the same for all atoms, as those of elements that no neighbour is of."""
    features = moments(positions, numbers)
    return jnp.concatenate([jnp.zeros_like(features), features], axis=1)


def test_rows_of_atoms_are_rearranged_even_where_features_tie(ethanol):
    """That rows follow the atoms needs no sorting."""
    group = mlff.find_permutations(ethanol)
    kernel = mlff.GlobalKernel(with_zeros, mlff.RBF(lengthscale=3.0), group).completed(ethanol[0].numbers)
    (batch,) = LabelledFrames.of(ethanol[:1]).batches
    arrangement = feature_permutations(kernel, batch)
    width = arrangement.shape[1] // 9
    np.testing.assert_array_equal(arrangement[:, ::width] // width, group.indices)
    check_symmetry(kernel, batch)
    force_field = mlff.fit(kernel, ethanol[:10], noise=1e-2)
    assert force_field.model.size == 10
    x = ethanol[20].positions
    np.testing.assert_allclose(force_field.energy(x[group.indices]), force_field.energy(x), atol=1e-8)


def test_neighbour_lists_follow_the_atoms(rng):
    """A global kernel of a crystal with exchanges of like atoms: the list of a permuted geometry is permuted too."""
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    x = atoms.positions + 0.1 * rng.standard_normal((8, 3))
    frame = mlff.Frame(System(x, atoms.numbers.astype(np.int32), atoms.cell.array, np.ones(3, bool)), {})
    (batch,) = LabelledFrames.of(mlff.Dataset([frame])).batches
    sodium = np.flatnonzero(atoms.numbers == 11)
    exchange = np.arange(8)
    exchange[sodium[:2]] = sodium[[1, 0]]
    group = mlff.Permutations.generate([exchange], atoms.numbers)
    kernel = mlff.GlobalKernel(moments, mlff.RBF(lengthscale=3.0), group).completed(atoms.numbers)
    check_symmetry(kernel, batch)
    assert feature_permutations(kernel, batch) is not None


def test_a_length_scale_of_its_own_for_one_of_two_like_distances(water):
    group = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
    scales = np.array([1.0, 2.0, 1.0])
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=scales), group)
    with pytest.raises(ValueError, match="exchanging atoms changes the distance between two descriptors"):
        mlff.fit(kernel, water[:5])
