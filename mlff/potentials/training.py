"""Learned features: a SchNet trained on energies and forces, whose features of atoms are a descriptor for a kernel."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from descriptors.geometry import Neighbors
from descriptors.schnet import LAST_ELEMENT, schnet_energy, schnet_features, schnet_parameters
from mlff.arguments import checked_seed
from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.neighbors import neighbor_lists
from mlff.potentials.energy_function import EnergyFunction
from mlff.potentials.errors import compare
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import facts_of

logger = logging.getLogger(__name__)

ROUNDS = 100  # times that a training looks at the held-out frames
WARM_UP = 0.02  # share of the steps in which the learning rate rises
CLIP = 1.0  # largest norm of a gradient of the loss
PRECISIONS = ("float32", "float64")
DERIVATIVES = 3  # continuous ones, of the smooth cutoff


class Examples(NamedTuple):
    """Frames side by side, padded with atoms of number 0 that nobody sees; energies without the elements' shares.

    Energies and forces are divided by the scale of the forces, so that forces are dimensionless and energies lengths.
    """

    positions: Any
    numbers: Any
    cells: Any
    neighbors: Neighbors
    energies: Any
    forces: Any


class Settings(NamedTuple):
    """What a training is compiled for."""

    network: tuple[tuple[str, int | float], ...]
    batch: int
    force_weight: float
    learning_rate: float
    steps: int

    def optimiser(self) -> optax.GradientTransformation:
        """Adam; its rate rises for a fiftieth of the steps, then falls to nothing as a cosine."""
        warm_up = int(WARM_UP * self.steps)
        rate = optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warm_up, self.steps)
        return optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(rate))


def train_schnet(
    data: Dataset,
    *,
    features: int = 32,
    interactions: int = 2,
    radial: int = 16,
    cutoff: float = 5.0,
    steps: int = 20000,
    batch: int = 10,
    learning_rate: float = 5e-3,
    force_weight: float = 1.0,
    validation: float = 0.1,
    precision: str = "float32",
    seed: int = 0,
    progress: Callable[[str, float], None] = lambda stage, fraction: None,
) -> functools.partial:
    """Train a SchNet on energies and forces; its features of atoms are the descriptor that is returned.

        loss = ⟨ΔE²/n⟩ + w ⟨|ΔF|²/3n⟩,  means over frames of n atoms

    Energies and forces are divided by the root mean square of the force components, after the elements' shares of the
    energies (by least squares) were taken off. Adam, with a rate that falls as a cosine; the parameters kept are those
    of the smallest loss on held-out frames, examined 100 times and logged. They are the whole network's:
    `schnet_force_field(trained, data)` is the force field of the energy it learned. A Gaussian process on the
    features is deep kernel learning, in two stages. Of elements that the data lack it knows nothing.

    A kernel fitted to the same frames searches its length scale on frames that the network has seen, so the errors of
    that search are too small, and the length scale comes out long; features trained on other frames have neither fault.

    Arguments:
        data: frames with energies and forces, of any compositions and cells.
        features, interactions, radial, cutoff: the network, as in `schnet_features`; cutoff in Å.
        steps: of the optimiser, rounded up to a multiple of 100.
        batch: frames a step.
        learning_rate: the largest one.
        force_weight: w, 1/Å².
        validation: share of the frames that is held out, at least one frame.
        precision: "float32", or "float64" at three to four times the cost; the parameters returned are float64 arrays.
        seed: of parameters, held-out frames and batches; the same seed gives the same result on the same processor.
        progress: called with the name of the stage and the share of it that is done.
    Returns:
        `functools.partial(schnet_features, parameters=…, cutoff=…, …)`.
    Raises:
        ValueError: too few frames, a missing label, a size or precision that does not exist, a training that only got worse.
    Source: Schütt et al., J. Chem. Phys. 148, 241722 (2018), doi 10.1063/1.5019779; deep kernel learning: Wilson et al.,
        Proc. AISTATS (2016), arXiv 1511.02222.
    """
    sizes = {"features": features, "interactions": interactions, "radial": radial}
    for name, value in {**sizes, "steps": steps, "batch": batch}.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not known; choose from {', '.join(PRECISIONS)}")
    if missing := sorted({"energy", "forces"} - set(data.label_names)):
        raise ValueError(
            f"{data.source}: not every frame has {missing[0]}; take the frames that have energy and forces"
        )
    held = max(1, round(validation * len(data)))
    if held >= len(data):
        raise ValueError(
            f"{data.source}: {held} of {len(data)} frames would be held out, none is left to train on; give more frames, "
            "or a smaller validation share"
        )
    network = {**sizes, "cutoff": float(cutoff)}
    settings = Settings(
        network=tuple(network.items()),
        batch=min(batch, len(data) - held),
        force_weight=float(force_weight),
        learning_rate=float(learning_rate),
        steps=ROUNDS * -(-steps // ROUNDS),
    )
    examples, scale, shares = _examples(data, cutoff, precision)
    rng = np.random.default_rng(checked_seed(seed))
    order = rng.permutation(len(data))
    training, test = (jax.tree.map(lambda leaf, i=i: leaf[i], examples) for i in (order[held:], order[:held]))
    parameters = jax.tree.map(lambda leaf: leaf.astype(precision), schnet_parameters(seed, **sizes))
    with jax.enable_x64(precision == "float64"):
        parameters = _optimise(parameters, training, test, scale, settings, rng, progress)
    return functools.partial(schnet_features, parameters=_in_ev(parameters, scale, shares), **network)


def schnet_force_field(trained: functools.partial, data: Dataset) -> ForceField:
    """The energy that a SchNet learned with its features, as a force field.

        features = mlff.train_schnet(train)
        force_field = mlff.schnet_force_field(features, train)

    Its smooth cutoff gives it three continuous derivatives.

    Arguments:
        trained: what `train_schnet` returned.
        data: the frames that it was trained on, for the elements that it knows, the record and the errors in it.
    Returns:
        the force field, of any composition of the elements of the frames; where these are one molecule, made for that one.
    Raises:
        ValueError: something else than what `train_schnet` returns.
    """
    if not isinstance(trained, functools.partial) or trained.func is not schnet_features:
        raise ValueError(f"trained={trained!r:.60} must be what train_schnet returned")
    frames = LabelledFrames.of(data)
    elements = tuple(sorted({int(z) for numbers in frames.compositions for z in numbers}))
    energy = EnergyFunction(functools.partial(schnet_energy, **trained.keywords), elements, DERIVATIVES)
    record = {
        **facts_of(data, frames), "labels": ["energy", "forces"], "energy_constant": True,
    }  # fmt: skip
    fitted = ForceField(energy, frames.numbers, None, record)
    return fitted.replace(record={**record, "training": compare(fitted, data).summary()})


def _optimise(parameters, training: Examples, test: Examples, scale: float, settings: Settings, rng, progress):
    """The parameters of the smallest loss on the held-out frames."""
    training, test = jax.device_put((training, test))
    state = (parameters, settings.optimiser().init(parameters))
    shape = (ROUNDS, settings.steps // ROUNDS, settings.batch)
    best, least = None, _examined(parameters, test, scale, settings, 0)
    for stage, order in enumerate(_orders(len(training.energies), math.prod(shape), rng).reshape(shape), start=1):
        state = _advance(state, training, order, settings)
        loss = _examined(state[0], test, scale, settings, stage * shape[1])
        if loss < least:
            best, least = state[0], loss
        progress("train", stage / ROUNDS)
    if best is None:
        raise ValueError(
            f"learning_rate={settings.learning_rate}: no step lowered the loss of the held-out frames; lower the rate, "
            "take more steps or give more frames"
        )
    return jax.tree.map(np.asarray, best)


def _examined(parameters, test: Examples, scale: float, settings: Settings, step: int) -> float:
    """The loss of the held-out frames, which is logged with their errors."""
    energy, forces = (float(square) for square in _held_out(parameters, test, settings))
    loss = energy + settings.force_weight * forces
    logger.info(
        "step %d: loss of the held-out frames %.4g, RMSE %.4g eV/√atom, %.4g eV/Å",
        step, loss, scale * energy**0.5, scale * forces**0.5,
    )  # fmt: skip
    return loss


def _orders(frames: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Every frame once in random order, then again in another, until there are enough."""
    return np.concatenate([rng.permutation(frames) for _ in range(-(-total // frames))])[:total]


@functools.partial(jax.jit, static_argnames="settings")
def _advance(state, training: Examples, order, settings: Settings):
    """The state after steps of the optimiser, of a row of frames each."""
    optimiser = settings.optimiser()

    def loss(parameters, chosen):
        energy, forces = jax.vmap(lambda one: _squares(parameters, one, settings))(chosen)
        return jnp.mean(energy) + settings.force_weight * jnp.mean(forces)

    def step(state, row):
        parameters, memory = state
        gradient = jax.grad(loss)(parameters, jax.tree.map(lambda leaf: leaf[row], training))
        with jax.numpy_dtype_promotion("standard"):  # optax counts steps in integers and mixes them with floats
            update, memory = optimiser.update(gradient, memory, parameters)
            return (optax.apply_updates(parameters, update), memory), None

    return jax.lax.scan(step, state, order)[0]


@functools.partial(jax.jit, static_argnames="settings")
def _held_out(parameters, test: Examples, settings: Settings):
    """Means of the two squared errors over the frames."""
    energy, forces = jax.lax.map(lambda one: _squares(parameters, one, settings), test, batch_size=settings.batch)
    return jnp.mean(energy), jnp.mean(forces)


def _squares(parameters, one: Examples, settings: Settings):
    """ΔE²/n and |ΔF|²/3n of one frame."""

    def energy(positions):
        return schnet_energy(
            positions, one.numbers, one.cells, one.neighbors, parameters=parameters, **dict(settings.network)
        )

    predicted, slope = jax.value_and_grad(energy)(one.positions)
    atoms = jnp.sum(one.numbers > 0).astype(predicted.dtype)
    return (predicted - one.energies) ** 2 / atoms, jnp.sum((slope + one.forces) ** 2) / (3.0 * atoms)


def _examples(data: Dataset, cutoff: float, precision: str) -> tuple[Examples, float, np.ndarray]:
    """Frames as arrays, the scale of the forces (eV/Å), and the elements' shares of the energies (eV) by number."""
    energies, forces = data.array("energy"), [frame.labels["forces"] for frame in data]
    counts = np.array([np.bincount(frame.numbers, minlength=LAST_ELEMENT + 1) for frame in data], dtype=np.float64)
    shares = np.linalg.lstsq(counts, energies)[0]
    scale = float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))
    lists = [_neighbors(frame, cutoff) for frame in data]
    atoms, width = (max(one.indices.shape[axis] for one in lists) for axis in (0, 1))

    def padded(arrays, shape: tuple[int, ...], fill: int = 0) -> np.ndarray:
        whole = np.full((len(data), *shape), float(fill))
        for one, array in zip(whole, arrays, strict=True):
            one[tuple(slice(length) for length in array.shape)] = array
        return whole

    examples = Examples(
        positions=padded([frame.positions for frame in data], (atoms, 3)).astype(precision),
        numbers=padded([frame.numbers for frame in data], (atoms,)).astype(np.int32),
        cells=np.stack([frame.cell for frame in data]).astype(precision),
        neighbors=Neighbors(
            padded([one.indices for one in lists], (atoms, width), -1).astype(np.int32),
            padded([one.shifts for one in lists], (atoms, width, 3)).astype(precision),
        ),
        energies=((energies - counts @ shares) / scale).astype(precision),
        forces=padded([force / scale for force in forces], (atoms, 3)).astype(precision),
    )
    return examples, scale, shares


def _neighbors(frame: Frame, cutoff: float) -> Neighbors:
    """The list of one frame, as narrow as it can be: its atoms will not move."""
    system = frame.system
    found = neighbor_lists(system.positions[None], system.cell[None], system.pbc[None], cutoff)
    width = int((found.indices[0] >= 0).sum(axis=1).max())
    return Neighbors(found.indices[0, :, :width], found.shifts[0, :, :width])


def _in_ev(parameters, scale: float, shares: np.ndarray) -> dict[str, Any]:
    """Parameters in double precision whose energy is in eV, with the elements' shares."""
    parameters = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=np.float64), parameters)
    readout = {name: scale * leaf for name, leaf in parameters["readout"].items()}
    shift = {"embedding": scale * parameters["shift"]["embedding"] + shares[:, None]}
    return {**parameters, "readout": readout, "shift": shift}
