"""Sparse models: against dense linear algebra, against the exact fit that is their limit, and as users fit, save and ask them."""

import functools

import ase.build
import numpy as np
import pytest
from alloys import alloy_frames, labelled
from moments import moments
from test_gram import WATER
from test_second_order import KINDS
from test_second_order import labelled as of_every_kind

import mlff
from descriptors import inverse_distances, soap
from mlff.data.batches import LabelledFrames
from mlff.operators import find_operator
from mlff.potentials.expansion import Expansion
from mlff.quality.report import sparse_text
from mlff.regression import checkpoint
from mlff.regression.solution import solve
from mlff.regression.sparse.cur import cur_points, leverage
from mlff.regression.sparse.fit import require_inducing
from mlff.regression.sparse.inducing import EnvironmentValues, FrameLabels, LabelRows
from mlff.regression.sparse.orthogonal import CONDITION, solve_orthogonally, solved
from mlff.regression.sparse.sums import SparseSystem
from mlff.regression.sparse.weights import errors_by_size, folds_of
from mlff.regression.sparse.whitening import Whitening
from mlff.regression.system.features import compute_features
from mlff.regression.system.kernel_blocks import kernel_between

ALL = ("energy", "forces", "stress")
NOISE = {"energy": 1e-2, "forces": 3e-2, "stress": 1e-2}
LOCAL = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
TWO = mlff.LocalKernel(functools.partial(moments, cutoff=3.4), mlff.Matern52(lengthscale=1.5))
KERNELS = {
    "one": LOCAL,
    "sum": mlff.SumKernel((LOCAL, TWO)),
    "product": mlff.ProductKernel((LOCAL, TWO)),
}


@pytest.fixture(scope="module")
def alloy() -> mlff.Dataset:
    return mlff.Dataset(alloy_frames(12), "alloy")


def completed(kernel, frames):
    return kernel.completed(np.concatenate(frames.compositions))


def operators(names):
    return {find_operator(name): 1.0 for name in names}


def gathered(inducing, frames, names):
    """All rows of the kernel between labels and functionals, the labels and columns of the constants, by kind."""
    found = {name: [] for name in names}
    for _, of_frame in inducing.rows(frames, operators(names)):
        for name, rows in of_frame.items():
            found[name].append(rows)
    return {name: [np.concatenate(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}


@pytest.mark.parametrize(
    "name", ["one", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("sum", "product"))]
)
def test_rows_of_environments_are_those_of_whole_jacobians(name, alloy):
    """Two ways to the same normal equations: through the neighbours of atoms, and through frames in descriptor space."""
    frames = LabelledFrames.of(alloy[:4])
    inducing = EnvironmentValues.choose(completed(KERNELS[name], frames), frames, 20, seed=1)
    assert inducing.alone
    through_frames = EnvironmentValues(inducing.kernel, inducing.points, inducing.same, False, inducing.whitening)
    ours, theirs = gathered(inducing, frames, ALL), gathered(through_frames, frames, ALL)
    for name in ALL:
        (one, y, h), (two, z, g) = ours[name], theirs[name]
        for a, b in ((one.T @ one, two.T @ two), (one.T @ y, two.T @ z), (one.T @ h, two.T @ g)):
            np.testing.assert_allclose(a, b, atol=1e-9 * max(1e-9, np.abs(b).max()))


def test_forces_and_stresses_are_derivatives_of_energies(alloy):
    """Rows of forces and stresses by central differences of the rows of energies."""
    frame = alloy[0]
    frames = LabelledFrames.of(alloy[:1])
    inducing = EnvironmentValues.choose(completed(LOCAL, frames), frames, 8, seed=0)
    rows, h = gathered(inducing, frames, ALL), 1e-5

    def energy(positions, cell):
        system = mlff.System(positions, frame.numbers, cell, np.ones(3, bool))
        moved = LabelledFrames.of(mlff.Dataset([mlff.Frame(system, {"energy": 0.0})]))
        return gathered(inducing, moved, ("energy",))["energy"][0][0]

    for i, a in ((0, 0), (3, 2)):
        step = h * np.eye(3 * len(frame.numbers))[3 * i + a].reshape(-1, 3)
        force = -(energy(frame.positions + step, frame.cell) - energy(frame.positions - step, frame.cell)) / (2 * h)
        np.testing.assert_allclose(rows["forces"][0][3 * i + a], force, atol=1e-7 * np.abs(rows["forces"][0]).max())
    volume = abs(np.linalg.det(frame.cell))
    for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        eps = np.zeros((3, 3))
        eps[a, b] += 0.5 * h
        eps[b, a] += 0.5 * h
        up, down = (
            energy(frame.positions @ (np.eye(3) + s * eps), frame.cell @ (np.eye(3) + s * eps)) for s in (1, -1)
        )
        weight = 1.0 if a == b else np.sqrt(2.0)
        found = weight * (up - down) / (2 * h * volume)
        np.testing.assert_allclose(rows["stress"][0][k], found, atol=1e-7 * np.abs(rows["stress"][0]).max())


def test_the_solution_is_that_of_the_normal_equations(alloy):
    """By a dense least-squares problem in which the prior is a row for every functional, solved by orthogonal matrices."""
    frames = LabelledFrames.of(alloy)
    inducing = EnvironmentValues.choose(completed(LOCAL, frames), frames, 25, seed=2)
    system = SparseSystem.of(inducing, inducing.kernel, frames, operators(ALL), folds_of(frames, 0))
    solution = system.solve(NOISE, np.array([4.0]))
    rows, m = gathered(inducing, frames, ALL), len(inducing.whitening)
    blocks, labels = [], []
    for name, (kernel, y, design) in rows.items():
        blocks.append(np.concatenate([inducing.whitening.whitened(kernel), design], axis=1) / NOISE[name])
        labels.append(y / NOISE[name])
    prior = np.concatenate([np.eye(m) / 2.0, np.zeros((m, 3))], axis=1)
    wanted = np.linalg.lstsq(np.concatenate([*blocks, prior]), np.concatenate([*labels, np.zeros(m)]), rcond=None)[0]
    np.testing.assert_allclose(solution.weights[:m], wanted[:m], atol=1e-7 * np.abs(wanted[:m]).max())
    model = solution.model(inducing.kernel)
    np.testing.assert_allclose(model.constants, wanted[m:], rtol=1e-7)
    force_field = mlff.ForceField(model, None, inducing.kernel)
    frame = alloy[3]
    energy, forces = force_field.energy_and_forces(frame.positions, frame.cell, None, frame.numbers)
    one = gathered(inducing, LabelledFrames.of(alloy[3:4]), ALL)
    weights = inducing.whitening.weights(wanted[:m])
    assert energy == pytest.approx(float((one["energy"][0] @ weights + one["energy"][2] @ wanted[m:])[0]), abs=1e-7)
    np.testing.assert_allclose(forces.ravel(), one["forces"][0] @ weights, atol=1e-7 * np.abs(forces).max())


@pytest.mark.parametrize(
    "given", [pytest.param(False, marks=pytest.mark.thorough), True], ids=["constants found", "constants given"]
)
def test_all_labels_as_functionals_are_the_exact_fit_of_crystals(given, alloy):
    constants = {"Cu": 0.1, "Ag": -0.2, "Au": 0.3} if given else None
    exact = mlff.fit(LOCAL, alloy, ALL, NOISE, atomic_energies=constants)
    sparse = mlff.fit(LOCAL, alloy, ALL, NOISE, atomic_energies=constants, inducing=range(len(alloy)))
    assert sparse.kernel.amplitude == pytest.approx(
        exact.kernel.amplitude, rel=0.3
    )  # traces of forces, or of all of them
    exact = mlff.fit(LOCAL.replace(amplitude=5.0), alloy, ALL, NOISE, atomic_energies=constants)
    sparse = mlff.fit(
        LOCAL.replace(amplitude=5.0), alloy, ALL, NOISE, atomic_energies=constants, inducing=range(len(alloy))
    )
    asked = alloy_frames(3, seed=7)
    for frame in asked:
        where = frame.positions, frame.cell, None, frame.numbers
        (e, f), (e0, f0) = sparse.energy_and_forces(*where), exact.energy_and_forces(*where)
        assert e == pytest.approx(e0, abs=1e-8 * abs(e0) + 1e-8)
        np.testing.assert_allclose(f, f0, atol=1e-8 * np.abs(f0).max())


@pytest.mark.parametrize("radial", [mlff.Matern52(lengthscale=3.0), mlff.RBF(lengthscale=3.0)], ids=["matern", "rbf"])
def test_all_labels_as_functionals_are_the_exact_fit_of_molecules(radial, water):
    group = mlff.find_permutations(water)
    kernel, noise = mlff.GlobalKernel(inverse_distances, radial, group, amplitude=3.0), {"energy": 1e-3, "forces": 1e-2}
    exact = mlff.fit(kernel, water[:15], tuple(noise), noise)
    sparse = mlff.fit(kernel, water[:15], tuple(noise), noise, inducing=range(15))
    x = np.stack([frame.positions for frame in water[20:30]])
    (e, f), (e0, f0) = sparse.energy_and_forces(x), exact.energy_and_forces(x)
    np.testing.assert_allclose(e - e0, 0.0, atol=1e-8 * np.abs(e0).max())
    np.testing.assert_allclose(f, f0, atol=1e-8 * np.abs(f0).max())


@pytest.mark.parametrize("name", ["one", pytest.param("product", marks=pytest.mark.thorough)])
def test_labels_of_second_order_enter_too(name, rng):
    """Values of environments against labels of every kind: what the model of each value says of these labels."""
    frames = of_every_kind([WATER, WATER + 0.1 * rng.standard_normal((3, 3))])
    noise = dict.fromkeys(map(find_operator, KINDS), 1.0)
    kernel = completed(KERNELS[name], frames)
    inducing = EnvironmentValues.choose(kernel, frames, 4, seed=0)
    rows = {name: found[0] for name, found in gathered(inducing, frames, KINDS).items()}
    (batch,) = frames.batches
    said = {name: [] for name in KINDS}
    for unit in np.eye(4):
        model = Expansion(inducing.expand(unit), np.zeros(2), kernel.elements, label_order=0)
        force_field = mlff.ForceField(model, None, kernel)
        for operator in noise:
            arguments = [tuple(batch.labels[name][i] for name in operator.arguments) for i in range(2)]
            values = [
                force_field.apply(operator, batch.positions[i], None, None, batch.numbers, arguments[i])
                for i in range(2)
            ]
            said[operator.name].append(np.concatenate([np.ravel(value) for value in values]))
    for name in KINDS:  # the labels stand in an orthonormal basis of those that the descriptors see
        wanted = np.array(said[name]) @ np.transpose(said[name])
        np.testing.assert_allclose(rows[name].T @ rows[name], wanted, atol=1e-9 * np.abs(wanted).max())


def test_sums_tell_the_errors_of_folds_that_are_left_out(alloy):
    """RMSE from sums alone, by a fit without the fold and its predictions."""
    frames = LabelledFrames.of(alloy)
    inducing = EnvironmentValues.choose(completed(LOCAL, frames), frames, 20, seed=0)
    folds = folds_of(frames, 0)
    assert np.ptp(np.bincount(list(folds.values()))) <= 1
    system = SparseSystem.of(inducing, inducing.kernel, frames, operators(ALL), folds)
    amplitudes, squares, counts = system.amplitudes, dict.fromkeys(ALL, 0.0), dict.fromkeys(ALL, 0)
    for fold in range(5):
        out = [i for i, k in folds.items() if k == fold]
        weights = system.solve(NOISE, amplitudes, without=fold).weights
        rows = gathered(inducing, frames.take(out), ALL)
        for name, (kernel, y, design) in rows.items():
            whitened = np.concatenate([inducing.whitening.whitened(kernel), design], axis=1)
            squares[name] += float(np.sum((whitened @ weights - y + design @ system.reference) ** 2))
            counts[name] += len(y)
    for name, error in system.errors(NOISE, amplitudes).items():
        assert error == pytest.approx(np.sqrt(squares[name] / counts[name]), rel=1e-6)


def test_fewer_functionals_are_the_beginning_of_more(alloy):
    frames = LabelledFrames.of(alloy)
    kernel = completed(LOCAL, frames)
    inducing = EnvironmentValues.choose(kernel, frames, 30, seed=0)
    system = SparseSystem.of(inducing, kernel, frames, operators(ALL), folds_of(frames, 0))
    table = dict(errors_by_size(system, NOISE, system.amplitudes))
    assert list(table) == [4, 8, 15, 30]
    few = inducing.whitening.order[:15]
    rows = gathered(inducing, frames, ALL)["forces"][0]
    gram = inducing.whitening.factor[:15, :15].T @ inducing.whitening.factor[:15, :15]
    small = Whitening.of(np.asfortranarray(gram)).whitened(rows[:, few])
    large = inducing.whitening.whitened(rows)[:, :15]
    np.testing.assert_allclose(large @ large.T, small @ small.T, atol=1e-8 * np.abs(large @ large.T).max())
    assert table[30]["forces"] < table[4]["forces"]


@pytest.mark.parametrize("inducing", [range(4), 30], ids=str)
def test_models_of_labels_of_some_frames_come_back_from_their_files(inducing, water, tmp_path):
    """The frame that a file is held against is one of these, not the lowest of all."""
    data = mlff.Dataset(sorted(water[:12], key=lambda frame: -frame.labels["energy"]))
    for kernel in (LOCAL, mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0))):
        fitted = mlff.fit(kernel, data, ("energy", "forces"), {"energy": 1e-3, "forces": 1e-2}, inducing=inducing)
        fitted.save(tmp_path / "few.mlff")
        again = mlff.load(tmp_path / "few.mlff", trusted=("moments",))
        assert again.energy(data[0].positions, numbers=data[0].numbers) == fitted.energy(
            data[0].positions, numbers=data[0].numbers
        )


def test_frames_are_added_without_the_others(alloy):
    frames = LabelledFrames.of(alloy)
    inducing = EnvironmentValues.choose(completed(LOCAL, frames), frames, 20, seed=0)
    build = functools.partial(
        SparseSystem.of, inducing, inducing.kernel, operators=operators(ALL), fold_of=dict.fromkeys(range(12), 0),
        atomic_energies={29: 0.0, 47: 0.0, 79: 0.0},
    )  # fmt: skip
    whole, parts = build(frames=frames), build(frames=frames.take(range(7))) + build(frames=frames.take(range(7, 12)))
    amplitudes = np.array([3.0])
    one, other = whole.solve(NOISE, amplitudes), parts.solve(NOISE, amplitudes)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-8 * np.abs(one.weights).max())
    assert parts.rows == whole.rows
    with pytest.raises(ValueError, match="the same inducing functionals"):
        whole + build(frames=frames, atomic_energies={29: 1.0, 47: 0.0, 79: 0.0})


def test_covariances_are_those_of_the_exact_fit_in_the_limit(alloy):
    frames, asked = LabelledFrames.of(alloy), LabelledFrames.of(mlff.Dataset(alloy_frames(1, seed=9)))
    noise = {find_operator(name): level for name, level in NOISE.items()}
    kernel = completed(LOCAL.replace(amplitude=5.0), frames)
    exact = solve(kernel, frames, noise, posterior=True).posterior.of_features(compute_features(kernel, asked, noise))
    inducing = FrameLabels.of(kernel, frames, noise)
    system = SparseSystem.of(inducing, kernel, frames, noise, dict.fromkeys(range(12), 0))
    factor = system.solve(NOISE, np.ones(1))
    features = compute_features(kernel, asked, noise)
    prior = kernel_between(features, features, [5.0])
    ((_, rows),) = inducing.rows(asked, noise)
    together = LabelRows(*(np.concatenate(column) for column in zip(*rows.values(), strict=True)))
    found = factor.covariance(together, prior)
    np.testing.assert_allclose(found, exact, atol=1e-7 * np.abs(prior).max())
    assert (np.diagonal(found) > 0).all()


def test_noise_is_found_and_an_alloy_with_a_rare_metal_is_fitted(tmp_path):
    """By users' means: no noise given, all three metals have points, the model is saved, loaded and beats half of its points."""
    train, test = mlff.Dataset(alloy_frames(30), "alloy"), mlff.Dataset(alloy_frames(10, seed=5), "others")
    kernel = mlff.LocalKernel(functools.partial(soap, cutoff=4.0, n_max=3, l_max=2, normalised=True), mlff.Polynomial())
    force_field = mlff.fit(kernel, train, ALL, inducing=120)
    said = force_field.record["inducing"]
    assert said["points"]["Ag"] >= 1
    assert sum(said["points"].values()) == 120 == said["functionals"] + said["dependent"]
    assert set(force_field.record["noise"]) == set(ALL)
    errors = mlff.evaluate(force_field, test)
    reference = np.concatenate([frame.labels["forces"].ravel() for frame in test])
    assert errors.forces_rmse < 0.3 * np.sqrt(np.mean(reference**2))
    assert errors.energy_mae_per_atom < 0.02
    table = said["held_out_rmse"]
    assert table[0][0] == 15
    assert table[-1][1]["forces"] < table[0][1]["forces"]
    force_field.save(tmp_path / "alloy.mlff")
    loaded = mlff.load(tmp_path / "alloy.mlff")
    assert all(channel.tangents is None for channel in loaded.model.parts[0].channels)
    assert loaded.record["inducing"]["points"] == said["points"]
    where = test[0].positions, test[0].cell, None, test[0].numbers
    np.testing.assert_array_equal(loaded.forces(*where), force_field.forces(*where))
    np.testing.assert_allclose(loaded.stress(*where), force_field.stress(*where), atol=1e-12)
    strange = labelled(ase.build.bulk("Pt", cubic=True))
    with pytest.raises(ValueError, match="Pt"):
        mlff.evaluate(force_field, mlff.Dataset([strange], "platinum"))


def test_environments_that_are_the_same_to_rounding_are_named(caplog):
    """Perfect crystals have one environment, however many points are asked for."""
    frames = [labelled(ase.build.bulk("Cu", a=a, cubic=True)) for a in (3.5, 3.6, 3.7, 3.8)]
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
    force_field = mlff.fit(kernel, mlff.Dataset(frames, "copper"), ("energy",), 1e-3, inducing=10)
    said = force_field.record["inducing"]
    assert said["points"] == {"Cu": 4}
    assert said["same"] == 12
    for frame in frames:
        energy = force_field.energy(frame.positions, frame.cell, None, frame.numbers)
        assert energy == pytest.approx(float(frame.labels["energy"]), abs=0.02)


def test_length_scales_are_found_with_few_points(alloy):
    force_field = mlff.fit(mlff.LocalKernel(moments, mlff.RBF()), alloy, ALL, inducing=20)
    tried = dict(force_field.record["lengthscales_tried"])
    assert len(tried) >= 3
    assert force_field.kernel.radial.lengthscale in tried
    assert tried[force_field.kernel.radial.lengthscale] <= 1.01 * min(tried.values())


def test_a_number_of_labels_spans_a_global_model(water):
    group = mlff.find_permutations(water)
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), group)
    train, test = water[:40], water[40:70]
    some = mlff.fit(kernel, train, ("energy", "forces"), inducing=100)
    assert some.record["inducing"]["kind"] == "labels of frames"
    assert len(some.record["inducing"]["frames"]) == 10
    exact = mlff.evaluate(mlff.fit(kernel, train, ("energy", "forces")), test)
    errors = mlff.evaluate(some, test)
    assert exact.forces_rmse < errors.forces_rmse < 20 * exact.forces_rmse


def test_draws_by_leverage_are_nested_and_of_every_species(alloy):
    """As often as their share of the span, the first as told, none twice; of a species with few dimensions few."""
    generator = np.random.default_rng(0)
    wide, flat = generator.standard_normal((60, 5)), np.zeros((200, 5))
    flat[:, 1] = generator.standard_normal(200)
    wide[10] = wide[3]
    np.testing.assert_allclose([leverage(wide).sum(), leverage(flat).sum()], [5.0, 1.0])
    np.testing.assert_allclose(leverage(wide), np.diagonal(wide @ np.linalg.pinv(wide)), atol=1e-12)
    draw = functools.partial(cur_points, [wide, np.zeros((0, 5)), flat], first=[3, None, 7])
    counts = np.zeros(2)
    for seed in range(50):
        few, more = (draw(count, generator=np.random.default_rng(seed)).places for count in (10, 20))
        assert [len(places) for places in more][1] == 0
        assert (more[0][0], more[2][0]) == (3, 7)
        for some, all_ in zip(few, more, strict=True):
            np.testing.assert_array_equal(some, all_[: len(some)])
        assert len(set(more[0])) == len(more[0])
        assert 10 not in more[0]
        counts += [len(more[0]) - 1, len(more[2]) - 1]
    assert counts[0] > 2.5 * counts[1]
    assert draw(20, generator=np.random.default_rng(1)).same == 1
    everything = draw(10**6, generator=np.random.default_rng(1)).places
    assert [len(places) for places in everything] == [59, 0, 200]


def test_points_drawn_by_leverage_span_a_model(alloy):
    fit = functools.partial(mlff.fit, LOCAL, alloy, ALL, NOISE, inducing=40)
    drawn, again, other, farthest = fit(selection="cur"), fit(selection="cur"), fit(selection="cur", seed=1), fit()
    assert (drawn.record["inducing"]["selection"], farthest.record["inducing"]["selection"]) == ("cur", "farthest")
    assert "drawn by leverage" in sparse_text(drawn.record)
    where = alloy[0].positions, alloy[0].cell, None, alloy[0].numbers
    np.testing.assert_array_equal(drawn.forces(*where), again.forces(*where))
    assert np.abs(drawn.forces(*where) - other.forces(*where)).max() > 1e-3
    assert drawn.record["training"]["forces_rmse"] < 2.0 * farthest.record["training"]["forces_rmse"]


@pytest.mark.parametrize("given", [True, False], ids=["given", "found"])
def test_orthogonal_matrices_give_the_solution_of_the_normal_equations(alloy, given):
    """Where these have their digits: weights, constants, and what error bars are made of."""
    frames = LabelledFrames.of(alloy)
    inducing = EnvironmentValues.choose(completed(LOCAL, frames), frames, 25, seed=2)
    atoms = {29: -1.0, 47: -2.0, 79: -3.0} if given else None
    asked = {find_operator(name): level for name, level in NOISE.items()}
    system = SparseSystem.of(inducing, inducing.kernel, frames, asked, dict.fromkeys(range(12), 0), atoms)
    normal = system.solve(NOISE, np.array([3.0]))
    stages = []
    known = system, frames, asked, NOISE, np.array([3.0]), lambda stage, share: stages.append(stage)
    found = solve_orthogonally(*known)
    assert stages.count("orthogonal") == len(frames)
    np.testing.assert_allclose(found.weights, normal.weights, atol=1e-9 * np.abs(normal.weights).max())
    np.testing.assert_allclose(found.factor[0], np.triu(normal.factor[0]), atol=1e-9 * np.abs(found.factor[0]).max())
    assert found.condition == pytest.approx(normal.condition, rel=1e-6)
    if not given:
        np.testing.assert_allclose(found.responses, normal.responses, atol=1e-9 * np.abs(normal.responses).max())
        np.testing.assert_allclose(found.normal, normal.normal, rtol=1e-7)
    np.testing.assert_array_equal(solved(*known).weights, normal.weights)
    assert stages.count("orthogonal") == len(frames)  # they have their digits: not again
    noisier, scaled = {name: 2.0 * level for name, level in NOISE.items()}, normal.scaled(4.0)
    again = system.solve(noisier, np.array([12.0]))
    for name in ("roots", "amplitudes", "weights", "responses", "normal"):
        if getattr(again, name) is not None:
            np.testing.assert_allclose(getattr(scaled, name), getattr(again, name), rtol=1e-8, atol=1e-10, err_msg=name)
    assert scaled.levels == again.levels


@pytest.mark.parametrize("level", [3e-6, 1e-7, 1e-9])
def test_noise_that_is_too_small_for_the_normal_equations(alloy, level):
    """Fewer energies than functionals, and next to no noise: interpolation, the solution of least norm in exact arithmetic."""
    force_field = mlff.fit(LOCAL.replace(amplitude=1.0), alloy, "energy", level, inducing=60)
    for frame in alloy:
        energy = force_field.energy(frame.positions, frame.cell, None, frame.numbers)
        assert energy == pytest.approx(float(frame.labels["energy"]), abs=1e-8)
    frames = LabelledFrames.of(alloy)
    inducing = EnvironmentValues.choose(completed(LOCAL, frames), frames, 60, seed=0)
    asked = {find_operator("energy"): level}
    system = SparseSystem.of(inducing, inducing.kernel, frames, asked, dict.fromkeys(range(12), 0))
    found = solved(system, frames, asked, {"energy": level}, np.ones(1), lambda stage, share: None)
    assert found.condition > CONDITION
    ((rows, labels, design),) = gathered(inducing, frames, ("energy",)).values()
    whitened, labels = inducing.whitening.whitened(rows), labels - design @ system.reference
    rest = np.eye(12) - design @ np.linalg.pinv(design)  # what constants leave
    exact = np.linalg.lstsq(rest @ whitened, rest @ labels, rcond=1e-10)[0]
    np.testing.assert_allclose(found.weights[:-3], exact, atol=1e-5 * np.abs(exact).max())


def test_error_bars_of_next_to_no_noise(alloy):
    """Frames that are left out are predicted by orthogonal matrices too."""
    force_field = mlff.fit(LOCAL.replace(amplitude=1.0), alloy, "energy", 1e-8, inducing=60, posterior=True)
    variance = force_field.posterior.covariance(find_operator("energy"), LabelledFrames.of(alloy).take([0]))
    assert 0.0 <= variance[0, 0] < 1e-3  # what the functionals do not span
    assert force_field.record["error_bars"]["energy"]["rmse"] > 1e-4


@pytest.mark.parametrize(
    ("inducing", "selection", "word"),
    [
        (20, "nearest", "must be 'farthest' or 'cur'"),
        (None, "cur", "leave selection"),
        ([0, 1], "cur", "local kernels"),
    ],
)
def test_a_selection_of_nothing_is_refused(alloy, inducing, selection, word):
    for call in (mlff.fit, mlff.plan):
        with pytest.raises(ValueError, match=rf"selection=.*{word}"):
            call(LOCAL, alloy, ALL, NOISE, inducing=inducing, selection=selection)


@pytest.mark.parametrize(
    ("inducing", "word"),
    [
        (0, "at least 1"),
        (-3, "at least 1"),
        (2.5, "whole number"),
        ("many", "whole number"),
        ([99], "0 to 11"),
        ([], "at least one"),
    ],
)
def test_what_is_no_number_of_functionals_is_refused(inducing, word):
    with pytest.raises(ValueError, match=rf"inducing.*{word}"):
        require_inducing(inducing, 12)


def test_more_functionals_than_memory_holds_are_refused(alloy, monkeypatch):
    monkeypatch.setattr("mlff.regression.sparse.sums.machine_memory", lambda: 2**15)
    with pytest.raises(ValueError, match=r"inducing=40: .* GiB, this machine has .*; take fewer"):
        mlff.fit(LOCAL, alloy, ALL, NOISE, inducing=40)


def test_features_that_are_of_another_length_are_refused_by_powers_of_products(alloy):
    with pytest.raises(ValueError, match=r"features of length .* normalised=True"):
        mlff.fit(mlff.LocalKernel(moments, mlff.Polynomial()), alloy, ALL, NOISE, inducing=10)
    with pytest.raises(ValueError, match="at least 1"):
        mlff.Polynomial(lengthscale=0.5)
    with pytest.raises(ValueError, match="whole number"):
        mlff.Polynomial(degree=0)


@pytest.mark.thorough
def test_forces_alone_know_energies_up_to_what_the_frames_say(alloy):
    """Without energies among the labels they fix the constants, as of exact models."""
    force_field = mlff.fit(LOCAL, alloy, ("forces",), 0.05, inducing=60)
    assert force_field.record["energy_constant"]
    errors = mlff.evaluate(force_field, mlff.Dataset(alloy_frames(5, seed=3), "others"))
    assert errors.energy_mae_per_atom < 0.1


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_labels_that_were_looked_at_are_kept(stop, alloy, tmp_path, monkeypatch):
    """A fit that was killed after some frames goes on behind them, to the same model."""

    def killed(stage: str, fraction: float) -> None:
        if stage == "labels" and fraction >= stop / len(alloy):
            looked.append(fraction)
            if len(looked) > 1:  # the first frames were written by then
                raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "SHARE", np.inf)
    fit = functools.partial(mlff.fit, LOCAL, alloy, ALL, NOISE, inducing=25)
    whole, looked = fit(), []
    with pytest.raises(KeyboardInterrupt):
        fit(progress=killed, checkpoint=tmp_path / "kept")
    shares = []
    resumed = fit(
        progress=lambda stage, share: stage == "labels" and shares.append(share), checkpoint=tmp_path / "kept"
    )
    assert len(shares) == 1 + len(alloy) - stop
    assert not (tmp_path / "kept").exists()
    np.testing.assert_allclose(
        resumed.model.parts[0].channels[0].values, whole.model.parts[0].channels[0].values, rtol=1e-8
    )


@pytest.mark.thorough  # five exact fits
def test_error_bars_look_at_all_of_a_few_frames_by_models_of_the_others(alloy):
    """Of stated noise and all labels as functionals, what is left out of one frame after another of a fold is what an exact fit without
    the fold says."""
    kernel, names = LOCAL.replace(amplitude=1.0), ("energy", "forces")
    noise, frames = {name: NOISE[name] for name in names}, LabelledFrames.of(alloy)
    found = mlff.fit(kernel, alloy, names, noise, inducing=range(12), posterior=True)
    assert found.record["error_bars"]["forces"]["count"] == sum(3 * len(frame.numbers) for frame in alloy)
    assert found.record["error_bars"]["energy"]["count"] == 11  # the only frame of four copper atoms tells a constant
    atoms = np.array([[np.sum(frame.numbers == z) for z in (29, 47, 79)] for frame in alloy])
    fold_of = folds_of(frames, 0)
    errors = []
    for fold in range(5):
        others, held = ([i for i in range(12) if (fold_of[i] == fold) == held] for held in (False, True))
        without = mlff.fit(kernel, alloy[others], names, noise)
        for i in held:
            if np.linalg.matrix_rank(atoms[[*others, i]]) > np.linalg.matrix_rank(atoms[others]):
                continue
            frame = alloy[i]
            energy = without.energy(frame.positions, frame.cell, frame.system.pbc, frame.numbers)
            errors.append(frame.labels["energy"] - energy)
    size = np.sqrt(np.mean(np.square(errors)))
    np.testing.assert_allclose(found.record["error_bars"]["energy"]["rmse"], size, rtol=1e-4)


def test_energies_that_no_others_tell_say_nothing_of_error_bars(alloy):
    """Silver of which one frame alone has an energy: its constant follows from no other."""
    names = ("energy", "forces")
    frames = [
        f if i not in (6, 9) else mlff.Frame(f.system, {"forces": f.labels["forces"]}) for i, f in enumerate(alloy)
    ]
    found = mlff.fit(LOCAL, mlff.Dataset(frames[1:]), names, {n: NOISE[n] for n in names}, inducing=15, posterior=True)
    assert found.record["error_bars"]["energy"]["count"] == 8
