"""Whether the descriptors of a model that was read give the features that it was fitted on.

The geometry in the record is one of the training frames, so that its features φ are among the points of the model, and an
exchange p of atoms rearranges features as the model says, φ(p x) = φ(x)[π_p]. A descriptor of other source or defaults than
at the fit gives others, and so do another length scale and another origin.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import numpy as np

from mlff.compiling import UNOPTIMISED
from mlff.data.batches import Batch
from mlff.kernels.environments import sees_alone
from mlff.kernels.kernels import Kernel
from mlff.kernels.surroundings import Surroundings, surroundings
from mlff.potentials.consistent import expansions
from mlff.potentials.expansion import Channel, Expansion, Part
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import VALUES
from mlff.precision import double_precision

TOLERANCE = 1e-7  # of the size of the features: far above rounding, far below what another descriptor gives
EMBEDDED = 1e-3  # the same where the geometry itself was made from features in single precision, as sGDML's
DISPLACEMENT = 0.05  # Å, away from geometries that are symmetric by themselves
AT_ONCE = 16  # environments that are compared with all points


@double_precision
def require_reproduced(force_field: ForceField) -> None:
    """Refuse descriptors that do not give what the model was fitted on, or the terms of a sum on.

    Raises:
        ValueError: naming the first of them.
    """
    for _, expansion, record in expansions(force_field):
        if "geometry" in record:
            _require_expansion(expansion, force_field.kernel, record)


def _require_expansion(expansion: Expansion, kernel: Kernel | None, record: Mapping) -> None:
    numbers = np.asarray(record["geometry_numbers"], dtype=np.int32)
    x, cell, pbc = (np.array(record[f"geometry{end}"]) for end in ("", "_cell", "_pbc"))
    one = Batch(x[None].astype(np.float64), numbers, cell[None].astype(np.float64), pbc[None], {}, np.arange(1))
    tolerance = EMBEDDED if "sgdml" in record["versions"] else TOLERANCE
    sparse = "compressed" in record or record.get("inducing", {}).get("kind") == VALUES
    for i, part in enumerate(expansion.parts):
        around = surroundings(part.kernel.descriptors, one).frame(0)
        features = np.asarray(
            _features(part.kernel, numbers, one.positions[0], around, np.arange(len(numbers), dtype=np.int32))
        )
        if part.alone and not sees_alone(part.kernel, one):
            raise ValueError(f"{part.kernel.label}: its descriptor makes of an atom more than its neighbours tell")
        species = part.kernel.channels(numbers)
        for k, channel in enumerate(part.channels):
            if (seen := features[species == k]).size:
                # a sparse model has one environment of this geometry among its points, all others have all of them
                _require_points(part, channel, _nearest(channel, seen) if sparse else seen, tolerance)
        if part.images is not None and kernel is not None:  # the terms of a sum know no generators
            _require_images(part, kernel.parts[i], one, around)


@functools.partial(jax.jit, compiler_options=UNOPTIMISED)
def _features(kernel: Kernel, numbers, x, around, permutation):
    """φ(p x)/ℓ, shape (e, D)."""
    return kernel.features(x[permutation], numbers, *around.exchanged(permutation))


def _nearest(channel: Channel, features: np.ndarray) -> np.ndarray:
    """The one of the environments that is nearest to a point of its channel, shape (1, D)."""
    points = channel.points + channel.origin
    squares = np.sum(features**2, axis=1)[:, None] + np.sum(points**2, axis=1) - 2.0 * features @ points.T
    return features[[int(np.argmin(squares.min(axis=1)))]]


def _require_points(part: Part, channel: Channel, features: np.ndarray, tolerance: float) -> None:
    """Refuse features of environments of one species, shape (e, D), that are not among the points of its channel."""
    sizes = _sizes(features, part.sizes)
    scaled, weights = features - channel.origin, np.repeat(sizes**-2, part.sizes)
    squares = np.einsum("kd,kd,d->k", channel.points, channel.points, weights)
    for start in range(0, len(features), AT_ONCE):
        few = slice(start, start + AT_ONCE)
        nearest = np.argmin(squares - 2.0 * (scaled[few] * weights) @ channel.points.T, axis=1)
        # by explicit differences: those of the squares have half of the digits
        _require_small(part, features[few] - (channel.points[nearest] + channel.origin), sizes, tolerance)


def _require_images(part: Part, kernel: Kernel, one: Batch, around: Surroundings) -> None:
    """Refuse rearrangements π_p that are not those of the features; those of the generators p give all others, which was
    checked before."""
    group = kernel.permutations_used
    displacement = DISPLACEMENT * np.random.default_rng(0).standard_normal(one.positions[0].shape)
    x, place = one.positions[0] + displacement, {tuple(p): i for i, p in enumerate(group.indices)}
    features = np.asarray(_features(part.kernel, one.numbers, x, around, np.arange(len(x), dtype=np.int32)))
    for p in group.generators:
        image = np.asarray(_features(part.kernel, one.numbers, x, around, p.astype(np.int32)))
        expected = features[:, part.images[place[tuple(p)]]]
        _require_small(part, image - expected, _sizes(features, part.sizes), TOLERANCE)


def _sizes(features: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """The largest |φ| of every block of features, shape (blocks,); 1 where all are zero."""
    largest = np.array([np.linalg.norm(block, axis=1).max() for block in _blocks(features, widths)])
    return np.where(largest > 0.0, largest, 1.0)


def _blocks(features: np.ndarray, widths: tuple[int, ...]) -> list[np.ndarray]:
    return np.split(features, np.cumsum(widths)[:-1], axis=1)


def _require_small(part: Part, differences: np.ndarray, sizes: np.ndarray, tolerance: float) -> None:
    """Refuse differences of features, shape (e, D), that are larger than a share of the size of their block."""
    for leaf, block, size in zip(part.kernel.leaves, _blocks(differences, part.sizes), sizes, strict=True):
        if not (np.linalg.norm(block, axis=1) <= tolerance * size).all():
            raise ValueError(
                f"descriptor {leaf.descriptor.name} is not the one that the model was fitted with: it does not give the "
                "features of a training frame again (its source, defaults or version changed, or the file was altered); "
                "restore it, or fit again"
            )
