"""Conjugate gradients lead where Cholesky leads, with any preconditioner; sums of labels are those of the matrix."""

import itertools
import logging
import tracemalloc

import numpy as np
import pytest
from moments import moments
from test_gram import RADIALS, WATER
from test_linear_system import KERNELS, NOISE, system_of, whole
from test_second_order import KERNELS as SECOND_ORDER
from test_second_order import KINDS, crowding, labelled

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.kernels.radial import Product
from mlff.potentials.force_field import ForceField
from mlff.regression import iterative
from mlff.regression.exact import IndefiniteMatrix, factorise
from mlff.regression.iterative import NotConverged, Preconditioner, iterate
from mlff.regression.system import kernel_blocks, label_sums
from mlff.regression.system.coefficients import expand, find_weights
from mlff.regression.system.features import compute_features
from mlff.regression.system.gram import Side, block
from mlff.regression.system.linear_system import LinearSystem

LOCAL = mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5))
SEVERAL = {**KERNELS, "local": LOCAL}
DISTANCES = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=5.0))
EXACTLY = 1e-7  # of the noise


@pytest.fixture
def frames(water) -> LabelledFrames:
    """Molecules with energies and forces, and some with energies alone."""
    bare = [mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[20:24]]
    return LabelledFrames.of(mlff.Dataset([*water[:10], *bare]))


def residual(system, weights) -> np.ndarray:
    """Of the labels, by the dense matrix."""
    return system.labels - whole(system) @ weights.rows - (system.given is None) * system.design @ weights.constants


def root_mean_square(array) -> float:
    return float(np.sqrt(np.mean(array**2)))


def assert_as_exact(system, monkeypatch, ranks, tolerance=1e-6):
    """Weights and constants, that is energies and forces everywhere, of iterations that go on far below the noise."""
    monkeypatch.setattr(iterative, "SHARE", EXACTLY)
    exact = find_weights(system, factorise(system))
    for rank in ranks:
        weights, summary = iterate(system, rank)
        assert summary["rank"] <= rank
        np.testing.assert_allclose(weights.rows, exact.rows, atol=tolerance * np.abs(exact.rows).max())
        np.testing.assert_allclose(weights.constants, exact.constants, rtol=tolerance)


# -- the solution -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [("forces",), ("energy", "forces")], ids=" ".join)
@pytest.mark.parametrize("name", SEVERAL)
def test_solution_is_that_of_cholesky(name, labels, frames, monkeypatch):
    """Whatever the rank: more pivots than rows, too."""
    present = frames.having(labels[-1]) if len(labels) == 1 else frames
    system = system_of(SEVERAL[name], present, {label: NOISE[label] for label in labels})
    rows = system.shape[0]
    assert_as_exact(system, monkeypatch, (5, rows // 2, 2 * rows))


def test_energies_and_forces_of_new_frames_within_the_noise(frames, water):
    """As it is by default: a tenth of the noise."""
    kernel = KERNELS["global"].completed([8, 1, 1])
    system = system_of(kernel, frames)
    weights, _ = iterate(system, 20)
    one, two = (
        ForceField(expand(system, w), water[0].numbers, kernel)
        for w in (find_weights(system, factorise(system)), weights)
    )
    x = np.array([frame.positions for frame in water[30:50]])
    forces = root_mean_square(one.forces(x) - two.forces(x))
    assert 0 < forces < NOISE["forces"]
    assert root_mean_square(one.energy(x) - two.energy(x)) < NOISE["energy"]


def test_given_atomic_energies(frames, monkeypatch):
    """Constants are not looked for, nor is their space left out."""
    kernel = LOCAL.completed([8, 1, 1])
    energies = {1: -10.0, 8: float(frames.values("energy").mean()) + 20.3}
    system = LinearSystem.of(kernel, compute_features(kernel, frames, NOISE), NOISE, energies)
    assert_as_exact(system, monkeypatch, (5, 40))
    weights, _ = iterate(system, 40)
    assert sorted(weights.constants) == sorted(energies.values())
    assert np.abs(system.design.T @ weights.rows).max() > 1e-6 * np.abs(weights.rows).max()


def test_lone_atoms_and_other_compositions(frames, water, monkeypatch):
    """Lone atoms have an energy but no row of forces; with forces alone they have none, and draw no pivot."""
    first = water[0].system
    atoms = [
        mlff.Frame(first.replace(positions=first.positions[k : k + 1], numbers=first.numbers[k : k + 1]), labels)
        for k, labels in ((0, {"energy": -2000.0, "forces": np.zeros((1, 3))}), (1, {"forces": np.zeros((1, 3))}))
    ]
    mixed = LabelledFrames.of(mlff.Dataset([*water[:4], *atoms, *water[4:6]]))
    monkeypatch.setattr(kernel_blocks, "TILE_ROWS", 12)
    for noise in (NOISE, {"forces": 1e-2}):
        system = system_of(LOCAL, mixed, noise)
        assert (system.features.row_counts == 0).any()
        assert_as_exact(system, monkeypatch, (20, 100))


def test_crystals_with_stresses(rng, monkeypatch):
    cells = np.array([np.diag([4.0, 4.2, 4.5]) + 0.3 * rng.standard_normal((3, 3)) for _ in range(6)])
    x = np.array([[0.1, 0.2, 0.0], [1.6, 1.3, 1.4]]) + 0.1 * rng.standard_normal((6, 2, 3))
    labels = {
        "energy": rng.standard_normal(6), "forces": rng.standard_normal((6, 2, 3)),
        "stress": 0.1 * rng.standard_normal((6, 3, 3)),
    }  # fmt: skip
    crystals = LabelledFrames.uniform(x, np.array([14, 14]), labels, cells)
    kernel = mlff.LocalKernel(crowding, mlff.RBF(lengthscale=2.0))
    noise = {"energy": 1e-2, "forces": 5e-2, "stress": 1e-2}
    assert_as_exact(system_of(kernel, crystals, noise), monkeypatch, (4, 30), 1e-5)


@pytest.mark.parametrize("name", ["images computed anew", "local"])
def test_labels_of_second_order(name, rng, monkeypatch):
    system = system_of(
        SECOND_ORDER[name],
        labelled([WATER, *(WATER + 0.1 * rng.standard_normal((3, 3, 3)))]),
        dict.fromkeys(KINDS, 0.1),
    )
    assert system.features.observations[0].weights.any()
    assert_as_exact(system, monkeypatch, (6, 40))


def test_energies_far_from_zero_lose_no_digits(frames, monkeypatch):
    """All-electron energies: what frames have in common enters no iteration, and Cholesky subtracts it before."""
    batch = frames.batches[0]
    moved = LabelledFrames.uniform(
        batch.positions, batch.numbers, {**batch.labels, "energy": batch.labels["energy"] - 1e6}
    )
    near, far = (system_of(KERNELS["global"], f) for f in (LabelledFrames((batch,)), moved))
    assert_as_exact(far, monkeypatch, (10,), 1e-5)
    one, two = (find_weights(system, factorise(system)) for system in (near, far))
    np.testing.assert_allclose(two.rows, one.rows, atol=1e-5 * np.abs(one.rows).max())
    np.testing.assert_allclose(two.constants + 1e6, one.constants, atol=1e-5)


def test_residual_is_what_the_summary_says(frames):
    system = system_of(KERNELS["global"], frames)
    for rank in (0, 10, 60):
        weights, summary = iterate(system, rank)
        noise = np.sqrt(system.noise * system.scale)
        left = residual(system, weights) / noise
        # of constants nothing is left either; the residual is what the best ones do not explain
        assert root_mean_square(left) <= summary["residual_of_noise"] * (1 + 1e-4) <= iterative.SHARE
        np.testing.assert_allclose(system.design.T @ weights.rows, 0.0, atol=1e-9 * np.abs(weights.rows).max())


def test_the_same_bits_for_the_same_seed(frames):
    system = system_of(KERNELS["global"], frames)
    one, two, other = (iterate(system, 24, seed)[0] for seed in (3, 3, 4))
    assert (one.rows == two.rows).all()
    assert (one.constants == two.constants).all()
    assert (one.rows != other.rows).any()


def test_progress_does_not_go_back(frames):
    said = []
    iterate(system_of(KERNELS["global"], frames), 30, progress=lambda stage, fraction: said.append((stage, fraction)))
    assert [stage for stage, _ in itertools.groupby(said, lambda each: each[0])] == ["precondition", "iterate"]
    for _, of_stage in itertools.groupby(said, lambda each: each[0]):
        fractions = [fraction for _, fraction in of_stage]
        assert fractions[-1] == 1.0
        assert min(fractions) >= 0.0
        assert max(fractions) == 1.0


# -- where it ends ----------------------------------------------------------------------------------------------------------


def test_no_convergence_says_what_to_do(frames, monkeypatch):
    monkeypatch.setattr(iterative, "MOST", 3)
    with pytest.raises(
        NotConverged, match=r"after 3 iterations .* raise noise \(now energy 0.001, forces 0.01\), or give more"
    ):
        iterate(system_of(KERNELS["global"], frames), 3)


def test_without_noise(frames):
    """Labels that the kernel can say are met to seven digits."""
    system = system_of(KERNELS["global"], frames.having("forces"), {"forces": 0.0})
    weights, summary = iterate(system, 1000)
    assert root_mean_square(residual(system, weights)) < 1e-7 * root_mean_square(system.labels)
    assert summary["iterations"] < 30


def test_labels_that_follow_from_each_other(water, monkeypatch):
    """The same frames twice with other forces, and no noise: no function fits them."""
    twice = [mlff.Frame(f.system, {"forces": -f.labels["forces"]}) for f in water[:6]]
    system = system_of(KERNELS["global"], LabelledFrames.of(mlff.Dataset([*water[:6], *twice])), {"forces": 0.0})
    for stable in (iterative.STABLE, 0.0):  # noticed by an iteration, or by the preconditioner
        monkeypatch.setattr(iterative, "STABLE", stable)
        with pytest.raises(IndefiniteMatrix, match=r"not positive definite.*raise noise \(now forces 0\)"):
            iterate(system, 1000)


def test_curvature_below_rounding_is_none(frames, monkeypatch):
    """Where rounding cancels to the last bit it is positive, and nothing is told along it."""
    system = system_of(KERNELS["global"], frames, NOISE)
    least = 1e-33 * system.diagonal().sum()
    monkeypatch.setattr(LinearSystem, "product", lambda self, vectors: least * vectors)
    with pytest.raises(IndefiniteMatrix, match="not positive definite"):
        iterate(system, 10)


def test_what_double_precision_does_not_hold(frames, caplog, monkeypatch):
    """The residual carried on falls for ever; the one there is does not, and is what is told."""
    monkeypatch.setattr(iterative, "SHARE", 1e-13)
    system = system_of(KERNELS["global"], frames)
    with caplog.at_level(logging.INFO, logger=iterative.__name__):
        weights, summary = iterate(system, 1000)
    assert summary["residual_of_noise"] > 1e-13
    assert "double precision holds no more" in caplog.text
    assert root_mean_square(residual(system, weights) / np.sqrt(system.noise * system.scale)) < 1e-3


def test_nothing_to_learn(water):
    still = [mlff.Frame(f.system, {"forces": np.zeros((3, 3))}) for f in water[:4]]
    for noise in (0.0, 1e-2):
        weights, summary = iterate(
            system_of(KERNELS["global"], LabelledFrames.of(mlff.Dataset(still)), {"forces": noise}), 5
        )
        assert not weights.rows.any()
        assert summary["iterations"] == 0


# -- the preconditioner -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEVERAL)
def test_preconditioner_is_the_inverse_of_what_it_says(name, frames, rng, monkeypatch):
    """A Aᵀ is the kernel's projection: what it leaves is positive, and its diagonal is told."""
    monkeypatch.setattr(iterative, "PIVOTS", 20)
    monkeypatch.setattr(iterative, "TILE_ROWS", 32)
    system = system_of(SEVERAL[name], frames)
    kernel = whole(system) - np.diag(system.noise)
    size, vectors = np.trace(kernel), rng.standard_normal((len(kernel), 3))
    for rank in (0, 1, 17, 500):
        found = Preconditioner.of(system, rank)
        assert found.rows.shape[1] <= rank
        matrix = found.rows @ found.rows.T + np.diag(found.diagonal)
        np.testing.assert_allclose(matrix @ found(vectors), vectors, atol=1e-6)
        left = kernel - found.rows @ found.rows.T
        assert np.linalg.eigvalsh(left).min() > -1e-12 * size
        assert np.trace(left) == pytest.approx(found.left * system.noise.sum(), rel=1e-6, abs=1e-11 * size)


def test_all_frames_as_pivots_leave_nothing(frames, monkeypatch):
    monkeypatch.setattr(iterative, "ENOUGH", 0.0)
    system = system_of(KERNELS["global"], frames)
    found = Preconditioner.of(system, system.shape[0])
    np.testing.assert_allclose(
        found.rows @ found.rows.T + np.diag(found.diagonal), whole(system), atol=1e-11 * system.diagonal().max()
    )
    assert iterate(system, system.shape[0])[1]["iterations"] <= 2


def test_a_better_preconditioner_takes_fewer_iterations(frames):
    system = system_of(KERNELS["global"], frames)
    counts = [iterate(system, rank)[1]["iterations"] for rank in (0, 15, 40)]
    assert counts[0] > 1.5 * counts[1] > 2 * counts[2]


def test_frames_that_are_told_already_are_not_drawn(water, monkeypatch):
    """Copies of a frame: one of them says what all say."""
    monkeypatch.setattr(iterative, "PIVOTS", 3)
    system = system_of(KERNELS["global"], LabelledFrames.of(mlff.Dataset([water[0]] * 12)), {"forces": 0.0})
    found = Preconditioner.of(system, 1000)
    assert found.rows.shape[1] == 3
    assert found.left == np.inf


def test_no_copy_of_the_low_rank_factor(ethanol, monkeypatch):
    """8n(m + 2·PIVOTS) + 8m² bytes and some tiles; products with it take those of a vector."""
    monkeypatch.setattr(iterative, "PIVOTS", 128)
    for module in (iterative, kernel_blocks):
        monkeypatch.setattr(module, "TILE_ROWS", 256)
    system = system_of(DISTANCES, LabelledFrames.of(ethanol[:90]), {"forces": 1e-4})
    (n, _), m = system.shape, 640
    system.diagonal()
    tracemalloc.start()
    found = Preconditioner.of(system, m)
    _, peak = tracemalloc.get_traced_memory()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    found(np.ones((n, 1)))
    _, applied = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.rows.shape == (n, m)
    assert peak < 8 * (n * (m + 2 * 128) + m * m) + 1e6
    assert applied - held < 10 * 8 * n


# -- sums of labels ---------------------------------------------------------------------------------------------------------

PRODUCT = Product(factors=(RADIALS[2], RADIALS[4]))


def sides(rng, m: int, spread: float, with_values: bool) -> Side:
    """m frames of two environments in five features, with four labels."""
    values = rng.standard_normal((m, 2, 4)) if with_values else np.zeros((m, 2, 4))
    tangents = rng.standard_normal((m, 2, 4, 5))
    return Side(spread * rng.standard_normal((m, 2, 5)), values, tangents, np.zeros((m, 2, 0, 5)), np.zeros((m, 4, 0)))


@pytest.mark.parametrize("with_values", [False, True])
@pytest.mark.parametrize("radial", [*RADIALS, PRODUCT], ids=lambda r: type(r).__name__)
def test_sums_of_labels_are_those_of_the_matrix(radial, with_values, rng, monkeypatch):
    """Frames that coincide with columns among them, three sums at once, pieces that do not divide."""
    monkeypatch.setattr(label_sums, "_PIECE", 500)
    sizes = (2, 3) if radial is PRODUCT else (5,)
    rows, columns = sides(rng, 4, 2.0, with_values), sides(rng, 3, 2.0, with_values)
    rows.points[1], rows.points[2, 0] = columns.points[2], columns.points[0, 1]
    sums = rng.standard_normal((3, 4, 3))
    wanted = np.einsum("mrnq,nqv->mrv", block(radial, rows, columns, sizes), sums)
    found = label_sums.product_of_first_order(radial, rows, columns.summed(sums), sizes)
    np.testing.assert_allclose(found, wanted, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("radial", [RADIALS[0], RADIALS[2]], ids=lambda r: type(r).__name__)
def test_what_is_common_to_all_points_costs_no_digits(radial, rng):
    """Features of 10⁴ that differ by 1, and those of two clusters far from each other, close together in each."""
    rows, columns = sides(rng, 4, 1.0, True), sides(rng, 3, 1.0, True)
    rows.points[1] = columns.points[2]
    sums = rng.standard_normal((3, 4, 1))
    wanted = np.einsum("mrnq,nqv->mrv", block(radial, rows, columns, (5,)), sums)
    moved = (side._replace(points=side.points + 1e4) for side in (rows, columns.summed(sums)))
    found = label_sums.product_of_first_order(radial, *moved, (5,))
    np.testing.assert_allclose(found, wanted, atol=1e-11 * np.abs(wanted).max())

    far = np.array([-300.0, 300.0])[:, None]
    rows, columns = (side._replace(points=0.1 * side.points + far) for side in (rows, columns))
    wanted = np.einsum("mrnq,nqv->mrv", block(radial, rows, columns, (5,)), sums)
    found = label_sums.product_of_first_order(radial, rows, columns.summed(sums), (5,))
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(wanted).max())


def test_points_that_nearly_coincide_are_subtracted(rng, monkeypatch):
    """In pieces, however many they are."""
    monkeypatch.setattr(label_sums, "_PIECE", 100)
    points = 1.0 + 1e-9 * rng.standard_normal((7, 5))
    others = np.concatenate([points[:4], rng.standard_normal((2, 5))])
    wanted = np.sum((points[:, None] - others) ** 2, axis=2)
    np.testing.assert_allclose(label_sums._squares(points, others), wanted, rtol=1e-12)


@pytest.mark.thorough  # warm starts change how long it takes, not where it ends
def test_from_an_earlier_fit(water, monkeypatch):
    """Fewer iterations to the same model; of other frames' weights none are taken."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), amplitude=1.0)
    settings = {"noise": 1e-3, "method": "iterative"}
    monkeypatch.setattr(iterative, "ENOUGH", 1e3)  # a preconditioner that leaves something to do
    earlier = mlff.fit(kernel, water[:60], **settings)
    anew, further = mlff.fit(kernel, water[:64], **settings), mlff.fit(kernel, water[:64], start=earlier, noise=1e-3)
    counts = [each.record["iterations"]["iterations"] for each in (anew, further)]
    assert counts[1] < 0.9 * counts[0]
    again = mlff.fit(kernel, water[:60], start=earlier, **settings)
    assert again.record["iterations"]["iterations"] == 0
    x = water[80].system.positions
    np.testing.assert_allclose(further.forces(x), anew.forces(x), atol=2e-3)
    np.testing.assert_allclose(again.forces(x), earlier.forces(x), atol=1e-9)
    others = mlff.fit(kernel, water[70:90], start=earlier, **settings)
    np.testing.assert_array_equal(others.forces(x), mlff.fit(kernel, water[70:90], **settings).forces(x))


def test_what_nothing_begins_from(water, water_model):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0))
    with pytest.raises(ValueError, match=r"start=.* holds no weights; a force field that this process made"):
        mlff.fit(kernel, water[:5], start=water_model)
    begun = mlff.fit(kernel, water[:5], method="iterative", noise=1e-2)
    with pytest.raises(ValueError, match="start: a sparse fit iterates nothing"):
        mlff.fit(kernel, water[:5], start=begun, inducing=3)
    with pytest.raises(ValueError, match="start: method='exact' begins from nothing"):
        mlff.fit(kernel, water[:5], start=begun, method="exact")
