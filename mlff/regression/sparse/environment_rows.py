"""Energies, forces and stresses of frames against values of environments: blocks of the kernel matrix, frame by frame.

A kernel between the energy of a frame and the value of one environment u is a sum over the frame's environments,

    k(E, u) = Σ_e [z_e = z_u] f(s_eu),       ∂k/∂v_ek = 2 f′(s_eu) ∂φ_e/∂v_ek·(φ_e − u)

and all labels of first order are sums of the derivatives with respect to the vectors v_ek from atoms to their neighbours: the
force on an atom those of the vectors that begin and end there, the strain derivative Σ v_ek ⊗ ∂k/∂v_ek.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float

from mlff.kernels.environments import Surrounded, block_size, environment_jets
from mlff.kernels.kernels import Kernel
from mlff.operators import ENERGY, FORCES, STRESS, Operator
from mlff.regression.system.gram import feature_slices, radial_derivatives
from mlff.threads import map_threads

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
TAKEN = (ENERGY, FORCES, STRESS)  # labels that need no more than first derivatives with respect to neighbours


class Points(NamedTuple):
    """Environments of one part of a kernel whose values span a model, φ/ℓ of every channel, (M, D) each, and the number of
    features of every block that has a radial function of its own."""

    part: Kernel
    channels: Sequence[Float[np.ndarray, "_ D"]]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return sum(map(len, self.channels))


def kernel_rows(
    points: Sequence[Points], surrounded: Sequence[Surrounded], operators: Sequence[Operator]
) -> dict[str, list[np.ndarray]]:
    """The kernel between labels of frames and values of environments: an array for every frame, by the labels' names.

    Arguments:
        points: of every part of the kernel.
        surrounded: the environments of the frames, for every part.
        operators: some of energy, forces and stress; of the last the derivative by strains, that is times the volume.
    Returns:
        arrays whose last axis are the points, part after part and channel after channel: energy (1, M), forces (3n, M),
        stress (6, M) in the order xx yy zz yz xz xy.
    """
    sizes = surrounded[0].sizes
    counts = {ENERGY: np.ones_like(sizes), FORCES: 3 * sizes, STRESS: np.full_like(sizes, 6)}
    rows = {op.name: np.zeros((counts[op].sum(), sum(map(len, points)))) for op in operators}
    start = 0
    for part, seen in zip(points, surrounded, strict=True):
        _fill(part, seen, {name: array[:, start : start + len(part)] for name, array in rows.items()})
        start += len(part)
    return {op.name: np.split(rows[op.name], np.cumsum(counts[op])[:-1]) for op in operators}


def _fill(points: Points, surrounded: Surrounded, rows: dict[str, np.ndarray]) -> None:
    """Add one part's share to rows of every kind."""
    part = points.part
    most = sum(points.sizes) + max(map(len, points.channels))
    channels = part.channels(surrounded.centers)
    for index, values, slopes in environment_jets(
        part, surrounded, block_size(surrounded.width, most, len(surrounded))
    ):
        start = 0
        for channel, there in enumerate(points.channels):
            columns = slice(start, start + len(there))
            start = columns.stop
            here = np.flatnonzero(channels[index] == channel)
            if len(here) and len(there):
                own = slopes if len(here) == len(values) else slopes[:, here]
                of_columns = {name: array[:, columns] for name, array in rows.items()}
                _add(points, surrounded, index[here], values[here], own, there, of_columns)


def _add(points: Points, surrounded: Surrounded, index, values, slopes, there, rows: dict[str, np.ndarray]) -> None:
    """Add what environments of one channel say of its points."""
    blocks = feature_slices(points.sizes)
    s = np.stack([_squares(values[:, block], there[:, block]) for block in blocks])
    f, f1 = radial_derivatives(points.part.radial, s, 1)
    if "energy" in rows:
        np.add.at(rows["energy"], surrounded.frames[index], f)
    wanted = [name for name in ("forces", "stress") if name in rows]
    if not wanted:
        return
    derivatives = _along_vectors(values, slopes, there, f1, blocks)
    for name in wanted:
        gather = (_forces if name == "forces" else _strains)(surrounded, index, len(slopes) // 3)
        rows[name] += gather @ derivatives.reshape(-1, len(there))


def _squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.sum(one**2, axis=1)[:, None] + np.sum(other**2, axis=1) - 2.0 * one @ other.T


def _along_vectors(values, slopes, there, f1, blocks: list[slice]) -> Float[np.ndarray, "q b M"]:
    """Derivatives of f with respect to every component of the vectors to the neighbours."""
    derivatives = np.empty((*slopes.shape[:2], len(there)))
    transposed = [np.ascontiguousarray(there[:, block].T) for block in blocks]
    weights = -2.0 * f1

    def fill(q: int) -> None:
        for b, block in enumerate(blocks):
            slope = slopes[q][:, block]
            product = np.matmul(slope, transposed[b], out=None if b else derivatives[q])
            product -= np.einsum("ed,ed->e", slope, values[:, block])[:, None]
            product *= weights[b]
            if b:
                derivatives[q] += product

    map_threads(fill, range(len(slopes)))
    return derivatives


def _forces(surrounded: Surrounded, index: np.ndarray, slots: int) -> scipy.sparse.csr_matrix:
    """−∂/∂x of all atoms, from derivatives with respect to the vectors of some environments, ordered (slot, xyz, environment)."""
    others = surrounded.others[index, :slots]
    column, environment = _columns(others.shape)
    atom = others.T[:, None].repeat(3, 1)
    axis = np.arange(3)[None, :, None]
    present = np.broadcast_to(atom >= 0, column.shape)
    ends = (3 * atom + axis)[present]
    begins = (3 * index[environment] + axis)[present]
    entries = np.concatenate([np.full(len(ends), -1.0), np.full(len(begins), 1.0)])
    places = np.concatenate([ends, begins]), np.concatenate([column[present]] * 2)
    return scipy.sparse.csr_matrix((entries, places), shape=(3 * len(surrounded), column.size))


def _strains(surrounded: Surrounded, index: np.ndarray, slots: int) -> scipy.sparse.csr_matrix:
    """Derivatives by symmetric strains of all frames, as `_forces`: of an off-diagonal entry the mean of both."""
    others, vectors = surrounded.others[index, :slots], surrounded.seen.vectors[index, :slots]
    column, environment = _columns(others.shape)
    rows, columns, entries = [], [], []
    for k, (a, b) in enumerate(VOIGT):
        for moved, along in {(a, b), (b, a)}:
            present = others.T >= 0
            weight = 1.0 if a == b else 0.5
            entries.append(weight * vectors[:, :, moved].T[present])
            columns.append(column[:, along][present])
            rows.append(6 * surrounded.frames[index[environment[:, along]]][present] + k)
    places = np.concatenate(rows), np.concatenate(columns)
    return scipy.sparse.csr_matrix((np.concatenate(entries), places), shape=(6 * len(surrounded.sizes), column.size))


def _columns(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the derivatives of (b, k) neighbours in the order (slot, xyz, environment), and which environment each is of."""
    count, slots = shape
    column = np.arange(slots * 3 * count).reshape(slots, 3, count)
    return column, column % count
