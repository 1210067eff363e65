"""Descriptors wrapped, kernels evaluated from their definition."""

import functools

import jax
import numpy as np
import pytest
from moments import moments

import mlff
from descriptors import inverse_distances, powered_distances
from mlff.data.batches import LabelledFrames
from mlff.kernels.exchange import feature_permutations


def with_arguments(positions, *, numbers, power=1.0, kind="plain"):
    """A descriptor that takes what the kernel supplies, a real and a static argument."""
    del kind
    return inverse_distances(positions) ** power * numbers.sum().astype(float)


def test_supplied_keywords_and_arguments():
    descriptor = mlff.Descriptor.wrap(functools.partial(with_arguments, power=2.0, kind="other"))
    assert descriptor.uses == {"numbers"}
    assert descriptor.arguments == {"power": 2.0}
    assert descriptor.settings == (("kind", "other"),)
    x = np.array([[0.0, 0, 0], [0, 0, 2.0]])
    with jax.enable_x64(True):
        np.testing.assert_allclose(descriptor(x, np.array([1, 8]), None), [9 / 4])
    assert descriptor.name == "test_kernels:with_arguments"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (functools.partial(powered_distances, strength=2.0), r"has no argument 'strength'; it takes positions, power"),
        (lambda positions, width: positions, r"needs a value of 'width'"),
        (functools.partial(powered_distances, np.zeros((2, 3))), r"bind its arguments by name"),
    ],
)
def test_descriptors_that_do_not_fit(function, message):
    with pytest.raises(ValueError, match=message):
        mlff.GlobalKernel(function, mlff.RBF(lengthscale=1.0))


def test_kernel_is_symmetric_invariant_and_bounded(water):
    group = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=1.0), group)
    one, two = water[0].system, water[1].system
    exchanged = two.replace(positions=two.positions[[0, 2, 1]])
    with jax.enable_x64(True):

        @jax.jit
        def between(x, y):
            return kernel.evaluate(one.replace(positions=x), one.replace(positions=y))

        pairs = ((one, two), (two, one), (one, exchanged), (one, one), (two, two))
        forth, back, image, *own = (float(between(a.positions, b.positions)) for a, b in pairs)
    assert forth == pytest.approx(back, rel=1e-14)
    assert forth == pytest.approx(image, rel=1e-14)
    assert 0 < forth**2 < own[0] * own[1] < 1


def matrix_descriptor(positions):
    return positions[:, None] - positions[None]


def test_shape_of_a_global_descriptor(water):
    with pytest.raises(ValueError, match=r"returns an array of shape \(3, 3, 3\).*one vector"):
        mlff.fit(mlff.GlobalKernel(matrix_descriptor, mlff.RBF(lengthscale=1.0)), water[:5])


def test_arguments_are_checked_before_the_work(water):
    radial = mlff.RBF(lengthscale=1.0)
    with pytest.raises(ValueError, match=r"lengthscale: 2 are given, descriptor .* has 3 features"):
        mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=np.ones(2))), water[:5])
    with pytest.raises(ValueError, match="terms of a sum: there are none"):
        mlff.SumKernel(())
    with pytest.raises(ValueError, match=r"amplitude=-1\.0 must be positive"):
        mlff.ProductKernel((mlff.GlobalKernel(inverse_distances, radial),) * 2, amplitude=-1.0)
    with pytest.raises(ValueError, match=r"amplitude=-2\.0 must be positive"):
        mlff.GlobalKernel(inverse_distances, radial, amplitude=np.array(-2.0))
    for permutations in ([[0, 1, 2], [0, 2]], []):
        with pytest.raises(ValueError, match="permutations: give index arrays of one length"):
            mlff.GlobalKernel(inverse_distances, radial, permutations)


def test_kernels_are_immutable():
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.0))
    with pytest.raises(AttributeError):
        kernel.amplitude = 2.0


def rotated_features(positions):
    """An exchange of the hydrogens turns these features into each other by a matrix that is no rearrangement."""
    first, second, third = inverse_distances(positions)
    return jax.numpy.stack([first + second, first - second, third])


def test_elements_of_a_local_kernel_are_a_set(water):
    """In any order, each once or more: one model; what the data lack or add is refused before the work, with its remedy."""
    x = water[50].positions
    expected = mlff.fit(mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0)), water[:8], noise=1e-3).forces(x)
    for elements in ((8, 1), [1, 8, 1], {8, 1}):
        kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0), elements)
        assert kernel.elements == (1, 8)
        np.testing.assert_array_equal(mlff.fit(kernel, water[:8], noise=1e-3).forces(x), expected)
    for elements, message in (((1,), "lack O.*or leave elements out"), ((1, 8, 16), "hold S, of which the frames")):
        with pytest.raises(ValueError, match=rf"LocalKernel: elements=.*{message}"):
            mlff.fit(mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0), elements), water[:8])
    for elements in ((), (0, 1)):
        with pytest.raises(ValueError, match="must be atomic numbers"):
            mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0), elements)


def test_the_group_of_a_sum_is_what_its_terms_share(ethanol):
    """What is reported leaves the whole energy unchanged, whichever term comes first."""
    group, data = mlff.find_permutations(ethanol), ethanol[:10]
    swap = mlff.Permutations.generate([[0, 1, 2, 4, 3, 5, 6, 8, 7]], ethanol[0].numbers)
    cyclic = mlff.Permutations.generate([group.indices[3]], ethanol[0].numbers)
    radial, local = mlff.Matern52(lengthscale=10.0), mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))

    def used(*groups):
        return mlff.SumKernel(tuple(mlff.GlobalKernel(inverse_distances, radial, g) for g in groups)).permutations_used

    assert used(group, None) is used(None, group) is None
    assert len(used(group, swap)) == 1
    assert used(group, group) == group
    assert used(group, cyclic) == used(cyclic, group) == cyclic
    assert 1 < len(cyclic) < len(group)
    assert (used(group, cyclic).residuals[1:] < 0.3).all()
    with_local = mlff.SumKernel((local, mlff.GlobalKernel(inverse_distances, radial, group)))
    assert with_local.permutations_used == group
    assert mlff.SumKernel((local, local)).permutations_used is None
    plain = mlff.SumKernel(tuple(mlff.GlobalKernel(inverse_distances, radial, g) for g in (group, None)))
    model, x = mlff.fit(plain, data, noise=1e-3), ethanol[50].positions
    assert np.abs(model.energy(x[group.indices]) - model.energy(x)).max() > 1e-3
    assert model.kernel.permutations_used is None


def test_rearrangements_are_found_and_images_computed_where_there_are_none(water):
    group = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
    (frames,) = LabelledFrames.of(water[:1]).batches
    plain = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), group)
    arrangement = feature_permutations(plain, frames)
    np.testing.assert_array_equal(arrangement, [[0, 1, 2], [1, 0, 2]])
    rotated = mlff.GlobalKernel(rotated_features, mlff.Matern52(lengthscale=2.0 * 2**0.5), group)
    assert feature_permutations(rotated, frames) is None


def test_images_as_points_and_as_rearrangements_are_one_model(water):
    """Features turned by 45° and scaled by √2, one left alone: with a length scale to match, the same kernel."""
    group = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
    plain = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), group)
    scales = np.array([2.0 * 2**0.5, 2.0 * 2**0.5, 2.0])
    rotated = mlff.GlobalKernel(rotated_features, mlff.Matern52(lengthscale=scales), group)
    one, two = mlff.fit(plain, water[:20]), mlff.fit(rotated, water[:20])
    assert one.model.parts[0].images is not None
    assert one.model.size == 20
    assert two.model.parts[0].images is None
    assert two.model.size == 40
    x = water[50:60].uniform_positions()
    np.testing.assert_allclose(one.forces(x), two.forces(x), atol=1e-8)


def short_sighted(positions):
    """Smooth, and exactly zero for all pairs beyond 2.2 Å: features that tie."""
    from descriptors.geometry import pair_distances

    r = pair_distances(positions)
    return jax.numpy.where(r < 2.2, (1.0 - (r / 2.2) ** 2) ** 4, 0.0)


def test_features_that_tie_are_no_rearrangement(ethanol):
    """Zeros cannot tell which of them went where: images are computed, and the model stays invariant."""
    group = mlff.find_permutations(ethanol)
    kernel = mlff.GlobalKernel(short_sighted, mlff.Matern52(lengthscale=1.0), group)
    assert feature_permutations(kernel, LabelledFrames.of(ethanol[:1]).batches[0]) is None
    force_field = mlff.fit(kernel, ethanol[:20], noise=1e-2)
    x = ethanol[50].positions
    np.testing.assert_allclose(force_field.energy(x[group.indices]), force_field.energy(x), atol=1e-8)


@pytest.mark.parametrize("value", [np.array([0, 1]), {"a": 1}, print])
def test_arguments_that_a_file_could_not_hold(value):
    with pytest.raises(ValueError, match="must be real numbers"):
        mlff.Descriptor.wrap(functools.partial(with_arguments, kind=value))


def test_sums_and_products_are_written_with_plus_and_times():
    one, two, three = (mlff.LocalKernel(moments, radial) for radial in (mlff.RBF(), mlff.Matern52(), mlff.Matern72()))
    for written in (one + two + three, one + (two + three), sum((one, two, three))):
        assert written == mlff.SumKernel((one, two, three))
    for written in (one * two * three, one * (two * three)):
        assert written == mlff.ProductKernel((one, two, three))
    assert one * two + three == mlff.SumKernel((mlff.ProductKernel((one, two)), three))
    with pytest.raises(ValueError, match="expand a product of sums"):
        (one + two) * three
    with pytest.raises(ValueError, match="no amplitude of their own"):
        one.replace(amplitude=1.0) * two
    with pytest.raises(ValueError, match="factors of a product must be global kernels, or local kernels"):
        one * mlff.GlobalKernel(inverse_distances, mlff.RBF())
    for nonsense in (2.0, None, inverse_distances):
        with pytest.raises(TypeError, match="unsupported operand"):
            one + nonsense
        with pytest.raises(TypeError, match="unsupported operand"):
            nonsense * one
