"""Descriptors wrapped: what they take, how far they see, which elements they know."""

import functools

import numpy as np
import pytest

import mlff
from descriptors import fchl19, inverse_distances
from mlff.descriptor import Descriptor


def blind(positions, neighbors=None):
    return inverse_distances(positions)


def test_cutoff_of_the_signature_or_bound():
    assert Descriptor.wrap(fchl19).cutoff == 8.0
    assert Descriptor.wrap(functools.partial(fchl19, cutoff=4.5)).cutoff == 4.5
    assert Descriptor.wrap(inverse_distances).cutoff is None
    assert Descriptor.wrap(fchl19).uses == {"numbers", "cell", "neighbors"}


def test_one_that_takes_neighbours_says_how_far_it_sees():
    with pytest.raises(ValueError, match="takes neighbors, so it needs a positive number `cutoff`"):
        Descriptor.wrap(blind)


def test_elements_are_filled_in_from_the_data_and_never_lack_any():
    assert Descriptor.wrap(fchl19).completed([8, 1, 1]).elements == (1, 8)
    given = Descriptor.wrap(functools.partial(fchl19, elements=(1, 6, 8)))
    assert given.completed([8, 1, 1]).elements == (1, 6, 8)
    with pytest.raises(ValueError, match=r"elements=\(1, 6, 8\) lack S"):
        given.completed([16, 1, 1])
    assert Descriptor.wrap(inverse_distances).completed([8, 1]).elements is None


def test_nested_arrays_are_hyperparameters():
    def layered(positions, *, parameters):
        return positions.ravel() * parameters["one"]["weights"][0]

    wrapped = Descriptor.wrap(functools.partial(layered, parameters={"one": {"weights": np.ones(2)}}))
    assert set(wrapped.arguments) == {"parameters"}


def test_a_species_the_data_do_not_hold_is_refused_at_the_fit(water):
    missing = functools.partial(fchl19, elements=(1, 6))
    with pytest.raises(ValueError, match="lack O, which the frames hold"):
        mlff.fit(mlff.LocalKernel(missing, mlff.RBF(lengthscale=1.0)), water[:5])
