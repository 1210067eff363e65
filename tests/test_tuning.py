"""Hyperparameters by gradient: errors of frames left out against fits without them, gradients against differences."""

import functools

import numpy as np
import pytest

import mlff
from descriptors import fchl19, inverse_distances, soap
from mlff.regression.requests import Request
from mlff.regression.tuning import Problem

COARSE = functools.partial(soap, cutoff=3.0, n_max=3, l_max=2)
LABELS = ("energy", "forces")


def models(data):
    group = mlff.find_permutations(data)
    distances = mlff.GlobalKernel(inverse_distances, mlff.Matern52(), group)
    return {
        "sgdml": distances,
        "local": mlff.LocalKernel(fchl19, mlff.RationalQuadratic(lengthscale=3.0, alpha=2.0)),
        "sum": mlff.SumKernel((distances, mlff.LocalKernel(COARSE, mlff.RBF()))),
        "product": mlff.ProductKernel(
            (mlff.LocalKernel(COARSE, mlff.RBF()), mlff.LocalKernel(fchl19, mlff.Matern72()))
        ),
        "scales": mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=np.linspace(2.0, 3.0, 3))),
    }


def problem_of(name, water, noise=None):
    data = water[:7]
    request = Request.of(models(data)[name], data, LABELS, noise, None)
    return Problem.of(request, noise is None, lambda stage, fraction: None)


@pytest.mark.parametrize("name", ["sgdml", "local", "sum", "product", "scales"])
def test_gradients_are_those_of_differences(name, water):
    problem = problem_of(name, water)
    model = problem.started(2.0, 0.7, 3e-2)
    numbers = model.hyperparameters(problem.sizes)
    _, gradient = problem.objective(model, numbers)
    assert np.abs(gradient).min() > 1e-6

    def value(step):
        moved = model.replaced(numbers, np.exp(step) * [h.start for h in numbers])
        return problem.objective(moved, numbers)[0].objective

    steps = 3e-4 * np.eye(len(numbers))
    # two differences together cancel the third derivative
    near, far = (np.array([(value(k * s) - value(-k * s)) / (k * 6e-4) for s in steps]) for k in (1, 2))
    np.testing.assert_allclose(gradient, (4 * near - far) / 3, rtol=1e-5, atol=5e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("name", ["sgdml", "sum"])
def test_errors_left_out_are_those_of_fits_without_the_frame(name, water):
    problem = problem_of(name, water, {"energy": 1e-3, "forces": 1e-2})
    model = problem.started(2.0, None, 1.0)
    result, _ = problem.objective(model, [])
    data, squares = water[:7], {"energy": [], "forces": []}
    for i in range(len(data)):
        others = mlff.Dataset([data[k] for k in range(len(data)) if k != i])
        fitted = mlff.fit(model.kernel, others, LABELS, model.noise)
        energy, forces = fitted.energy_and_forces(data[i].positions)
        squares["energy"].append((energy - data[i].labels["energy"]) ** 2)
        squares["forces"].append(np.sum((forces - data[i].labels["forces"]) ** 2))
    # a molecule of three atoms has three internal motions, of which rows are
    assert result.errors["energy"] == pytest.approx(np.sqrt(np.mean(squares["energy"])), rel=1e-5)
    assert result.errors["forces"] == pytest.approx(np.sqrt(np.mean(squares["forces"]) / 3), rel=1e-5)


@pytest.mark.thorough
def test_tuned_hyperparameters_predict_better(ethanol):
    train, test = ethanol.split(25, 100, seed=1)
    kernel = mlff.SumKernel(
        (
            mlff.GlobalKernel(inverse_distances, mlff.RBF(), mlff.find_permutations(train)),
            mlff.LocalKernel(COARSE, mlff.RBF()),
        )
    )
    tuned = mlff.tune(kernel, train)
    plain, better = (mlff.fit(each, train, LABELS) for each in (kernel, tuned))
    before, after = (mlff.evaluate(each, test) for each in (plain, better))
    assert after.forces_mae < 0.8 * before.forces_mae
    assert after.energy_mae < 1.1 * before.energy_mae
    said = better.record["tuned"]
    assert said["errors"]["forces"] < said["errors_before"]["forces"]
    assert sum(said["shares"]) == pytest.approx(1.0)
    assert {number["name"] for number in said["hyperparameters"]} == {
        "amplitude of term 2", "lengthscale of inverse_distances", "lengthscale of soap", "noise of energy", "noise of forces",
    }  # fmt: skip
    assert better.record["noise"] == tuned.noise


def test_scale_of_variances_is_that_of_the_labels(water):
    """yᵀPy/(n − constants) is 1 of the model that is found."""
    tuned = mlff.tune(mlff.GlobalKernel(inverse_distances, mlff.RBF()), water[:10])
    request = Request.of(tuned.kernel, water[:10], LABELS, tuned.noise, None)
    problem = Problem.of(request, False, lambda stage, fraction: None)
    result, _ = problem.objective(problem.started(1.0, None, 1.0), [])
    assert result.scale == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("count", [8, 20])
def test_what_is_tuned_on_smooth_data_can_be_fitted(count, datasets):
    """Labels without noise want none, and less than rounding is not found."""
    water = mlff.Dataset.read(datasets / "water.extxyz")
    train, test = water.split(count, 60, seed=0)
    kernel, labels = mlff.recipe("sgdml+soap", train)
    tuned = mlff.tune(kernel, train, labels)
    assert mlff.evaluate(mlff.fit(tuned, train), test).forces_mae < 0.05


def test_refusals(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF())
    with pytest.raises(ValueError, match="2 frames are too few to leave one out"):
        mlff.tune(kernel, water[:2])
    tuned = mlff.tune(kernel, water[:5])
    with pytest.raises(ValueError, match="noise: what `tune` found"):
        mlff.fit(tuned, water[:5], LABELS, noise=0.1)
    with pytest.raises(ValueError, match="labels: forces were asked for, the model was tuned for energy and forces"):
        mlff.fit(tuned, water[:5], "forces")
