"""The linear solve at fixed hyperparameters: (kernel, labelled frames, noise) → expansion."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping

import numpy as np

from mlff.expansion import Expansion
from mlff.gram import ColumnSide, RowSide, block
from mlff.images import image_tangents, jets
from mlff.kernels import GlobalKernel, feature_permutations
from mlff.linalg.tiles import NotPositiveDefinite, SymmetricTiles
from mlff.operators import Rows, energy_rows, force_rows, stack

TILE_ROWS = 2048
Progress = Callable[[str, float], None]


class IndefiniteMatrix(ValueError):
    """The kernel matrix is not positive definite to rounding; its message says what to do."""


@dataclasses.dataclass(frozen=True)
class LabelledFrames:
    """What the solve needs of a data set, as arrays: one composition, one order of atoms.

    positions: (m, n, 3) Å; numbers: (n,); cells: (m, 3, 3) Å; labels: by name, energy (m,) eV, forces (m, n, 3) eV/Å.
    """

    positions: np.ndarray
    numbers: np.ndarray
    cells: np.ndarray
    labels: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, index) -> LabelledFrames:
        return LabelledFrames(
            self.positions[index], self.numbers, self.cells[index], {k: v[index] for k, v in self.labels.items()}
        )


@dataclasses.dataclass(frozen=True)
class Solution:
    """The trained model and what the solve learnt on its way.

    amplitude: A, eV²; rows: of the linear system; unseen: share of the squared forces outside the descriptor's reach.
    """

    model: Expansion
    amplitude: float
    rows: int
    unseen: float


def solve(
    kernel: GlobalKernel,
    frames: LabelledFrames,
    noise: Mapping[str, float],
    progress: Progress = lambda stage, fraction: None,
) -> Solution:
    """Fit the expansion in closed form: (K/A + σ²/A) a = y by Cholesky, with generalised least squares for c.

    n rows take 4n² bytes, and n³/3 multiply-adds; beside the matrix there are blocks of the size of a tile.

    Arguments:
        kernel: with a length scale.
        frames: with a label array for every key of `noise`.
        noise: standard deviation of each kind of label that enters, in its unit.
        progress: called with a stage's name and how much of it is done.
    Raises:
        IndefiniteMatrix: it is not positive definite; the message says what to do.
        ValueError: the descriptor is not finite, or the matrix larger than the machine's memory.
    """
    rows, side = _rows(kernel, frames, noise, progress)
    images = feature_permutations(kernel, frames.positions[0], frames.numbers, frames.cells[0])
    counts = np.array([len(row.labels) for row in rows])
    _require_memory(int(counts.sum()))
    groups = _groups(counts)
    right = _right_hand_sides(rows)
    matrix = _assemble(kernel, frames, rows, side, images, groups, progress)
    amplitude = kernel.amplitude or _prior_amplitude(right, matrix.diagonal())
    matrix.add_to_diagonal(np.concatenate([row.noise for row in rows]) ** 2 / amplitude)
    try:
        matrix.cholesky(lambda fraction: progress("factorise", fraction))
    except NotPositiveDefinite as error:
        frame = int(np.searchsorted(np.cumsum(counts), error.row, side="right"))
        raise IndefiniteMatrix(
            f"the kernel matrix is not positive definite at training frame {frame} of {len(rows)}: its labels follow from "
            f"the earlier frames' to rounding; raise noise (now {_describe(noise)}), shorten the length scale "
            f"(now {np.min(kernel.radial.lengthscale):.4g}), or remove near-duplicate frames"
        ) from error
    solutions = matrix.solve_factorised(right)
    del matrix
    weights, constant = solutions[:, 0], 0.0
    if "energy" in noise:
        constant = float(right[:, 1] @ weights / (right[:, 1] @ solutions[:, 1]))
        weights = weights - constant * solutions[:, 1]
    model = _expand(kernel, frames, rows, side, images, weights, constant)
    unseen = float(np.mean([row.unseen for row in rows]))
    return Solution(model, amplitude, int(counts.sum()), unseen)


def _rows(kernel, frames, noise, progress) -> tuple[list[Rows], tuple[np.ndarray, list[np.ndarray]]]:
    """The labels of every frame as rows, its features, and the tangents of its rows."""
    rows: list[Rows] = []
    points, tangents = [], []
    for piece, (features, jacobians) in jets(kernel, frames.positions, frames.numbers, frames.cells):
        _require_finite(kernel, piece.start, features, jacobians)
        progress("descriptors", piece.stop / len(frames))
        points.append(features)
        for index, jacobian in zip(range(piece.start, piece.stop), jacobians, strict=True):
            parts = []
            if "energy" in noise:
                parts.append(energy_rows(frames.labels["energy"][index], noise["energy"], jacobian.shape[1]))
            if "forces" in noise:
                parts.append(force_rows(frames.labels["forces"][index], noise["forces"], jacobian))
            rows.append(stack(parts))
            tangents.append(rows[-1].directions @ jacobian.T)
    return rows, (np.concatenate(points), tangents)


def _require_finite(kernel, first: int, features: np.ndarray, jacobians: np.ndarray) -> None:
    broken = ~(np.isfinite(features).all(axis=1) & np.isfinite(jacobians).all(axis=(1, 2)))
    if broken.any():
        raise ValueError(
            f"descriptor {kernel.descriptor.name} or its first derivative is not finite at training frame "
            f"{first + int(np.argmax(broken))}; guard its square roots, norms and divisions there"
        )


def _require_memory(rows: int) -> None:
    """Refuse a matrix that cannot fit, before any work is done."""
    needed = 8 * rows * (rows + TILE_ROWS) // 2
    present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > present:
        raise ValueError(
            f"{rows} linear equations need {needed / 2**30:.1f} GiB, this machine has {present / 2**30:.1f}; "
            "train on fewer frames"
        )


def _groups(counts: np.ndarray) -> list[slice]:
    """Consecutive frames whose rows together fill a tile."""
    groups, start = [], 0
    while start < len(counts):
        fits = int(np.searchsorted(np.cumsum(counts[start:]), TILE_ROWS, side="right"))
        stop = start + max(1, fits)
        groups.append(slice(start, min(stop, len(counts))))
        start = stop
    return groups


def _right_hand_sides(rows: list[Rows]) -> np.ndarray:
    """The labels, and what they would be of a constant energy of 1; shape (total rows, 2)."""
    return np.stack(
        [np.concatenate([row.labels for row in rows]), np.concatenate([row.values for row in rows])], axis=1
    )


def _prior_amplitude(right: np.ndarray, diagonal: np.ndarray) -> float:
    """A for which the prior variance A·L L k(x, x) of the labels is their mean square.

    Of the forces where there are any: how far energies lie from an unknown constant says less.
    """
    labels, ones = right.T
    chosen = ones == 0.0 if (ones == 0.0).any() else ones != 0.0
    signal = labels[chosen] - ones[chosen] * labels[chosen].mean()
    return float(np.sum(signal**2) / np.sum(diagonal[chosen])) or 1.0


def _pad(arrays: list[np.ndarray]) -> np.ndarray:
    width = max(len(array) for array in arrays)
    padded = np.zeros((len(arrays), width, *arrays[0].shape[1:]))
    for target, array in zip(padded, arrays, strict=True):
        target[: len(array)] = array
    return padded


def _row_side(rows, side, group: slice) -> RowSide:
    points, tangents = side
    return RowSide(points[group], _pad([row.values for row in rows[group]]), _pad(tangents[group]))


def _column_side(kernel, frames, rows, own: RowSide, images, group: slice) -> ColumnSide:
    """The images of frames: their features rearranged where that is all an exchange does, else computed anew."""
    if images is not None:
        return ColumnSide(own.points[:, images], own.values, own.tangents[:, :, images].transpose(0, 2, 1, 3))
    directions = _pad([row.directions for row in rows[group]])
    points, tangents = image_tangents(kernel, frames.positions[group], frames.numbers, frames.cells[group], directions)
    return ColumnSide(points, own.values, tangents)


def _assemble(kernel, frames, rows, side, images, groups, progress) -> SymmetricTiles:
    """The kernel matrix (amplitude 1) as lower tiles, one tile a pair of groups of frames."""
    counts = [np.array([len(row.labels) for row in rows[group]]) for group in groups]
    matrix = SymmetricTiles(np.concatenate([[0], np.cumsum([count.sum() for count in counts])]))
    masks = [(np.arange(count.max()) < count[:, None]).ravel() for count in counts]
    sides = [_row_side(rows, side, group) for group in groups]
    done, total = 0, len(groups) * (len(groups) + 1) // 2
    for j, group in enumerate(groups):
        columns = _column_side(kernel, frames, rows, sides[j], images, group)
        for i in range(j, len(groups)):
            tile = block(kernel.radial, sides[i], columns)
            tile = tile.reshape(masks[i].size, masks[j].size)
            if not (masks[i].all() and masks[j].all()):
                tile = np.ascontiguousarray(tile[masks[i]][:, masks[j]])
            matrix.tiles[i][j] = tile
            done += 1
            progress("assemble", done / total)
    return matrix


def _expand(kernel, frames, rows, side, images, weights, constant) -> Expansion:
    """Contract the weights of each frame's rows into one value weight and one tangent per point."""
    per_frame = np.split(weights, np.cumsum([len(row.labels) for row in rows])[:-1])
    values = np.array([w @ row.values for w, row in zip(per_frame, rows, strict=True)])
    group = kernel.group(frames.positions.shape[1])
    if images is not None:
        points, tangents = side
        tangents = np.stack([w @ tangent for w, tangent in zip(per_frame, tangents, strict=True)])
    else:
        directions = np.stack([w @ row.directions for w, row in zip(per_frame, rows, strict=True)])[:, None]
        points, tangents = image_tangents(kernel, frames.positions, frames.numbers, frames.cells, directions)
        points, tangents = (array.reshape(-1, points.shape[-1]) for array in (points, tangents))
        values = np.repeat(values, len(group))
    order = len(group)
    rearrangements = images if images is not None and order > 1 else None
    return Expansion.build(
        kernel.descriptor, kernel.radial, points, tangents / order, values / order, rearrangements, constant
    )


def _describe(noise: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in noise.items())
