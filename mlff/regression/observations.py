"""The labels of one frame, measured by operators and carried to descriptor space."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mlff.batching import machine_memory
from mlff.data.batches import Batch, arguments_of
from mlff.kernels.composed import Kernel
from mlff.kernels.jets import bends
from mlff.operators import Operator, find_operator, functionals, order_of
from mlff.regression.rows import Rows, measured, pack, restricted, seen, span, stack, visible

Noise = Mapping[str | Operator, float]


@dataclasses.dataclass
class Labels:
    """The labels of one frame as rows, and how they see its coordinates.

    Attributes:
        rows: the functionals, with their matrices in a basis of the frame's coordinates.
        basis: that basis, (k, c); without labels of second order k = 0.
        inner: combinations of it that the first derivatives of descriptors see, (s, k).
        weights: W of every row in those, packed, off-diagonal entries doubled, (rows, s(s+1)/2).
        unseen: share of the squared forces that no direction of the descriptor can express.
    """

    rows: Rows
    basis: np.ndarray
    inner: np.ndarray
    weights: np.ndarray
    unseen: float

    @property
    def size(self) -> int:
        return len(self.rows.labels)


def describe(noise: Noise) -> str:
    """Names and standard deviations, for messages."""
    return ", ".join(f"{find_operator(label).name} {value:.3g}" for label, value in noise.items())


def measured_rows(batch: Batch, piece: slice, operators: dict[Operator, float], coordinates: int) -> list[list[Rows]]:
    """The labels of some frames of a batch, operator by operator, in the coordinates of the frame."""
    rows: list[list[Rows]] = [[] for _ in range(piece.stop - piece.start)]
    for operator, level in operators.items():
        arguments = tuple(argument[piece] for argument in arguments_of(batch, operator))
        positions = batch.positions[piece]
        order = order_of(operator, positions, arguments)
        if order > 1:
            _require_memory(operator, batch.labels[operator.name][0].size, coordinates)
        # of second order, a frame has (3n)⁴ coefficients at most: one at a time
        step = len(positions) if order < 2 else 1
        for start in range(0, len(positions), step):
            some = slice(start, start + step)
            own = tuple(argument[some] for argument in arguments)
            found = functionals(operator, order, coordinates, positions[some], own)
            values = batch.labels[operator.name][piece][some].reshape(len(found.values), -1)
            finite = [np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in found if part is not None]
            if not (whole := np.all(finite, axis=0)).all():
                i = batch.index[piece][some][int(np.argmin(whole))]
                raise ValueError(f"labels: operator {operator.name} is not finite at frame {i}; are its arguments?")
            if found.values.shape != values.shape:
                raise ValueError(
                    f"labels: operator {operator.name} returns {found.values.shape[1]} numbers for frame "
                    f"{batch.index[piece][start]}, its label {operator.name} has {values.shape[1]}"
                )
            for k, value in enumerate(values):
                there = measured(found, k, value, level)
                if len(there.labels):
                    rows[start + k].append(there)
    for i, parts in zip(batch.index[piece], rows, strict=True):
        if not parts:
            raise ValueError(f"labels: frame {i} has none of {', '.join(op.name for op in operators)}; leave it out")
    return rows


def _require_memory(operator: Operator, rows: int, coordinates: int) -> None:
    """Refuse labels of second order whose coefficients alone would fill the machine, before they are computed."""
    needed = 2 * 8 * rows * coordinates**2
    if needed > machine_memory() / 4:
        raise ValueError(
            f"labels: {operator.name} has {rows} numbers a frame of {coordinates} coordinates, {needed / 2**30:.0f} GiB of "
            "coefficients; give products H·v (hessian_products) or curvatures along some directions instead"
        )


def carried_labels(kernel: Kernel, batch: Batch, i: int, parts: list[Rows], jacobians: list[np.ndarray]):
    """One frame: its labels in the basis of those that descriptors see, and for every part of the kernel the tangents of
    their rows and the first derivatives that second-order labels see."""
    basis = span(parts)
    bent = [bends(part, batch, i, basis) for part in kernel.parts] if len(basis) else None
    for part, second in zip(kernel.parts, bent or (), strict=bent is not None):
        if not np.isfinite(second).all():
            raise ValueError(
                f"descriptor {part.leaves[0].descriptor.name} has a second derivative that is not finite at training frame "
                f"{batch.index[i]}; guard its square roots, norms and divisions there"
            )
    along = [(jacobian @ basis.T).transpose(0, 2, 1) for jacobian in jacobians]  # (e, k, D)
    inner = seen(along)
    kept, tangents, unseen = [], [[] for _ in jacobians], 0.0
    for part in parts:
        rows = restricted(part, basis)
        folded = pack(rows.matrices, 2.0)
        own = [rows.directions @ jacobian.transpose(0, 2, 1) for jacobian in jacobians]  # (e, r, D)
        if bent is not None:
            own = [t + folded @ second.transpose(0, 2, 1) for t, second in zip(own, bent, strict=True)]
        mixing = visible(rows, own, inner)
        kept.append(rows.mixed(mixing))
        for target, t in zip(tangents, own, strict=True):
            target.append(mixing @ t)
        unseen = max(unseen, _unseen(rows, kept[-1]))
    rows = stack(kept)
    weights = pack(inner @ rows.matrices @ inner.T, 2.0)
    curved = [inner @ part for part in along]
    return Labels(rows, basis, inner, weights, unseen), [np.concatenate(part, axis=1) for part in tangents], curved


def _unseen(rows: Rows, kept: Rows) -> float:
    """The share of squared labels of first order that left with the rows that are no longer there."""
    total = float(rows.labels @ rows.labels)
    if rows.values.any() or rows.matrices.any() or not total > 0:
        return 0.0
    return max(0.0, 1.0 - float(kept.labels @ kept.labels) / total)
