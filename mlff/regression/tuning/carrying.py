"""Frames carried to descriptor space again, under other arguments of a descriptor, and what depends on them carried back."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlff.kernels.argument_slopes import argument_slopes
from mlff.kernels.jets import jets
from mlff.kernels.kernels import Kernel
from mlff.regression.system.features import Features
from mlff.regression.system.gram import feature_slices
from mlff.regression.system.observations import FrameObservations
from mlff.regression.system.terms import Term
from mlff.regression.tuning.cotangents import FeatureCotangents, feature_cotangents, feature_cotangents_of_few
from mlff.regression.tuning.left_out import Assessment


def carried(term: Term, part: Kernel, observations: list[FrameObservations], reach: float) -> Term:
    """The term of the same frames and labels under the same part of the kernel with other arguments.

    The labels stay the combinations that they are: descriptors of equal rank see the same motions of a frame.

    Arguments:
        part: with length scales and elements.
        observations: of all frames; labels of first order.
        reach: of neighbour lists, Å, so that a cutoff that changes leaves their shapes alone.
    Raises:
        FloatingPointError: features or their derivatives are not finite.
    """
    points, tangents = [], []
    for batch in term.batches:
        start, coordinates = len(points), observations[len(points)].rows.directions.shape[1]
        for piece, ((features,), (jacobians,)) in jets(part, batch, coordinates, reach):
            if not (np.isfinite(features).all() and np.isfinite(jacobians).all()):
                raise FloatingPointError(f"features of {part.leaves[0].descriptor.name} are not finite")
            points += list(features)
            for i, jacobian in enumerate(jacobians, start=start + piece.start):
                tangents.append(observations[i].rows.directions @ jacobian.transpose(0, 2, 1))
    return dataclasses.replace(term, kernel=part, points=points, tangents=tangents, factors=None)


def slopes_by_features(
    features: Features,
    t: int,
    names: tuple[tuple[int, str], ...],
    found: Assessment,
    reach: float,
) -> tuple[list[np.ndarray], list[float]]:
    """∂⟨G, K_t⟩ of a term by arguments of descriptors, of their shapes, and by the logarithm of the length scale of every leaf.

    Arguments:
        t: which term, whose features are in units of its length scale.
        names: which leaf of it, and the name of the argument.
        found: with G.
        reach: as of `carried`.
    """
    term = features.terms[t]
    if found.factors is None:
        bars = feature_cotangents(term, features, found.cotangent)
    else:
        bars = feature_cotangents_of_few(term, features, *found.factors)
    sums, start = [0.0] * len(names), 0
    for batch in term.batches:
        frames = range(start, start + len(batch))
        start = frames.stop
        most = max(features.observations[i].size for i in frames)
        directions = [_filled(features.observations[i].rows.directions, 0, most) for i in frames]
        tangents = [_filled(bars.tangents[i], 1, most) for i in frames]
        points = np.stack([bars.points[i] for i in frames])
        found = argument_slopes(term.kernel, names, batch, np.stack(directions), points, np.stack(tangents), reach)
        sums = [np.asarray(total + slope) for total, slope in zip(sums, found, strict=True)]
    return sums, [-_along_itself(term, bars, part) for part in feature_slices(term.sizes)]


def _along_itself(term: Term, bars: FeatureCotangents, part: slice) -> float:
    """What a stretch of a block of features does: they, and their tangents, grow in proportion."""
    factors = np.ones(sum(term.sizes)) if term.factors is None else term.factors
    pairs = [*zip(bars.points, term.points, strict=True), *zip(bars.tangents, term.tangents, strict=True)]
    return float(sum(np.vdot(bar[..., part], array[..., part] * factors[part]) for bar, array in pairs))


def _filled(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """With zeros behind it, up to a size along an axis."""
    return np.pad(array, [(0, size - array.shape[k] if k == axis else 0) for k in range(array.ndim)])
