"""Sums over rows of labels, which are all that a sparse fit keeps of them: their products with each other and with the labels."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from mlff.regression.checkpoint import Checkpoint

ROWS = 512  # multiplied with each other at once


@dataclasses.dataclass(frozen=True)
class Moments:
    """What is kept of labels of one kind: sums over their rows.

    Attributes:
        matrix: [A H]ᵀ[A H] of whitened rows A and the columns H of the constants, shape (m + z, m + z).
        right: [A H]ᵀ y, shape (m + z,).
        square: yᵀ y.
        count: of labels.
    """

    matrix: Float[np.ndarray, "c c"]
    right: Float[np.ndarray, " c"]
    square: float
    count: int

    def __add__(self, other: Moments) -> Moments:
        square, count = self.square + other.square, self.count + other.count
        return Moments(self.matrix + other.matrix, self.right + other.right, square, count)

    def scaled(self, factor: float) -> Moments:
        """Of rows and labels times a factor."""
        square = factor**2
        return Moments(square * self.matrix, square * self.right, square * self.square, self.count)

    def mean_square(self, weights: Float[np.ndarray, " c"]) -> float:
        """Mean squared error of a solution."""
        total = self.square - 2.0 * weights @ self.right + weights @ (self.matrix @ weights)
        return max(float(total), 0.0) / self.count

    def leading(self, functionals: int, constants: int) -> Moments:
        """Of the first functionals alone."""
        chosen = np.r_[:functionals, len(self.right) - constants : len(self.right)]
        return Moments(self.matrix[np.ix_(chosen, chosen)], self.right[chosen], self.square, self.count)


_FIELDS = ("matrix", "right", "square", "count")


class Sums:
    """Moments as they come about; rows are collected until a product of them is worth its call."""

    def __init__(self, columns: int):
        self.matrix, self.right = np.zeros((columns, columns)), np.zeros(columns)
        self.square, self.count = 0.0, 0
        self._waiting: list[np.ndarray] = []

    def add(self, rows: Float[np.ndarray, "r c"], labels: Float[np.ndarray, " r"]) -> None:
        self.right += labels @ rows
        self.square += float(labels @ labels)
        self.count += len(labels)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= ROWS:
            self._multiply()

    def _multiply(self) -> None:
        if self._waiting:
            rows = np.concatenate(self._waiting)
            self.matrix += (
                rows.T @ rows.copy()
            )  # of an array with itself NumPy calls `dsyrk`, which crashes when threaded
            self._waiting.clear()

    def moments(self) -> Moments:
        self._multiply()
        return Moments(self.matrix, self.right, self.square, self.count)


def state_of(sums: dict[str, list[Sums]], done: int) -> dict[str, np.ndarray]:
    """Sums over the frames that were looked at, as arrays by name."""
    arrays = {"done": np.array(done)}
    for name, of_folds in sums.items():
        for fold, each in enumerate(of_folds):
            kept = each.moments()
            arrays |= {f"{name}.{fold}.{field}": np.asarray(getattr(kept, field)) for field in _FIELDS}
    return arrays


def taken_up(sums: dict[str, list[Sums]], checkpoint: Checkpoint) -> int:
    """Go on from sums that were kept: how many frames these are of."""
    kept = checkpoint.read("labels")
    if kept is None:
        return 0
    for name, of_folds in sums.items():
        for fold, each in enumerate(of_folds):
            each.matrix, each.right, square, count = (kept[f"{name}.{fold}.{field}"] for field in _FIELDS)
            each.square, each.count = float(square), int(count)
    return int(kept["done"])
