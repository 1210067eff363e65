"""The search for a length scale."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from moments import mirrored

import mlff
from descriptors import exponential_distances, inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.kernels import jets
from mlff.regression import validation as hyperparameters
from mlff.regression.solution import solve
from mlff.regression.system import features
from mlff.regression.validation import FACTOR, Validation, data_scale, folds_of, search_lengthscale


@pytest.fixture
def frames(water):
    data = water[:60]
    return LabelledFrames.uniform(data.uniform_positions(), data.uniform_numbers(), {"forces": data.array("forces")})


KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52())


def test_neighbours_of_the_best_are_worse(frames):
    search = search_lengthscale(KERNEL, frames, {"forces": 1e-3}, seed=1)
    best = search.kernel.radial.lengthscale
    errors = {round(np.log(trial.lengthscale / best) / np.log(FACTOR)): trial.error for trial in search.trials}
    assert len(errors) == len(search.trials), "a length scale was tried twice"
    assert errors[0] == min(errors.values())
    assert errors[1] > errors[0] or errors[-1] > errors[0]
    assert {-1, 1} <= set(errors)


def test_scale_follows_the_descriptor(frames):
    scale = data_scale(KERNEL, frames)
    doubled = mlff.GlobalKernel(lambda positions: 2.0 * inverse_distances(positions), mlff.Matern52())
    assert data_scale(doubled, frames) == pytest.approx(2 * scale)
    one = search_lengthscale(KERNEL, frames, {"forces": 1e-3}).kernel
    two = search_lengthscale(doubled, frames, {"forces": 1e-3}).kernel
    assert two.radial.lengthscale == pytest.approx(2 * one.radial.lengthscale)


def test_a_constant_descriptor_is_named(frames):
    constant = mlff.GlobalKernel(lambda positions: 0.0 * inverse_distances(positions) + 1.0, mlff.Matern52())
    with pytest.raises(ValueError, match="is the same for all frames"):
        search_lengthscale(constant, frames, {"forces": 1e-3})


def test_small_sets_are_held_out_in_turn(frames):
    """Ten frames, two at a time, five times: every frame is predicted once, by a fit that has not seen it."""
    folds = folds_of(frames.take(np.arange(10)), "forces", 0)
    assert [len(fold.held_out) for fold in folds] == [2] * 5
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == list(range(10))
    for fold in folds:
        assert sorted([*fold.training, *fold.held_out]) == list(range(10))


def limited(longest: float, sizes: list):
    """A validation error for which matrices are positive definite up to a length scale only."""

    def error(validation, kernel, noisier=1.0):
        sizes.extend((len(fold.training), len(fold.held_out)) for fold in validation.folds)
        scale = kernel.radial.lengthscale
        return np.inf if scale > longest else noisier + abs(np.log(scale / (0.3 * longest)))

    return error


def test_singular_beginnings_lead_to_shorter_length_scales(frames, monkeypatch, caplog):
    """However far the first positive definite matrix is, the best length scale is found, and that is said."""
    start = hyperparameters.START * data_scale(KERNEL, frames)
    for factor in (2**-2.6, 2**-4.1):
        monkeypatch.setattr(Validation, "error", limited(start * factor, []))
        with caplog.at_level("WARNING"):
            search = search_lengthscale(KERNEL, frames, {"forces": 1e-9})
        assert search.kernel.radial.lengthscale == pytest.approx(0.3 * start * factor, rel=FACTOR**0.5)
        assert not np.isfinite(search.trials[0].error)
        assert "is positive definite, the search begins at" in caplog.text
    monkeypatch.setattr(Validation, "error", limited(start * 2**-6.5, []))
    with pytest.raises(
        ValueError, match=r"no kernel matrix from .* down to .* is positive definite with noise forces 1e-09"
    ):
        search_lengthscale(KERNEL, frames, {"forces": 1e-9})


def test_frames_without_the_validated_label_are_capped_too(water, monkeypatch):
    monkeypatch.setattr(hyperparameters, "MAX_FIT", 8)
    bare = [mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[20:60]]
    frames, sizes = LabelledFrames.of(mlff.Dataset([*water[:20], *bare])), []
    monkeypatch.setattr(Validation, "error", limited(1e9, sizes))
    search_lengthscale(KERNEL, frames, {"energy": 1e-3, "forces": 1e-3})
    assert set(sizes) == {(16, 4)}


def test_frames_without_the_validated_label_stay_in_training(water):
    """A few frames with forces among many with energies alone: every fold holds out some of the few."""
    bare = [mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[6:30]]
    data = mlff.Dataset([*bare[:12], *water[:6], *bare[12:]])
    force_field = mlff.fit(KERNEL, data, ("energy", "forces"), {"energy": 1e-4, "forces": 1e-3})
    assert len(force_field.record["lengthscales_tried"]) > 2
    with pytest.raises(ValueError, match="4 training frames with forces are too few"):
        mlff.fit(KERNEL, mlff.Dataset([*bare, *water[:4]]), ("energy", "forces"), {"energy": 1e-4, "forces": 1e-3})


# -- errors from kept features are those of force fields ------------------------------------------------------------------


def local(positions):
    """Two numbers an atom: how much is near it."""
    squares = jnp.sum((positions[:, None] - positions) ** 2, axis=-1)
    return jnp.stack([jnp.sum(jnp.exp(-decay * squares), axis=1) for decay in (0.3, 1.0)], axis=1)


SWAP = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
GLOBAL = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), SWAP)
PREDICTED = {
    "global": GLOBAL,
    "images computed anew": mlff.GlobalKernel(mirrored, mlff.RBF(lengthscale=3.0), SWAP),
    "local": mlff.LocalKernel(local, mlff.RBF(lengthscale=0.5)),
    "sum": mlff.SumKernel((GLOBAL, mlff.LocalKernel(local, mlff.RBF(lengthscale=0.5)))),
    "product": mlff.ProductKernel(
        (GLOBAL, mlff.GlobalKernel(exponential_distances, mlff.Matern72(lengthscale=1.5), SWAP))
    ),
}


def error_of_force_fields(kernel, frames, folds, name, noise) -> float:
    """Solve every fold and predict what is held out with the force field, from its positions."""
    mistakes = []
    for fold in folds:
        model = solve(kernel, frames.take(fold.training), noise).model
        squares = []
        for batch in frames.take(fold.held_out).having(name).batches:
            force_field = mlff.ForceField(model, batch.numbers, kernel)
            energies, forces = force_field.energy_and_forces(batch.positions)
            squares.append(((forces if name == "forces" else energies) - batch.labels[name]).ravel() ** 2)
        mistakes.append(np.mean(np.concatenate(squares)))
    return float(np.sqrt(np.mean(mistakes)))


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("global", ("forces",)), ("global", ("energy",)), ("global", ("energy", "forces")),
        ("images computed anew", ("energy", "forces")), ("local", ("energy", "forces")), ("sum", ("energy", "forces")),
        ("product", ("forces",)),
    ],
)  # fmt: skip
def test_errors_are_those_of_force_fields(name, labels, water, monkeypatch):
    """Without evaluating a descriptor, whether the folds share one matrix or each computes its own; labels that no descriptor
    can express (a net force, a torque) are missed wholly."""
    rng = np.random.default_rng(4)
    odd = [
        mlff.Frame(f.system, {**f.labels, "forces": f.labels["forces"] + 0.1 * rng.standard_normal((3, 3))})
        for f in water[:12]
    ]
    bare = [mlff.Frame(f.system, {"energy": f.labels["energy"]}) for f in water[70:73]] if len(labels) > 1 else []
    frames = LabelledFrames.of(mlff.Dataset([*odd, *bare]))
    kernel = PREDICTED[name].completed([8, 1, 1])
    noise = {label: 0.03 for label in labels}
    validated = "forces" if "forces" in labels else "energy"
    folds = folds_of(frames, validated, 0)
    assert len(folds) > 1
    validation = Validation.of(frames, folds, validated, noise, None, kernel)
    longer = kernel.with_leaves(
        [leaf.replace(radial=leaf.radial.replace(lengthscale=1.4 * leaf.radial.lengthscale)) for leaf in kernel.leaves]
    )
    wanted = error_of_force_fields(longer, frames, folds, validated, noise)
    monkeypatch.setattr(features, "jets", None)
    assert validation.error(longer) == pytest.approx(wanted, rel=1e-7)
    for memory in (4 * validation._matrix_bytes, 0):  # no room for inner products, for a matrix
        monkeypatch.setattr(hyperparameters, "machine_memory", lambda memory=memory: memory)
        crowded = dataclasses.replace(validation)
        assert crowded.scalable is None
        assert crowded.error(longer) == pytest.approx(wanted, rel=1e-7)


def test_errors_of_several_compositions(ethanol, water):
    data = mlff.Dataset([*water[:8], *ethanol[:6], *water[10:14]], "mixed")
    frames = LabelledFrames.of(data)
    kernel = mlff.LocalKernel(local, mlff.RBF(lengthscale=0.5)).completed(np.concatenate(frames.compositions))
    noise = {"energy": 0.1, "forces": 0.1}
    folds = folds_of(frames, "forces", 0)
    error = Validation.of(frames, folds, "forces", noise, None, kernel).error(kernel)
    assert error == pytest.approx(error_of_force_fields(kernel, frames, folds, "forces", noise), rel=1e-7)


def test_features_are_computed_once_for_search_and_fit(water, monkeypatch):
    """However many length scales are tried and folds are solved, every frame meets its descriptor's Jacobian once."""

    evaluated = []

    def counted(kernel, batch, coordinates=None):
        evaluated.append(len(batch))
        return jets.jets(kernel, batch, coordinates)

    monkeypatch.setattr(features, "jets", counted)
    force_field = mlff.fit(KERNEL, water[:30])
    assert len(force_field.record["lengthscales_tried"]) > 3
    assert evaluated == [30]
    scale = force_field.kernel.radial.lengthscale
    alone = mlff.fit(KERNEL.replace(radial=mlff.Matern52(lengthscale=scale)), water[:30])
    x = water[50].positions
    np.testing.assert_allclose(force_field.forces(x), alone.forces(x), atol=1e-8)


def test_features_of_a_part_of_the_frames_are_not_handed_on(frames, monkeypatch):
    monkeypatch.setattr(hyperparameters, "MAX_FIT", 20)
    monkeypatch.setattr(hyperparameters, "ENOUGH", 1)
    assert search_lengthscale(KERNEL, frames, {"forces": 1e-3}).features is None


def test_noise_that_nobody_stated_is_found_where_labels_have_some(water, rng):
    """Exact labels keep the least; of noisy ones frames held out tell, and the truth is met better."""
    kernel, size = mlff.GlobalKernel(inverse_distances, mlff.Matern52()), np.std([f.labels["forces"] for f in water])
    exact = mlff.fit(kernel, water[:60])
    assert exact.record["noise"]["forces"] < 4e-5 * size
    noisy = [
        mlff.Frame(f.system, {**f.labels, "forces": f.labels["forces"] + 0.05 * size * rng.standard_normal((3, 3))})
        for f in water[:60]
    ]
    noisy = mlff.Dataset(noisy)
    found = mlff.fit(kernel, noisy)
    assert 2e-3 * size < found.record["noise"]["forces"] < 0.5 * size
    stated = mlff.fit(kernel, noisy, noise=exact.record["noise"]["forces"])
    assert stated.record["noise"] == exact.record["noise"]
    assert mlff.evaluate(found, water[60:]).forces_mae < 0.9 * mlff.evaluate(stated, water[60:]).forces_mae


@pytest.mark.parametrize(("fitted", "noisier"), [(48, 100.0), (12, 10.0), (2, 1.0)])
def test_less_noise_is_taken_for_more_frames_than_were_looked_at(frames, monkeypatch, fitted, noisier):
    """Of sixty: where a hundred times the noise is best for 48 that, for 12 a tenth of it, for two a hundredth."""
    errors = {1.0: 1.0, 10.0: 0.9, 100.0: 0.8, 1000.0: 0.85}
    monkeypatch.setattr(hyperparameters.Validation, "error", lambda self, kernel, noisier=1.0: errors[noisier])
    monkeypatch.setattr(hyperparameters, "MAX_FIT", fitted)
    assert search_lengthscale(KERNEL, frames, {"forces": 1e-3}, free=True).noisier == noisier
