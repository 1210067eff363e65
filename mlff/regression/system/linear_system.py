"""The linear system of a fit as an operator: shape, blocks on demand, diagonal, product with vectors, right-hand sides.

    C a = y,   C = K/A + Λ/A

K is the kernel between all labels, Λ holds their noise variances. Solvers take the operator; which entries of C they look
at, and whether they keep them, is theirs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from mlff.kernels.kernels import Kernel
from mlff.potentials.expansion import composition, constant_elements
from mlff.regression.system.features import Features
from mlff.regression.system.kernel_blocks import Blocks, KernelBlocks, kernel_product
from mlff.regression.system.observations import Noise
from mlff.regression.system.rows import orders, strains_alone

SHARE_FRAMES = 12  # on whose labels the terms of a sum are given equal shares


@runtime_checkable
class Products(Protocol):
    """What multiplies the kernel between all labels with vectors."""

    def product(self, shares: np.ndarray, vectors: Float[np.ndarray, "rows v"]) -> Float[np.ndarray, "rows v"]:
        """The terms of the kernel times their shares, summed, times vectors."""


@dataclasses.dataclass(frozen=True)
class LinearSystem:
    """Labelled frames and a kernel.

    Attributes:
        kernel: with length scales and elements.
        features: the frames in descriptor space.
        levels: standard deviation of every kind of label, by name or operator.
        blocks: of the kernel between the labels, term by term.
        labels: right-hand side y, shape (rows,); without what the constants explain where these are given.
        design: what the labels would be of constant energies of 1, shape (rows, constants).
        elements: atomic numbers that the constants belong to; None for one molecule.
        given: the constants, where they are not found by least squares, eV.
        products: with vectors, where others than the processors of this host make them.
    """

    kernel: Kernel
    features: Features
    levels: Noise
    blocks: Blocks
    labels: Float[np.ndarray, " rows"]
    design: Float[np.ndarray, "rows constants"]
    elements: tuple[int, ...] | None
    given: Float[np.ndarray, " constants"] | None
    products: Products | None = None

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        features: Features,
        levels: Noise,
        atomic_energies: Mapping[int, float] | None = None,
        blocks: Blocks | None = None,
        products: Products | None = None,
    ) -> LinearSystem:
        """Of frames in descriptor space.

        Arguments:
            levels: standard deviation of every kind of label that the features were computed of.
            atomic_energies: energies of isolated atoms by atomic number, eV, in place of constants from least squares.
            blocks: of the same frames, where they are known already; without them they are computed on demand.
            products: of the same frames, where others than the processors of this host make them.
        """
        elements = constant_elements(kernel.parts)
        labels, design = features.labels, constants_design(features, elements)
        given = None if atomic_energies is None else np.array([atomic_energies[z] for z in elements])
        if given is not None:
            labels = labels - design @ given
        blocks = blocks or KernelBlocks(features)
        return cls(kernel, features, levels, blocks, labels, design, elements, given, products)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.labels), len(self.labels)

    @property
    def offsets(self) -> np.ndarray:
        """The first row of every group of frames, whose pairs are the blocks, and the number of rows."""
        return self.blocks.offsets

    @functools.cached_property
    def shares(self) -> Float[np.ndarray, " terms"]:
        """What every term of the kernel is multiplied by: its amplitude, or of several without one, equal shares of the
        variance of the telling labels."""
        amplitude, count = self.kernel.amplitude, len(self.features.terms)
        if amplitude is not None:
            return np.array([float(a) for a in (amplitude if isinstance(amplitude, tuple) else (amplitude,))])
        if count == 1:
            return np.ones(1)
        frames = np.split(np.arange(len(self.labels)), self.features.ends[:-1])
        having = np.flatnonzero([self.telling[rows].any() for rows in frames])
        chosen = having[np.unique(np.linspace(0, len(having) - 1, SHARE_FRAMES).astype(int))] if len(having) else having
        rows = np.concatenate([frames[i] for i in chosen]) if len(chosen) else np.zeros(0, dtype=int)
        traces = self.blocks.diagonals[:, rows[self.telling[rows]]].sum(axis=1)
        return 1.0 / (count * traces / traces.mean())

    @functools.cached_property
    def scale(self) -> float:
        """A for which the prior variance A·L L k(x, x) of the telling labels is their mean square; 1 where amplitudes are
        given."""
        if self.kernel.amplitude is not None or not self.telling.any():
            return 1.0
        signal, columns = self.labels[self.telling], self.design[self.telling]
        if columns.any():
            signal = signal - columns @ np.linalg.lstsq(columns, signal, rcond=None)[0]
        variance = self.shares @ self.blocks.diagonals
        return float(np.sum(signal**2) / np.sum(variance[self.telling])) or 1.0

    @property
    def amplitudes(self) -> tuple[float, ...]:
        """A of every term, eV²."""
        return tuple(float(self.scale * share) for share in self.shares)

    @functools.cached_property
    def noise(self) -> Float[np.ndarray, " rows"]:
        """Noise variances, in units of the scale: what C has on its diagonal beside the kernel."""
        return self.features.noise**2 / self.scale

    def diagonal(self) -> Float[np.ndarray, " rows"]:
        """Of C; of the kernel no more than the blocks of every frame with itself is computed."""
        return self.shares @ self.blocks.diagonals + self.noise

    def block(self, i: int, j: int) -> Float[np.ndarray, "rows columns"]:
        """C between two groups of frames."""
        return self._summed(i, j, self.blocks.block(i, j))

    def lower(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """The blocks on the diagonal and below it, column by column: (row of blocks, column of blocks, block)."""
        for i, j, of_terms in self.blocks.lower():
            yield i, j, self._summed(i, j, of_terms)

    def column(self, j: int) -> Iterator[tuple[int, np.ndarray]]:
        """The blocks of a column on the diagonal and below it: (row of blocks, block)."""
        for i, of_terms in self.blocks.column(j):
            yield i, self._summed(i, j, of_terms)

    def _summed(self, i: int, j: int, of_terms: list[np.ndarray]) -> np.ndarray:
        total = of_terms[0]
        if self.shares[0] != 1.0:  # of one term without amplitude
            total *= self.shares[0]
        for share, tile in zip(self.shares[1:], of_terms[1:], strict=True):
            total += share * tile
        if i == j:
            start, stop = self.offsets[i : i + 2]
            total.flat[:: len(total) + 1] += self.noise[start:stop]
        return total

    def product(self, vectors: Float[np.ndarray, "rows v"]) -> Float[np.ndarray, "rows v"]:
        """C times vectors, without the matrix: there is never more of it than a block."""
        if self.products is None:
            of_kernel = kernel_product(self.features, self.features, self.shares, vectors)
        else:
            of_kernel = self.products.product(self.shares, vectors)
        return of_kernel + self.noise[:, None] * vectors

    def frame_of(self, row: int) -> int:
        """Which of all the frames a row belongs to."""
        return int(self.features.frames.index[np.searchsorted(self.features.ends, row, side="right")])

    @functools.cached_property
    def telling(self) -> Bool[np.ndarray, " rows"]:
        """Which rows say how large the energy's variations are: those of one unit, so that their squares can be added.

        Forces where there are any, else second derivatives, else stresses: how far energies lie from unknown constants says
        less.
        """
        batches = self.features.frames.batches
        sizes = [batch.positions[0].size for batch in batches for _ in range(len(batch))]
        rows = [frame.rows for frame in self.features.observations]
        order = np.concatenate([orders(of_frame) for of_frame in rows])
        strained = np.concatenate([strains_alone(of_frame, size) for of_frame, size in zip(rows, sizes, strict=True)])
        kinds = ((order == 1) & ~strained, order == 2, strained)
        return next((kind for kind in kinds if self.labels[kind].any()), order == 0)


def constants_design(features: Features, elements: tuple[int, ...] | None) -> Float[np.ndarray, "rows constants"]:
    """H, what the labels would be of constant energies of 1."""
    batches = features.frames.batches
    counts = [composition(elements, batch.numbers) for batch in batches for _ in range(len(batch))]
    return np.concatenate(
        [np.outer(frame.rows.values, count) for frame, count in zip(features.observations, counts, strict=True)]
    )
