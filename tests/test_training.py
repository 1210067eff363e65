"""Training of a SchNet: what it minimises, what it keeps, and that it learns."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load, save

from descriptors.schnet import schnet_energy, schnet_features, schnet_parameters
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.neighbors import neighbor_lists
from mlff.kernels.descriptor import Descriptor
from mlff.potentials import training as learned
from mlff.potentials.training import ROUNDS, Settings, _examples, _in_ev, _squares, train_schnet

SIZES = {"features": 8, "interactions": 1, "radial": 8}
SHORT = {**SIZES, "steps": 2000, "batch": 5, "cutoff": 4.0, "learning_rate": 1e-2, "validation": 0.2}


@pytest.fixture(scope="module")
def frames(ethanol):
    return ethanol.split(40, 40, seed=2)


@pytest.fixture(scope="module")
def trained(frames):
    return train_schnet(frames[0], **SHORT)


@functools.partial(jax.jit, static_argnames="sizes")
def _predicted(parameters, positions, numbers, cutoff, sizes):
    def energy(x):
        return schnet_energy(x, numbers, parameters=parameters, cutoff=cutoff, **dict(sizes))

    return jax.vmap(jax.value_and_grad(energy))(positions)


def predicted(parameters, data, shift=0.0):
    """Energies and forces of the network at the (shifted) positions of the frames, in double precision."""
    with jax.enable_x64(True):
        positions, numbers = data.uniform_positions() + shift, data.uniform_numbers()
        energies, slopes = _predicted(parameters, positions, numbers, 4.0, tuple(SIZES.items()))
        return np.asarray(energies), -np.asarray(slopes)


def test_training_lowers_the_errors_of_frames_it_never_saw(frames, trained):
    test = frames[1]
    energies, forces = predicted(trained.keywords["parameters"], test)
    reference = test.array("forces")
    error = np.std(forces - reference)
    assert error < 0.4 * np.std(reference)
    assert error < 0.4 * np.std(predicted(schnet_parameters(0, **SIZES), test)[1] - reference)
    assert np.abs(energies - test.array("energy")).mean() < 0.7 * np.std(test.array("energy"))


def test_forces_are_those_of_the_energy(frames, trained):
    parameters, some, step = trained.keywords["parameters"], frames[1], 1e-5
    direction = np.random.default_rng(0).standard_normal((9, 3))
    ahead, behind = (predicted(parameters, some, shift * direction)[0] for shift in (step, -step))
    along = np.sum(predicted(parameters, some)[1] * direction, axis=(1, 2))
    np.testing.assert_allclose(along, (behind - ahead) / (2 * step), atol=1e-6 * np.abs(along).max())


def test_same_seed_same_result(frames, trained):
    again = train_schnet(frames[0], **SHORT)
    assert jax.tree.all(jax.tree.map(np.array_equal, again.keywords, trained.keywords))
    other = train_schnet(frames[0], **SHORT, seed=1)
    assert not np.allclose(
        other.keywords["parameters"]["readout"]["kernel"], trained.keywords["parameters"]["readout"]["kernel"]
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_frames_are_held_out_and_parameters_drawn_by_the_seed(frames, monkeypatch, seed):
    begun = []

    def record(parameters, training, test, *_):
        begun.append((training, test))
        return parameters

    monkeypatch.setattr(learned, "_optimise", record)
    drawn = train_schnet(frames[0], **SHORT, seed=seed).keywords["parameters"]["embedding"]["embedding"]
    np.testing.assert_allclose(drawn, schnet_parameters(seed, **SIZES)["embedding"]["embedding"], rtol=1e-6)
    order = np.random.default_rng(seed).permutation(40)
    for chosen, part in zip((order[8:], order[:8]), begun[0], strict=True):
        np.testing.assert_allclose(part.positions, frames[0].uniform_positions()[chosen], atol=1e-6)


def test_the_best_parameters_are_kept_and_progress_is_told(frames, caplog):
    stages = []
    with caplog.at_level(logging.INFO, logger="mlff.potentials.training"):
        kept = train_schnet(frames[0], **SHORT, progress=lambda stage, fraction: stages.append((stage, fraction)))
    steps, losses = zip(
        *[record.args[:2] for record in caplog.records if record.name == "mlff.potentials.training"], strict=True
    )
    assert steps == tuple(range(0, 2001, 20))
    assert stages == [("train", k / ROUNDS) for k in range(1, ROUNDS + 1)]
    assert len(losses) == ROUNDS + 1
    assert min(losses) < 0.2 * losses[0]
    assert losses[-1] > min(losses)  # else the last parameters would do
    held = frames[0][np.random.default_rng(0).permutation(40)[:8].tolist()]
    _, scale, _ = _examples(frames[0], 4.0, "float64")
    energies, forces = predicted(kept.keywords["parameters"], held)
    loss = np.mean((energies - held.array("energy")) ** 2) / 9 + np.mean((forces - held.array("forces")) ** 2)
    np.testing.assert_allclose(loss / scale**2, min(losses), rtol=1e-3)


def test_the_trained_features_are_a_descriptor(frames, trained):
    numbers, x = frames[1].uniform_numbers(), frames[1][0].positions
    described = Descriptor.wrap(trained)
    assert described.cutoff == 4.0
    assert set(described.arguments) == {"parameters", "cutoff"}
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(described.arguments["parameters"]))
    with jax.enable_x64(True):
        function = jax.jit(lambda x: described(x, jnp.asarray(numbers), None))
        properties.assert_invariant(function, x)
        swap = np.arange(9)
        one, other = np.flatnonzero(numbers == 1)[:2]
        swap[[one, other]] = other, one
        np.testing.assert_allclose(function(x[swap]), function(x)[swap], atol=1e-12)
        arrays = load(save(flatten_dict(trained.keywords["parameters"], sep=".")))
        stored = {**trained.keywords, "parameters": unflatten_dict(arrays, sep=".")}
        np.testing.assert_array_equal(schnet_features(x, numbers, **stored), trained(x, numbers))


def test_frames_of_any_composition_and_cell_are_compared_with_their_own_labels(ethanol, water):
    """Padding, neighbour lists, elements' shares and scale, against every frame on its own."""
    crystal = Frame(water[0].system.replace(cell=4.0 * np.eye(3), pbc=np.full(3, True)), water[0].labels)
    data = Dataset([ethanol[0], crystal, water[1]])
    parameters = schnet_parameters(1, **SIZES)
    network = {**SIZES, "cutoff": 3.0}
    examples, scale, shares = _examples(data, 3.0, "float64")
    np.testing.assert_allclose(scale, np.sqrt(np.mean(np.concatenate([f.labels["forces"].ravel() for f in data]) ** 2)))
    settings = Settings(tuple(network.items()), 1, 1.0, 1e-3, 100)
    in_ev, compared = _in_ev(parameters, scale, shares), jax.jit(_squares, static_argnames="settings")
    for index, frame in enumerate(data):
        system = frame.system
        lists = neighbor_lists(system.positions[None], system.cell[None], system.pbc[None], 3.0)
        own = {"cell": system.cell, "neighbors": jax.tree.map(lambda leaf: leaf[0], lists), **network}
        assert (lists.indices >= 0).sum() > 6 or frame is not crystal  # images too
        with jax.enable_x64(True):
            alone = functools.partial(schnet_energy, parameters=in_ev, numbers=system.numbers, **own)
            value = jax.jit(jax.value_and_grad(lambda x: alone(positions=x)))(system.positions)  # noqa: B023
            energy, slope = map(np.asarray, value)
            one = jax.tree.map(lambda leaf, i=index: jnp.asarray(leaf[i]), examples)
            squares = scale**2 * np.array(compared(parameters, one, settings))
        expected = (energy - frame.labels["energy"]) ** 2 / len(system), np.mean((slope + frame.labels["forces"]) ** 2)
        np.testing.assert_allclose(squares, expected, rtol=1e-8)


def test_double_precision_and_mixed_frames(ethanol, water):
    data = Dataset([*ethanol[:6], *water[:6]])
    found = train_schnet(data, **{**SHORT, "steps": 100}, precision="float64").keywords["parameters"]
    embedding, start = found["embedding"]["embedding"], schnet_parameters(0, **SIZES)["embedding"]["embedding"]
    assert not np.array_equal(embedding, embedding.astype(np.float32))
    assert np.all(np.any(embedding[[1, 6, 8]] != start[[1, 6, 8]], axis=1))
    np.testing.assert_array_equal(embedding[7], start[7])  # there is no nitrogen


def test_a_training_that_only_gets_worse(frames, monkeypatch):
    monkeypatch.setattr(learned, "_held_out", lambda *_: (np.nan, np.nan))
    with pytest.raises(ValueError, match="lower the rate"):
        train_schnet(frames[0], **SHORT)


def test_what_cannot_be_trained(frames, water):
    with pytest.raises(ValueError, match="must be at least 1"):
        train_schnet(frames[0], steps=0)
    with pytest.raises(ValueError, match="float32, float64"):
        train_schnet(frames[0], precision="half")
    with pytest.raises(ValueError, match="none is left to train on"):
        train_schnet(frames[0][:1])
    with pytest.raises(ValueError, match="not every frame has forces"):
        train_schnet(Dataset([Frame(frame.system, {"energy": 0.0}) for frame in water[:4]]))
