"""Trees of different classes are different to JAX, however alike their fields are."""

import itertools

import jax
import numpy as np
import pytest

import mlff
from mlff.kernels.radial import RADIALS
from mlff.trees import Tree


class One(Tree):
    value: float


class Two(Tree):
    value: float


class Derived(mlff.Matern52):
    """A radial function of a user's own, without a field of its own."""


@pytest.mark.parametrize(("one", "two"), [*itertools.combinations([*RADIALS.values(), Derived], 2)])
def test_radial_functions_with_equal_fields_have_different_structures(one, two):
    assert jax.tree.structure(one(lengthscale=1.0)) == jax.tree.structure(one(lengthscale=2.0))
    assert jax.tree.structure(one(lengthscale=1.0)) != jax.tree.structure(two(lengthscale=1.0))


def test_trees_are_taken_apart_and_replaced():
    tree = One(2.0)
    assert jax.tree.leaves(tree) == [2.0]
    assert jax.tree.map(lambda leaf: leaf + 1, tree) == One(3.0) == tree.replace(value=3.0)
    assert tree != Two(2.0)
    assert repr(tree) == "One(value=2.0)"
    with pytest.raises(AttributeError):
        tree.value = 3.0


def test_branches_of_different_classes_are_refused():
    with pytest.raises(TypeError, match="output"):
        jax.lax.cond(True, One, Two, np.float32(1.0))
