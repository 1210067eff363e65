"""Features in principal components: what is dropped, that the kernel of the rest is a kernel, and models of it as users have them."""

import functools

import numpy as np
import pytest
from alloys import alloy_frames
from ase import Atoms
from ase.calculators.emt import EMT
from moments import moments

import mlff
from descriptors import fchl19, inverse_distances, soap
from mlff.data.batches import LabelledFrames
from mlff.kernels.components import Components, Moments
from mlff.kernels.jets import feature_values
from mlff.precision import double_precision
from mlff.regression.sparse.inducing import EnvironmentValues

LOCAL = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
LABELS = ("energy", "forces", "stress")
NOISE = {"energy": 1e-2, "forces": 3e-2, "stress": 1e-2}


@pytest.fixture(scope="module")
def alloy() -> mlff.Dataset:
    return mlff.Dataset(alloy_frames(9), "alloy")


def test_no_more_is_dropped_than_was_said(rng):
    """Of every element, whose environments lie in spaces of 2 and 5 dimensions, the changes in those and one more, and a little
    beside; the mean is kept."""
    moments, features = [], []
    for dimensions in (2, 5):
        space = rng.standard_normal((dimensions + 1, 12))
        values = 1.0 + rng.standard_normal((200, dimensions)) @ space[:-1] + 1e-5 * rng.standard_normal((200, 12))
        changes = 0.1 * rng.standard_normal((200, dimensions + 1)) @ space + 1e-6 * rng.standard_normal((200, 12))
        moments.append(Moments(12))
        for few in (slice(0, 90), slice(90, 200)):
            moments[-1].add(values[few], (values + changes)[few])
        features.append((values - 0.0, changes * np.sqrt(np.sum((values - values.mean(0)) ** 2) / np.sum(changes**2))))
    found = Components.of(moments, 1e-6, normalised=False)
    assert found.bases.shape == (2, 12, 7)  # the mean of the larger one is a direction of its own
    for (values, changes), basis in zip(features, found.bases, strict=True):
        used = basis[:, np.any(basis != 0.0, axis=0)]
        np.testing.assert_allclose(used.T @ used, np.eye(used.shape[1]), atol=1e-12)
        variance = np.sum((values - values.mean(axis=0)) ** 2) + np.sum(changes**2)

        def missed(basis, both=(values, changes)):
            return sum(np.sum((array - array @ basis @ basis.T) ** 2) for array in both)

        assert missed(used) <= 1e-6 * variance < missed(used[:, :-1])


def test_distances_are_those_of_all_features_where_nothing_is_dropped(alloy):
    frames = LabelledFrames.of(alloy)
    kernel = LOCAL.completed(np.concatenate(frames.compositions))
    fewer = mlff.reduced(LOCAL, alloy, dropped=1e-13)
    for batch in frames.batches:
        (one,), (two,) = feature_values(kernel, batch), feature_values(fewer, batch)
        species = kernel.channels(batch.numbers)
        for channel in set(species):
            a, b = (array[:, species == channel].reshape(-1, array.shape[-1]) for array in (one, two))
            squares = [np.sum((x[:, None] - x[None]) ** 2, axis=-1) for x in (a, b)]
            np.testing.assert_allclose(squares[1], squares[0], atol=1e-9 * squares[0].max())


@pytest.mark.thorough
def test_the_finer_the_components_the_nearer_is_the_model(alloy):
    kernels = [mlff.reduced(LOCAL, alloy, dropped=dropped) for dropped in (1e-1, 1e-4, 1e-9)]
    sizes = [kernel.components.bases.shape[2] for kernel in kernels]
    assert sizes[0] < sizes[1] < sizes[2] <= 16
    whole, *fewer = (mlff.fit(kernel, alloy, LABELS, noise=NOISE) for kernel in (LOCAL, *kernels))
    for frame in alloy_frames(2, seed=5):
        where = (frame.positions, frame.cell, frame.system.pbc, frame.numbers)
        missed = [abs(force_field.energy(*where) - whole.energy(*where)) for force_field in fewer]
        assert missed[0] > missed[1] > 20.0 * missed[2]


def test_forces_in_components_are_derivatives_and_come_back_from_files(alloy, tmp_path):
    kernel = mlff.reduced(LOCAL, alloy, dropped=1e-4)
    force_field = mlff.fit(kernel, alloy, LABELS, noise=NOISE, inducing=30)
    frame, h = alloy[0], 1e-5
    where = (frame.cell, frame.system.pbc, frame.numbers)
    forces = force_field.forces(frame.positions, *where)
    for i, a in ((0, 0), (4, 2)):
        step = h * np.eye(24)[3 * i + a].reshape(8, 3)
        ends = [force_field.energy(frame.positions + sign * step, *where) for sign in (1, -1)]
        assert forces[i, a] == pytest.approx(-(ends[0] - ends[1]) / (2 * h), abs=1e-7)
    force_field.save(tmp_path / "reduced.mlff")
    again = mlff.load(tmp_path / "reduced.mlff", trusted=("moments",))
    np.testing.assert_array_equal(again.forces(frame.positions, *where), forces)
    assert again.kernel.components.bases.shape == kernel.components.bases.shape


def test_spectra_of_length_one_stay_so(alloy):
    """Powers of scalar products are a kernel of such features alone."""
    spectra = functools.partial(soap, cutoff=4.0, n_max=3, l_max=2, normalised=True)
    kernel = mlff.reduced(mlff.LocalKernel(spectra, mlff.Polynomial(lengthscale=1.0)), alloy, dropped=1e-3)
    frames = LabelledFrames.of(alloy)
    (features,) = feature_values(kernel, frames.batches[0])
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1.0, atol=1e-12)
    chosen = EnvironmentValues.choose(kernel, frames, 40, seed=0)
    assert len(chosen.whitening) == chosen.whitening.count == 40
    with pytest.raises(ValueError, match="divide them by their norm"):
        mlff.reduced(mlff.LocalKernel(moments, mlff.Polynomial(lengthscale=1.0)), alloy)


def test_terms_of_sums_have_components_of_their_own(alloy):
    both = mlff.SumKernel((LOCAL, mlff.LocalKernel(functools.partial(moments, cutoff=3.4), mlff.RBF(lengthscale=1.5))))
    kernel = mlff.reduced(both, alloy, dropped=1e-5)
    shapes = [leaf.components.bases.shape for leaf in kernel.leaves]
    assert all(elements == 3 and features == 16 > kept for elements, features, kept in shapes)


@pytest.mark.parametrize(
    ("kernel", "dropped", "message"),
    [
        (mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.0)), 1e-6, "no local term"),
        (LOCAL, 0.0, "between 0 and 1"),
        (LOCAL, float("nan"), "between 0 and 1"),
        (mlff.LocalKernel(moments, mlff.RBF(lengthscale=np.ones(16))), 1e-6, "a length scale for every feature"),
    ],
)
def test_what_cannot_be_reduced(kernel, dropped, message, alloy):
    with pytest.raises(ValueError, match=message):
        mlff.reduced(kernel, alloy, dropped)


def test_components_of_something_else_are_refused(alloy):
    kernel = mlff.reduced(LOCAL, alloy)
    with pytest.raises(ValueError, match="2 bases of components for elements"):
        kernel.replace(components=Components(kernel.components.bases[:2]))
    other = kernel.replace(descriptor=functools.partial(soap, cutoff=4.0, n_max=2, l_max=1))
    with pytest.raises(ValueError, match="components of 16 features were found, the descriptor has"):
        mlff.fit(other, alloy, LABELS, noise=NOISE)


def test_what_is_known_of_one_channel_is_what_masks_tell(water):
    """Of elements apart and of all atoms at once: the same features, and of a product too."""
    kernel = mlff.reduced(mlff.LocalKernel(soap, mlff.RBF(lengthscale=2.0)), water[:20], 1e-3)
    kernel = kernel * mlff.LocalKernel(fchl19, mlff.RBF(lengthscale=3.0)).completed(water[0].numbers)
    positions, numbers = water[0].positions, water[0].numbers
    places = [np.flatnonzero(numbers == z) for z in kernel.elements]
    whole = double_precision(kernel.features)(positions, numbers, None)
    apart = double_precision(kernel.channel_features)(places, positions, numbers, None)
    for atoms, own in zip(places, apart, strict=True):
        np.testing.assert_allclose(own, whole[atoms], rtol=1e-12, atol=1e-12 * np.abs(whole).max())


def test_elements_that_never_meet():
    """Room for atoms of other compositions shows atoms of which nothing is known along the other basis: they do not count."""
    rng, frames = np.random.default_rng(0), []
    for element in ("Cu", "Al"):
        for _ in range(6):
            atoms = Atoms(f"{element}4", 2.6 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]))
            atoms.rattle(0.1, rng=rng)
            atoms.calc = EMT()
            labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            frames.append(mlff.Frame(mlff.System.from_ase(atoms), labels))
    data = mlff.Dataset(frames)
    kernel = mlff.LocalKernel(functools.partial(soap, normalised=True), mlff.Polynomial(degree=4))
    model = mlff.fit(mlff.reduced(kernel, data), data, ("energy", "forces"), inducing=30)
    for frame in (data[0], data[6]):
        energy, forces = model.energy_and_forces(frame.positions, numbers=frame.numbers)
        assert energy == pytest.approx(frame.labels["energy"], abs=0.05)
        np.testing.assert_allclose(forces, frame.labels["forces"], atol=0.2)
        assert np.isfinite(model.hessian(frame.positions, numbers=frame.numbers)).all()
