"""What was observed of one frame: its labels as rows of the linear system, and how they act in descriptor space."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import numpy as np

from mlff.batching import chunk_size, machine_memory, map_chunks
from mlff.data.batches import Batch, arguments_of
from mlff.kernels.jets import bends
from mlff.kernels.kernels import Kernel
from mlff.operators import Functionals, Operator, find_operator, functionals, order_of
from mlff.regression.system.rows import (
    Rows,
    asked,
    measured,
    pack,
    restricted,
    seen_coordinates,
    span,
    stack,
    visible_labels,
)

Noise = Mapping[str | Operator, float]
_MEMORY = 64 * 2**20  # bytes of the coefficients of labels of first order that are computed at once


@dataclasses.dataclass(frozen=True)
class FrameObservations:
    """The labels of one frame as rows, and how these see its coordinates.

    Attributes:
        rows: the functionals, with their matrices in a basis of the frame's coordinates.
        basis: that basis, (k, c); without labels of second order k = 0.
        inner: combinations of it that the first derivatives of descriptors see, (s, k).
        weights: W of every row in those, packed, off-diagonal entries doubled, (rows, s(s+1)/2).
        places: which of the rows are of which operator, by its name.
        outside: the sum of squares of the labels of an operator that lie outside the space of its rows, by its name: no
            function of the descriptors says anything there but zero.
        unseen: share of the squared forces that no direction of the descriptor can express.
    """

    rows: Rows
    basis: np.ndarray
    inner: np.ndarray
    weights: np.ndarray
    places: dict[str, slice]
    outside: dict[str, float]
    unseen: float

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.rows.labels)

    def with_noise(self, factors: Mapping[str, float]) -> FrameObservations:
        """With the standard deviations of some kinds of label, by name, times a factor."""
        noise = self.rows.noise.copy()
        for name, factor in factors.items():
            if name in self.places:
                noise[self.places[name]] *= factor
        return dataclasses.replace(self, rows=self.rows._replace(noise=noise))

    def mixed(self, mixing: np.ndarray) -> FrameObservations:
        """With orthonormal combinations of the labels of its one operator in their place."""
        (name,) = self.places
        rows, weights = self.rows.mixed(mixing), mixing @ self.weights
        return dataclasses.replace(self, rows=rows, weights=weights, places={name: slice(0, len(mixing))})


def describe(noise: Noise) -> str:
    """Names and standard deviations, for messages."""
    return ", ".join(f"{find_operator(label).name} {value:.3g}" for label, value in noise.items())


def rows_of_frames(batch: Batch, operators: dict[Operator, float], coordinates: int) -> Iterator[dict[str, Rows]]:
    """The labels of the frames of a batch, one frame after another, by the names of their operators, in the coordinates of
    the frame.

    Arguments:
        operators: with the standard deviation of their labels.
        coordinates: 3n, or 3n + 9 with a strain.
    Raises:
        ValueError: a frame has no label, or an operator is not finite or returns another number of labels.
    """
    of_operators = {op.name: _rows_of_operator(batch, op, level, coordinates) for op, level in operators.items()}
    for i in batch.index:
        of_frame = {name: next(rows) for name, rows in of_operators.items()}
        present = {name: rows for name, rows in of_frame.items() if len(rows.labels)}
        if not present:
            raise ValueError(f"labels: frame {i} has none of {', '.join(of_operators)}; leave it out")
        yield present


def rows_asked(batch: Batch, operator: Operator, coordinates: int) -> Iterator[dict[str, Rows]]:
    """What an operator asks of the frames of a batch, as rows without labels: all of its answers, in their order.

    Arguments:
        coordinates: 3n, or 3n + 9 with a strain.
    Raises:
        ValueError: it is not linear, not finite, or takes more than two derivatives.
    """
    for coefficients, _ in _coefficients(batch, operator, coordinates, batch.positions[0].size):
        for k in range(len(coefficients.values)):
            yield {operator.name: asked(coefficients, k)}


def _rows_of_operator(batch: Batch, operator: Operator, noise: float, coordinates: int) -> Iterator[Rows]:
    """The labels of one operator, frame by frame."""
    for coefficients, piece in _coefficients(batch, operator, coordinates, batch.labels[operator.name][0].size):
        labels = batch.labels[operator.name][piece].reshape(len(coefficients.values), -1)
        _require_as_many(operator, coefficients, labels.shape[1], batch.index[piece])
        deviations = batch.noise_of(operator.name).take(piece).deviations(noise)
        for k, of_frame in enumerate(labels):
            yield measured(coefficients, k, of_frame, float(deviations[k]))


def _coefficients(batch: Batch, operator: Operator, coordinates: int, size: int) -> Iterator[tuple[Functionals, slice]]:
    """An operator's coefficients at some frames after the other, and which those are.

    Arguments:
        size: about how many answers it gives.
    """
    arguments = arguments_of(batch, operator)
    order = order_of(operator, batch.positions, arguments)
    if order > 1:
        _require_memory(operator, size, coordinates)
    # of second order, a frame has (3n)⁴ coefficients at most: one at a time
    at_once = 1 if order > 1 else chunk_size(8 * size * coordinates, _MEMORY)
    compute = functools.partial(functionals, operator, order, coordinates)
    for piece, coefficients in map_chunks(compute, (batch.positions, arguments), at_once):
        _require_finite(operator, coefficients, batch.index[piece])
        yield coefficients, piece


def _require_finite(operator: Operator, coefficients: Functionals, index: np.ndarray) -> None:
    """Refuse an operator that is not finite at a frame."""
    finite = [np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in coefficients if part is not None]
    if not (whole := np.all(finite, axis=0)).all():
        i = index[int(np.argmin(whole))]
        raise ValueError(f"labels: operator {operator.name} is not finite at frame {i}; are its arguments?")


def _require_as_many(operator: Operator, coefficients: Functionals, labels: int, index: np.ndarray) -> None:
    """Refuse an operator that has another number of labels than the frames."""
    if coefficients.values.shape[1] != labels:
        raise ValueError(
            f"labels: operator {operator.name} returns {coefficients.values.shape[1]} numbers for frame "
            f"{index[0]}, its label {operator.name} has {labels}"
        )


def _require_memory(operator: Operator, rows: int, coordinates: int) -> None:
    """Refuse labels of second order whose coefficients alone would fill the machine, before they are computed."""
    needed = 2 * 8 * rows * coordinates**2
    if needed > machine_memory() / 4:
        raise ValueError(
            f"labels: {operator.name} has {rows} numbers a frame of {coordinates} coordinates, {needed / 2**30:.0f} GiB of "
            "coefficients; give products H·v (hessian_products) or curvatures along some directions instead"
        )


def observe(
    kernel: Kernel,
    batch: Batch,
    i: int,
    of_operators: dict[str, Rows],
    jacobians: list[np.ndarray],
    whole: bool = False,
) -> tuple[FrameObservations, list[np.ndarray], list[np.ndarray]]:
    """One frame: its labels in the basis of those that descriptors see, and for every part of the kernel the tangents of
    their rows, (e, r, D), and the first derivatives that second-order labels see, (e, s, D).

    Arguments:
        of_operators: the rows of every operator.
        jacobians: ∂φ/∂q/ℓ of every part of the kernel, (e, D, c).
        whole: leave the labels as they are, in their order, and those too that no descriptor sees.
    """
    basis = span(list(of_operators.values()))
    second = _second_derivatives(kernel, batch, i, basis) if len(basis) else None
    along = [(jacobian @ basis.T).transpose(0, 2, 1) for jacobian in jacobians]  # (e, k, D)
    inner = seen_coordinates(along)
    kept, tangents, outside, unseen = {}, [[] for _ in jacobians], {}, 0.0
    for name, part in of_operators.items():
        rows = restricted(part, basis)
        slopes = [rows.directions @ jacobian.transpose(0, 2, 1) for jacobian in jacobians]  # (e, r, D)
        if second is not None:
            folded = pack(rows.matrices, 2.0)
            slopes = [t + folded @ bend.transpose(0, 2, 1) for t, bend in zip(slopes, second, strict=True)]
        mixing = np.eye(len(rows.labels)) if whole else visible_labels(rows, slopes, inner)
        kept[name] = rows.mixed(mixing)
        for target, t in zip(tangents, slopes, strict=True):
            target.append(mixing @ t)
        outside[name] = float(np.sum((rows.labels - mixing.T @ kept[name].labels) ** 2))
        unseen = max(unseen, _unseen(rows, kept[name]))
    rows = stack(list(kept.values()))
    weights = pack(inner @ rows.matrices @ inner.T, 2.0)
    observations = FrameObservations(rows, basis, inner, weights, _places(kept), outside, unseen)
    return observations, [np.concatenate(part, axis=1) for part in tangents], [inner @ part for part in along]


def _second_derivatives(kernel: Kernel, batch: Batch, i: int, basis: np.ndarray) -> list[np.ndarray]:
    """∂²φ/∂q²/ℓ of every part along the pairs of a basis, (e, D, pairs)."""
    second = [bends(part, batch, i, basis) for part in kernel.parts]
    for part, bend in zip(kernel.parts, second, strict=True):
        if not np.isfinite(bend).all():
            raise ValueError(
                f"descriptor {part.leaves[0].descriptor.name} has a second derivative that is not finite at training frame "
                f"{batch.index[i]}; guard its square roots, norms and divisions there"
            )
    return second


def _places(kept: dict[str, Rows]) -> dict[str, slice]:
    """Where the rows of every operator are, below each other."""
    places, start = {}, 0
    for name, rows in kept.items():
        places[name] = slice(start, start + len(rows.labels))
        start = places[name].stop
    return places


def _unseen(rows: Rows, kept: Rows) -> float:
    """The share of squared labels of first order that left with the rows that are no longer there."""
    total = float(rows.labels @ rows.labels)
    if rows.values.any() or rows.matrices.any() or not total > 0:
        return 0.0
    return max(0.0, 1.0 - float(kept.labels @ kept.labels) / total)
