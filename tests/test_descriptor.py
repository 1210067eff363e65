"""Descriptors wrapped: what they take, how far they see, which elements they know."""

import functools

import jax
import numpy as np
import pytest

import mlff
from descriptors import acsf, fchl19, inverse_distances, soap
from mlff.kernels.descriptor import Descriptor


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


@pytest.mark.parametrize(
    "descriptor",
    [
        functools.partial(fchl19, radial2=3, radial3=2, cutoff=4.0),
        functools.partial(acsf, cutoff=4.0),
        functools.partial(soap, n_max=2, l_max=1, cutoff=4.0),
    ],
)
def test_elements_in_any_order_are_one_kernel(descriptor, ethanol):
    """The features come in another order, the products between atoms are the same."""
    positions, numbers = ethanol[0].positions, ethanol[0].numbers
    with jax.enable_x64(True):
        one, two = (
            np.asarray(jax.jit(functools.partial(descriptor, elements=elements))(positions, numbers))
            for elements in ((1, 6, 8), (8, 1, 6))
        )
    assert np.abs(one - two).max() > 0.01 * np.abs(one).max()
    np.testing.assert_allclose(one @ one.T, two @ two.T, rtol=1e-9, atol=1e-12)


def test_elements_are_named_once(water):
    with pytest.raises(ValueError, match=r"elements=\(1, 8, 1\) name one more than once"):
        Descriptor.wrap(functools.partial(fchl19, elements=(1, 8, 1))).completed([8, 1, 1])


def test_nested_arrays_are_hyperparameters():
    def layered(positions, *, parameters):
        return positions.ravel() * parameters["one"]["weights"][0]

    wrapped = Descriptor.wrap(functools.partial(layered, parameters={"one": {"weights": np.ones(2)}}))
    assert set(wrapped.arguments) == {"parameters"}


def test_a_species_the_data_do_not_hold_is_refused_at_the_fit(water):
    missing = functools.partial(fchl19, elements=(1, 6))
    with pytest.raises(ValueError, match="lack O, which the frames hold"):
        mlff.fit(mlff.LocalKernel(missing, mlff.RBF(lengthscale=1.0)), water[:5])


def of_rows(positions, *, rows):
    return positions.ravel()


def test_what_is_a_hyperparameter_and_what_a_setting():
    def kept(value):
        wrapped = Descriptor.wrap(functools.partial(of_rows, rows=value))
        return wrapped.arguments.get("rows"), dict(wrapped.settings).get("rows")

    for real in (2.0, (1.0, 2.0), [1, 2.5], ((1.0, 2), [3, 4.0]), (np.float64(1.5),)):
        found, none = kept(real)
        np.testing.assert_array_equal(found, np.asarray(real, dtype=float))
        assert none is None
    settings = {
        (): (),
        (1, 2): (1, 2),
        ("H", 1.0): ("H", 1.0),
        ((1.0,), (1.0, 2.0)): ((1.0,), (1.0, 2.0)),
        (True, 1.0): (True, 1.0),
    }
    for given, expected in settings.items():
        assert kept(given) == (None, expected)
    assert kept([1, [2, "a"]]) == (None, (1, (2, "a")))
    with pytest.raises(ValueError, match=r"rows=.* must be real numbers"):
        kept((print, 1.0))


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="numbers comes from the frames"):
        Descriptor.wrap(functools.partial(fchl19, numbers=np.array([1])))
    with pytest.raises(ValueError, match="takes no positions"):
        Descriptor.wrap(lambda *, positions: positions)
    with pytest.raises(ValueError, match="must be atomic numbers"):
        Descriptor.wrap(functools.partial(fchl19, elements=(1.0, 8.0)))
