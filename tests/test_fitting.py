"""The public fit: length scale found, group helps, conditions checked, record kept."""

import functools
import itertools

import numpy as np
import pytest

import mlff
from descriptors import acsf, inverse_distances, powered_distances
from mlff.regression.validation import FACTOR


@pytest.mark.thorough  # a sweep; that neighbours of what is found are worse is tested with the search
def test_finds_a_length_scale_as_good_as_the_best_of_a_grid(ethanol):
    train, test = ethanol.split(60, 100, seed=0)
    group = mlff.find_permutations(ethanol)
    found = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52(), group), train)
    tried = dict(found.record["lengthscales_tried"])
    as_good = [scale for scale, validation in tried.items() if validation <= 1.005 * min(tried.values())]
    assert found.kernel.radial.lengthscale == min(as_good)
    assert len(tried) >= 5
    error = mlff.evaluate(found, test).forces_mae
    grid = [
        mlff.evaluate(
            mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=ell), group), train), test
        )
        for ell in (0.3, 5.0, 10.0, 20.0, 200.0)
    ]
    assert error < 1.03 * min(evaluation.forces_mae for evaluation in grid)
    assert error < 0.9 * max(evaluation.forces_mae for evaluation in grid)


def test_permutations_help(ethanol):
    train, test = ethanol.split(40, 100, seed=0)
    errors = [
        mlff.evaluate(
            mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0), group), train), test
        )
        for group in (None, mlff.find_permutations(ethanol))
    ]
    assert errors[1].forces_mae < 0.75 * errors[0].forces_mae


@pytest.mark.thorough  # a sweep
def test_learning_curve_falls(ethanol):
    group = mlff.find_permutations(ethanol)
    _, test = ethanol.split(80, 100, seed=2)
    errors = []
    for count in (10, 20, 40, 80):
        train, _ = ethanol.split(80, 100, seed=2)
        force_field = mlff.fit(
            mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0), group), train[:count]
        )
        errors.append(mlff.evaluate(force_field, test).forces_mae)
    assert all(b < 0.85 * a for a, b in itertools.pairwise(errors)), errors


def test_record_says_how_it_came_to_be(ethanol_model, ethanol):
    record = ethanol_model.record
    assert record["n_train"] == 60
    assert set(record["indices"]) <= set(map(int, ethanol.indices))
    assert record["rows"] == 60 * 21
    assert record["unseen"] < 1e-8
    assert record["training"]["slope"] == pytest.approx(1.0, abs=0.02)
    assert record["versions"]["jax"][0].isdigit()
    assert len(record["data_hash"]) == 64


def test_energies_and_forces_together(ethanol):
    train, test = ethanol.split(40, 100, seed=0)
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0), mlff.find_permutations(ethanol))
    both = mlff.fit(kernel, train, labels=("energy", "forces"), noise={"energy": 1e-4, "forces": 1e-4})
    evaluation = mlff.evaluate(both, test)
    assert evaluation.energy_mae < 0.03
    assert evaluation.slope == pytest.approx(1.0, abs=0.1)
    assert both.record["training"]["energy_mae"] < 2e-3


def test_lengthscale_per_feature_must_respect_the_permutations(water):
    group = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
    unequal = mlff.Matern52(lengthscale=np.array([2.0, 3.0, 2.0]))
    with pytest.raises(ValueError, match="permutation sum is no kernel"):
        mlff.fit(mlff.GlobalKernel(inverse_distances, unequal, group), water[:10])
    orbits = mlff.Matern52(lengthscale=np.array([2.0, 2.0, 3.0]))  # both O–H alike, H–H another
    force_field = mlff.fit(mlff.GlobalKernel(inverse_distances, orbits, group), water[:20])
    assert mlff.evaluate(force_field, water[20:]).forces_mae < 0.05


def not_symmetric(positions):
    """Inverse distances, each feature with a weight of its own."""
    features = inverse_distances(positions)
    return features * np.arange(1.0, features.shape[0] + 1)


def test_descriptor_that_breaks_permutations_is_refused(water):
    group = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
    for radial in (mlff.Matern52(), mlff.Matern52(lengthscale=2.0)):
        with pytest.raises(ValueError, match="permutation sum is no kernel"):
            mlff.fit(mlff.GlobalKernel(not_symmetric, radial, group), water[:10])


def first_bond(positions):
    """A descriptor blind to everything but one bond."""
    return inverse_distances(positions)[:1]


def test_a_blind_descriptor_is_reported(water, caplog):
    with caplog.at_level("WARNING"):
        blind = mlff.fit(mlff.GlobalKernel(first_bond, mlff.Matern52(lengthscale=1.0)), water[:10])
    assert blind.record["rows"] == 10
    assert blind.record["unseen"] > 0.1
    assert "does not see" in caplog.text


def test_descriptor_with_arguments(water):
    descriptor = functools.partial(powered_distances, power=-2.0)
    force_field = mlff.fit(mlff.GlobalKernel(descriptor, mlff.Matern52(lengthscale=3.0)), water[:30])
    assert mlff.evaluate(force_field, water[30:]).forces_mae < 0.05


def test_one_frame_is_enough_to_fit(water):
    force_field = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0)), water[:1])
    np.testing.assert_allclose(force_field.forces(water[0].positions), water[0].labels["forces"], atol=1e-3)


def test_constant_comes_from_the_energies_or_stays_zero(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0))
    without = mlff.Dataset([mlff.Frame(f.system, {"forces": f.labels["forces"]}) for f in water[:20]])
    bare, full = mlff.fit(kernel, without), mlff.fit(kernel, water[:20])
    assert full.energy(water[0].positions) == pytest.approx(float(water[0].labels["energy"]), abs=0.02)
    assert bare.model.constants.tolist() == [0.0]
    np.testing.assert_allclose(bare.forces(water[30].positions), full.forces(water[30].positions), atol=1e-12)


def test_wrong_energies_are_noticed_after_the_fit(water, caplog):
    upside_down = mlff.Dataset([mlff.Frame(f.system, {**f.labels, "energy": -f.labels["energy"]}) for f in water[:20]])
    with caplog.at_level("WARNING"):
        mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0)), upside_down)
    assert "slope -" in caplog.text


def test_search_does_not_hide_what_is_wrong(water):
    def broken(positions):
        return inverse_distances(positions) + 0.0 * np.nan

    with pytest.raises(ValueError, match=r"not finite at training frame|is the same for all frames"):
        mlff.fit(mlff.GlobalKernel(broken, mlff.Matern52()), water[:20])


def test_falls_back_to_a_shorter_length_scale(water, monkeypatch):
    """The final fit of all frames fails at the length scale found: the next shorter one that was tried is taken."""
    from mlff.regression import fitting
    from mlff.regression.exact import IndefiniteMatrix
    from mlff.regression.solution import solve_system

    refused = []

    def reluctant(system, *rest):
        if not refused:
            refused.append(system.kernel.radial.lengthscale)
            raise IndefiniteMatrix("not positive definite")
        return solve_system(system, *rest)

    monkeypatch.setattr(fitting, "solve_system", reluctant)
    force_field = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52()), water[:40])
    tried = sorted(scale for scale, _ in force_field.record["lengthscales_tried"])
    assert force_field.kernel.radial.lengthscale == tried[tried.index(refused[0]) - 1]


def test_falls_back_below_the_shortest_that_was_tried(water, monkeypatch):
    """A few steps of the search further, where everything that it tried fails with all frames; not without end."""
    from mlff.potentials.expansion import Expansion
    from mlff.regression import fitting
    from mlff.regression.checkpoint import NOWHERE
    from mlff.regression.exact import IndefiniteMatrix
    from mlff.regression.planning.plan import plan_fit
    from mlff.regression.requests import Request
    from mlff.regression.solution import Solution
    from mlff.regression.validation import Search, Trial, with_lengthscales

    tried = []

    def reluctant(system, *_):
        tried.append(system.kernel.radial.lengthscale)
        if tried[-1] > limit:
            raise IndefiniteMatrix("not positive definite")
        return Solution(Expansion((), np.zeros(1)), (1.0,), system.shape[0], 0.0)

    monkeypatch.setattr(fitting, "solve_system", reluctant)
    request = Request.of(mlff.GlobalKernel(inverse_distances, mlff.Matern52()), water[:5], "forces", 1e-3, None)
    search = Search(with_lengthscales(request.kernel, [8.0]), [Trial(8.0, 0.1), Trial(4.0, 0.2)], None)
    planned, limit = plan_fit(request, measured=False), 2.5
    kernel, _ = fitting._solve_or_shorten(request, search, planned, 0, lambda *_: None, False, NOWHERE, None, None)
    assert kernel.radial.lengthscale == pytest.approx(2.0)
    assert tried == pytest.approx([8.0, 4.0, 4.0 / 2**0.5, 2.0])
    limit = 0.0
    with pytest.raises(IndefiniteMatrix):
        fitting._solve_or_shorten(request, search, planned, 0, lambda *_: None, False, NOWHERE, None, None)
    assert tried[-1] == pytest.approx(4.0 / FACTOR**fitting.SHORTENED)


def test_a_label_may_be_a_string(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0))
    assert mlff.fit(kernel, water[:5], labels="forces", noise=np.float32(1e-3)).record["labels"] == ["forces"]


def test_energies_of_a_model_without_a_constant_are_not_compared(water):
    bare = mlff.Dataset([mlff.Frame(f.system, {"forces": f.labels["forces"]}) for f in water[:20]])
    force_field = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0)), bare)
    evaluation = mlff.evaluate(force_field, water[30:])
    assert np.isnan(evaluation.energy_mae)
    assert evaluation.forces_mae < 0.05


def test_atomic_energies_want_energies(water):
    """Forces do not say how much energy the molecule has beside its atoms."""
    kernel = mlff.LocalKernel(functools.partial(acsf, g2=((4.0, 1.0),), g4=(), g5=()), mlff.RBF(lengthscale=2.0))
    with pytest.raises(ValueError, match=r"atomic_energies: the labels forces say nothing .* fit 'energy' too"):
        mlff.fit(kernel, water[:4], atomic_energies={"H": -13.0, "O": -70.0})
