"""What a fit keeps: posterior covariances from its factor, against textbook linear algebra with the whole matrix."""

import pickle

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from moments import moments
from test_gram import WATER, dense_matrix, frames_of

import mlff
from descriptors import inverse_distances
from mlff import archive
from mlff.data.batches import LabelledFrames
from mlff.data.system import System
from mlff.operators import ENERGY, FORCES, HESSIAN_PRODUCTS
from mlff.potentials.calibration import Calibration
from mlff.quality.reliability import ErrorBars, reliability_figure
from mlff.regression.solution import solve
from mlff.regression.system.features import compute_features
from mlff.regression.waves import WAVES, Drawn, random_functions, values_at

NUMBERS = np.array([8, 1, 1])
GROUP = mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1])
KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), GROUP, amplitude=7.0)


def parts_of(training, asked, noise):
    """C, k*, k** with amplitudes, and H and h*, from nested differentiation of the kernel's definition."""
    positions = np.concatenate([f.batches[0].positions for f in (training, asked)])
    observations = [compute_features(KERNEL, f, noise).observations for f in (training, asked)]
    rows = [frame.rows for part in observations for frame in part]
    kernel = 7.0 * dense_matrix(KERNEL, frames_of(positions), rows)
    n = sum(frame.size for frame in observations[0])
    levels = np.concatenate([frame.rows.noise for frame in observations[0]])
    values = np.concatenate([row.values for row in rows])[:, None]
    return kernel[:n, :n] + np.diag(levels**2), kernel[:n, n:], kernel[n:, n:], values[:n], values[n:]


@pytest.mark.parametrize("noise", [{"forces": 1e-2}, {"energy": 1e-3, "forces": 1e-2}], ids=["forces", "both"])
def test_covariances_match_dense_linear_algebra(noise, rng):
    training = frames_of(WATER + 0.1 * rng.standard_normal((5, 3, 3)))
    asked = frames_of(WATER + 0.1 * rng.standard_normal((2, 3, 3)))
    posterior = solve(KERNEL, training, noise, posterior=True).posterior
    found = posterior.of_features(compute_features(KERNEL, asked, noise))
    C, across, prior, H, h = parts_of(training, asked, noise)
    wanted = prior - across.T @ np.linalg.solve(C, across)
    if "energy" in noise:
        missing = h.T - H.T @ np.linalg.solve(C, across)
        wanted += missing.T @ np.linalg.solve(H.T @ np.linalg.solve(C, H), missing)
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(prior).max())
    assert np.all(np.diagonal(found) > 0)
    assert np.all(np.diagonal(found) < 0.9 * np.diagonal(prior))


def test_of_training_labels_little_more_than_the_noise_is_left(rng):
    frames = frames_of(WATER + 0.1 * rng.standard_normal((5, 3, 3)))
    posterior = solve(KERNEL, frames, {"forces": 1e-2}, posterior=True).posterior
    left = np.diagonal(posterior.of_features(posterior.system.features))
    assert np.all(left <= 1e-4 * (1 + 1e-6))
    assert np.all(left > 0)


def test_the_scale_of_an_amplitude_from_the_data_is_in_it(water):
    """Labels and noise times ten: covariances times a hundred."""
    kernel = KERNEL.replace(amplitude=None).completed([8, 1, 1])
    ten = mlff.Dataset([mlff.Frame(f.system, {"forces": 10 * f.labels["forces"]}) for f in water[:8]])
    asked = compute_features(kernel, LabelledFrames.of(water[20:22]), {"forces": 1.0})
    one, hundred = (
        solve(kernel, LabelledFrames.of(data), {"forces": level}, posterior=True).posterior.of_features(asked)
        for data, level in ((water[:8], 1e-2), (ten, 1e-1))
    )
    np.testing.assert_allclose(hundred, 100 * one, atol=1e-8 * np.abs(hundred).max())


def test_given_constants_are_known(water):
    """Energies of atoms that are given leave no doubt about the constants."""
    kernel = mlff.LocalKernel(lambda x: inverse_rows(x), mlff.RBF(lengthscale=2.0)).completed([8, 1, 1])
    frames, noise = LabelledFrames.of(water[:8]), {"energy": 1e-3, "forces": 1e-2}
    asked = compute_features(kernel, LabelledFrames.of(water[20:22]), noise)
    found = solve(kernel, frames, noise, posterior=True).posterior.of_features(asked)
    given = solve(kernel, frames, noise, {1: -13.0, 8: -2000.0}, posterior=True).posterior
    assert given.weights.responses is None
    known = given.of_features(asked) / given.system.scale
    relative = found / solve(kernel, frames, noise).amplitudes[0]
    assert np.linalg.eigvalsh(relative - known).min() > -1e-9 * np.abs(relative).max()
    assert np.trace(relative - known) > 0


def inverse_rows(positions):
    """Sums of inverse squares, two numbers an atom."""
    import jax.numpy as jnp

    squares = jnp.sum((positions[:, None] - positions + 1e3 * jnp.eye(len(positions))[..., None]) ** 2, axis=-1)
    return jnp.stack([jnp.sum(1.0 / squares, axis=1), jnp.sum(1.0 / (1.0 + squares), axis=1)], axis=1)


# -- asked of a force field ---------------------------------------------------------------------------------------------


LAPLACIAN = mlff.Operator("laplacian", lambda u, x: jnp.trace(jax.hessian(u)(x).reshape(x.size, x.size)), "eV/Å²")
ASKED = [ENERGY, FORCES, HESSIAN_PRODUCTS, LAPLACIAN]


@pytest.fixture(scope="module")
def fitted():
    """A force field of energies and forces with its posterior, and frames it has not seen."""
    rng = np.random.default_rng(11)
    frames = [labelled(WATER + 0.1 * rng.standard_normal((3, 3)), rng) for _ in range(9)]
    kernel = KERNEL.replace(radial=mlff.RBF(lengthscale=2.0))
    noise = {"energy": 1e-3, "forces": 1e-2}
    data = mlff.Dataset(frames[:5])
    return mlff.fit(kernel, data, ("energy", "forces"), noise, posterior=True), np.stack(
        [f.positions for f in frames[5:]]
    )


def labelled(positions, rng):
    labels = {"energy": float(rng.standard_normal()), "forces": rng.standard_normal((3, 3))}
    return mlff.Frame(mlff.System(positions, NUMBERS, np.zeros((3, 3)), np.zeros(3, bool)), labels)


@pytest.mark.parametrize(
    "operator",
    [pytest.param(op, marks=pytest.mark.thorough if op == HESSIAN_PRODUCTS else ()) for op in ASKED],
    ids=lambda operator: operator.name,
)
def test_every_operator_against_dense_linear_algebra(fitted, operator):
    """All answers, in their order, also those that no descriptor sees: net forces are known to be zero."""
    force_field, x = fitted
    arguments = (np.eye(9)[:2].reshape(2, 3, 3),) if operator == HESSIAN_PRODUCTS else ()
    found = force_field.replace(calibration=None).covariance(operator, x[:2], arguments=arguments)
    system = force_field.posterior.system
    rows = [frame.rows for frame in system.features.observations]
    training = system.features.frames
    C = 7.0 * dense_matrix(system.kernel, training, rows) + np.diag(np.concatenate([row.noise for row in rows]) ** 2)
    across, prior, h = asked_directly(system.kernel, training.batches[0].positions, rows, x[:2], operator, arguments)
    H = np.concatenate([row.values for row in rows])[:, None]
    missing = h.T - H.T @ np.linalg.solve(C, across)
    wanted = (
        prior
        - across.T @ np.linalg.solve(C, across)
        + missing.T @ np.linalg.solve(H.T @ np.linalg.solve(C, H), missing)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-8 * np.abs(wanted).max())
    stds = force_field.std(operator, x[0], arguments=arguments)
    assert np.shape(stds) == np.shape(force_field.apply(operator, x[0], arguments=arguments))
    if operator == FORCES:
        net = np.tile(np.eye(3), 3)
        np.testing.assert_allclose(net @ found[:9, :9] @ net.T, 0.0, atol=1e-12 * np.abs(prior).max())


def asked_directly(kernel, training, rows, x, operator, arguments):
    """k between training rows and answers, between answers, and answers of a constant: the operator applied to the kernel itself."""

    def k(one, two):
        systems = (System(z, NUMBERS, np.zeros((3, 3)), np.zeros(3, bool)) for z in (one, two))
        return 7.0 * kernel.evaluate(*systems)

    def answers(function, y):
        """Of a function with several values, those down and the answers across."""
        count = function(y).size
        of_one = [jnp.ravel(operator.function(lambda z, i=i: function(z)[i], y, *arguments)) for i in range(count)]
        return jnp.stack(of_one)

    with jax.enable_x64(True):

        @jax.jit
        def with_training(one, values, directions, y):
            return answers(lambda z: values * k(one, z) + directions @ jnp.ravel(jax.grad(k)(one, z)), y)

        pairs = list(zip(training, rows, strict=True))
        across = [[np.asarray(with_training(a, row.values, row.directions, y)) for y in x] for a, row in pairs]

        @jax.jit
        def between(one, two):
            return answers(lambda z: jnp.ravel(operator.function(lambda y: k(z, y), two, *arguments)), one).T

        prior = [[np.asarray(between(one, two)) for two in x] for one in x]
        constant = np.concatenate([answers(lambda z: jnp.ones(1) + 0.0 * jnp.sum(z), y)[0] for y in x])[:, None]
    return np.block(across), np.block(prior), constant


def test_samples_have_that_covariance(fitted):
    """Over 600 samples of s numbers the eigenvalues of whitened sample covariances lie within 1 ± (2√(s/600) + s/600), by far."""
    force_field, x = fitted
    asked, count = x[:2], 600
    covariance = force_field.covariance("energy", asked)
    members = force_field.posterior.members(count, 3)
    energies = np.array(
        [mlff.ForceField(member.scaled(force_field._factor), NUMBERS).energy(asked) for member in members]
    )
    root = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(root, energies.T)
    values = np.linalg.eigvalsh(whitened @ whitened.T / count)
    # kurtosis of a sum of 250 waves over the seeds of their strengths, which share the waves: a tenth more than normal
    assert np.all(np.abs(values - 1.0) < 0.35), values
    one = force_field.sample(4)
    np.testing.assert_allclose(one.forces(asked[0]), -gradient(one, asked[0]), atol=1e-4)


def gradient(force_field, x, step=1e-4):
    found = np.empty(x.size)
    for i, d in enumerate(np.eye(x.size)):
        ahead, behind = (force_field.energy(x + sign * step * d.reshape(x.shape)) for sign in (1, -1))
        found[i] = (ahead - behind) / (2 * step)
    return found.reshape(x.shape)


def test_leaving_a_frame_out_is_fitting_without_it():
    """Errors and standard deviations in closed form, of forces and energies, and of energies that were no labels."""
    rng = np.random.default_rng(5)
    frames = [labelled(WATER + 0.1 * rng.standard_normal((3, 3)), rng) for _ in range(6)]
    kernel = KERNEL.replace(radial=mlff.RBF(lengthscale=2.0))
    for labels, noise in ((("energy", "forces"), {"energy": 0.1, "forces": 0.1}), (("forces",), {"forces": 0.1})):
        whole = mlff.fit(kernel, mlff.Dataset(frames), labels, noise, posterior=True)
        found = whole.posterior.left_out(6, 0)
        rest = mlff.fit(kernel, mlff.Dataset(frames[1:]), labels, noise, posterior=True).replace(calibration=None)
        x, given = frames[0].positions, frames[0].labels["forces"]
        visible = np.linalg.pinv(seen_by_distances(x)) @ seen_by_distances(x)
        errors = visible @ (given - rest.forces(x)).ravel()
        np.testing.assert_allclose(found["forces"][1][:9], errors, atol=1e-8)
        np.testing.assert_allclose(found["forces"][0][:9], rest.std("forces", x).ravel(), rtol=1e-6)
        if labels == ("forces",):
            # the constant is of five frames there, of six here: errors are those without it
            spread = rest.std("energy", x)
            assert 0.5 * spread < found["energy"][0][0] < 2.0 * spread
        else:
            np.testing.assert_allclose(found["energy"][1][0], frames[0].labels["energy"] - rest.energy(x), atol=1e-8)
            np.testing.assert_allclose(found["energy"][0][0], rest.std("energy", x), rtol=1e-6)


def seen_by_distances(x):
    """The Jacobian of inverse distances, whose rows are what they see of forces."""
    with jax.enable_x64(True):
        return np.asarray(jax.jacfwd(inverse_distances)(jnp.asarray(x))).reshape(-1, x.size)


def test_model_files_hold_a_committee(fitted, tmp_path):
    force_field, x = fitted
    force_field.save(tmp_path / "m.mlff")
    read = mlff.load(tmp_path / "m.mlff")
    for ours, theirs in zip(force_field.energy_and_forces_std(x[0]), read.energy_and_forces_std(x[0]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    np.testing.assert_allclose(read.std("forces", x[0]), read.energy_and_forces_std(x[0])[1], rtol=1e-9)
    exact = force_field.std("forces", x)
    np.testing.assert_allclose(np.mean(read.std("forces", x) / exact), 1.0, atol=0.35)  # of 8 members, 1/√16 each
    assert read.sample(7).forces(x[0]).shape == (3, 3)
    with pytest.raises(ValueError, match="samples 0 to 7, received 8"):
        read.sample(8)
    atoms = ase.Atoms([8, 1, 1], x[0], calculator=mlff.Calculator(read))
    np.testing.assert_allclose(atoms.calc.get_property("forces_std", atoms), read.energy_and_forces_std(x[0])[1])
    assert atoms.calc.get_property("energy_std", atoms) == atoms.calc.get_property("energy_uncertainty", atoms)
    atoms.get_forces()
    assert "forces_std" in atoms.calc.results


def test_what_is_refused(fitted, water):
    force_field, x = fitted
    without = force_field.replace(posterior=None)
    for ask in (without.std, without.covariance):
        with pytest.raises(ValueError, match="fit it with posterior=True"):
            ask("energy", x[0])
    with pytest.raises(ValueError, match="fit it with posterior=True"):
        without.sample(0)
    with pytest.raises(ValueError, match="fit it with posterior=True"):
        mlff.reliability(without, water)
    for seed in (1.5, -1):
        with pytest.raises(ValueError, match="seed"):
            force_field.sample(seed)
    with pytest.raises(ValueError, match="takes hessian_product_vectors beside the geometry"):
        force_field.std("hessian_products", x[0])
    rough = mlff.fit(KERNEL.replace(radial=mlff.Matern32(lengthscale=2.0)), water[:5], noise=1e-2, posterior=True)
    with pytest.raises(ValueError, match="does not exist for Matérn-3/2"):
        rough.std("hessian", x[0])
    assert "forces_std" not in mlff.Calculator(without).implemented_properties


def test_error_bars_of_a_sum_are_those_of_its_terms(fitted):
    force_field, x = fitted
    twice = force_field + force_field
    both = force_field.covariance("forces", x[:2])
    np.testing.assert_allclose(twice.covariance("forces", x[:2]), 2.0 * both, atol=1e-12)
    known = force_field.replace(posterior=None, calibration=None) + force_field
    np.testing.assert_allclose(known.std("forces", x[0]), force_field.std("forces", x[0]))


def test_sparse_with_all_labels_is_the_exact_posterior(water):
    """Values, sum of kernels, constants: everything that is in the span has the exact covariance."""
    kernel = KERNEL.replace(radial=mlff.RBF(lengthscale=2.0))
    noise = {"energy": 1e-2, "forces": 1e-1}
    exact, sparse = (
        mlff.fit(kernel, water[:6], ("energy", "forces"), noise, inducing=inducing, posterior=True).replace(
            calibration=None
        )
        for inducing in (None, range(6))
    )
    x = np.stack([f.positions for f in water[20:22]])
    for operator in ("energy", "forces"):
        wanted = exact.covariance(operator, x)
        np.testing.assert_allclose(sparse.covariance(operator, x), wanted, atol=1e-7 * np.abs(wanted).max())


@pytest.mark.parametrize("radial", [mlff.RBF(lengthscale=1.5), mlff.Matern52(lengthscale=2.0)], ids=["RBF", "Matérn"])
def test_samples_of_sparse_models(radial, water):
    kernel = mlff.LocalKernel(moments, radial, amplitude=1.0)
    noise = {"energy": 1e-2, "forces": 1e-1}
    fit = mlff.fit(kernel, water[:8], ("energy", "forces"), noise, inducing=12, posterior=True).replace(
        calibration=None
    )
    x = np.stack([f.positions for f in water[20:23]])
    members = [member for seed in range(8) for member in fit.posterior.members(20, seed)]  # 8 sets of waves
    forces = np.stack([mlff.ForceField(member, NUMBERS).forces(x) for member in members])
    ratio = np.sqrt(np.mean(forces**2) / np.mean(fit.std("forces", x) ** 2))
    np.testing.assert_allclose(ratio, 1.0, atol=0.2)


def test_powers_are_drawn_too(rng):
    """The mean of products of random functions is the kernel (1 − 1/ℓ² + φ·φ′/ℓ²)^ζ."""
    radial = mlff.Polynomial(lengthscale=2.0, degree=2)
    part = mlff.LocalKernel(moments, radial, elements=(1,))
    functions = [f for _ in range(10) for f in random_functions([Drawn(part, 3.0, None, (4,))], rng, 400)]
    points = rng.standard_normal((3, 4))
    points /= np.linalg.norm(points, axis=1)[:, None]
    drawn = np.stack([values_at(function.parts[0].channels[0], points / 2.0) for function in functions])
    wanted = 3.0 * (1.0 - 0.25 + points @ points.T / 4.0) ** 2
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), wanted, atol=0.4)


def test_calibration_finds_what_errors_were_multiplied_by(rng):
    stds = np.exp(rng.uniform(-2, 2, 4000))
    calibration = Calibration.of({"forces": (stds, 3.0 * stds * rng.standard_normal(4000))})
    np.testing.assert_allclose(calibration.factor, 3.0, rtol=0.06)
    np.testing.assert_allclose(calibration.scaled("forces", stds) / stds, 3.0, rtol=0.2)
    np.testing.assert_allclose(calibration.scaled("energy", stds), calibration.factor * stds)


def test_what_chance_made_large_in_a_committee_is_calibrated(rng):
    """Where all labels are known equally well, what a committee says of them is chance alone."""
    calibration = Calibration.of({"forces": (np.ones(3000), 2.0 * rng.standard_normal(3000))}, members=8)
    said, errors = np.sqrt(rng.chisquare(8, 20_000) / 6), 2.0 * rng.standard_normal(20_000)
    bars = ErrorBars([calibration.scaled("forces", said, committee=True)], [errors])
    for found in bars.bins():
        assert 0.64 < found["within_one"] < 0.73
        assert 0.93 < found["within_two"] < 0.975
    uncorrected = ErrorBars([calibration.scaled("forces", said)], [errors]).bins()
    assert uncorrected[0]["within_one"] < 0.6 < 0.76 < uncorrected[-1]["within_one"]
    np.testing.assert_allclose(calibration.scaled("forces", 1.0), 2.0, rtol=0.06)


def test_labels_that_symmetry_fixes_calibrate_nothing(rng):
    stds = np.concatenate([np.full(500, 1e-9), np.ones(500)])
    errors = np.concatenate([np.full(500, 1e-12), 2.0 * rng.standard_normal(500)])
    calibration = Calibration.of({"forces": (stds, errors)})
    np.testing.assert_allclose(calibration.factor, 2.0, rtol=0.15)
    assert np.isfinite(calibration.tables["forces"]).all()
    told = calibration.summary({"forces": (stds, errors), "energy": (np.zeros(3), np.zeros(3))})
    assert told.keys() == {"factor", "forces"}
    assert told["forces"]["count"] == 500
    assert 0.63 < told["forces"]["within_one"] < 0.74
    with pytest.raises(ValueError, match="known beforehand"):
        Calibration.of({"forces": (np.zeros(3), np.zeros(3))})


def test_reliability_says_what_shares_lie_within(fitted, rng):
    force_field, x = fitted
    stds = force_field.energy_and_forces_std(x[0])[1]
    forces = force_field.forces(x[0]) + stds * np.where(np.arange(9).reshape(3, 3) < 5, 0.5, 1.5)
    frame = mlff.Frame(mlff.System(x[0], NUMBERS, np.zeros((3, 3)), np.zeros(3, bool)), {"forces": forces})
    found = mlff.reliability(force_field, mlff.Dataset([frame] * 4))
    summary = found.summary()["forces"]
    np.testing.assert_allclose((summary["within_one"], summary["within_two"]), (5 / 9, 1.0))
    assert "56 % of errors within σ and 100 % within 2σ" in str(found)
    assert mlff.calibrated(force_field, mlff.Dataset([frame] * 4)).calibration.factor > 0
    figure = reliability_figure(found)
    observed = figure.axes[1].lines[1].get_ydata()
    np.testing.assert_allclose(observed[[5, 20, 40]], [0.0, 5 / 9, 1.0])  # within σ/4, σ, 2σ


@pytest.mark.parametrize(
    ("place", "array", "message"),
    [
        (".terms[9].nothing", np.ones((8, 2)), "is of no array of the committee"),
        (".terms[0].parts[0].channels[0].strengths", np.ones((8, 7)), "or not of its shape"),
        (".terms[0].parts[0].channels[0].strengths", np.ones((2, WAVES)), "three members or more"),
    ],
)
def test_altered_committees_are_refused(fitted, tmp_path, place, array, message):
    force_field, _ = fitted
    committee = force_field.committee.replace(varying={place: array})
    force_field.replace(posterior=committee).save(tmp_path / "m.mlff")
    with pytest.raises(ValueError, match=message):
        mlff.load(tmp_path / "m.mlff")


def test_files_from_before_committees_had_tables_are_read(fitted, tmp_path):
    force_field, x = fitted
    force_field.save(tmp_path / "new.mlff")
    arrays, header = archive.read(tmp_path / "new.mlff", lambda header: None)
    del header["posterior_calibration"]["of_committee"]
    before = {name: array for name, array in arrays.items() if ".of_committee." not in name}
    archive.write(tmp_path / "old.mlff", {**header, "version": 5}, before)
    old, new = (mlff.load(tmp_path / name) for name in ("old.mlff", "new.mlff"))
    assert new.calibration.of_committee.keys() == {"energy", "forces"}
    assert old.calibration.of_committee is None
    as_it_was = new.replace(calibration=new.calibration.replace(of_committee=None))
    np.testing.assert_allclose(old.std("forces", x[0]), as_it_was.std("forces", x[0]), rtol=1e-9)
    np.testing.assert_allclose(new.std("forces", x[0]), new.energy_and_forces_std(x[0])[1], rtol=1e-9)


def test_energies_that_nobody_gave_are_not_known(water):
    bare = mlff.Dataset([mlff.Frame(f.system, {"forces": f.labels["forces"]}) for f in water[:10]])
    force_field, x = mlff.fit(KERNEL, bare, noise=1e-2, posterior=True), water[20].positions
    assert force_field.std("energy", x) == np.inf == force_field.energy_and_forces_std(x)[0]
    assert np.isfinite(force_field.std("forces", x)).all()
    assert set(mlff.reliability(force_field, water[20:30]).kinds) == {"forces"}


def test_constants_of_sparse_models_found_afterwards(water):
    """Samples explain the reference energies as the model does."""
    force_field = mlff.fit(KERNEL, water[:12], noise=1e-2, inducing=range(12), posterior=True)
    stds = [force_field.energy_and_forces_std(frame.positions)[0] for frame in water[20:26]]
    exact = mlff.fit(KERNEL, water[:12], noise=1e-2, posterior=True)
    wanted = [exact.energy_and_forces_std(frame.positions)[0] for frame in water[20:26]]
    assert 0.3 * np.mean(wanted) < np.mean(stds) < 3.0 * np.mean(wanted)


def test_a_baseline_is_known_and_training_frames_say_nothing(water):
    baseline = mlff.fit(KERNEL, water[:5], noise=1e-2, posterior=True)
    assert mlff.fit(KERNEL, water[5:12], noise=1e-2, baseline=baseline).posterior is None
    with pytest.raises(ValueError, match="were trained on"):
        mlff.reliability(baseline, water[:5])
    with pytest.raises(ValueError, match="there is no geometry"):
        baseline.std("forces", np.zeros((0, 3, 3)))


def test_error_bars_are_pickled(fitted):
    force_field, x = fitted
    before = force_field.energy_and_forces_std(x[0])
    again = pickle.loads(pickle.dumps(force_field)).energy_and_forces_std(x[0])
    np.testing.assert_allclose(again[1], before[1])
    assert len(repr(force_field.posterior)) < 500
