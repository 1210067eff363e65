"""Hyperparameters by gradient: errors of frames left out against fits without them, gradients against differences."""

import functools
import subprocess
import sys

import ase.build
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from moments import moments

import mlff
from descriptors import fchl19, inverse_distances, powered_distances, soap
from descriptors.geometry import pair_distances
from mlff.quality.report import tuned_text
from mlff.regression import checkpoint
from mlff.regression.exact import IndefiniteMatrix
from mlff.regression.planning.plan import UNCOMPILED
from mlff.regression.requests import Request
from mlff.regression.tuning import drawing, task
from mlff.regression.tuning import tune as tuning
from mlff.regression.tuning.descent import REFINING, descend
from mlff.regression.tuning.drawing import drawn_frames
from mlff.regression.tuning.hyperparameters import named_arguments
from mlff.regression.tuning.problem import Problem
from mlff.regression.tuning.task import STARTS

COARSE = functools.partial(soap, cutoff=3.0, n_max=3, l_max=2)
LABELS = ("energy", "forces")


def cosines(positions, numbers, *, widths, shifts, elements):
    """A descriptor as a user may write one, with arguments in arrays and dictionaries, below zero and zero."""
    r = jnp.sqrt(jnp.sum((positions[:, None] - positions) ** 2, axis=-1) + jnp.eye(len(positions)))
    species = numbers[None, :, None] == jnp.asarray(elements, numbers.dtype)
    waves = jnp.cos(r[..., None] / widths + shifts["far"] + shifts["none"])
    return jnp.einsum("ijw,ijz->iwz", waves, species.astype(r.dtype) + jnp.zeros((len(r), 1, 1))).reshape(len(r), -1)


def flat(positions, *, width=3.0):
    """One distance of three."""
    return jnp.exp(-jnp.sum((positions[1] - positions[2]) ** 2, keepdims=True) / width)


def unlisted(positions, cell, *, cutoff):
    """Distances in a cell, of nearest images."""
    return jnp.exp(-pair_distances(positions, cell) / cutoff)


def models(data):
    group = mlff.find_permutations(data, reach="graph")
    assert len(group) == 2
    distances = mlff.GlobalKernel(inverse_distances, mlff.Matern52(), group)
    return {
        "sgdml": distances,
        "local": mlff.LocalKernel(fchl19, mlff.RationalQuadratic(lengthscale=3.0, alpha=2.0)),
        "sum": mlff.SumKernel((distances, mlff.LocalKernel(COARSE, mlff.RBF()))),
        "product": mlff.ProductKernel(
            (mlff.LocalKernel(COARSE, mlff.RBF()), mlff.LocalKernel(fchl19, mlff.Matern72()))
        ),
        "powers": mlff.GlobalKernel(functools.partial(powered_distances, power=-1.3), mlff.RBF(), group),
        "own": mlff.LocalKernel(
            functools.partial(cosines, widths=(1.5, 2.5), shifts={"far": -0.4, "none": 0.0}), mlff.RBF()
        ),
        "scales": mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=np.linspace(2.0, 3.0, 3))),
    }


@pytest.fixture(scope="module")
def crystal():
    """Eight atoms of silicon in a cell, with labels that some function of distances and chance made."""
    atoms = ase.build.bulk("Si", "diamond", a=5.4, cubic=True)
    frames, rng = [], np.random.default_rng(0)
    for _ in range(6):
        moved = atoms.copy()
        moved.positions += 0.1 * rng.standard_normal(moved.positions.shape)
        distances = moved.get_all_distances(mic=True)
        energy = float(np.sum(np.exp(-distances)))
        frames.append(
            mlff.Frame(mlff.System.from_ase(moved), {"energy": energy, "forces": rng.standard_normal((8, 3))})
        )
    return mlff.Dataset(frames)


def problem_of(name, water, noise=None, **stated):
    data = water[:7]
    request = Request.of(models(data)[name], data, LABELS, noise, None)
    return Problem.of(request, noise is None, **stated)


@pytest.mark.parametrize(
    ("name", "objective", "arguments"),
    [
        ("sgdml", "left-out", ()),
        ("local", "left-out", ()),
        ("sum", "folds", ()),
        ("product", "evidence", ()),
        ("scales", "left-out", ()),
        ("powers", "left-out", ("power",)),
        # no angle of water is almost straight
        pytest.param("local", "left-out", ("fchl19.[!l]*",), marks=pytest.mark.thorough),
        pytest.param("sum", "folds", ("soap.*",), marks=pytest.mark.thorough),
        ("sum", "evidence", ("sigma",)),
        pytest.param("product", "left-out", ("cutoff", "eta2"), marks=pytest.mark.thorough),
        ("own", "folds", ("*",)),
    ],
)
def test_gradients_are_those_of_differences(name, objective, arguments, water):
    problem = problem_of(name, water, objective=objective, arguments=arguments)
    model = problem.started(2.0, 0.7, 3e-2)
    numbers = model.hyperparameters(problem.sizes, problem.limits)
    assert len([h for h in numbers if h.kind == "argument"]) >= len(arguments)
    _, gradient = problem.with_gradient(model, numbers)
    assert np.abs(gradient).min() > 1e-6

    def value(step):
        moved = model.replaced(numbers, np.exp(step) * [h.start for h in numbers])
        return problem.assessed(moved)[0].value

    steps = 3e-4 * np.eye(len(numbers))
    # two differences together cancel the third derivative
    near, far = (np.array([(value(k * s) - value(-k * s)) / (k * 6e-4) for s in steps]) for k in (1, 2))
    np.testing.assert_allclose(gradient, (4 * near - far) / 3, rtol=1e-5, atol=5e-6 * np.abs(gradient).max())


@pytest.mark.parametrize(("name", "objective"), [("sgdml", "left-out"), ("sum", "folds"), ("sum", "evidence")])
def test_errors_left_out_are_those_of_fits_without_the_frames(name, objective, water):
    problem = problem_of(name, water, {"energy": 1e-3, "forces": 1e-2}, objective=objective)
    model = problem.started(2.0, None, 1.0)
    result, _ = problem.assessed(model)
    data, squares = water[:7], {"energy": [], "forces": []}
    folds = problem.folds or [[i] for i in range(len(data))]
    assert sorted(np.concatenate(folds)) == list(range(len(data)))
    for fold in folds:
        others = mlff.Dataset([data[k] for k in range(len(data)) if k not in fold])
        fitted = mlff.fit(model.kernel, others, LABELS, model.noise)
        for i in fold:
            energy, forces = fitted.energy_and_forces(data[int(i)].positions)
            squares["energy"].append((energy - data[int(i)].labels["energy"]) ** 2)
            squares["forces"].append(np.sum((forces - data[int(i)].labels["forces"]) ** 2))
    # a molecule of three atoms has three internal motions, of which rows are
    assert result.errors["energy"] == pytest.approx(np.sqrt(np.mean(squares["energy"])), rel=1e-8)
    assert result.errors["forces"] == pytest.approx(np.sqrt(np.mean(squares["forces"]) / 3), rel=1e-8)


@pytest.mark.parametrize("free", [True, False])
def test_evidence_is_the_density_of_what_constants_leave(free, water):
    """Of labels in an orthonormal basis without the constants' columns; with a scale of its own where noise is tuned."""
    problem = problem_of("sgdml", water, None if free else {"energy": 1e-3, "forces": 1e-2}, objective="evidence")
    model = problem.started(2.0, 0.7, 3e-2 if free else 1.0)
    found, system = problem.assessed(model)
    matrix = system.product(np.eye(len(system.labels)))
    rest = scipy.linalg.null_space(system.design.T)
    labels = rest.T @ system.labels
    covariance = rest.T @ matrix @ rest
    if free:
        covariance *= labels @ np.linalg.solve(covariance, labels) / len(labels)
    density = scipy.stats.multivariate_normal(cov=covariance, allow_singular=True).logpdf(labels)
    # how long the constants' column is, is not the labels' to say
    expected = -(density - 0.5 * np.log(np.sum(system.design**2))) / len(labels)
    assert system.design.shape[1] == 1
    assert found.value == pytest.approx(expected, rel=1e-8)


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
    least = Request.of(kernel, train, LABELS, None, None).noise
    plain, better = mlff.fit(kernel, train, LABELS, noise=least), mlff.fit(tuned, train, LABELS)
    before, after = (mlff.evaluate(each, test) for each in (plain, better))
    assert after.forces_mae < 0.8 * before.forces_mae
    found = mlff.fit(kernel, train, LABELS)  # its noise and length scale are looked for
    assert after.forces_mae < mlff.evaluate(found, test).forces_mae < 0.95 * before.forces_mae
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
    problem = Problem.of(request, False)
    result, _ = problem.assessed(problem.started(1.0, None, 1.0))
    assert result.scale == pytest.approx(1.0, rel=1e-6)


@pytest.mark.thorough  # two whole searches
@pytest.mark.parametrize("count", [8, 20])
def test_what_is_tuned_on_smooth_data_can_be_fitted(count, datasets):
    """Labels without noise want none, and less than rounding is not found."""
    water = mlff.Dataset.read(datasets / "water.extxyz")
    train, test = water.split(count, 60, seed=0)
    kernel, labels = mlff.recipe("sgdml+soap", train)
    tuned = mlff.tune(kernel, train, labels)
    assert mlff.evaluate(mlff.fit(tuned, train), test).forces_mae < 0.05


def test_a_cutoff_changes_no_shape_and_stops_where_nearest_images_are_not_all(crystal):
    """Neighbour lists are those of the largest cutoff from the beginning; without lists half of the cell is the limit."""
    listed = mlff.LocalKernel(functools.partial(soap, cutoff=3.0, n_max=3, l_max=2), mlff.RBF())
    problem = Problem.of(Request.of(listed, crystal, LABELS, None, None), True, arguments=("soap.cutoff",))
    ((place, largest),) = problem.limits.items()
    assert place == (0, "cutoff", None)
    assert problem.reach == largest == pytest.approx(4.5)
    model = problem.started(2.0, None, 5e-2)
    numbers = model.hyperparameters(problem.sizes, problem.limits)
    _, gradient = problem.with_gradient(model, numbers)

    def value(step):
        start = np.array([h.start * (np.exp(step) if h.kind == "argument" else 1.0) for h in numbers])
        return problem.assessed(model.replaced(numbers, start))[0].value

    at = [h.kind for h in numbers].index("argument")
    near, far = ((value(k * 3e-4) - value(-k * 3e-4)) / (k * 6e-4) for k in (1, 2))
    assert gradient[at] == pytest.approx((4 * near - far) / 3, rel=1e-5)
    nearest = mlff.GlobalKernel(functools.partial(unlisted, cutoff=1.8), mlff.RBF())
    problem = Problem.of(Request.of(nearest, crystal, "forces", None, None), True, arguments=("cutoff",))
    assert list(problem.limits.values()) == [pytest.approx(min(crystal[0].cell.diagonal()) / 2.0)]


@pytest.mark.thorough  # a whole search
def test_arguments_that_end_at_a_bound_are_named(water, caplog):
    kernel = mlff.GlobalKernel(functools.partial(powered_distances, power=-0.2), mlff.RBF())
    tuned = mlff.tune(kernel, water[:10], "forces", arguments=("power",))
    (power,) = [number for number in tuned.summary["hyperparameters"] if number["name"].startswith("power")]
    assert (power["from"], power["to"]) == (-0.2, tuned.kernel.descriptor.arguments["power"])
    assert -0.8 <= power["to"] <= -0.05
    assert power["at_bound"] == ("power of powered_distances ended at" in caplog.text)
    fitted = mlff.fit(tuned, water[:10])
    assert fitted.kernel.descriptor.arguments == tuned.kernel.descriptor.arguments


def test_an_argument_that_changes_nothing_is_named(water, caplog):
    """No angle of water is so straight that its sine is rounded."""
    tuned = mlff.tune(mlff.LocalKernel(fchl19, mlff.RBF()), water[:6], arguments=("linear_blend", "eta2"))
    assert "tune: linear_blend of fchl19 changes nothing where the search begins, and stays" in caplog.text
    assert "eta2 of fchl19 changes nothing" not in caplog.text
    (blend,) = [n for n in tuned.summary["hyperparameters"] if n["name"].startswith("linear_blend")]
    assert blend["from"] == blend["to"] == 0.25


def test_the_search_halves_its_step_before_a_singular_matrix(water, monkeypatch):
    """Beyond a length scale there is no matrix: steps there are halved, and the best model lies before it."""
    problem = problem_of("sgdml", water)
    whole, tried = Problem.with_gradient, []
    limit = problem.started(*STARTS[0]).kernel.radial.lengthscale * 1.05

    def guarded(self, model, hyperparameters):
        tried.append(np.log(model.kernel.radial.lengthscale))
        if model.kernel.radial.lengthscale > limit:
            raise np.linalg.LinAlgError("beyond")
        return whole(self, model, hyperparameters)

    monkeypatch.setattr(Problem, "with_gradient", guarded)
    best = descend(problem, STARTS[0], lambda evaluations: None)
    assert best.model.kernel.radial.lengthscale <= limit
    assert best.value < best.first.value
    beyond = next(k for k, value in enumerate(tried) if value > np.log(limit))
    assert tried[beyond + 1] - tried[beyond - 1] == pytest.approx((tried[beyond] - tried[beyond - 1]) / 2.0, rel=1e-2)


def test_a_start_without_a_matrix_is_given_more_noise(water, monkeypatch):
    problem = problem_of("sgdml", water)
    whole = Problem.with_gradient

    def guarded(self, model, hyperparameters):
        if model.noise["forces"] < 5e-3 * self.sizes["forces"]:
            raise np.linalg.LinAlgError("too little noise")
        return whole(self, model, hyperparameters)

    monkeypatch.setattr(Problem, "with_gradient", guarded)
    best = descend(problem, STARTS[1], lambda evaluations: None)
    assert best.start.noise["forces"] == pytest.approx(1e-2 * problem.sizes["forces"])
    assert best.value < best.first.value


def test_a_term_that_brings_nothing_can_be_dropped(water):
    """Twice the same kernel: either can go, and its amplitude is found to be the other's."""
    kernel = mlff.SumKernel(tuple(mlff.GlobalKernel(f, mlff.RBF()) for f in (inverse_distances, flat)))
    fitted = mlff.fit(mlff.tune(kernel, water[:30]), water[:30])
    said = fitted.record["tuned"]
    assert said["terms"] == ["inverse_distances", "flat"]
    assert said["can_be_dropped"] == ["flat"]
    first, second = said["errors_without"]
    assert first["forces"] > 3.0 * said["errors"]["forces"]
    assert second["forces"] < 1.01 * said["errors"]["forces"]
    assert "; term flat can be dropped: energy " in tuned_text(fitted.record)
    assert "inverse_distances can be dropped" not in tuned_text(fitted.record)


def test_each_number_of_an_argument_is_its_own_and_zero_is_none(water):
    kernel = models(water[:7])["own"]
    _, found = named_arguments(kernel, ("*",))
    assert found == [(0, "widths", 0), (0, "widths", 1), (0, "shifts.far", None)]
    _, found = named_arguments(kernel, "shifts.*")
    assert found == [(0, "shifts.far", None)]
    many = mlff.LocalKernel(functools.partial(cosines, widths=np.ones(500), shifts={"far": 0.1}), mlff.RBF())
    with pytest.raises(ValueError, match=r"cosines\.widths is an array of 500 numbers; at most 200 are tuned"):
        named_arguments(many, ("widths",))


def test_refusals_of_arguments(water, datasets):
    local = mlff.LocalKernel(COARSE, mlff.RBF())
    with pytest.raises(
        ValueError, match=r"arguments: 'width' names no real number .* there are soap.sigma, soap.cutoff"
    ):
        mlff.tune(local, water[:5], arguments=("width",))
    with pytest.raises(ValueError, match="objective='likelihood' is not known; choose from left-out, folds, evidence"):
        mlff.tune(local, water[:5], objective="likelihood")
    with pytest.raises(
        ValueError, match=r"arguments: those of descriptors.soap:soap are tuned by labels of first order"
    ):
        mlff.tune(
            local, mlff.Dataset.read(datasets / "ethanol_hessians.extxyz", index=":3"), "hessian", arguments=("sigma",)
        )


def test_refusals(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF())
    with pytest.raises(ValueError, match="2 frames are too few to leave one out"):
        mlff.tune(kernel, water[:2])
    tuned = mlff.tune(kernel, water[:5])
    with pytest.raises(ValueError, match="noise: what `tune` found"):
        mlff.fit(tuned, water[:5], LABELS, noise=0.1)
    with pytest.raises(ValueError, match="labels: forces were asked for, the model was tuned for energy and forces"):
        mlff.fit(tuned, water[:5], "forces")


def test_few_frames_lead_most_of_the_way(water, monkeypatch):
    """As near as the search on all of them, of which there are few evaluations then."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52())
    expected, whole, sizes = mlff.tune(kernel, water[:60]), Problem.with_gradient, []

    def counted(self, model, hyperparameters):
        sizes.append(len(self.features.observations))
        return whole(self, model, hyperparameters)

    monkeypatch.setattr(Problem, "with_gradient", counted)
    monkeypatch.setattr(task, "FEW_ROWS", 200)
    found = mlff.tune(kernel, water[:60])
    assert found.summary["frames"] == 60
    assert set(sizes) == {20, 60}
    assert sizes == sorted(sizes)
    assert sizes.count(60) <= REFINING + 12  # of a line search that is begun
    assert found.summary["evaluations"] == len(sizes)
    for name, error in expected.summary["errors"].items():
        assert found.summary["errors"][name] == pytest.approx(error, rel=0.05)
        assert found.summary["errors_before"][name] > error


@pytest.mark.thorough  # five searches
def test_less_noise_is_taken_for_more_frames_than_were_tuned_on(water, monkeypatch):
    """A tenth for five times the frames, or as much as leaves a matrix; as much as the labels have where they have it."""
    kernel = mlff.LocalKernel(COARSE, mlff.Matern72())
    monkeypatch.setattr(drawing, "MAX_ROWS", 200)

    def factors(found: mlff.Tuned) -> dict[str, float]:
        reached = {h["name"].removeprefix("noise of "): h["to"] for h in found.summary["hyperparameters"]}
        return {name: found.noise[name] / reached[name] for name in LABELS}

    found = mlff.tune(kernel, water[:100])
    assert found.summary["frames"] == 20
    own = found.summary["noise"]["energy"] > 0.5 * found.summary["errors"]["energy"]  # told by few frames
    assert factors(found) == pytest.approx({"energy": 1.0 if own else 0.1, "forces": 0.1})
    record = mlff.fit(found, water[:100]).record
    assert found.summary["noise"] == found.noise == record["noise"]
    assert f"; tuned on 20 frames, and fitted to all with noise of {'forces' if own else 'energy'} " in tuned_text(
        record
    )
    assert factors(mlff.tune(kernel, water[:20])) == pytest.approx({"energy": 1.0, "forces": 1.0})
    stated = {"energy": 1e-3, "forces": 1e-2}
    assert mlff.tune(kernel, water[:100], noise=stated).noise == stated

    forces = np.array([frame.labels["forces"] for frame in water[:100]])
    labels = forces + 0.03 * forces.std() * np.random.default_rng(0).standard_normal(forces.shape)
    pairs = zip(water[:100], labels, strict=True)
    noisy = mlff.Dataset([mlff.Frame(frame.system, {**frame.labels, "forces": forces}) for frame, forces in pairs])
    assert factors(mlff.tune(kernel, noisy))["forces"] == pytest.approx(1.0)

    refused = []

    def refusing(system):
        if len(refused) < 2:
            refused.append(system)
            raise IndefiniteMatrix("too little noise")

    monkeypatch.setattr(tuning, "factorise", refusing)
    assert factors(mlff.tune(kernel, water[:100]))["forces"] == pytest.approx(0.1**0.5)


def test_more_frames_without_a_matrix_are_searched_anew(water, monkeypatch):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF())
    whole, limit = Problem.with_gradient, []

    def guarded(self, model, hyperparameters):
        if len(self.features.observations) == 60 and model.noise["forces"] < 5e-3 * self.sizes["forces"]:
            limit.append(self.sizes["forces"])
            raise np.linalg.LinAlgError("too little noise")
        return whole(self, model, hyperparameters)

    told: list[float] = []
    monkeypatch.setattr(Problem, "with_gradient", guarded)
    monkeypatch.setattr(task, "FEW_ROWS", 200)
    found = mlff.tune(kernel, water[:60], progress=lambda stage, share: told.append(share) if stage == "tune" else None)
    assert limit
    assert found.summary["frames"] == 60
    assert told == sorted(told)
    assert found.summary["errors"]["forces"] < found.summary["errors_before"]["forces"]


@pytest.mark.thorough  # a search of few frames and its refinement, of arguments that other tests look at one by one
def test_arguments_are_refined_within_the_bounds_of_all_frames(water, monkeypatch):
    """A number of an array and one below zero are factors of what they began with."""
    kernel = models(water[:7])["own"]
    monkeypatch.setattr(task, "FEW_ROWS", 100)
    monkeypatch.setattr(task, "FEW_FRAMES", 8)
    found = mlff.tune(kernel, water[:24], arguments=("widths", "shifts.far"), objective="folds")
    assert found.summary["frames"] == 24
    numbers = {h["name"].partition(" ")[0]: h for h in found.summary["hyperparameters"]}
    values = found.kernel.leaves[0].descriptor.named_arguments
    assert numbers["widths[1]"]["to"] == pytest.approx(float(np.ravel(values["widths"])[1]))
    assert numbers["shifts.far"]["to"] == pytest.approx(float(values["shifts.far"]))
    assert numbers["shifts.far"]["to"] < 0.0
    assert found.summary["errors"]["forces"] < found.summary["errors_before"]["forces"]


def test_few_frames_have_every_label_and_element(datasets):
    """Though it is a few of the frames alone that have them."""
    water, ethanol = (mlff.Dataset.read(datasets / f"{name}.extxyz") for name in ("water", "ethanol"))
    frames = [mlff.Frame(f.system, {"forces": f.labels["forces"]}) for f in water[:38]]
    data = mlff.Dataset([*frames, *ethanol[:2], *water[100:102]])
    kernel = mlff.LocalKernel(moments, mlff.RBF())
    request = Request.of(kernel, data, LABELS, None, None, None, None)
    for seed in range(5):
        drawn = drawn_frames(request, 50, 4, seed)
        assert {38, 39, 40, 41} <= set(drawn.tolist())  # with energies, and with carbon
        assert len(drawn) < 20


def test_what_tuning_takes_is_bounded(water, monkeypatch):
    """Without room for products a step takes longer and ends in the same; without room for the matrix there are fewer frames."""
    kernel = models(water)["own"]
    request = Request.of(kernel, water, LABELS, None, None)
    taken = drawing.bytes_of_tuning(request, False)
    assert drawing.fitting_rows(request, 0, taken, False) == drawing.MAX_ROWS
    few = drawing.drawn_frames(request, drawing.fitting_rows(request, 0, taken // 4, False), 3, 0)
    less = drawing.bytes_of_tuning(drawing.part_of(request, few), False)
    assert len(few) < len(water)
    assert less <= taken // 4
    plenty, none = (Problem.of(drawing.part_of(request, few), True, room=room) for room in (1e12, 0.0))
    assert plenty.products[0] is not None
    assert none.products == [None]
    model = plenty.started(2.0, None, 1e-2)
    hyperparameters = model.hyperparameters(plenty.sizes, plenty.limits)
    (found, slope), (expected, other) = (each.with_gradient(model, hyperparameters) for each in (plenty, none))
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    np.testing.assert_allclose(slope, other, rtol=1e-6, atol=1e-9)
    asked = []
    monkeypatch.setattr(task, "room_of", lambda memory: taken // 4)
    monkeypatch.setattr(Problem, "of", lambda *of: asked.append(of) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mlff.tune(kernel, water)
    assert len(asked[0][0].frames) <= len(few)
    assert asked[0][-1] <= taken // 4 - less
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r"memory: to tune on \d+ frames, beside what the program takes, .* [MG]B are missing"
    ):
        mlff.tune(kernel, water, memory="1MB")


def test_a_plan_of_tuning(water, monkeypatch):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52())
    planned = mlff.plan_tuning(kernel, water[:12], memory="8GB")
    said = mlff.tune(kernel, water[:12]).summary
    assert (planned.method, planned.frames, planned.budget) == ("tune", said["frames"], 8_000_000_000)
    assert [stage.name for stage in planned.stages] == ["search"]
    assert planned.unknowns == 12 * (1 + 3)
    assert 0.0 < said["seconds"] < 3.0 * planned.seconds + 5.0  # a bound, but for how busy the machine is
    monkeypatch.setattr(task, "FEW_ROWS", 60)
    monkeypatch.setattr(task, "FEW_FRAMES", 8)
    monkeypatch.setattr(drawing, "MAX_ROWS", 200)
    monkeypatch.setattr(drawing, "OF_EACH", 1)
    planned = mlff.plan_tuning(kernel, water[:60])
    assert [stage.name for stage in planned.stages] == ["few frames", "refine"]
    assert planned.frames == mlff.tune(kernel, water[:60]).summary["frames"] < 60
    assert planned.reason == f"where no search ends early; {planned.frames} of 60 frames"
    with pytest.raises(ValueError, match="tune: 2 frames are too few to leave one out"):
        mlff.plan_tuning(kernel, water[:2])
    with pytest.raises(ValueError, match="no kernel matrix was positive definite"):
        mlff.plan_tuning(kernel, water[[0, 0, 1, 1, 2, 2]], noise={"energy": 1e-12, "forces": 1e-12})


HELD = """
import mlff, psutil
from mlff.quality.report import peak_memory_mb
from mlff.regression.requests import Request
from mlff.regression.tuning.drawing import bytes_of_tuning
from mlff.regression.tuning.problem import Problem

data = mlff.Dataset.read({data!r}, index=":{count}")
request = Request.of(mlff.recipe({recipe!r}, data)[0], data, ("energy", "forces"), None, None)
before, counted = psutil.Process().memory_info().rss / 1e6, bytes_of_tuning(request, bool({arguments})) / 1e6
problem = Problem.of(request, True, arguments={arguments}, room=0.0)
model = problem.started(2.0, None, 1e-2)
for _ in range(2):
    problem.with_gradient(model, model.hyperparameters(problem.sizes, problem.limits))
print(peak_memory_mb() - before, counted)
"""


@pytest.mark.thorough  # processes of their own
@pytest.mark.parametrize(("recipe", "count", "arguments"), [("sgdml", 150, ()), ("fchl19-gpr", 60, ("*",))])
def test_tuning_holds_what_was_counted(recipe, count, arguments, datasets):
    """Of all that grows with the frames, where products are not kept; compiled programs come to it."""
    program = HELD.format(data=str(datasets / "ethanol.extxyz"), recipe=recipe, count=count, arguments=arguments)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    held, counted = map(float, ended.stdout.split())
    assert held < counted + UNCOMPILED / 1e6
    assert held > counted / 4


@pytest.mark.parametrize(("kills", "few"), [(1, 1500), (4, 1500), (12, 1500), (4, 60), ("refined", 60)])
def test_tuning_goes_on(kills, few, water, tmp_path, monkeypatch):
    """From any evaluation, to the same numbers; nothing that was kept is evaluated anew."""
    monkeypatch.setattr(checkpoint, "WORTH", 0.0)
    monkeypatch.setattr(task, "FEW_ROWS", few)
    monkeypatch.setattr(task, "FEW_FRAMES", 4)
    monkeypatch.setattr(drawing, "OF_EACH", 1)
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52())
    expected = mlff.tune(kernel, water[:12])
    evaluate, done = Problem.with_gradient, []

    def dying(self, model, hyperparameters):
        last = sum(done[-2:]) == 24 if kills == "refined" else len(done) == kills  # twice evaluated on all frames
        if alive and last:
            raise KeyboardInterrupt
        done.append(len(self.features.observations))
        return evaluate(self, model, hyperparameters)

    alive = True
    monkeypatch.setattr(Problem, "with_gradient", dying)
    with pytest.raises(KeyboardInterrupt):
        mlff.tune(kernel, water[:12], checkpoint=tmp_path / "kept")
    alive = False
    found = mlff.tune(kernel, water[:12], checkpoint=tmp_path / "kept")
    assert len(done) == expected.summary["evaluations"]
    assert found.noise == expected.noise
    assert found.kernel.amplitude == expected.kernel.amplitude
    assert found.kernel.radial == expected.kernel.radial
    assert not (tmp_path / "kept").exists()
