"""The linear solve at fixed hyperparameters: (kernel, labelled frames, noise) → expansion."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from mlff.batching import machine_memory
from mlff.data.batches import LabelledFrames
from mlff.kernels.composed import Kernel
from mlff.potentials.expansion import Expansion, composition, constant_elements
from mlff.regression.features import Carried, carry
from mlff.regression.gram import Side, block
from mlff.regression.linalg.tiles import NotPositiveDefinite, SymmetricTiles
from mlff.regression.observations import Noise, describe
from mlff.regression.rows import orders, strains_alone
from mlff.regression.second_order import add_second_order
from mlff.regression.terms import Term

TILE_ROWS = 2048
SHARE_FRAMES = 12  # on whose labels the terms of a sum are given equal shares
Progress = Callable[[str, float], None]


class IndefiniteMatrix(ValueError):
    """The kernel matrix is not positive definite to rounding; its message says what to do."""


@dataclasses.dataclass(frozen=True)
class Solution:
    """The trained model and what the solve learnt on its way.

    amplitudes: A of every part, eV²; rows: of the linear system; unseen: share of the squared forces outside the
    descriptor's reach.
    """

    model: Expansion
    amplitudes: tuple[float, ...]
    rows: int
    unseen: float


def solve(
    kernel: Kernel,
    frames: LabelledFrames,
    noise: Noise,
    atomic_energies: Mapping[int, float] | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> Solution:
    """Fit the expansion in closed form: (K/A + σ²/A) a = y by Cholesky, with generalised least squares for c.

    n rows take 4n² bytes, and n³/3 multiply-adds; beside the matrix there are the tangents of all labels at all
    environments, and blocks of the size of a tile.

    Arguments:
        kernel: with length scales and elements.
        frames: of which each has one of the labels of `noise` at least.
        noise: standard deviation of each kind of label that enters, by name or operator, in its unit.
        atomic_energies: energies of isolated atoms by atomic number, eV, in place of constants from least squares.
        progress: called with a stage's name and how much of it is done.
    Raises:
        IndefiniteMatrix: it is not positive definite; the message says what to do.
        ValueError: the descriptor is not finite, or the matrix larger than the machine's memory.
    """
    carried = carry(kernel, frames, noise, progress)
    elements = constant_elements(kernel.parts)
    labels, design = _right_hand_sides(carried, frames, elements)
    fixed = None if atomic_energies is None else np.array([atomic_energies[z] for z in elements])
    if fixed is not None:
        labels = labels - design @ fixed
    _require_memory(len(labels))
    telling = _telling(carried, frames, labels)
    shares = _shares(kernel, carried, telling)
    matrix = _assemble(carried, shares, progress)
    scale = 1.0 if kernel.amplitude is not None else _prior_amplitude(telling, labels, design, matrix.diagonal())
    matrix.add_to_diagonal(np.concatenate([rows.noise for rows in carried.rows]) ** 2 / scale)
    progress("factorise", 0.0)
    try:
        matrix.cholesky(lambda fraction: progress("factorise", fraction))
    except NotPositiveDefinite as error:
        raise _indefinite(error, kernel, carried, frames, noise) from error
    with_constant = bool(design.any()) and fixed is None
    solutions = matrix.solve_factorised(np.column_stack([labels, design]) if with_constant else labels[:, None])
    del matrix
    weights, constants = solutions[:, 0], np.zeros(design.shape[1]) if fixed is None else fixed
    if with_constant:
        constants = np.linalg.lstsq(design.T @ solutions[:, 1:], design.T @ weights, rcond=1e-10)[0]
        weights = weights - solutions[:, 1:] @ constants
    parts = tuple(
        term.expand(carried.labels, share * weights) for term, share in zip(carried.terms, shares, strict=True)
    )
    unseen = float(np.mean([label.unseen for label in carried.labels]))
    amplitudes = tuple(float(scale * share) for share in shares)
    order = max(int(orders(rows).max(initial=0)) for rows in carried.rows)
    return Solution(Expansion(parts, constants, elements, label_order=order), amplitudes, len(labels), unseen)


def _indefinite(error: NotPositiveDefinite, kernel, carried: Carried, frames, noise) -> IndefiniteMatrix:
    ends = np.cumsum([label.size for label in carried.labels])
    frame = int(frames.index[np.searchsorted(ends, error.row, side="right")])
    scales = ", ".join(f"{np.min(radial.lengthscale):.4g}" for radial in kernel.radials)
    return IndefiniteMatrix(
        f"the kernel matrix is not positive definite at training frame {frame} of {len(ends)}: its labels follow from "
        f"the earlier frames' to rounding; raise noise (now {describe(noise)}), shorten the length scale "
        f"(now {scales}), or remove near-duplicate frames"
    )


def _require_memory(rows: int) -> None:
    """Refuse a matrix that cannot fit, before any work is done."""
    needed = 8 * rows * (rows + TILE_ROWS) // 2
    present = machine_memory()
    if needed > present:
        raise ValueError(
            f"{rows} linear equations need {needed / 2**30:.1f} GiB, this machine has {present / 2**30:.1f}; "
            "train on fewer frames"
        )


def _groups(carried: Carried) -> list[slice]:
    """Consecutive frames of one section whose rows together fill a tile."""
    counts, groups = np.array([label.size for label in carried.labels]), []
    for section in carried.sections:
        start = section.start
        while start < section.stop:
            own = counts[start : section.stop]
            # frames with fewer rows are padded to the fullest, which must not cost more than a tile again
            padded = np.arange(1, len(own) + 1) * np.maximum.accumulate(own)
            fitting = (np.cumsum(own) <= TILE_ROWS) & (padded <= 2 * TILE_ROWS)
            stop = start + max(1, len(own) if fitting.all() else int(np.argmin(fitting)))
            groups.append(slice(start, stop))
            start = stop
    return [group for group in groups if counts[group].any()]


def _right_hand_sides(carried: Carried, frames: LabelledFrames, elements) -> tuple[np.ndarray, np.ndarray]:
    """The labels, and what they would be of constant energies of 1; shapes (rows,), (rows, constants)."""
    counts = [composition(elements, batch.numbers) for batch in frames.batches for _ in range(len(batch))]
    labels = np.concatenate([rows.labels for rows in carried.rows])
    design = np.concatenate([np.outer(rows.values, count) for rows, count in zip(carried.rows, counts, strict=True)])
    return labels, design


def _telling(carried: Carried, frames: LabelledFrames, labels: np.ndarray) -> np.ndarray:
    """Which rows say how large the energy's variations are: those of one unit, so that their squares can be added.

    Forces where there are any, else second derivatives, else stresses: how far energies lie from unknown constants says less.
    """
    sizes = [batch.positions[0].size for batch in frames.batches for _ in range(len(batch))]
    order = np.concatenate([orders(rows) for rows in carried.rows])
    strained = np.concatenate([strains_alone(rows, size) for rows, size in zip(carried.rows, sizes, strict=True)])
    kinds = ((order == 1) & ~strained, order == 2, strained)
    return next((kind for kind in kinds if labels[kind].any()), order == 0)


def _prior_amplitude(telling: np.ndarray, labels: np.ndarray, design: np.ndarray, diagonal: np.ndarray) -> float:
    """A for which the prior variance A·L L k(x, x) of the telling labels is their mean square."""
    if not telling.any():
        return 1.0
    signal, columns = labels[telling], design[telling]
    if columns.any():
        signal = signal - columns @ np.linalg.lstsq(columns, signal, rcond=None)[0]
    return float(np.sum(signal**2) / np.sum(diagonal[telling])) or 1.0


def _shares(kernel: Kernel, carried: Carried, telling: np.ndarray) -> np.ndarray:
    """What every part is multiplied by: its amplitude, or of several without one, equal shares of the variance of the
    telling labels."""
    given = kernel.amplitude
    if given is not None:
        return np.array([float(a) for a in (given if isinstance(given, tuple) else (given,))])
    if len(carried.terms) == 1:
        return np.ones(1)
    ends = np.cumsum([label.size for label in carried.labels])
    own = np.split(telling, ends[:-1])
    having = np.flatnonzero([rows.any() for rows in own])
    traces = np.zeros(len(carried.terms))
    for i in having[np.unique(np.linspace(0, len(having) - 1, SHARE_FRAMES).astype(int))]:
        here = slice(i, i + 1)
        for t, term in enumerate(carried.terms):
            product = _product(carried, term, here, here, term.columns(carried.labels, here))[0, :, 0]
            traces[t] += np.diagonal(product)[own[i]].sum()
    return 1.0 / (len(traces) * traces / traces.mean())


def _product(carried: Carried, term: Term, rows: slice, group: slice, columns: list[Side]) -> np.ndarray:
    """The kernel of one term between the labels of two groups of frames, (m, r, n, q), padded as the sides are."""
    ours, theirs = ([label.size for label in carried.labels[part]] for part in (rows, group))
    total = np.zeros((len(ours), max(ours), len(theirs), max(theirs)))
    if not total.size:
        return total  # a lone atom has no row of forces
    for channel, column in enumerate(columns):
        row = term.row(carried.labels, rows, channel)
        if row.points.shape[1] and column.points.shape[1]:
            total += block(term.kernel.radial, row, column, term.sizes)
            add_second_order(total, term.kernel.radial, row, column, term.sizes)
    return total


def _assemble(carried: Carried, shares: np.ndarray, progress: Progress) -> SymmetricTiles:
    """The kernel matrix as lower tiles, one tile a pair of groups of frames."""
    groups = _groups(carried)
    counts = [np.array([label.size for label in carried.labels[group]]) for group in groups]
    matrix = SymmetricTiles(np.concatenate([[0], np.cumsum([count.sum() for count in counts])]))
    masks = [(np.arange(count.max()) < count[:, None]).ravel() for count in counts]
    done, total = 0, len(groups) * (len(groups) + 1) // 2
    progress("assemble", 0.0)
    for j, group in enumerate(groups):
        columns = [term.columns(carried.labels, group) for term in carried.terms]
        for i in range(j, len(groups)):
            tile = sum(
                share * _product(carried, term, groups[i], group, theirs)
                for term, share, theirs in zip(carried.terms, shares, columns, strict=True)
            ).reshape(masks[i].size, masks[j].size)
            if not (masks[i].all() and masks[j].all()):
                tile = np.ascontiguousarray(tile[masks[i]][:, masks[j]])
            matrix.tiles[i][j] = tile
            done += 1
            progress("assemble", done / total)
    return matrix
