"""Exact models on fewer points: the energy of an atom is interpolated between environments, in its values and its slopes.

An exact model of local kernels compares every atom with all environments of all training frames,

    ε(φ) = Σ_k [v_k κ(φ, φ_k) + t_k·∂κ(φ, φ_k)/∂φ_k]

Between a few of these, φ_u, chosen to differ as much as can be, it is interpolated by a function of the same form, with as many
tangents at a point as atoms can move there: of all in the span it is nearest to ε in the norm of the kernel's own space, and

    ε̃(φ_u) = ε(φ_u),      B_u·∂ε̃(φ_u) = B_u·∂ε(φ_u),      B_u: principal directions of the motions that an environment knows

As many directions as there are cost no more than one when energies are predicted: they are summed into one tangent.

Elements differ in how many points they need. What an interpolation between a few points of each misses of the forces of all
environments, E_z, is about as the inverse square of their number m_z, so the sum is smallest for m_z³ ∝ E_z m_z²: measured, SOAP of
1000 frames of malonaldehyde on 2000 points, where nearly all that is missed is missed at carbon, errors of forces of 8.93 meV/Å in place
of 9.75 (exact: 8.27), and 8.64 with all directions of carbon in place of two thirds of them.

Source: Wendland, Scattered Data Approximation (2005), chapter 16 (Hermite interpolation); Schölkopf et al., IEEE Trans. Neural
    Netw. 10, 1000 (1999), doi 10.1109/72.788641 (reduced sets).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.arguments import is_number
from mlff.compiling import jit
from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.identity import among
from mlff.data.system import System
from mlff.kernels.environments import sees_alone
from mlff.potentials.errors import compare
from mlff.potentials.expansion import Channel, Expansion, Part
from mlff.potentials.force_field import ForceField
from mlff.precision import double_precision
from mlff.regression.linalg.tiles import SymmetricTiles
from mlff.regression.sparse.farthest import farthest_points
from mlff.regression.system.features import Features, compute_features
from mlff.regression.system.gram import Side, block
from mlff.regression.system.terms import Term
from mlff.units import symbols

FUNCTIONALS = 28000  # values and slopes of one element's points: 3.2 GB
FEW = 4  # times fewer points, from which is seen how many each element needs
LEAST = 1 / 3  # of the points that an element has environments for, which it is left
TILE = 1024  # rows of a tile, about
NUGGET = 1e-10  # of the prior variances, which the interpolated values are free by
AT_ONCE = 256  # points that a model is asked about
COMPARED = 200  # frames on which the models are compared
DISPLACEMENT = 0.05  # Å, of every coordinate, away from the frames

RANK = 1e-6  # of the largest singular value of a point's tangents

Progress = Callable[[str, float], None]


def compressed(
    force_field: ForceField,
    data: Dataset,
    points: int = 2000,
    progress: Progress = lambda stage, fraction: None,
) -> ForceField:
    """The force field with its local terms on fewer points, which takes that much less time to evaluate.

        quick = mlff.compressed(force_field, train, points=2000)
        print(quick.record["compressed"]["change"])

    Arguments:
        force_field: an exact one, of local kernels; its global terms stay as they are.
        data: frames with those that it was fitted to among them, to which it is compared; labels are asked for training errors
            alone.
        points: how many environments it is to have in all.
        progress: called with the name of a stage and the share of it that is done.
    Returns:
        the force field; its record tells, under "compressed", how many points of each element there are, and what changed: mean
        and root mean square differences of energies (eV) and forces (eV/Å) of up to 200 of the frames, between which it
        interpolates, after all atoms were moved by 0.05 Å a coordinate, at random.
    Raises:
        ValueError: no exact model of local kernels, frames that it was fitted to are missing, or no such number of points.
    """
    if "compressed" in force_field.record:
        raise ValueError("compressed: the force field was compressed before; compress the exact one")
    model = _local_expansion(force_field)
    share = _points(points, model)
    data = _training_frames(force_field, data)
    frames = LabelledFrames.of(_geometries(force_field, data))
    features = compute_features(force_field.kernel, frames, {"forces": 1.0}, progress)
    parts = [
        _compressed_part(part, features, i, share, progress) if part.local else part
        for i, part in enumerate(model.parts)
    ]
    counts = _counts([part for part in parts if part.local], model)
    # error bars stay those of the model: what is lost by compressing is less
    smaller = force_field.replace(model=model.replace(parts=tuple(parts), label_order=1))
    said = {"points": counts, "change": _change(force_field, smaller, data)}
    # errors of a test were another model's
    kept = {name: value for name, value in force_field.record.items() if name != "test"}
    training = compare(smaller, data).summary() if {"energy", "forces"} & set(data.label_names) else kept["training"]
    return smaller.replace(record={**kept, "compressed": said, "training": training})


def _local_expansion(force_field: ForceField) -> Expansion:
    model = force_field.model
    if not isinstance(model, Expansion) or force_field.kernel is None or not any(part.local for part in model.parts):
        raise ValueError(
            "compressed: the force field is none of local kernels; those of molecules as a whole have few points"
        )
    if all(channel.tangents is None for part in model.parts if part.local for channel in part.channels):
        raise ValueError("compressed: the force field is a sparse one already; fit it again with fewer inducing points")
    return model


def _points(points, model: Expansion) -> int:
    """How many points each local term is to have."""
    if not (is_number(points) and float(points).is_integer() and points >= 1):
        raise ValueError(f"points={points!r} must be a whole number, how many environments the model is to have")
    local = [part for part in model.parts if part.local]
    present = sum(_counts(local, model).values())
    if points >= present:
        raise ValueError(f"points={points}: the model has {present}, which is no more than that; give fewer")
    return -(-int(points) // len(local))


def _training_frames(force_field: ForceField, data: Dataset) -> Dataset:
    """Those of the frames that the force field was fitted to."""
    known = frozenset(force_field.record.get("fingerprints", ()))
    found, wanted = np.flatnonzero(among(data.frames, known)), force_field.record.get("n_train", 0)
    if len(found) < wanted:
        raise ValueError(
            f"compressed: {data.source} has {len(found)} of the {wanted} frames that the force field was fitted to; give all of them"
        )
    return data[found]


def _geometries(force_field: ForceField, data: Dataset) -> Dataset:
    """The frames with forces of zero, whose rows show how environments can change; first the one that simulations start from:
    when the model is read, its descriptors are held against that."""
    record = force_field.record
    start = System(*(np.array(record[f"geometry{end}"]) for end in ("", "_numbers", "_cell", "_pbc")))
    systems = [start, *(frame.system for frame in data if not _same(frame.system, start))]
    return Dataset([Frame(system, {"forces": np.zeros_like(system.positions)}) for system in systems], data.source)


def _same(one: System, other: System) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("positions", "numbers", "cell", "pbc")
    )


class Environments(NamedTuple):
    """Those of one element in all frames: φ/ℓ, shape (n, D), and of each how it can change, (r, D)."""

    points: Float[np.ndarray, "n D"]
    tangents: list[np.ndarray]

    def some(self, count: int) -> Environments:
        """So many that differ as much as can be."""
        (places,), _ = farthest_points([self.points], count, [0])
        return Environments(self.points[places], [self.tangents[place] for place in places])


def _compressed_part(part: Part, features: Features, i: int, points: int, progress: Progress) -> Part:
    """One local term, on so many points in all."""
    seen = _environments(features.terms[i], len(part.channels))
    counts = [len(each.points) for each in seen]

    def between(shares: list[int], tell: Progress) -> list[Channel]:
        found = []
        for k, (channel, each, share) in enumerate(zip(part.channels, seen, shares, strict=True)):

            def done(fraction: float, k=k) -> None:
                tell("compress", (k + fraction) / len(seen))

            found.append(_interpolated(part, channel, each.some(share), done) if share else channel)
        return found

    shares = _shares(max(points // FEW, 1), np.array(counts, dtype=float), counts)
    few = between(shares, lambda stage, fraction: progress(stage, 0.1 * fraction))
    missed = [_missed(part, *each) for each in zip(part.channels, few, seen, strict=True)]
    needed = np.cbrt(missed) * np.array(shares) ** (2 / 3)
    weights = LEAST * np.array(counts) / sum(counts) + (1 - LEAST) * needed / (needed.sum() or 1.0)
    channels = between(_shares(points, weights, counts), lambda stage, fraction: progress(stage, 0.1 + 0.9 * fraction))
    progress("compress", 1.0)
    alone = part.alone or sees_alone(part.kernel, features.frames.batches[0])
    return Part(part.kernel, tuple(channels), None, part.sizes, alone)


def _environments(term: Term, channels: int) -> list[Environments]:
    """Those of every element."""
    points, species = np.concatenate(term.points), np.concatenate(term.channels)
    owners = [(frame, place) for frame, seen in enumerate(term.points) for place in range(len(seen))]
    found = []
    for channel in range(channels):
        members = np.flatnonzero(species == channel)
        tangents = [term.tangents[frame][place] for frame, place in (owners[member] for member in members)]
        found.append(Environments(points[members], tangents))
    return found


def _missed(part: Part, exact: Channel, few: Channel, seen: Environments) -> float:
    """Σ |B·∂(ε̃ − ε)/∂φ|² of all environments: squares of forces, up to how their rows are turned."""
    if few is exact or not len(seen.points):
        return 0.0
    slopes = [_values_and_slopes(part.kernel.radial, channel, seen.points, part.sizes)[1] for channel in (exact, few)]
    return sum(float(np.sum((t @ d) ** 2)) for t, d in zip(seen.tangents, slopes[1] - slopes[0], strict=True))


def _shares(points: int, weights: Float[np.ndarray, " z"], most: Sequence[int]) -> list[int]:
    """How many of the points each element has: one, where it has environments, and then in proportion to some weights, no more than it
    has environments (Webster's rule: the next point to the element that lags most)."""
    shares = np.minimum(most, 1)
    while shares.sum() < points and (shares < most).any():
        shares[np.argmax(np.where(shares < most, weights / (shares + 0.5), -1.0))] += 1
    return shares.tolist()


def _interpolated(part: Part, channel: Channel, between: Environments, progress) -> Channel:
    """The energies of one element's atoms, interpolated between some environments."""
    radial, points, m = part.kernel.radial, between.points, len(between.points)
    most = max(0, FUNCTIONALS // m - 1)
    directions = _directions(between.tangents, most)
    values, slopes = _values_and_slopes(radial, channel, points, part.sizes)
    right = np.concatenate([values[:, None], np.einsum("mqd,md->mq", directions, slopes)], axis=1)
    matrix = _gram(radial, points, directions, part.sizes, lambda done: progress(0.5 * done))
    matrix.add_to_diagonal(np.full(matrix.size, NUGGET * float(matrix.diagonal().max())))
    matrix.cholesky(lambda done: progress(0.5 + 0.5 * done))
    weights = matrix.solve_factorised(right.reshape(-1, 1)).reshape(m, -1)
    summed = np.einsum("mq,mqd->md", weights[:, 1:], directions)
    return Channel.build(points, summed, weights[:, 0], part.sizes)


def _directions(tangents: list[Float[np.ndarray, "_ D"]], most: int) -> Float[np.ndarray, "m q D"]:
    """Orthonormal directions of every point's tangents, as many of the largest as there are, zeros where a point has fewer."""
    found = []
    for of_point in tangents:
        _, sizes, rows = np.linalg.svd(of_point, full_matrices=False)
        found.append(rows[: min(most, int(np.sum(sizes > RANK * sizes.max(initial=0.0))))])
    directions = np.zeros((len(tangents), max(map(len, found)), tangents[0].shape[1]))
    for target, rows in zip(directions, found, strict=True):
        target[: len(rows)] = rows
    return directions


@functools.partial(jit, static_argnames="sizes")
def _asked(radial, channel, points, sizes):
    def total(x):
        energies = channel.energies(radial, x, sizes)
        return jnp.sum(energies), energies

    slopes, values = jax.grad(total, has_aux=True)(points)
    return values, slopes


@double_precision
def _values_and_slopes(radial, channel: Channel, points, sizes) -> tuple[np.ndarray, np.ndarray]:
    """ε and ∂ε/∂φ of a model at some points."""
    values, slopes = np.empty(len(points)), np.empty_like(points)
    for start in range(0, len(points), AT_ONCE):
        piece = points[start : start + AT_ONCE]
        padded = np.concatenate([piece, np.repeat(piece[:1], AT_ONCE - len(piece), axis=0)])
        found = _asked(radial, channel, padded, sizes)
        here = slice(start, start + len(piece))
        values[here], slopes[here] = (np.asarray(array)[: len(piece)] for array in found)
    return values, slopes


def _gram(radial, points, directions: Float[np.ndarray, "m q D"], sizes, progress) -> SymmetricTiles:
    """The kernel between values and slopes at points."""
    m, q, size = directions.shape
    step = max(1, TILE // (1 + q))
    cuts = np.unique(np.append(np.arange(0, m, step), m))
    acting = np.zeros((m, 1, 1 + q))
    acting[:, :, 0] = 1.0
    tangents = np.concatenate([np.zeros((m, 1, size)), directions], axis=1)[:, None]
    nothing = np.zeros((m, 1, 0, size)), np.zeros((m, 1 + q, 0))
    whole = Side(points[:, None], acting, tangents, *nothing)
    matrix = SymmetricTiles((1 + q) * cuts)
    sides = [Side(*(array[a:b] for array in whole)) for a, b in itertools.pairwise(cuts)]
    for i, row in enumerate(sides):
        for j, column in enumerate(sides[: i + 1]):
            found = block(radial, row, column, sizes)
            matrix.tiles[i][j] = np.ascontiguousarray(found.reshape(found.shape[0] * (1 + q), -1))
        progress((i + 1) ** 2 / len(sides) ** 2)
    return matrix


def _counts(parts: list[Part], model: Expansion) -> dict[str, int]:
    """How many points of each element there are."""
    counts: dict[str, int] = {}
    for part in parts:
        for symbol, channel in zip(symbols(model.elements), part.channels, strict=True):
            counts[symbol] = counts.get(symbol, 0) + len(channel.points)
    return counts


def _change(one: ForceField, other: ForceField, data: Dataset) -> dict[str, float]:
    """Mean and root mean square differences of energies, eV, and forces, eV/Å, of two force fields close to some of the frames."""
    energies, forces, rng = [], [], np.random.default_rng(0)
    for i in np.unique(np.linspace(0, len(data) - 1, min(len(data), COMPARED)).astype(int)):
        system = data[int(i)].system
        moved = system.positions + DISPLACEMENT * rng.standard_normal(system.positions.shape)
        where = (moved, system.cell, system.pbc, system.numbers if one.transferable else None)
        (e, f), (g, h) = one.energy_and_forces(*where), other.energy_and_forces(*where)
        energies.append(g - e)
        forces.append((h - f).ravel())
    found = {"energy": np.array(energies), "forces": np.concatenate(forces)}
    return {
        f"{name}_{kind}": float(value)
        for name, array in found.items()
        for kind, value in (("mae", np.mean(np.abs(array))), ("rmse", np.sqrt(np.mean(array**2))))
    }
